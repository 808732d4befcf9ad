"""From the rows of a data set to what the network takes: decoding, augmentation, image processor."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset
from torchvision.transforms import v2

from ..image_processing_unet import UNetImageProcessor, binarize_mask
from .dataset import Cell, DatasetError, cell_name, decode_pair

Rows = dict[str, list[Any]]
SHUFFLE_BUFFER = 1000
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


class CardAugmentation:
    """The model card's augmentation of an image and its mask together.

    Flips (p 0.5 each) and a rotation of up to 30 degrees are one resampling of both, the mask by the nearest pixel so
    that it stays {0, 1}; what the rotation uncovers becomes black background. Brightness and contrast change by a
    factor of 0.7 to 1.3, in the image alone.

    All draws are torch's, from its global generator.
    """

    flip_probability = 0.5
    degrees = 30
    factors = (0.7, 1.3)

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Augment an image (3, H, W) uint8 and its mask (H, W) uint8, {0, 1}; what comes back is of the same kind."""
        height, width = mask.shape
        warped, labels = warp(image, mask, self.draw_matrix(width / height), (height, width))
        return self.change_colours(warped).round_().to(torch.uint8), labels

    def draw_matrix(self, aspect_ratio: float) -> Tensor:
        """(2, 3) from places in the result to places in an image of that width over height, as `warp` takes it."""
        columns, rows = (-1.0 if _uniform(0, 1) < self.flip_probability else 1.0 for _ in range(2))
        angle = math.radians(_uniform(-self.degrees, self.degrees))
        cosine, sine = math.cos(angle), math.sin(angle)
        # Turned counter-clockwise, as torchvision does, after the flips.
        return torch.tensor(
            [[columns * cosine, -columns * sine / aspect_ratio, 0.0], [rows * sine * aspect_ratio, rows * cosine, 0.0]]
        )

    def change_colours(self, image: Tensor) -> Tensor:
        """(3, H, W) float in [0, 255] -> the same, changed in place.

        What torchvision's `ColorJitter(brightness=0.3, contrast=0.3)` does, the two in either order, without its
        rounding in between, in a third of its time.
        """
        brightness, contrast = _uniform(*self.factors), _uniform(*self.factors)
        brightness_first = _uniform(0, 1) < 0.5
        if brightness_first:
            image.mul_(brightness).clamp_(0, 255)
        mean = torch.tensor(LUMINANCE) @ image.mean(dim=(1, 2))
        image.mul_(contrast).add_((1 - contrast) * mean).clamp_(0, 255)
        return image if brightness_first else image.mul_(brightness).clamp_(0, 255)


class StrongAugmentation:
    """For hundreds of epochs on few frames: one warp of image and mask, then colour, blur and noise in the image.

    The ranges of the warp are near those of DUCK-Net (Dumitru et al., 2023, https://arxiv.org/abs/2311.02239) and
    EffiSegNet (Vezakis et al., 2024, https://arxiv.org/abs/2407.16298): flips (p 0.5 each), any rotation, scale 0.6 to
    1.5, proportions within 16 %, shear up to 0.3 (17 degrees), shift up to 20 % of the side. They are one resampling,
    in the frame's own proportions, so that a turned polyp keeps its shape; what lies outside the frame is black.

    Brightness, contrast and saturation change by a factor of 0.7 to 1.3, each colour channel by 0.92 to 1.08, and
    with p 0.5 gamma by up to e^±0.25; Gaussian blur (p 0.2, sigma 0.5 to 1.5 pixels) and Gaussian noise (p 0.2,
    standard deviation 0.01 to 0.06 of the range).

    All draws are torch's, from its global generator.
    """

    def __call__(
        self, image: Tensor, mask: Tensor, aspect_ratio: float = 1.0, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augment one pair.

        Args:
            image: (3, H, W) uint8.
            mask: (H, W) uint8, {0, 1}.
            aspect_ratio: Width over height of the frame that the image was resized from.
            size: Height and width of the result; None: the image's.

        Returns:
            The image (3, H', W') uint8 and the mask (H', W') uint8, {0, 1}.
        """
        warped, labels = warp(image, mask, self.draw_matrix(aspect_ratio), size or tuple(mask.shape))
        return (self.change_colours(warped / 255) * 255).round().to(torch.uint8), labels

    @staticmethod
    def draw_matrix(aspect_ratio: float) -> Tensor:
        """(2, 3) from places in the result to places in the image, as `warp` takes it."""
        angle, shear = math.radians(_uniform(-180, 180)), _uniform(-0.3, 0.3)
        scale = math.exp(_uniform(math.log(0.6), math.log(1.5)))
        stretch = math.exp(_uniform(-0.15, 0.15) / 2)
        flips = [_uniform(0, 1) < 0.5 for _ in range(2)]
        rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        shearing = torch.tensor([[1.0, shear], [0.0, 1.0]])
        scaling = torch.diag(torch.tensor([stretch, 1 / stretch]) / scale)
        mirror = torch.diag(torch.tensor([-1.0 if flip else 1.0 for flip in flips]))
        # Between the unit square of the grid and the proportions of the frame, where angles are angles.
        to_frame = torch.diag(torch.tensor([aspect_ratio, 1.0]))
        linear = torch.diag(torch.tensor([1 / aspect_ratio, 1.0])) @ rotation @ shearing @ scaling @ to_frame @ mirror
        # The grid goes from -1 to 1: 0.4 is 20 % of the side.
        shift = torch.tensor([[_uniform(-0.4, 0.4)], [_uniform(-0.4, 0.4)]])
        return torch.cat((linear, shift), dim=1)

    @staticmethod
    def change_colours(image: Tensor) -> Tensor:
        """(3, H, W) float in [0, 1] -> the same, changed."""
        brightness, contrast, saturation = (_uniform(0.7, 1.3) for _ in range(3))
        luminance = torch.tensor(LUMINANCE)
        # Each pixel's colour times one matrix, and contrast around the image's mean luminance.
        matrix = saturation * torch.eye(3) + (1 - saturation) * luminance
        matrix *= torch.empty(3, 1).uniform_(0.92, 1.08) * brightness * contrast
        mean = brightness * image.mean(dim=(1, 2)) @ luminance
        changed = (matrix @ image.flatten(1)).view_as(image).add_((1 - contrast) * mean).clamp_(0, 1)
        if _uniform(0, 1) < 0.5:
            changed = changed.pow_(math.exp(_uniform(-0.25, 0.25)))
        if _uniform(0, 1) < 0.2:
            changed = v2.functional.gaussian_blur(changed, [7, 7], [_uniform(0.5, 1.5)])
        if _uniform(0, 1) < 0.2:
            changed = (changed + torch.randn_like(changed) * _uniform(0.01, 0.06)).clamp_(0, 1)
        return changed


AUGMENTATIONS: dict[str, type[CardAugmentation] | type[StrongAugmentation]] = {
    "card": CardAugmentation,
    "strong": StrongAugmentation,
}


def warp(image: Tensor, mask: Tensor, matrix: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Resample an image (bilinear) and its mask (nearest) once, black outside.

    Args:
        image: (3, H, W).
        mask: (H, W), {0, 1}.
        matrix: (2, 3) from (x, y, 1) in the result to (x, y) in the image, both from -1 to 1 between the outer edges,
            as `torch.nn.functional.affine_grid` takes it.
        size: Height and width of the result.

    Returns:
        The image (3, *size), float32, and the mask (*size), of its own dtype.
    """
    height, width = size
    grid = (matrix @ _pixel_centres(height, width)).view(1, 2, height, width).permute(0, 2, 3, 1)
    warped = F.grid_sample(image[None].float(), grid, mode="bilinear", align_corners=False)[0]
    labels = F.grid_sample(mask[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
    return warped, labels.to(mask.dtype)


@lru_cache(maxsize=8)
def _pixel_centres(height: int, width: int) -> Tensor:
    """(3, H * W): x, y and 1 of every pixel.

    A matrix by these planes is the product that `affine_grid` makes, in a tenth of its time.
    """
    x, y = (torch.linspace(-1, 1, side) * (side - 1) / side for side in (width, height))
    planes = (x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width))
    return torch.stack(planes).flatten(1)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


class EvalTransform:
    """Rows of `load_splits` -> {"pixel_values": list of (3, H, W) float, "labels": list of (H, W) int64}.

    Args:
        processor: Resizes and scales the images, and reads the masks.
        foreground_values: Mask values that mean polyp, where they are not the usual ones.

    Raises:
        DatasetError: When called, if a pair cannot be read or used; the message names it.
    """

    def __init__(self, processor: UNetImageProcessor, foreground_values: list[int] | None = None):
        self.processor = processor
        self.foreground_values = foreground_values

    def __call__(self, rows: Rows) -> dict[str, list[Tensor]]:
        cells = zip(rows["image"], rows["mask"], rows["row"], strict=True)
        examples = [self._example(*row_cells) for row_cells in cells]
        pixel_values, labels = zip(*examples, strict=True)
        return {"pixel_values": list(pixel_values), "labels": list(labels)}

    def _example(self, image: Cell, mask: Cell, row: int) -> tuple[Tensor, Tensor]:
        frame, frame_mask = decode_pair(image, mask, row)
        try:
            inputs = self.processor.preprocess(
                frame,
                segmentation_maps=frame_mask,
                foreground_values=self.foreground_values,
                return_tensors="pt",
            )
        except ValueError as error:
            raise DatasetError(f"{cell_name(mask, row)}: {error}") from error
        return inputs["pixel_values"][0], inputs["labels"][0]


class TrainTransform(EvalTransform):
    """`EvalTransform` with an augmentation between the processor's resizing and its scaling.

    JPEG frames of at least four times the processor's size are decoded at a half or less, but no less than twice that
    size, so that the resized image differs by a few grey levels along edges; masks are always read in full.

    What happens to a row depends on (seed, epoch, row) alone: it is the same whatever the number of workers
    and processes, and after a restart. `set_epoch` reaches workers that are already running.

    Args:
        processor, foreground_values: As for `EvalTransform`.
        seed: Seed of the run.
        cache_bytes: Resized rows are kept up to this size, in each process, so that later epochs need not
            decode them; 0 keeps none.
        augmentation: "card" (`CardAugmentation`) or "strong" (`StrongAugmentation`).
        smaller_sizes: Side in pixels of the examples and the epoch until which they have it, in this order, as
            [(128, 10), (192, 20)]: 128 in epochs 0 to 9, 192 in 10 to 19, then the processor's size. Only with
            "strong".

    Raises:
        ValueError: For another `augmentation`, or `smaller_sizes` without "strong".
    """

    def __init__(
        self,
        processor: UNetImageProcessor,
        foreground_values: list[int] | None = None,
        seed: int = 42,
        cache_bytes: int = 0,
        augmentation: str = "card",
        smaller_sizes: Sequence[tuple[int, int]] = (),
    ):
        super().__init__(processor, foreground_values)
        if augmentation not in AUGMENTATIONS:
            raise ValueError(f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}.")
        if smaller_sizes and augmentation != "strong":
            raise ValueError(f'`smaller_sizes` need augmentation="strong", got {augmentation!r}.')
        self.seed = seed
        self.augmentation = AUGMENTATIONS[augmentation]()
        self.smaller_sizes = smaller_sizes
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._cache: dict[int, tuple[Tensor, Tensor, float]] = {}
        self._cache_bytes_left = cache_bytes

    def set_epoch(self, epoch: int) -> None:
        """Make the draws of epoch `epoch`, counted from 0."""
        self._epoch.fill_(epoch)

    @property
    def rows_that_fit(self) -> int | None:
        """How many more rows the cache takes; None where images keep sizes of their own."""
        if not self.processor.do_resize:
            return None
        values = 4 * self.processor.size["height"] * self.processor.size["width"]  # three channels and the mask
        return self._cache_bytes_left // values

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of this epoch's examples."""
        for side, until in self.smaller_sizes:
            if self._epoch < until:
                return side, side
        return self.processor.size["height"], self.processor.size["width"]

    def _example(self, image: Cell, mask: Cell, row: int) -> tuple[Tensor, Tensor]:
        augmented, labels = self._augment(*self._resized(image, mask, row), row)
        scaled = self.processor.preprocess(augmented, do_resize=False, return_tensors="pt")
        return scaled["pixel_values"][0], labels.long()

    def _resized(self, image: Cell, mask: Cell, row: int) -> tuple[Tensor, Tensor, float]:
        """A row before augmentation: image (3, H, W) and mask (H, W), uint8, and the frame's width over height."""
        if row in self._cache:
            return self._cache[row]
        # Twice the result's size leaves the resizing its antialiasing.
        size = self.processor.size
        needed = 2 * max(size["height"], size["width"]) if self.processor.do_resize else None
        frame, frame_mask = decode_pair(image, mask, row, smallest_side=needed)
        unscaled = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        try:
            resized = self.processor.preprocess(frame, **unscaled)["pixel_values"][0]
            # On its own, since the frame may be smaller by now; the filter is the processor's for masks.
            labels = self.processor.preprocess(
                binarize_mask(frame_mask, self.foreground_values),
                do_convert_rgb=False,
                resample=v2.InterpolationMode.NEAREST_EXACT,
                **unscaled,
            )["pixel_values"][0, 0]
        except ValueError as error:
            raise DatasetError(f"{cell_name(mask, row)}: {error}") from error
        resized_row = resized, labels, frame_mask.width / frame_mask.height
        row_bytes = sum(tensor.nbytes for tensor in resized_row[:2])
        if row_bytes <= self._cache_bytes_left:
            self._cache[row] = resized_row
            self._cache_bytes_left -= row_bytes
        return resized_row

    def _augment(self, image: Tensor, mask: Tensor, aspect_ratio: float, row: int) -> tuple[Tensor, Tensor]:
        # torch and torchvision draw from the global generator: borrow it, and give it back as it was.
        with torch.random.fork_rng(devices=[]):
            key = np.random.SeedSequence((self.seed, int(self._epoch), row)).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(key[0]))
            if isinstance(self.augmentation, StrongAugmentation):
                return self.augmentation(image, mask, aspect_ratio, self.size)
            return self.augmentation(image, mask)


class TrainingStream(IterableDataset):
    """The training rows of `load_splits(streaming=True)`, shuffled anew each epoch and transformed.

    It knows how many rows an epoch has, which a stream as such does not, so that a trainer can count epochs.

    Args:
        rows: Columns `image`, `mask`, `row`. Workers share its shards: more workers than shards idle.
        transform: Applied row by row.
        seed: Seed of the order, of which 1,000 rows at a time are mixed.
    """

    def __init__(self, rows: datasets.IterableDataset, transform: TrainTransform, seed: int):
        self.rows = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        self.transform = transform

    def set_epoch(self, epoch: int) -> None:
        """Take the order and the draws of epoch `epoch`, counted from 0."""
        self.rows.set_epoch(epoch)
        self.transform.set_epoch(epoch)

    def __len__(self) -> int:
        splits = self.rows.info.splits
        if not splits or not splits["train"].num_examples:
            raise TypeError("The data set does not say how many rows its training split has.")
        return splits["train"].num_examples

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for row in self.rows:
            examples = self.transform({name: [cell] for name, cell in row.items()})
            yield {name: values[0] for name, values in examples.items()}
