"""From an image to a probability map, a mask and its lesions, at the image's own size.

predictor = Predictor.from_pretrained("me/unet-kvasir-seg")
prediction = predictor(Image.open("frame.jpg"))
prediction.mask.sum(), prediction.lesions
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..common.device import Runtime, choose_runtime, keep_freed_memory
from ..common.errors import UserError, first_line
from ..image_processing_unet import UNetImageProcessor
from ..modeling_unet import UNetForSemanticSegmentation
from .checkpoint import fingerprint, load_checkpoint
from .onnx_session import OnnxNetwork

# Axes of (B, C, H, W) that are flipped; without the first, nothing is.
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
EIGHT_NEIGHBOURS = np.ones((3, 3))


@dataclass(frozen=True)
class Lesion:
    """One connected region of a mask; pixels that touch at a corner are connected.

    Attributes:
        box: First column, first row, and column and row after the last, in pixels.
        centroid: Mean column and row of its pixels.
        pixels: Its area.
        share: Its area as a share of the image's.
        probability: Mean probability of its pixels.
    """

    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    pixels: int
    share: float
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image.

    Attributes:
        probability: (H, W) float32, the probability of polyp at the image's own size.
        network_probability: (h, w) float32, the same at the input size.
        threshold: A pixel belongs to the mask if its probability is higher.
    """

    probability: np.ndarray
    network_probability: np.ndarray
    threshold: float

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, True where there is polyp."""
        return self.probability > self.threshold

    @property
    def is_valid(self) -> bool:
        """Whether the network gave a number everywhere; what is NaN would look like background."""
        return bool(np.isfinite(self.network_probability).all())

    @cached_property
    def lesions(self) -> list[Lesion]:
        """The connected regions of the mask, the largest first."""
        runs = _Runs.of(self.mask)
        if not runs.row.size:
            return []
        # The part of the image that holds them all, with its first row and column.
        top, left = int(runs.row[0]), int(runs.first.min())
        labels, count = ndimage.label(self.mask[top : runs.row[-1] + 1, left : runs.after.max()], EIGHT_NEIGHBOURS)
        of_lesion = labels[runs.row - top, runs.first - left] - 1

        def total(of_run: np.ndarray) -> np.ndarray:
            return np.bincount(of_lesion, of_run, count)

        pixels = total(runs.length)
        columns = total(runs.length * (runs.first + runs.after - 1) / 2) / pixels
        rows = total(runs.length * runs.row) / pixels
        probabilities = total(runs.sums(self.probability)) / pixels
        found = [
            Lesion(
                box=(left + across.start, top + down.start, left + across.stop, top + down.stop),
                centroid=(float(column), float(row)),
                pixels=int(area),
                share=int(area) / self.probability.size,
                probability=float(probability),
            )
            for (down, across), area, column, row, probability in zip(
                ndimage.find_objects(labels), pixels, columns, rows, probabilities, strict=True
            )
        ]
        return sorted(found, key=lambda lesion: -lesion.pixels)


@dataclass(frozen=True)
class _Runs:
    """The stretches of a mask's rows that are polyp: few, where there are a million pixels.

    Attributes:
        row, first, after: (N,) their row, first column, and the column after the last.
    """

    row: np.ndarray
    first: np.ndarray
    after: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> "_Runs":
        """The runs of a mask (H, W) bool, row by row."""
        width = mask.shape[1] + 2
        fenced = np.pad(mask, ((0, 0), (1, 1))).ravel()  # so that no run goes on in the next row
        changes = np.flatnonzero(fenced[1:] != fenced[:-1])
        return cls(changes[::2] // width, changes[::2] % width, changes[1::2] % width)

    @property
    def length(self) -> np.ndarray:
        """(N,) in pixels."""
        return self.after - self.first

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(N,) the sum of `values` (H, W) over each run."""
        height, width = values.shape
        bounds = np.stack((self.row * width + self.first, self.row * width + self.after), axis=1).ravel()
        if bounds[-1] == height * width:
            bounds = bounds[:-1]  # the last run ends with the values
        return np.add.reduceat(values.ravel(), bounds, dtype=np.float64)[::2]


class Predictor:
    """A network, its image processor, and where to compute: images in, predictions out.

    Args:
        model: Moved to the device and into the memory format of `runtime`, and set to evaluation; one in an ONNX file
            computes where and as it was made to.
        processor: The image processor that belongs to it.
        runtime: Device, dtype and memory format.
    """

    def __init__(
        self, model: UNetForSemanticSegmentation | OnnxNetwork, processor: UNetImageProcessor, runtime: Runtime
    ):
        if runtime.device.type == "cpu":
            keep_freed_memory()
        self.processor = processor
        self.model: UNetForSemanticSegmentation | OnnxNetwork
        if isinstance(model, OnnxNetwork):
            self.runtime = Runtime(model.device, torch.float32)
            self.model = model
        else:
            self.runtime = runtime
            self.model = model.eval().to(runtime.device, memory_format=runtime.memory_format)
            self._compute: Callable[..., Any] = torch.compile(self.model) if runtime.compiles else self.model

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool | str = "auto",
    ) -> "Predictor":
        """Load a network with its image processor from a folder, the Hub, or an ONNX file.

        Args:
            path_or_id: A folder, an id on the Hub, or a file that `export.py` wrote, whose name ends in .onnx.
            revision: Branch, tag or commit on the Hub.
            device, dtype, compile: As for `runtime.choose_runtime`; an ONNX file has its own dtype, and is never
                compiled.

        Raises:
            UserError: If it cannot be loaded, or device or dtype are not there.
        """
        return cls.load(path_or_id, revision, choose_runtime(device, dtype, compile))

    @classmethod
    def load(cls, path_or_id: str, revision: str | None, runtime: Runtime) -> "Predictor":
        """As `from_pretrained`, for where to compute that was chosen before."""
        if not path_or_id.endswith(".onnx"):
            model, processor = load_checkpoint(path_or_id, revision)
            return cls(model, processor, runtime)
        if revision is not None:
            raise UserError(
                f"The revision {revision} is of a repo on the Hub, and {path_or_id} is a file: leave one out."
            )
        network = OnnxNetwork.load(path_or_id, cpu_only=runtime.device.type == "cpu")
        return cls(network, network.processor, runtime)

    @property
    def identity(self) -> str:
        """Hash of what the probabilities depend on: the weights, or the ONNX file."""
        return self.model.digest if isinstance(self.model, OnnxNetwork) else fingerprint(self.model)

    def __call__(self, image: Any, *, threshold: float = 0.5, tta: bool = False) -> Prediction:
        """Segment one image: PIL, numpy or torch, as `UNetImageProcessor` takes it.

        Args:
            image: RGB or grey, any size, upright or with an EXIF tag that says how to turn it.
            threshold: A pixel belongs to the mask if its probability is higher.
            tta: Average the probabilities of the image and its three flips, for four times the work.
        """
        return self.batch([image], threshold=threshold, tta=tta)[0]

    def batch(self, images: Sequence[Any], *, threshold: float = 0.5, tta: bool = False) -> list[Prediction]:
        """Segment images of any sizes together."""
        pixel_values, sizes = zip(*(self.prepare(image) for image in images), strict=True)
        return self.from_pixels(torch.cat(pixel_values), sizes, threshold=threshold, tta=tta)

    def prepare(self, image: Any) -> tuple[Tensor, tuple[int, int]]:
        """What `from_pixels` takes of one image: (1, 3, h, w) float, and the image's own height and width.

        Threads may call it, so that the next images are prepared while the network has these.

        Raises:
            ValueError: For an image that `UNetImageProcessor` refuses.
        """
        upright = self.processor.upright(image)
        layout = {"input_data_format": "channels_first", "return_tensors": "pt"}
        return self.processor.preprocess(upright, **layout)["pixel_values"], (upright.shape[-2], upright.shape[-1])

    def from_pixels(
        self,
        pixel_values: Tensor,
        sizes: Sequence[tuple[int, int]],
        *,
        threshold: float = 0.5,
        tta: bool = False,
    ) -> list[Prediction]:
        """Segment what the image processor made.

        Args:
            pixel_values: (B, 3, h, w) float.
            sizes: Height and width of each of the B images themselves, in pixels.
            threshold, tta: As for a call.
        """
        outputs = [self._logits(pixel_values.flip(axes)).flip(axes) for axes in (FLIPS if tta else FLIPS[:1])]
        network = _mean([logits.sigmoid() for logits in outputs])[:, 0].cpu()
        native = zip(*(self.processor.polyp_probabilities(logits, sizes) for logits in outputs), strict=True)
        return [
            Prediction(_mean(maps).cpu().numpy(), network_map.numpy(), threshold)
            for maps, network_map in zip(native, network, strict=True)
        ]

    @torch.inference_mode()
    def _logits(self, pixel_values: Tensor) -> Tensor:
        if isinstance(self.model, OnnxNetwork):
            return self.model.logits(pixel_values)
        device, dtype = self.runtime.device, self.runtime.dtype
        inputs = pixel_values.to(device, memory_format=self.runtime.memory_format)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            try:
                return self._compute(inputs).logits.float()
            except Exception as error:
                if not self.runtime.compiles:
                    raise
                # Compilers fail in many ways, and all that they do can be done without.
                print(f"The network could not be compiled ({first_line(error)}); it goes on without.", file=sys.stderr)
                self.runtime = replace(self.runtime, compiles=False)
                self._compute = self.model
                return self.model(inputs).logits.float()


def _mean(maps: Sequence[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.stack(tuple(maps)).mean(0)
