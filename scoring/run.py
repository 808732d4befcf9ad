"""Scores a source of predictions, a model or a folder of files, on the samples of a split.

source = ModelSource.load("me/unet", None, device="auto", dtype="float32", tta=False)
images = score_samples(source, splits["test"], protocol, processes)  # one `ImageScores` for each sample
summarise(images)["metrics"]
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset
from PIL.Image import Image
from tqdm.auto import tqdm

from ..common.errors import UserError
from ..common.paths import TRAINED_MODEL
from ..common.processes import Processes
from ..data.dataset import Sample, choose_split, load_sample
from ..inference.prediction import BasePredictor
from ..inference.predictor import load_predictor
from .image_scores import LESION_IOU, ImageScores, score_image
from .intervals import RESAMPLES
from .near_duplicates import MAX_DISTANCE, NearDuplicate, find_near_duplicates, samples_to_leave_out
from .prediction_files import PredictionFiles
from .summary import LARGE_FROM, SMALL_BELOW, at_threshold, best_threshold, compare, summarise

SCORES_WITHOUT_DUPLICATES = ("dice_per_image_native", "iou_per_image_native")
EXAMPLES = 3  # of the best images, of the median ones and of the worst


class InvalidRunError(UserError):
    """The model gives NaN somewhere, so that no score of the run means anything."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How samples are scored.

    Attributes:
        threshold: A pixel is polyp if its probability is higher.
        surface_tolerance: Tolerance of the normalised surface Dice in pixels.
        batch_size: Images that go through the network together.
        foreground_values: Mask values that mean polyp, where they are not the usual ones.
        resamples, seed: Of the bootstrap.
    """

    threshold: float = 0.5
    surface_tolerance: float = 2.0
    batch_size: int = 8
    foreground_values: Sequence[int] | None = None
    resamples: int = RESAMPLES
    seed: int = 0

    @property
    def resampling(self) -> dict[str, int]:
        """Arguments of the functions that resample."""
        return {"resamples": self.resamples, "seed": self.seed}


@dataclass(frozen=True)
class ScoredSplit:
    """The scores of a split.

    Attributes:
        images: Scores of each image, in order.
        protocol: How they were scored, with the tuned threshold if it was tuned.
        tuned_on: The split that the threshold was tuned on; None: it was not tuned.
        at_half: Main scores at the threshold 0.5 if it was tuned.
        comparison: Name of the source that it was compared with, and the differences.
    """

    images: Sequence[ImageScores]
    protocol: Protocol
    tuned_on: str | None
    at_half: dict[str, Any] | None
    comparison: dict[str, Any] | None


@dataclass(frozen=True)
class Maps:
    """What a source predicts for one image.

    Attributes:
        probability: (H, W) float32 at the image's original size.
        input_pair: Probability (h, w) float32 and ground truth (h, w) bool at the input size; None for files.
    """

    probability: np.ndarray
    input_pair: tuple[np.ndarray, np.ndarray] | None


class ModelSource:
    """Predictions of a network.

    Attributes:
        name: What the results call it.
        seconds: Time spent so far on predictions, with pre- and post-processing.
    """

    def __init__(self, name: str, predictor: BasePredictor, tta: bool):
        self.name = name
        self.predictor = predictor
        self.tta = tta
        self.seconds = 0.0

    @classmethod
    def load(cls, name: str, revision: str | None, *, device: str, dtype: str, tta: bool) -> "ModelSource":
        """Load a model from a folder, the Hub or an ONNX file.

        Raises:
            UserError: If it cannot be loaded, or this machine lacks the device or dtype.
        """
        path = Path(name).resolve()
        short_name = path.name if path.exists() else name.split("/")[-1]
        if path == TRAINED_MODEL:
            short_name = "unet-kvasir-seg"
        return cls(short_name, load_predictor(name, revision, device, dtype), tta)

    def predict(self, samples: Sequence[Sample]) -> list[Maps]:
        """The maps of some samples, in order.

        Raises:
            InvalidRunError: If the network gives NaN; the message names the image.
        """
        started = time.perf_counter()
        predictions = self.predictor.batch([sample.image for sample in samples], tta=self.tta)
        self.seconds += time.perf_counter() - started
        for sample, prediction in zip(samples, predictions, strict=True):
            if not prediction.is_valid:
                raise InvalidRunError(
                    f"{self.name} gives NaN for the image {sample.name}: the run is invalid, and no score is kept. "
                    "Try --dtype float32; if it is that already, the weights are broken."
                )
        ground_truths = [self.predictor.processor.resize_mask(sample.ground_truth) for sample in samples]
        return [
            Maps(prediction.probability, (prediction.probability_at_input_size, ground_truth.numpy() == 1))
            for prediction, ground_truth in zip(predictions, ground_truths, strict=True)
        ]


class FileSource:
    """Predictions of another program, from the files of a folder.

    Raises:
        UserError: If the folder does not hold predictions.
    """

    def __init__(self, folder: Path):
        self.name = folder.resolve().name
        self.files = PredictionFiles(folder)
        self.seconds = 0.0

    def predict(self, samples: Sequence[Sample]) -> list[Maps]:
        """The maps of some samples, in order.

        Raises:
            UserError: If a file is missing, has another size than its image, or holds no probabilities.
        """
        return [Maps(self.files.probability(sample.name, sample.ground_truth.shape), None) for sample in samples]


Source: TypeAlias = ModelSource | FileSource


def score_split(
    source: Source,
    other: Source | None,
    splits: Mapping[str, Dataset],
    split: str,
    protocol: Protocol,
    processes: Processes,
    tune_threshold_on: str | None = None,
) -> ScoredSplit:
    """Score a split.

    Args:
        source: What is scored.
        other: What it is compared with on the same images, if anything.
        splits: As `load_splits` gives them.
        split: Name of the split.
        protocol: How to score.
        processes: The samples are split among them; each gets the scores of all.
        tune_threshold_on: Another split, whose best threshold is taken in place of the protocol's.

    Raises:
        UserError: If a split is missing or a sample cannot be scored; an `InvalidRunError` if the model gives NaN.
    """
    rows, at_half, comparison = choose_split(splits, split), None, None
    if tune_threshold_on is not None:
        tuning_rows = choose_split(splits, tune_threshold_on)
        tuning = score_samples(source, tuning_rows, replace(protocol, threshold=0.5), processes)
        protocol = replace(protocol, threshold=best_threshold(tuning))
    images = score_samples(source, rows, protocol, processes)
    if tune_threshold_on is not None:
        at_half = at_threshold(images, 0.5, **protocol.resampling)
    if other is not None:
        others = score_samples(other, rows, protocol, processes)
        with value_errors_explained():
            comparison = {"with": other.name, "metrics": compare(images, others, **protocol.resampling)}
    return ScoredSplit(images, protocol, tune_threshold_on, at_half, comparison)


def summarise_split(scored: ScoredSplit, tta: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections "metrics" and "evaluation" of `results.json`, without near-duplicates, figures and times.

    Args:
        scored: The scores.
        tta: Whether the predictions are means over an image and its flips.
    """
    sections = summarise(scored.images, **scored.protocol.resampling)
    metrics = sections.pop("metrics")
    threshold = {"value": scored.protocol.threshold, "tuned_on": scored.tuned_on, "at_half": scored.at_half}
    protocol = {
        "surface_tolerance": scored.protocol.surface_tolerance,
        **scored.protocol.resampling,
        "small_below": SMALL_BELOW,
        "large_from": LARGE_FROM,
        "lesion_iou": LESION_IOU,
        "test_time_augmentation": tta,
    }
    return metrics, {
        "threshold": threshold,
        "native_size": describe_sizes([(image.width, image.height) for image in scored.images]),
        "protocol": protocol,
        **sections,
        "comparison": scored.comparison,
        "audit": None,
    }


def score_samples(source: Source, rows: Dataset, protocol: Protocol, processes: Processes) -> list[ImageScores]:
    """Score every sample of a split, in order. Each process scores a part and gets the scores of all.

    Raises:
        UserError: In every process, if one of them cannot score a sample.
    """
    mine = range(processes.index, len(rows), processes.count)
    scored: list[tuple[int, ImageScores]] = []
    failure = None
    try:
        with tqdm(total=len(mine), desc=source.name, unit="image", disable=not processes.is_main) as progress:
            for start in range(0, len(mine), protocol.batch_size):
                indices = mine[start : start + protocol.batch_size]
                images = score_batch(source, [rows[index] for index in indices], protocol)
                scored += zip(indices, images, strict=True)
                progress.update(len(images))
    except UserError as error:
        failure = error
    parts = processes.gather((scored, failure))
    failures = [error for _, error in parts if error is not None]
    if failures:
        raise failures[0]
    of_all = [entry for part, _ in parts for entry in part]
    return [image for _, image in sorted(of_all, key=lambda entry: entry[0])]


def score_batch(source: Source, rows: Sequence[Mapping[str, Any]], protocol: Protocol) -> list[ImageScores]:
    """Score some samples; returns the scores in order.

    Raises:
        UserError: If a sample cannot be read, predicted or scored; the message names it.
    """
    samples = [load_sample(row, protocol.foreground_values) for row in rows]
    images = []
    for sample, maps in zip(samples, source.predict(samples), strict=True):
        with value_errors_explained():
            image = score_image(
                sample.name,
                maps.probability,
                sample.ground_truth,
                threshold=protocol.threshold,
                tolerance=protocol.surface_tolerance,
                input_pair=maps.input_pair,
            )
        images.append(image)
    return images


@contextlib.contextmanager
def value_errors_explained() -> Iterator[None]:
    """Turn a ValueError of the scores, whose message names the image, into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Width x height in pixels: "384x288", or from the smallest area to the largest."""
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    smallest, largest = (f"{width}x{height}" for width, height in (by_area[0], by_area[-1]))
    return smallest if smallest == largest else f"from {smallest} to {largest}"


def check_near_duplicates(
    splits: Mapping[str, Dataset], split: str, scored: ScoredSplit
) -> tuple[dict[str, Any], list[NearDuplicate]]:
    """Look for near-duplicates of a scored split in the other splits.

    Args:
        splits: As `load_splits` gives them.
        split: The one that was scored.
        scored: Its scores.

    Returns:
        The section of the results, with the main scores of the images that have no near-duplicate; and the pairs.
    """
    found = [pair for pair in find_near_duplicates(splits) if split in (pair.first[0], pair.second[0])]
    left_out = samples_to_leave_out(found, split)
    kept = [image for index, image in enumerate(scored.images) if index not in left_out]
    metrics = summarise(kept, **scored.protocol.resampling)["metrics"] if kept else {}
    section = {
        "max_distance": MAX_DISTANCE,
        "pairs": [
            {"first": list(pair.first), "second": list(pair.second), "distance": pair.distance} for pair in found
        ],
        "left_out": len(left_out),
        "metrics": {name: metrics[name] for name in SCORES_WITHOUT_DUPLICATES if name in metrics},
    }
    return section, found


def predict_examples(
    source: Source, rows: Dataset, dice: np.ndarray, protocol: Protocol
) -> list[tuple[str, Image, np.ndarray, np.ndarray, np.ndarray]]:
    """Predict the best, the median and the worst images once more, since no map was kept; the best come first.

    Args:
        source: What was scored.
        rows: The split.
        dice: (images,) Dice of each sample of the split.
        protocol: As for `score_samples`.

    Returns:
        Title such as "best: Dice 0.981", image, ground truth (H, W) bool, probability (H, W) float32 and mask (H, W)
        bool of each.
    """
    examples = []
    for index, kind in choose_examples(dice).items():
        sample = load_sample(rows[index], protocol.foreground_values)
        probability = source.predict([sample])[0].probability
        title = f"{kind}: Dice {dice[index]:.3f}"
        examples.append((title, sample.image, sample.ground_truth, probability, probability > protocol.threshold))
    return examples


def choose_examples(dice: np.ndarray) -> dict[int, str]:
    """Indices of the best, the median and the worst images with their kind, the best first.

    Args:
        dice: (images,) Dice of each image.
    """
    order = np.argsort(-dice, kind="stable")
    first_median = max((len(order) - EXAMPLES) // 2, 0)
    # With few images, the groups overlap: best counts before median, median before worst.
    median = order[first_median : first_median + EXAMPLES]
    groups = {"worst": order[-EXAMPLES:], "median": median, "best": order[:EXAMPLES]}
    kind_of = {int(index): kind for kind, indices in groups.items() for index in indices}
    return {index: kind_of[index] for index in sorted(kind_of, key=lambda index: -dice[index])}
