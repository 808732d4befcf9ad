"""Choosing the peak threshold of a model and calibrating its presence, and keeping both with the model.

choice = choose_peak(images, split="validation", fingerprint="sha256:...", sensitivity=0.98, threshold=0.5)
save_peak(folder, choice)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ..common.errors import UserError
from ..regions_unet import SMALLEST_PROBABILITY
from .intervals import RESAMPLES
from .presence import ScoredImages, operating_point
from .regions import Regions
from .saved_settings import save_settings

# Chosen peaks are rounded down to so many digits, so that another machine's rounding loses no polyp.
DIGITS = 6


@dataclass(frozen=True)
class PeakChoice:
    """A peak threshold that was chosen on a split.

    Attributes:
        split: Its name.
        fingerprint: Of its samples, as `describe_data` gives it.
        sensitivity: The share of the polyps found by the threshold alone that it had to keep.
        value: Chosen on all images of the split.
        halves: Chosen on the first and on the second half of them; None: not cross-fitted.
        peaks: (images,) float64, of each image of the split and each negative: the one that was chosen on the half
            that the image is not in; `value` without cross-fitting.
        presence_calibration: Scale and offset, fitted on the images; None if none of them is a negative.
        points: `operating_point` of the images that it was chosen on, at the threshold alone and at `value`.
    """

    split: str
    fingerprint: str
    sensitivity: float
    value: float
    halves: tuple[float, float] | None
    peaks: np.ndarray
    presence_calibration: tuple[float, float] | None
    points: list[dict[str, Any]]

    @property
    def is_cross_fitted(self) -> bool:
        """Whether each image has a peak that was chosen without it."""
        return self.halves is not None


def choose_peak(
    images: ScoredImages,
    *,
    split: str,
    fingerprint: str,
    sensitivity: float,
    threshold: float,
    cross_fit: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PeakChoice:
    """Choose the highest peak threshold that keeps enough polyps, and calibrate presence on the same images.

    Args:
        images: The split's and the negatives.
        split, fingerprint: Its name, and that of its samples.
        sensitivity: The share of the polyps found by the threshold alone that it has to keep, above 0 and at most 1.
        threshold: Above which the regions are.
        cross_fit: Also choose it on each half of the groups of frames, cut by the seed; windows go with their frame.
        resamples, seed: Of the bootstrap.

    Raises:
        UserError: If the threshold alone finds no polyp in the split, or in one half of it.
    """
    of_split = [image for image, is_in in zip(images.regions, images.in_split, strict=True) if is_in]
    where = f"the {split} split"
    value = highest_peak(of_split, sensitivity, threshold, where)
    halves, peaks = None, np.full(len(images.regions), value)
    if cross_fit:
        # Frames of another data set are cut in halves by themselves.
        count = int(images.groups[images.in_split].max()) + 1
        others = int(images.groups.max()) + 1 - count
        is_second = np.concatenate([cut_in_halves(count, seed), cut_in_halves(others, seed)])[images.groups]
        first, second = (
            highest_peak([of_split[i] for i in np.flatnonzero(half)], sensitivity, threshold, f"one half of {where}")
            for half in (~is_second[images.in_split], is_second[images.in_split])
        )
        halves, peaks = (first, second), np.where(is_second, first, second)
    highest = np.array([image.highest for image in images.regions])
    calibration = None
    if images.shows_polyp.any() and images.is_negative.any():
        calibration = fit_presence(highest[images.shows_polyp], highest[images.is_negative])
    points = [
        {"peaks": shown, **operating_point(images, [peak] * len(images.regions), resamples, seed)}
        for shown, peak in (([], None), ([value], value))
    ]
    return PeakChoice(split, fingerprint, sensitivity, value, halves, peaks, calibration, points)


def highest_peak(images: Sequence[Regions], sensitivity: float, threshold: float, where: str) -> float:
    """The highest peak threshold at which enough of the polyps are found that the threshold alone finds.

    Args:
        images: Regions of each image.
        sensitivity: The share of those polyps to keep, above 0 and at most 1.
        threshold: Above which the regions are; no peak is below it.
        where: What the images are, for the message.

    Returns:
        The peak, rounded down to `DIGITS` digits.

    Raises:
        UserError: If the threshold alone finds no polyp.
    """
    peaks = np.concatenate([np.zeros(0), *(image.polyp_peaks for image in images)])
    found = np.sort(peaks[peaks > 0])[::-1]
    if len(found) == 0:
        raise UserError(
            f"No peak threshold can be chosen on {where}: at the threshold {threshold:g}, none of its {len(peaks)} "
            "polyps is found. Name a split that shows polyps which the model finds."
        )
    keep = math.ceil(sensitivity * len(found) - 1e-9)  # against rounding, as of 0.07 * 100
    return max(math.floor(found[keep - 1] * 10**DIGITS) / 10**DIGITS, threshold)


def cut_in_halves(groups: int, seed: int) -> np.ndarray:
    """(groups,) bool, drawn by the seed: True for the half of the groups that the second peak is chosen on."""
    is_second = np.zeros(groups, dtype=bool)
    is_second[np.random.default_rng(seed).permutation(groups)[: groups // 2]] = True
    return is_second


def fit_presence(
    with_polyp: Sequence[float] | np.ndarray, without: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Calibrate presence: logistic regression of polyp or no polyp on the logit of an image's highest probability.

    Both kinds of image weigh the same, whatever their numbers, so that presence does not depend on how many windows
    were drawn: it holds where half of the frames show a polyp. Targets are smoothed as by Platt (Probabilistic Outputs
    for Support Vector Machines, 1999), (n + 1) / (n + 2) and 1 / (n + 2), so that scale and offset stay finite where
    the two kinds do not overlap.

    Args:
        with_polyp, without: Highest probability of each image that shows a polyp, and of each that shows none; at
            least one of each.

    Returns:
        Scale and offset for `presence_of`. The scale is never negative: presence rises with the probability.
    """
    groups = [
        (_logits(with_polyp), (len(with_polyp) + 1) / (len(with_polyp) + 2)),
        (_logits(without), 1 / (len(without) + 2)),
    ]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean cross-entropy of each kind, added, and its gradient."""
        scale, offset = parameters
        value, gradient = 0.0, np.zeros(2)
        for logits, target in groups:
            score = scale * logits + offset
            value += float(np.mean(np.logaddexp(0, score) - target * score))
            error = expit(score) - target
            gradient += np.mean(error * logits), np.mean(error)
        return value, gradient

    start, bounds = np.array([1.0, 0.0]), [(0, None), (None, None)]
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9})
    scale, offset = fitted.x
    return float(scale), float(offset)


def _logits(probabilities: Sequence[float] | np.ndarray) -> np.ndarray:
    """Of probabilities clipped as `presence_of` clips them."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return np.log(clipped) - np.log1p(-clipped)


def save_peak(folder: Path, choice: PeakChoice, copy_to: Path | None = None) -> None:
    """Write a chosen peak threshold and its calibration of presence into a model's settings, atomically.

    Args:
        folder: The model's.
        choice: What was chosen.
        copy_to: A folder that gets a copy of the settings, from which they can be pushed beside the results.

    Without a calibration, that of the settings stays. "peak_chosen_on" is the fingerprint of the samples that the peak
    was chosen on, so that scores on these can be labelled.

    Raises:
        UserError: If the settings cannot be read or written.
    """
    chosen: dict[str, Any] = {"peak_threshold": choice.value, "peak_chosen_on": choice.fingerprint}
    if choice.presence_calibration is not None:
        chosen["presence_calibration"] = list(choice.presence_calibration)
    save_settings(folder, chosen, f"The peak threshold {choice.value}", copy_to)
