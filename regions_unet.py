"""Turns a map of probabilities into a mask, and into the probability that there is a polyp at all; checks settings.

    mask = keep_peaks(probability, threshold=0.5, peak_threshold=0.9)  # (H, W) bool
    keep_large(mask, min_area=50)  # in place
    presence_of(float(probability.max()), calibration=(1.5, -4.0))

Needs numpy alone: the Hub runs it without the rest of the project, and ONNX files are used without PyTorch.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

# Probabilities are kept so far from 0 and 1 that their logit is finite.
SMALLEST_PROBABILITY = 1e-6
MAX_INPUT_SIDE = 4096  # pixels that a network may be given; a feature map of 64 channels then takes 4 GB


def check_thresholds(threshold: float, peak_threshold: float | None = None) -> None:
    """
    Refuse thresholds that cannot be.

    Args:
        threshold: probability that a polyp's pixels exceed.
        peak_threshold: probability that a region's highest reaches; `None` if regions are not chosen by it.

    Raises:
        ValueError: one of them is outside [0, 1], or `peak_threshold` is below `threshold`.
    """
    for name, value in (("threshold", threshold), ("peak_threshold", peak_threshold)):
        if value is not None and not is_probability(value):
            raise ValueError(f"Got {name}={value!r}; expected a probability between 0 and 1.")
    if peak_threshold is not None and peak_threshold < threshold:
        raise ValueError(
            f"Got threshold={threshold} and peak_threshold={peak_threshold}; expected a peak that is not below the "
            f"threshold. Raise it, or switch it off with peak_threshold={threshold}, which keeps every region."
        )


def check_region_options(min_area: int, largest_lesion: bool) -> None:
    """
    Refuse options of `keep_large` that cannot be.

    Raises:
        ValueError: `min_area` is no whole number of pixels, or `largest_lesion` is neither true nor false.
    """
    if not isinstance(min_area, Integral) or isinstance(min_area, bool) or min_area < 0:
        raise ValueError(f"Got min_area={min_area!r}; expected a whole number of pixels, 0 or more.")
    if not isinstance(largest_lesion, bool | np.bool_):
        raise ValueError(f"Got largest_lesion={largest_lesion!r}; expected True or False.")


def check_calibration(calibration: Sequence[float] | None) -> None:
    """
    Refuse a calibration of presence that `presence_of` cannot use.

    Raises:
        ValueError: it is neither `None` nor two finite numbers.
    """
    if calibration is None:
        return
    is_pair = isinstance(calibration, Sequence) and len(calibration) == 2
    if not is_pair or not all(isinstance(number, Real) and math.isfinite(number) for number in calibration):
        raise ValueError(f"Got presence_calibration={calibration}; expected two finite numbers, scale and offset.")


def check_input_size(size: Any) -> None:
    """
    Refuse a size of the network's input that needs more memory than there is, as a damaged file may state it.

    Raises:
        ValueError: it does not give a height and a width of 1 to `MAX_INPUT_SIDE` pixels.
    """
    sides = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else [None]
    if not all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MAX_INPUT_SIDE for side in sides):
        raise ValueError(
            f"Got size={size!r}; expected height and width, whole numbers from 1 to {MAX_INPUT_SIDE} pixels."
        )


def is_probability(value: object) -> bool:
    """Whether it is a number from 0 to 1; `True` is none, though Python counts it as 1."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1


def presence_of(peak: float, calibration: Sequence[float] | None = None) -> float:
    """
    The probability that a frame shows a polyp at all.

    Args:
        peak: highest probability of the frame's map.
        calibration: scale and offset, fitted on frames with and without polyp; `None` if there is none.

    Returns:
        sigmoid(scale * logit(peak) + offset), with `peak` clipped to [1e-6, 1 - 1e-6]; without calibration `peak`.
    """
    if calibration is None:
        return peak
    scale, offset = calibration
    clipped = min(max(peak, SMALLEST_PROBABILITY), 1 - SMALLEST_PROBABILITY)
    logit = scale * (math.log(clipped) - math.log1p(-clipped)) + offset
    # Of the two forms of the sigmoid, the one whose exponential is at most 1 cannot overflow.
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def keep_peaks(probability: np.ndarray, threshold: float, peak_threshold: float | None = None) -> np.ndarray:
    """
    Threshold a map, and keep the regions whose highest probability reaches a second threshold.

    A region is a set of pixels above `threshold` that touch, at a side or at a corner. This is hysteresis
    thresholding: a polyp keeps its whole outline, and a faint region disappears.

    Args:
        probability: (H, W) float.
        threshold: a pixel belongs to a region if its probability is higher.
        peak_threshold: a region is kept if its highest probability is at least this; `None`, or a value that is not
            above `threshold`, keeps all.

    Returns:
        (H, W) bool.
    """
    mask = probability > threshold
    if peak_threshold is None or peak_threshold <= threshold:
        return mask
    # A pixel may be at a peak and not above the threshold, where the two differ by less than the map's precision.
    if not (mask & (probability >= peak_threshold)).any():
        return np.zeros_like(mask)
    box = _box(mask)
    _drop_faint_regions(mask[box], probability[box], peak_threshold)
    return mask


def keep_large(mask: np.ndarray, min_area: int = 0, largest_lesion: bool = False) -> np.ndarray:
    """
    Keep the regions of a mask that are large enough, in place.

    A region is a set of pixels that touch, at a side or at a corner.

    Args:
        mask: (H, W) bool, which is changed.
        min_area: a region is kept if it has so many pixels of the mask, or more.
        largest_lesion: of those only the largest is kept; of equally large ones the one that begins first, read row by
            row.

    Returns:
        The mask.
    """
    if (min_area > 1 or largest_lesion) and mask.any():
        _drop_small_regions(mask[_box(mask)], min_area, largest_lesion)
    return mask


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold all of a mask. The rest of the frame takes no time: most polyps are small."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _drop_faint_regions(mask: np.ndarray, probability: np.ndarray, peak_threshold: float) -> None:
    """Set those regions of a mask (H, W) bool to False, in place, whose probabilities all lie below the peak."""
    line, changes = runs_of(probability, mask)
    starts, ends = changes[::2], changes[1::2]
    peaks = np.maximum.reduceat(line[1:], changes)[::2]  # of the runs; in between are those of the gaps
    regions = number_regions(starts, ends, row_length=mask.shape[1] + 1)
    is_kept = np.zeros(len(starts), bool)
    is_kept[regions[peaks >= peak_threshold]] = True
    _clear(mask, starts, ends, ~is_kept[regions])


def _drop_small_regions(mask: np.ndarray, min_area: int, largest_lesion: bool) -> None:
    """Set the other regions of a mask (H, W) bool to False, in place; arguments as for `keep_large`."""
    _, changes = runs_of(mask, mask)
    starts, ends = changes[::2], changes[1::2]
    regions = number_regions(starts, ends, row_length=mask.shape[1] + 1)
    areas = np.zeros(len(starts), np.int64)  # at the first run of each region
    np.add.at(areas, regions, ends - starts)
    is_kept = areas >= min_area
    if largest_lesion:
        is_kept &= np.arange(len(starts)) == areas.argmax()
    _clear(mask, starts, ends, ~is_kept[regions])


def runs_of(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The runs of neighbouring pixels in the rows of a mask.

    Args:
        values: (H, W), above 0 where the mask is True.
        mask: (H, W) bool.

    Returns:
        The values on a line: all rows one after the other, with a zero before the first and after each, so that no run
        goes on from one row to the next. And the places of each run's first pixel and of the first after it, in turn,
        counted from the first row.
    """
    height, width = mask.shape
    line = np.zeros(1 + height * (width + 1), values.dtype)
    np.copyto(line[1:].reshape(height, width + 1)[:, :width], values, where=mask)
    is_inside = line > 0
    return line, np.flatnonzero(is_inside[1:] != is_inside[:-1])


def _clear(mask: np.ndarray, starts: np.ndarray, ends: np.ndarray, is_dropped: np.ndarray) -> None:
    """Set some runs of a mask to False, in place."""
    rows, first = np.divmod(starts[is_dropped], mask.shape[1] + 1)
    last = first + (ends - starts)[is_dropped]
    for row, left, right in zip(rows.tolist(), first.tolist(), last.tolist(), strict=True):
        mask[row, left:right] = False


def number_regions(starts: np.ndarray, ends: np.ndarray, row_length: int) -> np.ndarray:
    """
    For each run the index of the first run of its region.

    Two runs touch if they lie in neighbouring rows and overlap, or meet at a corner.

    Args:
        starts, ends: of the runs in order, as places on a line of rows of `row_length`.
    """
    # The runs of the next row that touch run i are those from first[i] to before last[i].
    first = np.searchsorted(ends, starts + row_length, "left")
    last = np.searchsorted(starts, ends + row_length, "right")
    counts = last - first
    upper = np.repeat(np.arange(len(starts)), counts)
    lower = np.arange(len(upper)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    # At first each run points to itself. Then, where two touch, the first run of one's region comes to point to the
    # first run of the other's, which lies before it, until all runs of a region point to the same.
    regions = np.arange(len(starts))
    while True:
        one, other = regions[upper], regions[lower]
        if np.array_equal(one, other):
            return regions
        np.minimum.at(regions, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(regions, pointed := regions[regions]):
            regions = pointed
