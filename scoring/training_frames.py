"""Measures the frames of a data set, for the statistics that are kept with a model.

    statistics = measure_training(predictor, splits["train"], splits["validation"])

See inference/frame_statistics.py for what is measured and kept.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..common.batches import batches
from ..common.errors import UserError, counted
from ..data.columns import Split
from ..data.samples import decode_image
from ..inference.frame_statistics import (
    FEWEST_FRAMES,
    SETTING,
    FrameStatistics,
    measure_frame,
    measure_prediction,
)
from ..inference.prediction import BasePredictor
from .saved_settings import save_settings
from .sources import ModelSource, Source

MOST_FRAMES = 500  # of the training, whose colours are measured; some seconds
MOST_PREDICTED = 200  # of the others, which go through the network
BATCH = 8


def measure_training(predictor: BasePredictor, training: Split | None, validation: Dataset) -> FrameStatistics | None:
    """Measure frames as they are, without augmentation.

    Colours and sharpness are those of the training frames, evenly spread over the split. Presence and uncertainty are
    those of other frames: of the frames that it was trained on, a network is too sure.

    Args:
        predictor: The trained network.
        training: The frames that it was trained on; of a stream, or if it is None, those of the validation are taken.
        validation: Frames that it was not trained on.

    Returns:
        None if there are too few frames.
    """
    frames = training if isinstance(training, Dataset) and len(training) else validation
    measured = [measure_frame(predictor, predictor.prepare(image)) for image in _images(frames, MOST_FRAMES)]
    predicted = []
    for batch in batches(_images(validation, MOST_PREDICTED), BATCH):
        predicted += [measure_prediction(prediction) for prediction in predictor.batch(batch, peak_threshold=0.5)]
    return FrameStatistics.of(measured, predicted)


def _images(rows: Dataset, most: int) -> Iterator[Any]:
    """At most so many images of a split, evenly spread over it."""
    count = min(len(rows), most)
    for place in range(count):
        row = rows[place * len(rows) // count]
        yield decode_image(row["image"], row["index"])


def save_statistics(
    folder: Path, source: Source, splits: Mapping[str, Dataset], split: str, copy_to: Path | None = None
) -> None:
    """Measure frames, and keep the statistics among a model's settings.

    Args:
        folder: The model's.
        source: The model.
        splits: Its colours are those of the split "train"; without one, of the scored one.
        split: The one that was scored.
        copy_to: As for `save_settings`.

    Raises:
        UserError: If there are too few frames, or the settings cannot be written.
    """
    assert isinstance(source, ModelSource)
    statistics = measure_training(source.predictor, splits.get("train"), splits[split])
    if statistics is None:
        raise UserError(
            f"--save_statistics needs at least {FEWEST_FRAMES} frames, and the {split} split has "
            f"{len(splits[split])}. Leave the flag out."
        )
    save_settings(folder, {SETTING: statistics.to_dict()}, "The frames' statistics", copy_to)
    print(
        f"Saved the statistics of {counted(statistics.frames, 'frame')}, and of predictions for "
        f"{statistics.predicted_frames}, among the settings of {folder}."
    )
