"""How time and memory grow with image size, batch and width, and data loading with its workers."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import datasets
import torch
from torch.utils.data import DataLoader
from unet_kvasir_seg.benchmarks.contest import Entry, measure_alone
from unet_kvasir_seg.benchmarks.data_path import EncodedPair, as_rows, encoded_pairs
from unet_kvasir_seg.benchmarks.inference import Predicted, compute_dtype, save_random_network
from unet_kvasir_seg.benchmarks.measurement import Measurement
from unet_kvasir_seg.benchmarks.networks import card_unet, forward_flops, training_flops
from unet_kvasir_seg.benchmarks.plan import Plan
from unet_kvasir_seg.benchmarks.training import TrainedStep
from unet_kvasir_seg.data.transforms import TrainTransform
from unet_kvasir_seg.data_collator import SegmentationCollator
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor

INFERENCE, TRAINING, CHECKPOINTING = "scaling of inference", "scaling of training", "gradient checkpointing"
LOADING = "scaling of data loading"
IMAGE_SIZE, BATCH, WIDTH, WORKERS = "image size", "batch", "width", "workers"
# Enough batches for four workers.
LOADED_REPEATS = 4


@dataclass(frozen=True)
class Point:
    """One place on one axis."""

    axis: str
    value: int
    width: int
    image_size: int
    images: int


@dataclass(frozen=True, kw_only=True)
class LoadedEpoch(Entry):
    """An epoch of training examples through a data loader as Trainer makes it; frames are decoded each time.

    Attributes:
        pairs: Encoded frames and masks.
        image_size: Side in pixels of the examples.
        batch: Examples of a batch.
    """

    pairs: list[EncodedPair] = field(repr=False)
    image_size: int
    batch: int

    side = "this project"

    def start(self, device: torch.device) -> Callable[[], list]:
        processor = UNetImageProcessor(size={"height": self.image_size, "width": self.image_size})
        rows = datasets.Dataset.from_dict(as_rows(self.pairs)).with_transform(TrainTransform(processor))
        workers = int(self.value or 0)
        # Persistent, so that the time does not include starting them, which happens once in a training.
        loader: DataLoader = DataLoader(
            rows,  # type: ignore[arg-type]
            batch_size=self.batch,
            num_workers=workers,
            collate_fn=SegmentationCollator(),
            persistent_workers=workers > 0,
        )
        return lambda: [len(batch["labels"]) for batch in loader]


def points(plan: Plan) -> list[Point]:
    """The points of each axis, with the other settings fixed."""
    width, size, batch = plan.scaling_width, plan.image_size, plan.training_batch
    return [
        *(Point(IMAGE_SIZE, value, width, value, images=1) for value in plan.scaling_sizes),
        *(Point(BATCH, value, width, size, images=value) for value in plan.scaling_batches),
        *(Point(WIDTH, value, value, size, images=batch) for value in plan.widths),
    ]


def entries(plan: Plan, device: str, folder: Path) -> list[Entry]:
    """What is measured on a device, each in a process of its own."""
    dtype = compute_dtype(device)
    found: list[Entry] = []
    for point in points(plan):
        build = partial(card_unet, point.width)
        place = {"axis": point.axis, "value": point.value, "images": point.images, "dtype": dtype}
        found += [
            Predicted(
                **place,
                part=INFERENCE,
                name=f"{point.axis} {point.value}",
                flops=forward_flops(build, point.images, point.image_size),
                checkpoint=save_random_network(folder, point.width, point.image_size),
                compile=False,
                frame_size=plan.frame_size,
            ),
            TrainedStep(
                **place,
                part=TRAINING,
                name=f"{point.axis} {point.value}",
                flops=training_flops(build, point.images, point.image_size),
                width=point.width,
                image_size=point.image_size,
            ),
        ]
    return found + checkpointing_entries(plan, dtype)


def checkpointing_entries(plan: Plan, dtype: str) -> list[Entry]:
    """A training step of the largest batch with and without gradient checkpointing."""
    images, names = max(plan.scaling_batches), {False: "without", True: "with"}
    return [
        TrainedStep(
            part=CHECKPOINTING,
            name=names[checkpointing],
            images=images,
            dtype=dtype,
            compared_with=names[False] if checkpointing else None,
            width=plan.scaling_width,
            image_size=plan.image_size,
            checkpointing=checkpointing,
        )
        for checkpointing in names
    ]


def loading_entries(plan: Plan) -> list[Entry]:
    """Data loading with each number of workers."""
    pairs = encoded_pairs(plan.data_frames, plan.data_frame_sizes[0]) * LOADED_REPEATS
    return [
        LoadedEpoch(
            part=LOADING,
            name=f"{WORKERS} {workers}",
            images=len(pairs),
            axis=WORKERS,
            value=workers,
            pairs=pairs,
            image_size=plan.image_size,
            batch=plan.training_batch,
        )
        for workers in plan.scaling_workers
    ]


def measure(plan: Plan, devices: list[str]) -> list[Measurement]:
    """Growth on each device, and that of data loading."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(entry, device) for device in devices for entry in entries(plan, device, Path(folder))]
        jobs += [(entry, "cpu") for entry in loading_entries(plan)]
        found = [measure_alone(entry, device, plan.scaling_rounds) for entry, device in jobs]
    return [measurement for measurement in found if measurement]
