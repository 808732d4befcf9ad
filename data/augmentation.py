"""From the rows of a data set to what the network takes: decoding, augmentation, image processor."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Draw:
    """What an augmentation drew for one row; plain numbers, so that it travels from a worker as it is.

    Attributes:
        size: Height and width of the result.
        matrix: 2 by 3, from places in the result to places in the image, as `warp` takes it.
    """

    size: tuple[int, int]
    matrix: list[list[float]]


@dataclass(frozen=True)
class CardDraw(Draw):
    """As `Draw`, with the factors of brightness and contrast and which of them comes first."""

    brightness: float
    contrast: float
    brightness_first: bool


class CardAugmentation:
    """The model card's augmentation of images and their masks together.

    Flips (p 0.5 each) and a rotation of up to 30 degrees are one resampling of both, the mask by the nearest pixel so
    that it stays {0, 1}; what the rotation uncovers becomes black background. Brightness and contrast change by a
    factor of 0.7 to 1.3, in the image alone.
    """

    flip_probability = 0.5
    degrees = 30
    factors = (0.7, 1.3)

    def draw(self, size: tuple[int, int], aspect_ratio: float = 1.0) -> CardDraw:
        """Draw for one row, from torch's global generator.

        Args:
            size: Height and width of the result.
            aspect_ratio: Width over height of the frame that the image was resized from. It changes nothing here: the
                card turns the resized image.
        """
        matrix = self.draw_matrix(size[1] / size[0])
        brightness, contrast = _uniform(*self.factors), _uniform(*self.factors)
        return CardDraw(size, matrix.tolist(), brightness, contrast, brightness_first=_uniform(0, 1) < 0.5)

    def draw_matrix(self, aspect_ratio: float) -> Tensor:
        """(2, 3) from places in the result to places in an image of that width over height, as `warp` takes it."""
        columns, rows = (-1.0 if _uniform(0, 1) < self.flip_probability else 1.0 for _ in range(2))
        angle = math.radians(_uniform(-self.degrees, self.degrees))
        cosine, sine = math.cos(angle), math.sin(angle)
        # Turned counter-clockwise, as torchvision does, after the flips.
        return torch.tensor(
            [[columns * cosine, -columns * sine / aspect_ratio, 0.0], [rows * sine * aspect_ratio, rows * cosine, 0.0]]
        )

    def __call__(self, images: Tensor, masks: Tensor, draws: Sequence[CardDraw]) -> tuple[Tensor, Tensor]:
        """Augment images (B, 3, H, W) uint8 and masks (B, H, W) uint8, {0, 1}, on their device, as it was drawn.

        What comes back is of the same kind, at the size that was drawn.
        """
        warped, labels = warp(images, masks, _per_row(images, [draw.matrix for draw in draws]), draws[0].size)
        return self.change_colours(warped, draws).round_().to(torch.uint8), labels

    @staticmethod
    def change_colours(images: Tensor, draws: Sequence[CardDraw]) -> Tensor:
        """(B, 3, H, W) float in [0, 255] -> the same, changed in place.

        What torchvision's `ColorJitter(brightness=0.3, contrast=0.3)` does, the two in either order, without its
        rounding in between, in half of its time.
        """
        before, contrast, after = (
            _per_row(images, factors).view(-1, 1, 1, 1)
            for factors in (
                [draw.brightness if draw.brightness_first else 1.0 for draw in draws],
                [draw.contrast for draw in draws],
                [1.0 if draw.brightness_first else draw.brightness for draw in draws],
            )
        )
        images.mul_(before).clamp_(0, 255)
        means = (images.mean(dim=(2, 3)) @ _per_row(images, LUMINANCE)).view(-1, 1, 1, 1)
        return images.mul_(contrast).add_((1 - contrast) * means).clamp_(0, 255).mul_(after).clamp_(0, 255)


@dataclass(frozen=True)
class StrongDraw(Draw):
    """As `Draw`, with what changes the colours.

    Attributes:
        brightness, contrast, saturation: Factors.
        channels: A factor for each of red, green and blue.
        gamma: Exponent; 1 leaves the image as it is.
        blur: Standard deviation of the Gaussian in pixels; 0 for none.
        noise: Standard deviation of the Gaussian noise in the range's units; 0 for none.
        noise_seed: What the noise is made from.
    """

    brightness: float
    contrast: float
    saturation: float
    channels: list[float]
    gamma: float
    blur: float
    noise: float
    noise_seed: int


class StrongAugmentation:
    """For hundreds of epochs on few frames: one warp of image and mask, then colour, blur and noise in the image.

    The ranges of the warp are near those of DUCK-Net (Dumitru et al., 2023, https://arxiv.org/abs/2311.02239) and
    EffiSegNet (Vezakis et al., 2024, https://arxiv.org/abs/2407.16298): flips (p 0.5 each), any rotation, scale 0.6 to
    1.5, proportions within 16 %, shear up to 0.3 (17 degrees), shift up to 20 % of the side. They are one resampling,
    in the frame's own proportions, so that a turned polyp keeps its shape; what lies outside the frame is black.

    Brightness, contrast and saturation change by a factor of 0.7 to 1.3, each colour channel by 0.92 to 1.08, and
    with p 0.5 gamma by up to e^±0.25; Gaussian blur (p 0.2, sigma 0.5 to 1.5 pixels) and Gaussian noise (p 0.2,
    standard deviation 0.01 to 0.06 of the range).
    """

    def draw(self, size: tuple[int, int], aspect_ratio: float = 1.0) -> StrongDraw:
        """Draw for one row, from torch's global generator.

        Args:
            size: Height and width of the result.
            aspect_ratio: Width over height of the frame that the image was resized from.
        """
        return StrongDraw(
            size,
            self.draw_matrix(aspect_ratio).tolist(),
            brightness=_uniform(0.7, 1.3),
            contrast=_uniform(0.7, 1.3),
            saturation=_uniform(0.7, 1.3),
            channels=[_uniform(0.92, 1.08) for _ in range(3)],
            gamma=math.exp(_uniform(-0.25, 0.25)) if _uniform(0, 1) < 0.5 else 1.0,
            blur=_uniform(0.5, 1.5) if _uniform(0, 1) < 0.2 else 0.0,
            noise=_uniform(0.01, 0.06) if _uniform(0, 1) < 0.2 else 0.0,
            noise_seed=int(torch.randint(2**62, ())),
        )

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

    def __call__(self, images: Tensor, masks: Tensor, draws: Sequence[StrongDraw]) -> tuple[Tensor, Tensor]:
        """As `CardAugmentation.__call__`."""
        warped, labels = warp(images, masks, _per_row(images, [draw.matrix for draw in draws]), draws[0].size)
        return (self.change_colours(warped.div_(255), draws) * 255).round_().to(torch.uint8), labels

    @staticmethod
    def change_colours(images: Tensor, draws: Sequence[StrongDraw]) -> Tensor:
        """(B, 3, H, W) float in [0, 1] -> the same, changed."""
        brightness, contrast, saturation = (
            _per_row(images, factors).view(-1, 1, 1)
            for factors in zip(*((draw.brightness, draw.contrast, draw.saturation) for draw in draws), strict=True)
        )
        channels = _per_row(images, [draw.channels for draw in draws])[:, :, None]
        luminance = _per_row(images, LUMINANCE)
        # Each pixel's colour times one matrix, and contrast around the image's mean luminance.
        matrices = saturation * torch.eye(3, device=images.device) + (1 - saturation) * luminance
        matrices = matrices * channels * brightness * contrast  # (B, 3, 3)
        means = brightness * (images.mean(dim=(2, 3)) @ luminance).view(-1, 1, 1)
        changed = (matrices @ images.flatten(2)).add_((1 - contrast) * means).clamp_(0, 1).view_as(images)
        for image, draw in zip(changed, draws, strict=True):
            if draw.gamma != 1:
                image.pow_(draw.gamma)
            if draw.blur > 0:
                image.copy_(v2.functional.gaussian_blur(image, [7, 7], [draw.blur]))
            if draw.noise > 0:
                generator = torch.Generator(image.device).manual_seed(draw.noise_seed)
                noise = torch.randn(image.shape, generator=generator, device=image.device)
                image.add_(noise, alpha=draw.noise).clamp_(0, 1)
        return changed


AUGMENTATIONS: dict[str, type[CardAugmentation] | type[StrongAugmentation]] = {
    "card": CardAugmentation,
    "strong": StrongAugmentation,
}


def warp(images: Tensor, masks: Tensor, matrices: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Resample images (bilinear) and their masks (nearest) once, black outside.

    Args:
        images: (B, 3, H, W).
        masks: (B, H, W), {0, 1}.
        matrices: (B, 2, 3) from (x, y, 1) in the result to (x, y) in the image, both from -1 to 1 between the outer
            edges, as `torch.nn.functional.affine_grid` takes them.
        size: Height and width of the result.

    Returns:
        The images (B, 3, *size), float32, and the masks (B, *size), of their own dtype.
    """
    height, width = size
    places = matrices @ _pixel_centres(height, width, images.device)
    grid = places.view(-1, 2, height, width).permute(0, 2, 3, 1)
    warped = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    labels = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0]
    return warped, labels.to(masks.dtype)


@lru_cache(maxsize=8)
def _pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """(3, H * W): x, y and 1 of every pixel.

    A matrix by these planes is the product that `affine_grid` makes, in a tenth of its time.
    """
    x, y = (torch.linspace(-1, 1, side) * (side - 1) / side for side in (width, height))
    planes = (x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width))
    return torch.stack(planes).flatten(1).to(device)


def _per_row(images: Tensor, numbers: Sequence[Any]) -> Tensor:
    """Numbers as a float32 tensor on the images' device."""
    return torch.tensor(numbers, dtype=torch.float32, device=images.device)


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

    def __call__(self, rows: Rows) -> dict[str, list[Any]]:
        cells = zip(rows["image"], rows["mask"], rows["row"], strict=True)
        examples = [self._example(*row_cells) for row_cells in cells]
        return {name: [example[name] for example in examples] for name in examples[0]}

    def _example(self, image: Cell, mask: Cell, row: int) -> dict[str, Any]:
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
        return {"pixel_values": inputs["pixel_values"][0], "labels": inputs["labels"][0]}


class TrainTransform(EvalTransform):
    """`EvalTransform` with an augmentation between the processor's resizing and its scaling.

    JPEG frames of at least four times the processor's size are decoded at a half or less, but no less than twice that
    size, so that the resized image differs by a few grey levels along edges; masks are always read in full.

    What is drawn for a row depends on (seed, epoch, row) alone: it is the same whatever the number of workers
    and processes, and after a restart; the pixels of noise are other ones on another kind of device. `set_epoch`
    reaches workers that are already running.

    Args:
        processor, foreground_values: As for `EvalTransform`.
        seed: Seed of the run.
        cache_bytes: Resized rows are kept up to this size, in each process, so that later epochs need not
            decode them; 0 keeps none.
        augmentation: "card" (`CardAugmentation`) or "strong" (`StrongAugmentation`).
        smaller_sizes: Side in pixels of the examples and the epoch until which they have it, in this order, as
            [(128, 10), (192, 20)]: 128 in epochs 0 to 9, 192 in 10 to 19, then the processor's size.
        in_batches: Leave the augmentation to `augment`, which takes a batch on any device. The examples are then the
            resized rows, "pixel_values" and "labels" uint8, and beside them, as "draw", what was drawn for each.

    Raises:
        ValueError: For another `augmentation`.
    """

    def __init__(
        self,
        processor: UNetImageProcessor,
        foreground_values: list[int] | None = None,
        seed: int = 42,
        cache_bytes: int = 0,
        augmentation: str = "card",
        smaller_sizes: Sequence[tuple[int, int]] = (),
        in_batches: bool = False,
    ):
        super().__init__(processor, foreground_values)
        if augmentation not in AUGMENTATIONS:
            raise ValueError(f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}.")
        self.seed = seed
        self.augmentation = AUGMENTATIONS[augmentation]()
        self.smaller_sizes = smaller_sizes
        self.in_batches = in_batches
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
    def size(self) -> tuple[int, int] | None:
        """Height and width of this epoch's examples; None where images keep sizes of their own."""
        for side, until in self.smaller_sizes:
            if self._epoch < until:
                return side, side
        return (self.processor.size["height"], self.processor.size["width"]) if self.processor.do_resize else None

    def augment(self, pixel_values: Tensor, labels: Tensor, draws: Sequence[Any]) -> dict[str, Tensor]:
        """Augment and scale a batch of resized rows on its device, as it was drawn for each.

        Args:
            pixel_values: (B, 3, H, W) uint8.
            labels: (B, H, W) uint8, {0, 1}.
            draws: B of the augmentation's own, all of one size.

        Returns:
            What the network takes: `pixel_values` (B, 3, H', W') float32 and `labels` (B, H', W') int64.
        """
        augmented, augmented_labels = self.augmentation(pixel_values, labels, draws)
        processor = self.processor
        # A list has no hash, which the processor's cache needs.
        mean, std = (
            tuple(values) if isinstance(values, list) else values
            for values in (processor.image_mean, processor.image_std)
        )
        scaled = processor.rescale_and_normalize(
            augmented, processor.do_rescale, processor.rescale_factor, processor.do_normalize, mean, std
        )
        return {"pixel_values": scaled, "labels": augmented_labels.long()}

    def _example(self, image: Cell, mask: Cell, row: int) -> dict[str, Any]:
        resized, labels, aspect_ratio = self._resized(image, mask, row)
        draw = self._draw(self.size or (labels.shape[0], labels.shape[1]), aspect_ratio, row)
        if self.in_batches:
            return {"pixel_values": resized, "labels": labels, "draw": draw}
        return {name: batch[0] for name, batch in self.augment(resized[None], labels[None], [draw]).items()}

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

    def _draw(self, size: tuple[int, int], aspect_ratio: float, row: int) -> CardDraw | StrongDraw:
        # The augmentations draw from the global generator: borrow it, and give it back as it was.
        with torch.random.fork_rng(devices=[]):
            key = np.random.SeedSequence((self.seed, int(self._epoch), row)).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(key[0]))
            return self.augmentation.draw(size, aspect_ratio)


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

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            examples = self.transform({name: [cell] for name, cell in row.items()})
            yield {name: values[0] for name, values in examples.items()}
