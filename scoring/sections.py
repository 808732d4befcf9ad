"""What `results.json` says of a scored split: its sections "metrics" and "evaluation"."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset

from ..inference.tracks import GAP_SECONDS
from .image_scores import LESION_IOU
from .near_duplicates import MAX_DISTANCE, NearDuplicate, find_near_duplicates, samples_to_leave_out
from .presence import operating_point, summarise_presence
from .regions import MIN_POLYP_PIXELS
from .run import ScoredSplit, fingerprint_of, value_errors_explained
from .sequence_frames import Sequences, sequence_groups
from .sequences import SequenceScores, score_sequence, summarise_sequences
from .summary import LARGE_FROM, SMALL_BELOW, summarise

SCORES_WITHOUT_DUPLICATES = ("dice_per_image_native", "iou_per_image_native")


def summarise_split(scored: ScoredSplit, tta: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections "metrics" and "evaluation" of `results.json`, without near-duplicates, figures and times.

    Args:
        scored: The scores.
        tta: Whether the predictions are means over an image and its flips.

    Raises:
        UserError: If a score is not finite, or there are too few resamples for an interval.
    """
    with value_errors_explained():
        sections = {**summarise(scored.images, **scored.resampling), **summarise_peak(scored)}
    metrics = sections.pop("metrics")
    threshold = {"value": scored.protocol.threshold, "tuned_on": scored.tuned_on, "at_half": scored.at_half}
    protocol = {
        "surface_tolerance": scored.protocol.surface_tolerance,
        **scored.protocol.resampling,
        "small_below": SMALL_BELOW,
        "large_from": LARGE_FROM,
        "lesion_iou": LESION_IOU,
        "test_time_augmentation": tta,
        "min_polyp_pixels": MIN_POLYP_PIXELS,
    }
    return metrics, {
        "threshold": threshold,
        "native_size": describe_sizes([(image.width, image.height) for image in scored.images]),
        "protocol": protocol,
        **sections,
        "comparison": scored.comparison,
        "audit": None,
    }


def summarise_peak(scored: ScoredSplit) -> dict[str, Any]:
    """The sections "peak", "operating_points" and "negatives" of `results.json`."""
    choice, resampling = scored.choice, scored.protocol.resampling
    images = scored.beside([image.regions for image in scored.images])
    peak = scored.images[0].peak_threshold
    values = [] if peak is None else [peak]
    if choice is not None and choice.halves is not None:
        values = list(choice.halves)
    points = [{"peaks": [], **operating_point(images, [None] * len(images.regions), **resampling)}]
    if values:
        points.append({"peaks": values, **operating_point(images, scored.peaks, **resampling)})

    tuning = None
    source = "flag" if scored.protocol.peak_threshold is not None else "model"
    if choice is not None:
        source = "tuned"
        tuning = {
            "split": choice.split,
            "sensitivity": choice.sensitivity,
            "value": choice.value,
            "presence_calibration": choice.presence_calibration and list(choice.presence_calibration),
            "points": choice.points,
        }
    negatives = None
    if images.is_negative.any():
        shown = scored.negatives.negatives
        calibration = choice.presence_calibration if choice is not None else scored.presence_calibration
        negatives = {
            "name": shown.name if shown else None,
            "kind": shown.kind if shown else "split",
            "fingerprint": fingerprint_of(shown.rows) if shown else None,
            "images": int(images.is_negative.sum()),
            "frames": len(np.unique(images.frames[images.is_negative])),
            "with_polyp": int(images.shows_polyp.sum()),
            **summarise_presence(images, calibration, **resampling),
        }
    return {
        "peak": {
            "values": values,
            "source": source if values else "none",
            "chosen_on_split": source == "model" and bool(values) and scored.is_own_peak_of_split,
            "tuning": tuning,
        },
        "operating_points": points,
        "negatives": negatives,
    }


def score_videos(
    sequences: Sequences, scored: ScoredSplit, rate: float, alert_seconds: float
) -> dict[str, SequenceScores]:
    """The scores of each video, by its name.

    Args:
        sequences: The frames of each.
        scored: The scores of the split, with what those of videos need.
        rate: Frames per second.
        alert_seconds: How long a track must be seen to be an alert.
    """
    scores = {}
    for name, frames in sequences.items():
        video_frames = ((number, scored.images[index].video_frame) for number, index in frames)
        scores[name] = score_sequence(((number, one) for number, one in video_frames if one), rate, alert_seconds)
    return scores


def summarise_videos(
    scores: Mapping[str, SequenceScores],
    sequences: Sequences,
    scored: ScoredSplit,
    rate: float,
    alert_seconds: float,
) -> dict[str, Any]:
    """The section "videos" of `results.json`.

    Args:
        scores: Of each video.
        sequences, scored, rate, alert_seconds: As for `score_videos`.

    Raises:
        UserError: If there are too few resamples for an interval.
    """
    with value_errors_explained():
        groups = sequence_groups(sequences, scored.groups)
        together = summarise_sequences([*scores.values()], **scored.protocol.resampling, groups=groups)
    return {
        "frame_rate": rate,
        "alert_seconds": alert_seconds,
        "gap_seconds": GAP_SECONDS,
        "sequences": [asdict(one) for one in scores.values()],
        **together,
    }


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
    groups = None
    if scored.groups is not None:
        groups = [group for index, group in enumerate(scored.groups) if index not in left_out]
    metrics = summarise(kept, **scored.protocol.resampling, groups=groups)["metrics"] if kept else {}
    section = {
        "max_distance": MAX_DISTANCE,
        "pairs": [
            {
                "splits": [pair.first[0], pair.second[0]],
                "rows": [pair.first_index, pair.second_index],
                "distance": pair.distance,
            }
            for pair in found
        ],
        "left_out": len(left_out),
        "metrics": {name: metrics[name] for name in SCORES_WITHOUT_DUPLICATES if name in metrics},
    }
    return section, found
