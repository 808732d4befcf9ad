"""From an image to a probability map, a mask and its lesions at the image's original size, with PyTorch.

predictor = Predictor.from_pretrained("me/unet-kvasir-seg")
prediction = predictor(Image.open("frame.jpg"))
prediction.mask.sum(), prediction.lesions
"""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.device import Runtime, choose_runtime, keep_freed_memory, limit_threads
from ..common.errors import first_line
from ..image_processing_unet import UNetImageProcessor
from ..modeling_unet import UNetForSemanticSegmentation
from .checkpoint import fingerprint, load_checkpoint
from .folding import fold_batch_norms
from .onnx_session import ONNX_SUFFIX, OnnxPredictor
from .prediction import FLIPS, BasePredictor, PreparedImage


def load_predictor(
    name: str | Path,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compile: bool | str = "auto",
) -> BasePredictor:
    """Load a network with its image processor.

    Args:
        name: A folder, an id on the Hub, or a file that `export.py` wrote, whose name ends in .onnx.
        revision: Branch, tag or commit on the Hub.
        device, dtype, compile: As for `choose_runtime` of common/device.py. An ONNX file is never compiled, and
            computes in the dtype that it was exported with.

    Returns:
        A `Predictor`; of an ONNX file an `OnnxPredictor`.

    Raises:
        UserError: If it cannot be loaded, or this machine lacks the device or dtype.
    """
    name = str(name)
    if name.endswith(ONNX_SUFFIX):
        return OnnxPredictor.load(name, device, revision)
    runtime = choose_runtime(device, dtype, compile)
    model, processor = load_checkpoint(name, revision)
    return Predictor(model, processor, runtime)


class Predictor(BasePredictor):
    """A network in PyTorch, its image processor, and where to compute.

    Args:
        model: On the CPU, in float32. It is set to evaluation mode. With batch normalisations it is kept as it is, and
            a copy computes, in which they are folded into the convolutions.
        processor: The image processor that belongs to it.
        runtime: Device, dtype and memory format.
    """

    def __init__(self, model: UNetForSemanticSegmentation, processor: UNetImageProcessor, runtime: Runtime):
        if runtime.device.type == "cpu":
            keep_freed_memory()
            limit_threads()
        self.runtime: Runtime = runtime
        self.model: UNetForSemanticSegmentation = model.eval()
        self._network = self._folded().to(runtime.device, memory_format=runtime.memory_format)
        self._processor = processor
        self._compute: Callable[..., Any] = torch.compile(self._network) if runtime.compiles else self._network

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool | str = "auto",
    ) -> BasePredictor:
        """Load a network with its image processor from a folder, the Hub, or an ONNX file; see `load_predictor`."""
        return load_predictor(path_or_id, revision, device, dtype, compile)

    def _folded(self) -> UNetForSemanticSegmentation:
        if not any(isinstance(layer, nn.BatchNorm2d) for layer in self.model.modules()):
            return self.model  # a copy would double the memory for nothing
        network = copy.deepcopy(self.model)
        fold_batch_norms(network)
        return network

    @property
    def processor(self) -> UNetImageProcessor:
        return self._processor

    @property
    def processor_settings(self) -> dict[str, Any]:
        return self.processor.to_dict()

    @property
    def identity(self) -> str:
        """Fingerprint of the weights."""
        return fingerprint(self.model)

    @property
    def label(self) -> str:
        return self.model.config.id2label[1]

    def prepare(self, image: Any) -> PreparedImage:
        upright = self.processor.upright(image)
        layout = {"input_data_format": "channels_first", "return_tensors": "pt"}
        pixel_values = self.processor.preprocess(upright, **layout)["pixel_values"]
        return PreparedImage(pixel_values, (upright.shape[-2], upright.shape[-1]))

    def probability_maps(self, prepared: Sequence[PreparedImage], tta: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        pixel_values = torch.cat([image.pixels for image in prepared])
        outputs = [self._logits(pixel_values.flip(axes)).flip(axes) for axes in (FLIPS if tta else FLIPS[:1])]
        at_input_size = _mean([logits.sigmoid() for logits in outputs])[:, 0].cpu()
        sizes = [image.size for image in prepared]
        maps = self.processor.polyp_probabilities(outputs[0], sizes)
        for logits in outputs[1:]:  # added up one by one: a map of a large image takes memory
            for total, other in zip(maps, self.processor.polyp_probabilities(logits, sizes), strict=True):
                total += other
        return [
            (total.div_(len(outputs)).cpu().numpy(), input_size_map.numpy())
            for total, input_size_map in zip(maps, at_input_size, strict=True)
        ]

    @torch.inference_mode()
    def _logits(self, pixel_values: Tensor) -> Tensor:
        device, dtype = self.runtime.device, self.runtime.dtype
        inputs = pixel_values.to(device, memory_format=self.runtime.memory_format)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            try:
                return self._compute(inputs).logits.float()
            except Exception as error:
                if not self.runtime.compiles:
                    raise
                # Compilers fail in many ways, and each time the network can compute without.
                print(f"The network could not be compiled ({first_line(error)}); it goes on without.", file=sys.stderr)
                self.runtime = replace(self.runtime, compiles=False)
                self._compute = self._network
                return self._network(inputs).logits.float()


def _mean(maps: Sequence[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.stack(tuple(maps)).mean(0)
