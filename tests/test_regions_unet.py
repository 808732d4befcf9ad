"""The choice of regions against maps drawn by hand and SciPy's labels, and presence against values worked out."""

import math

import numpy as np
import pytest
from scipy import ndimage
from unet_kvasir_seg.regions_unet import (
    check_calibration,
    check_region_options,
    check_thresholds,
    keep_large,
    keep_peaks,
    presence_of,
)

# Each sign's probability.
PROBABILITIES = {".": 0.1, "6": 0.6, "7": 0.7, "8": 0.8, "9": 0.9}


def to_map(drawing: str) -> np.ndarray:
    return np.array([[PROBABILITIES[sign] for sign in line] for line in drawing.split()], np.float32)


def drawn(mask: np.ndarray) -> list[str]:
    return ["".join("#" if pixel else "." for pixel in row) for row in mask]


# Four regions above 0.5: one of 66, 68 and, at a corner, 8; one of 7; one of 9 at the right edge and, a row lower at
# the left edge, one of 6 and 7, which do not touch around the edges.
DRAWING = """
    .66...7
    .68....
    ...8..9
    6.....9
    7......
"""


def test_regions_whose_peak_reaches_the_threshold_are_kept_whole():
    found = keep_peaks(to_map(DRAWING), 0.5, 0.8)
    assert found.dtype == bool
    assert drawn(found) == [
        ".##....",
        ".##....",
        "...#..#",
        "......#",
        ".......",
    ]
    # The 8 at the corner and the 66 above are one region; the 7 at the top right touches nothing.
    assert drawn(keep_peaks(to_map(DRAWING), 0.5, 0.9)) == [
        ".......",
        ".......",
        "......#",
        "......#",
        ".......",
    ]


def test_without_a_peak_every_region_is_kept():
    probability = to_map(DRAWING)
    for peak in (None, 0.5, 0.3):
        np.testing.assert_array_equal(keep_peaks(probability, 0.5, peak), probability > 0.5)


def test_nothing_is_left_where_nothing_reaches_the_peak():
    assert not keep_peaks(to_map(DRAWING), 0.5, 0.95).any()
    assert not keep_peaks(np.zeros((3, 4), np.float32), 0.5, 0.95).any()


def test_a_peak_that_is_exactly_reached_counts_and_a_threshold_that_is_exactly_reached_does_not():
    probability = np.array([[0.5, 0.75, 0.5]], np.float32)
    assert drawn(keep_peaks(probability, 0.5, 0.75)) == [".#."]
    # 0.7 has no exact value; the comparison is made in the map's precision.
    assert drawn(keep_peaks(np.array([[0.7]], np.float32), 0.5, 0.7)) == ["#"]


def test_a_peak_that_differs_from_the_threshold_by_less_than_the_precision_is_no_error():
    assert not keep_peaks(np.full((2, 3), 0.5, np.float32), 0.5, 0.5 + 1e-12).any()


def test_pixels_that_are_not_numbers_are_background():
    probability = np.array([[0.9, np.nan, 0.7], [np.nan, np.nan, np.nan]], np.float32)
    assert drawn(keep_peaks(probability, 0.5, 0.8)) == ["#..", "..."]


def test_the_map_is_left_as_it_was():
    probability = to_map(DRAWING)
    before = probability.copy()
    probability.setflags(write=False)
    keep_peaks(probability, 0.5, 0.8)
    np.testing.assert_array_equal(probability, before)


def with_scipy(probability: np.ndarray, threshold: float, peak: float) -> np.ndarray:
    labels, count = ndimage.label(probability > threshold, np.ones((3, 3)))
    highest = ndimage.maximum(probability, labels, np.arange(1, count + 1)) if count else []
    return np.concatenate([[False], np.asarray(highest) >= peak])[labels]


def snake(height: int, width: int) -> np.ndarray:
    """One line of 0.9 that runs to and fro through the whole frame, with its only peak, 0.99, in the first pixel."""
    probability = np.zeros((height, width), np.float32)
    probability[::2] = 0.9
    probability[1::4, -1] = 0.9
    probability[3::4, 0] = 0.9
    probability[0, 0] = 0.99
    return probability


@pytest.mark.parametrize("seed", range(200))
def test_regions_are_those_of_scipy(seed):
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(1, 40, 2))
    smoothed = ndimage.uniform_filter(generator.random(shape), int(generator.integers(1, 4)))
    probability = smoothed.astype(np.float32).T  # not contiguous, as flipped maps may be
    threshold = float(generator.uniform(0.3, 0.7))
    peak = float(generator.uniform(threshold, min(1, threshold + 0.3)))
    np.testing.assert_array_equal(
        keep_peaks(probability, threshold, peak), with_scipy(probability, np.float32(threshold), np.float32(peak))
    )


@pytest.mark.parametrize("probability", [snake(63, 40), snake(63, 40).T, snake(61, 41)[::-1], snake(63, 41)[:, ::-1]])
def test_a_region_that_winds_through_the_frame_is_one(probability):
    np.testing.assert_array_equal(keep_peaks(probability, 0.5, 0.95), probability > 0.5)
    assert not keep_peaks(np.minimum(probability, np.float32(0.9)), 0.5, 0.95).any()


# The regions of the drawing have 5, 1, 2 and 2 pixels, in the order in which they begin.
LARGEST = [".##....", ".##....", "...#...", ".......", "......."]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"min_area": 2}, [".##....", ".##....", "...#..#", "#.....#", "#......"]),
        ({"min_area": 3}, LARGEST),
        ({"min_area": 5}, LARGEST),
        ({"min_area": 6}, ["......."] * 5),
        ({"largest_lesion": True}, LARGEST),
        ({"largest_lesion": True, "min_area": 5}, LARGEST),
        ({"largest_lesion": True, "min_area": 6}, ["......."] * 5),
    ],
)
def test_regions_that_are_large_enough_are_kept(options, expected):
    mask = to_map(DRAWING) > 0.5
    assert keep_large(mask, **options) is mask
    assert drawn(mask) == expected


def test_of_equally_large_regions_the_first_is_the_largest():
    # Above 0.65 the two 8 and the two 9 are left, with 2 pixels each, and two single pixels.
    mask = to_map(DRAWING) > 0.65
    assert drawn(keep_large(mask, largest_lesion=True)) == [".......", "..#....", "...#...", ".......", "......."]


def test_by_default_every_region_is_kept():
    mask = to_map(DRAWING) > 0.5
    for options in ({}, {"min_area": 0}, {"min_area": 1, "largest_lesion": False}):
        np.testing.assert_array_equal(keep_large(mask.copy(), **options), mask)
    assert not keep_large(np.zeros((3, 4), bool), 5, True).any()


@pytest.mark.parametrize("seed", range(100))
def test_sizes_of_regions_are_those_of_scipy(seed):
    generator = np.random.default_rng(seed)
    mask = ndimage.uniform_filter(generator.random(tuple(generator.integers(1, 40, 2))), 2).T > 0.5
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    for min_area in (2, 5, 20):
        np.testing.assert_array_equal(keep_large(mask.copy(), min_area), areas[labels] >= min_area)
    largest = mask & (labels == areas.argmax())
    np.testing.assert_array_equal(keep_large(mask.copy(), largest_lesion=True), largest)


def test_options_of_regions_that_cannot_be():
    for options in ((0, False), (20, True), (np.int64(3), np.bool_(True))):
        check_region_options(*options)
    for min_area in (-1, 2.5, True, "20", None):
        with pytest.raises(ValueError, match="expected a whole number of pixels, 0 or more"):
            check_region_options(min_area, False)  # type: ignore[arg-type]
    for largest in (1, "yes", None):
        with pytest.raises(ValueError, match="expected True or False"):
            check_region_options(0, largest)  # type: ignore[arg-type]


def test_presence_without_calibration_is_the_peak():
    assert presence_of(0.3) == 0.3
    assert presence_of(1.0) == 1.0


@pytest.mark.parametrize(
    ("peak", "calibration", "expected"),
    [
        (0.5, (1.0, 0.0), 0.5),
        (0.9, (1.0, 0.0), 0.9),
        (0.9, (2.0, 0.0), 81 / 82),  # odds of 9, squared
        (0.9, (1.0, -math.log(9)), 0.5),
        (0.9, (0.5, math.log(2)), 6 / 7),  # odds of 9, the root of which is 3, doubled
        (0.9, (0.0, 0.0), 0.5),
        (1.0, (1.0, 0.0), 1 - 1e-6),
        (0.0, (1.0, 0.0), 1e-6),
        (1.0, (1000.0, 0.0), 1.0),
        (0.0, (1000.0, 0.0), 0.0),
    ],
)
def test_presence(peak, calibration, expected):
    assert presence_of(peak, calibration) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("thresholds", [(0.5, None), (0.5, 0.5), (0, 1), (1, 1), (0.5, np.float32(0.9))])
def test_thresholds_that_can_be(thresholds):
    check_thresholds(*thresholds)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ((1.5, None), r"threshold=1\.5; expected a probability"),
        ((0.5, 1.5), r"peak_threshold=1\.5; expected a probability"),
        ((0.5, -0.1), r"peak_threshold=-0\.1; expected"),
        ((0.5, float("nan")), "peak_threshold=nan; expected"),
        ((0.5, "0.9"), "peak_threshold='0.9'; expected"),
        ((0.5, True), "peak_threshold=True; expected"),
        ((0.5, 0.4), r"threshold=0\.5 and peak_threshold=0\.4; .*switch it off with peak_threshold=0\.5"),
    ],
)
def test_thresholds_that_cannot_be(thresholds, message):
    with pytest.raises(ValueError, match=message):
        check_thresholds(*thresholds)


def test_calibrations():
    check_calibration(None)
    check_calibration([1, -2.5])
    for wrong in (1.0, [1.0], [1.0, 2.0, 3.0], [1.0, float("inf")], [1.0, None], "12"):
        with pytest.raises(ValueError, match="expected two finite numbers, scale and offset"):
            check_calibration(wrong)  # type: ignore[arg-type]
