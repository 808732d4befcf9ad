"""From the rows of a data set to what the network takes: decoding, augmentation, image processor."""

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..image_processing_unet import UNetImageProcessor
from .dataset import Cell, DatasetError, cell_name, decode_pair

Rows = dict[str, list[Any]]
SHUFFLE_BUFFER = 1000


def card_augmentation() -> v2.Transform:
    """The model card's augmentation of an image and its mask together.

    Flips (p 0.5 each) and a rotation of up to 30 degrees move both, the mask by the nearest pixel so that it
    stays {0, 1}; what the rotation uncovers becomes black background. Brightness and contrast change by a
    factor of 0.7 to 1.3, in the image alone.
    """
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(p=0.5),
            v2.RandomVerticalFlip(p=0.5),
            v2.RandomRotation(degrees=30, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.3, contrast=0.3),
        ]
    )


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
        return self._preprocess_pair(image, mask, row)

    def _preprocess_pair(self, image: Cell, mask: Cell, row: int, **overrides) -> tuple[Tensor, Tensor]:
        decoded_image, decoded_mask = decode_pair(image, mask, row)
        try:
            inputs = self.processor.preprocess(
                decoded_image,
                segmentation_maps=decoded_mask,
                foreground_values=self.foreground_values,
                return_tensors="pt",
                **overrides,
            )
        except ValueError as error:
            raise DatasetError(f"{cell_name(mask, row)}: {error}") from error
        return inputs["pixel_values"][0], inputs["labels"][0]


class TrainTransform(EvalTransform):
    """`EvalTransform` with `card_augmentation` between the processor's resizing and its scaling.

    What happens to a row depends on (seed, epoch, row) alone: it is the same whatever the number of workers
    and processes, and after a restart. `set_epoch` reaches workers that are already running.

    Args:
        processor, foreground_values: As for `EvalTransform`.
        seed: Seed of the run.
        cache_bytes: Resized rows are kept up to this size, in each process, so that later epochs need not
            decode them; 0 keeps none.
    """

    def __init__(
        self,
        processor: UNetImageProcessor,
        foreground_values: list[int] | None = None,
        seed: int = 42,
        cache_bytes: int = 0,
    ):
        super().__init__(processor, foreground_values)
        self.seed = seed
        self.augmentation = card_augmentation()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}
        self._cache_bytes_left = cache_bytes

    def set_epoch(self, epoch: int) -> None:
        """Make the draws of epoch `epoch`, counted from 0."""
        self._epoch.fill_(epoch)

    def _example(self, image: Cell, mask: Cell, row: int) -> tuple[Tensor, Tensor]:
        augmented, labels = self._augment(*self._resized(image, mask, row), row)
        scaled = self.processor.preprocess(augmented, do_resize=False, return_tensors="pt")
        return scaled["pixel_values"][0], labels.long()

    def _resized(self, image: Cell, mask: Cell, row: int) -> tuple[Tensor, Tensor]:
        """A row before augmentation, uint8: image (3, H, W), mask (H, W)."""
        if row in self._cache:
            return self._cache[row]
        resized, labels = self._preprocess_pair(image, mask, row, do_rescale=False, do_normalize=False)
        pair = resized, labels.to(torch.uint8)
        size = sum(tensor.nbytes for tensor in pair)
        if size <= self._cache_bytes_left:
            self._cache[row] = pair
            self._cache_bytes_left -= size
        return pair

    def _augment(self, image: Tensor, mask: Tensor, row: int) -> tuple[Tensor, Tensor]:
        # torchvision draws from the global generator: borrow it, and give it back as it was.
        with torch.random.fork_rng(devices=[]):
            key = np.random.SeedSequence((self.seed, int(self._epoch), row)).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(key[0]))
            image, mask = self.augmentation(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


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
