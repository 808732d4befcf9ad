"""Turn samples into what the network takes: decoding, caching, augmentation, the image processor, streaming."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from ..common.mask_rules import USUAL_MASKS, MaskRules
from ..field_of_view_unet import crop_to, read_field_of_view
from ..image_processing_unet import UNetImageProcessor
from .augmentation import AUGMENTATIONS, AugmentationParameters
from .samples import DatasetError, Sample, cell_name, load_sample
from .windows import NegativeWindow, draw_window

Row = Mapping[str, Any]
Rows = dict[str, list[Any]]
SHUFFLE_BUFFER = 1000
WINDOWS = 1  # distinguishes the seeds of the windows from those of the augmentation parameters


def load_seen_sample(
    row: Row,
    processor: UNetImageProcessor,
    mask_rules: MaskRules = USUAL_MASKS,
    smallest_side: int | None = None,
) -> Sample:
    """Read a sample, and crop image and mask to what the network sees: the processor's field of view.

    Args:
        row, mask_rules, smallest_side: As for `load_sample`. With a field of view, the image is read at full size.
        processor: Its setting `field_of_view` says how.

    Raises:
        DatasetError: As `load_sample`, or if the field of view does not lie within the image.
    """
    if read_field_of_view(processor.field_of_view) is None:
        return load_sample(row, mask_rules, smallest_side)
    sample = load_sample(row, mask_rules)
    with _errors_name_the_image(row):
        (box,) = processor.fields_of_view(sample.image)
    if box is None:
        return sample
    return replace(sample, image=sample.image.crop(box), ground_truth=crop_to(sample.ground_truth, box))


class EvalTransform:
    """Rows of `load_splits` -> {"pixel_values": list of (3, H, W) float, "labels": list of (H, W) int64}.

    Args:
        processor: Resizes and scales the images, and resizes the masks.
        mask_rules: How masks are read.

    Raises:
        DatasetError: When called, if an image or a mask cannot be read or used; the message names it.
    """

    def __init__(self, processor: UNetImageProcessor, mask_rules: MaskRules = USUAL_MASKS):
        self.processor = processor
        self.mask_rules = mask_rules

    def __call__(self, rows: Rows) -> dict[str, list[Any]]:
        columns = (rows["image"], rows["mask"], rows["index"])
        examples = [
            self._example({"image": image, "mask": mask, "index": index})
            for image, mask, index in zip(*columns, strict=True)
        ]
        return {name: [example[name] for example in examples] for name in examples[0]}

    def _example(self, row: Row) -> dict[str, Any]:
        sample = load_seen_sample(row, self.processor, self.mask_rules)
        with _errors_name_the_image(row):
            inputs = self.processor.preprocess(
                sample.image, segmentation_maps=sample.ground_truth, return_tensors="pt", field_of_view="none"
            )
        return {"pixel_values": inputs["pixel_values"][0], "labels": inputs["labels"][0]}


class TrainTransform(EvalTransform):
    """`EvalTransform` with an augmentation between the processor's resizing and its scaling.

    JPEG images of at least four times the processor's size are decoded at 1/2, 1/4 or 1/8, but to no less than twice
    that size, so that the resized image differs by a few grey levels along edges. Masks are always read at full size.

    A sample's augmentation parameters depend on (seed, epoch, index) alone, so they are the same for any number of
    workers and processes, and after a restart. Only the pixels of noise differ between kinds of devices. `set_epoch`
    reaches workers that are already running.

    With `negative_window_share`, that share of the examples are windows: `draw_window` cuts one from the sample's
    frame at full size, and what is cut is resized like a frame. Where no window fits, the example is the frame. This
    too depends on (seed, epoch, index) alone, and other examples are the same as without windows.

    Args:
        processor, mask_rules: As for `EvalTransform`.
        seed: Seed of the run.
        cache_bytes: Memory for resized samples in each process, so that later epochs need not decode them; 0: none.
        augmentation: "card" (`BaselineAugmentation`) or "strong" (`StrongAugmentation`).
        progressive_sizes: Pairs of a side in pixels and the epoch until which examples have it, in rising order of
            epochs. [(128, 10), (192, 20)]: 128 in epochs 0 to 9, 192 in 10 to 19, then the processor's size.
        in_batches: Leave the augmentation to `augment`, which works on a batch on any device. The examples are then
            the resized samples, "pixel_values" and "labels" uint8, with their "augmentation_parameters".
        negative_window_share: Share of examples that are windows without polyp, at least 0 and below 1.

    Raises:
        ValueError: If `augmentation` is unknown, or `negative_window_share` out of range.
    """

    def __init__(
        self,
        processor: UNetImageProcessor,
        mask_rules: MaskRules = USUAL_MASKS,
        seed: int = 42,
        cache_bytes: int = 0,
        augmentation: str = "card",
        progressive_sizes: Sequence[tuple[int, int]] = (),
        in_batches: bool = False,
        negative_window_share: float = 0.0,
    ):
        super().__init__(processor, mask_rules)
        if augmentation not in AUGMENTATIONS:
            raise ValueError(f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}.")
        if not 0 <= negative_window_share < 1:
            raise ValueError(f"`negative_window_share` must be at least 0 and below 1, got {negative_window_share}.")
        self.seed = seed
        self.negative_window_share = negative_window_share
        self.augmentation = AUGMENTATIONS[augmentation]()
        self.progressive_sizes = progressive_sizes
        self.in_batches = in_batches
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._cache: dict[int, tuple[Tensor, Tensor, float]] = {}
        self._cache_bytes_left = cache_bytes

    def set_epoch(self, epoch: int) -> None:
        """Use the augmentation parameters and the size of `epoch`, counted from 0."""
        self._epoch.fill_(epoch)

    @property
    def samples_that_fit(self) -> int | None:
        """How many more samples fit into the cache; None if images keep their own sizes."""
        if not self.processor.do_resize:
            return None
        values = 4 * self.processor.size["height"] * self.processor.size["width"]  # three channels and the mask
        return self._cache_bytes_left // values

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of this epoch's examples; None if images keep their own sizes."""
        for side, until in self.progressive_sizes:
            if self._epoch < until:
                return side, side
        return (self.processor.size["height"], self.processor.size["width"]) if self.processor.do_resize else None

    def augment(
        self, pixel_values: Tensor, labels: Tensor, augmentation_parameters: Sequence[Any]
    ) -> dict[str, Tensor]:
        """Augment and scale a batch of resized samples on its device.

        Args:
            pixel_values: (B, 3, H, W) uint8.
            labels: (B, H, W) uint8, {0, 1}.
            augmentation_parameters: B of the augmentation's own, all of one size.

        Returns:
            What the network takes: `pixel_values` (B, 3, H', W') float32 and `labels` (B, H', W') int64.
        """
        augmented, augmented_labels = self.augmentation(pixel_values, labels, augmentation_parameters)
        processor = self.processor
        # The processor caches by these values, so they must be hashable.
        mean, std = (
            tuple(values) if isinstance(values, list) else values
            for values in (processor.image_mean, processor.image_std)
        )
        scaled = processor.rescale_and_normalize(
            augmented, processor.do_rescale, processor.rescale_factor, processor.do_normalize, mean, std
        )
        return {"pixel_values": scaled, "labels": augmented_labels.long()}

    def _example(self, row: Row) -> dict[str, Any]:
        image, labels, aspect_ratio = self._window(row) or self._resized(row)
        size = self.size or (labels.shape[0], labels.shape[1])
        parameters = self._sample_parameters(size, aspect_ratio, row["index"])
        if self.in_batches:
            return {"pixel_values": image, "labels": labels, "augmentation_parameters": parameters}
        batch = self.augment(image[None], labels[None], [parameters])
        return {name: values[0] for name, values in batch.items()}

    def _resized(self, row: Row) -> tuple[Tensor, Tensor, float]:
        """A sample before augmentation: image (3, H, W) and mask (H, W), uint8, and the frame's width over height."""
        if row["index"] in self._cache:
            return self._cache[row["index"]]
        # Twice the result's size leaves the resizing its antialiasing.
        size = self.processor.size
        needed = 2 * max(size["height"], size["width"]) if self.processor.do_resize else None
        sample = load_seen_sample(row, self.processor, self.mask_rules, smallest_side=needed)
        image = self._resize_image(sample.image, row)
        labels = self.processor.resize_mask(sample.ground_truth)  # alone, since the image may be smaller by now
        height, width = sample.ground_truth.shape
        resized = image, labels, width / height
        size_in_bytes = image.nbytes + labels.nbytes
        if size_in_bytes <= self._cache_bytes_left:
            self._cache[row["index"]] = resized
            self._cache_bytes_left -= size_in_bytes
        return resized

    def _window(self, row: Row) -> tuple[Tensor, Tensor, float] | None:
        """A window without polyp, as `_resized` gives a sample; None if this example is to be the frame."""
        if not self.negative_window_share:
            return None
        generator = np.random.default_rng((self.seed, int(self._epoch), row["index"], WINDOWS))
        if generator.random() >= self.negative_window_share:
            return None
        # Not from the cache: a window of a resized frame would be less sharp than frames are, which can be learned.
        sample = load_seen_sample(row, self.processor, self.mask_rules)
        place = draw_window(sample.ground_truth, generator)
        if place is None:
            return None
        window = NegativeWindow(row["index"], *place)
        image = self._resize_image(window.crop(sample.image), row)
        return image, image.new_zeros(image.shape[1:]), 1.0

    def _resize_image(self, image: Image, row: Row) -> Tensor:
        """(3, H, W) uint8 at the processor's size."""
        unscaled: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "field_of_view": "none"}
        with _errors_name_the_image(row):
            return self.processor.preprocess(image, return_tensors="pt", **unscaled)["pixel_values"][0]

    def _sample_parameters(self, size: tuple[int, int], aspect_ratio: float, index: int) -> AugmentationParameters:
        # The augmentations use torch's global generator: seed it for this sample, and restore it afterwards.
        with torch.random.fork_rng(devices=[]):
            key = np.random.SeedSequence((self.seed, int(self._epoch), index)).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(key[0]))
            return self.augmentation.sample_parameters(size, aspect_ratio)


class TrainingStream(IterableDataset):
    """The training samples of `load_splits(streaming=True)`, shuffled anew each epoch and transformed.

    Unlike the stream itself it knows how many samples an epoch has, so that a trainer can count epochs.

    Args:
        rows: Columns `image`, `mask`, `index`. Workers share its shards: those beyond their number have nothing to do.
        transform: Applied to one sample at a time.
        seed: Seed of the order; samples are shuffled within a buffer of 1,000.
    """

    def __init__(self, rows: datasets.IterableDataset, transform: TrainTransform, seed: int):
        self.rows = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        self.transform = transform

    def set_epoch(self, epoch: int) -> None:
        """Use the order and the augmentation parameters of `epoch`, counted from 0."""
        self.rows.set_epoch(epoch)
        self.transform.set_epoch(epoch)

    def __len__(self) -> int:
        splits = self.rows.info.splits
        split = (splits or {}).get(str(self.rows.split))
        if not split or not split.num_examples:
            raise TypeError("The data set does not say how many samples its training split has.")
        return split.num_examples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            examples = self.transform({name: [cell] for name, cell in row.items()})
            yield {name: values[0] for name, values in examples.items()}


@contextlib.contextmanager
def _errors_name_the_image(row: Row) -> Iterator[None]:
    """Turn the image processor's errors into a `DatasetError` that names the image."""
    try:
        yield
    except ValueError as error:
        raise DatasetError(f"{cell_name(row['image'], row['index'])}: {error}") from error
