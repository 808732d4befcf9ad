"""From the rows of a data set to what the network takes: decoding, augmentation, image processor."""

from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from torchvision.transforms import v2

from ..image_processing_unet import UNetImageProcessor, binarize_mask
from .augmentation import AUGMENTATIONS, BaselineParameters, StrongParameters
from .dataset import Cell, DatasetError, cell_name, decode_pair

Rows = dict[str, list[Any]]
SHUFFLE_BUFFER = 1000


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
        augmentation: "card" (`BaselineAugmentation`) or "strong" (`StrongAugmentation`).
        progressive_sizes: Side in pixels of the examples and the epoch until which they have it, in this order, as
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
        progressive_sizes: Sequence[tuple[int, int]] = (),
        in_batches: bool = False,
    ):
        super().__init__(processor, foreground_values)
        if augmentation not in AUGMENTATIONS:
            raise ValueError(f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}.")
        self.seed = seed
        self.augmentation = AUGMENTATIONS[augmentation]()
        self.progressive_sizes = progressive_sizes
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
        for side, until in self.progressive_sizes:
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

    def _draw(self, size: tuple[int, int], aspect_ratio: float, row: int) -> BaselineParameters | StrongParameters:
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
