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
from ..field_of_view_unet import choose_box
from ..image_processing_unet import UNetImageProcessor
from ..modeling_unet import UNetForSemanticSegmentation
from .checkpoint import fingerprint, load_checkpoint
from .ensemble import load_ensemble
from .folding import fold_batch_norms
from .onnx_session import ONNX_SUFFIX, OnnxPredictor
from .prediction import BasePredictor, MapPair, PreparedImage


def load_predictor(
    name: str | Path | Sequence[str | Path],
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compile: bool | str = "auto",
) -> BasePredictor:
    """Load a network with its image processor.

    Args:
        name: A folder, an id on the Hub, or a file that `export.py` wrote, whose name ends in .onnx; or a list of
            them, whose probabilities are averaged. In a list, an id may end in its revision: "me/unet@v2".
        revision: Branch, tag or commit on the Hub; in a list, of the ids that name none.
        device, dtype, compile: As for `choose_runtime` of common/device.py. An ONNX file is never compiled, and
            computes in the dtype that it was exported with.

    Returns:
        A `Predictor`; of an ONNX file an `OnnxPredictor`; of a list an `Ensemble`.

    Raises:
        UserError: If it cannot be loaded, this machine lacks the device or dtype, or the models of a list cannot be
            averaged.
    """
    if not isinstance(name, str | Path):
        return load_ensemble(name, revision, lambda one, of_one: load_predictor(one, of_one, device, dtype, compile))
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
        path_or_id: str | Path | Sequence[str | Path],
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool | str = "auto",
    ) -> BasePredictor:
        """Load a network with its image processor from a folder, the Hub, or an ONNX file, or several; see
        `load_predictor`."""
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

    def prepare(self, image: Any, field_of_view: str | Sequence[int] | None = None) -> PreparedImage:
        upright = self.processor.upright(image)
        setting = self.field_of_view if field_of_view is None else field_of_view
        box = choose_box(setting, upright.permute(1, 2, 0).numpy())
        layout = {"input_data_format": "channels_first", "return_tensors": "pt"}
        pixel_values = self.processor.preprocess(upright, field_of_view=box or "none", **layout)["pixel_values"]
        return PreparedImage(pixel_values, (upright.shape[-2], upright.shape[-1]), box)

    def input_height(self, prepared: PreparedImage) -> int:
        return prepared.pixels.shape[-2]

    def grey_levels(self, prepared: PreparedImage, rows: np.ndarray) -> np.ndarray:
        processor = self.processor
        # In numpy: PyTorch would start threads for it, which wait for those of the network.
        levels = prepared.pixels[0].numpy()[:, rows].transpose(1, 2, 0)
        if processor.do_normalize:
            levels = levels * np.float32(processor.image_std) + np.float32(processor.image_mean)
        if processor.do_rescale:
            levels = levels / np.float32(processor.rescale_factor)
        return levels.round().clip(0, 255).astype(np.uint8)

    def flip_maps(self, prepared: Sequence[PreparedImage], axes: tuple[int, ...]) -> list[MapPair]:
        pixel_values = torch.cat([image.pixels for image in prepared])
        logits = self._logits(pixel_values.flip(axes)).flip(axes)
        at_input_size = logits.sigmoid()[:, 0].cpu()
        sizes, boxes = [image.size for image in prepared], [image.field_of_view for image in prepared]
        maps = self.processor.polyp_probabilities(logits, sizes, boxes)
        return [
            (probability.cpu().numpy(), input_size_map.numpy())
            for probability, input_size_map in zip(maps, at_input_size, strict=True)
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
