"""Regions of a map and the polyps that they lie on, by hand and against masks that are labelled one by one."""

import numpy as np
import pytest
from skimage.measure import label
from unet_kvasir_seg.regions_unet import keep_peaks
from unet_kvasir_seg.scoring.regions import MIN_POLYP_PIXELS, find_regions


def map_of(shape, **boxes) -> np.ndarray:
    """A map that is 0.125 but for boxes (first row, first column, row after, column after, probability)."""
    probability = np.full(shape, 0.125, np.float32)
    for top, left, bottom, right, value in boxes.values():
        probability[top:bottom, left:right] = value
    return probability


@pytest.fixture
def case():
    """Two polyps of 25 and 20 pixels and a speck of 4; three regions: on the first polyp, on the speck, on nothing."""
    ground_truth = np.zeros((20, 30), bool)
    ground_truth[1:6, 1:6] = True
    ground_truth[10:14, 1:6] = True
    ground_truth[10:12, 20:22] = True
    probability = map_of(
        ground_truth.shape,
        on_polyp=(0, 0, 4, 4, 0.75),  # 16 pixels, 9 of them of the first polyp
        its_peak=(2, 2, 3, 3, 0.9375),
        on_speck=(11, 21, 14, 23, 0.625),  # 6 pixels, 1 of them of the speck
        on_nothing=(0, 25, 2, 30, 0.875),  # 10 pixels
        at_the_threshold=(17, 0, 20, 30, 0.5),  # no region: a pixel's probability must be higher
    )
    return find_regions(probability, ground_truth, 0.5)


def test_regions_by_hand(case):
    assert sorted(zip(case.peaks.tolist(), case.pixels.tolist(), case.tp.tolist(), strict=True)) == [
        (0.625, 6, 1),
        (0.875, 10, 0),
        (0.9375, 16, 9),
    ]
    assert (case.polyps, case.true_pixels, case.area, case.highest) == (2, 49, 600, 0.9375)
    assert sorted(case.polyp_peaks.tolist()) == [0, 0.9375]
    assert case.alarm_peak == 0.9375


@pytest.mark.parametrize(
    ("peak", "counts", "found", "false", "marked"),
    [
        (None, (10, 22, 39), 1, 1, 32 / 600),
        (0.5, (10, 22, 39), 1, 1, 32 / 600),
        (0.625, (10, 22, 39), 1, 1, 32 / 600),  # a peak that is reached exactly
        (0.75, (9, 17, 40), 1, 1, 26 / 600),
        (0.9, (9, 7, 40), 1, 0, 16 / 600),
        (0.99, (0, 0, 49), 0, 0, 0),
    ],
)
def test_a_peak_threshold_by_hand(case, peak, counts, found, false, marked):
    assert case.counts(peak) == counts
    assert case.found_polyps(peak) == found
    assert case.false_regions(peak) == false
    assert case.marked_share(peak) == pytest.approx(marked)
    tp, fp, fn = counts
    assert case.dice(peak) == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_without_polyp_or_region():
    nothing = np.zeros((9, 9), bool)
    quiet = find_regions(np.full((9, 9), 0.25, np.float32), nothing, 0.5)
    assert (quiet.polyps, quiet.alarm_peak, quiet.highest, quiet.dice(None)) == (0, 0, 0.25, 1)
    assert quiet.polyp_peaks.shape == (0,)
    alarm = find_regions(map_of((9, 9), spot=(1, 1, 2, 2, 0.75)), nothing, 0.5)
    assert (alarm.dice(None), alarm.dice(0.8), alarm.false_regions(None)) == (0, 1, 1)
    missed = find_regions(np.full((9, 9), 0.25, np.float32), ~nothing, 0.5)
    assert (missed.polyps, missed.dice(None), missed.counts(None)) == (1, 0, (0, 0, 81))
    assert missed.polyp_peaks.tolist() == [0]
    full = find_regions(np.full((9, 9), 0.75, np.float32), ~nothing, 0.5)
    assert (full.counts(None), full.polyp_peaks.tolist()) == ((81, 0, 0), [0.75])


def test_regions_and_polyps_touch_at_corners():
    ground_truth = np.zeros((12, 12), bool)
    ground_truth[0:4, 0:4] = ground_truth[4:7, 4:7] = True  # 25 pixels that touch at a corner: one polyp
    probability = map_of((12, 12), first=(0, 0, 2, 2, 0.75), second=(2, 2, 3, 3, 0.875))
    regions = find_regions(probability, ground_truth, 0.5)
    assert regions.polyps == 1
    assert (regions.peaks.tolist(), regions.pixels.tolist()) == ([0.875], [5])


def test_a_small_component_is_no_polyp():
    for pixels, polyps in ((MIN_POLYP_PIXELS - 1, 0), (MIN_POLYP_PIXELS, 1)):
        ground_truth = np.zeros((5, 30), bool)
        ground_truth[2, :pixels] = True
        assert find_regions(np.zeros((5, 30), np.float32), ground_truth, 0.5).polyps == polyps


def test_the_numbers_are_those_of_the_masks_of_hysteresis():
    """Of random maps: counts by the mask of `keep_peaks`, found polyps and false regions by scikit-image's labels."""
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(60):
        shape = tuple(rng.integers(15, 40, 2))
        smooth = np.kron(rng.random((9, 9)), np.ones((5, 5)))[: shape[0], : shape[1]].astype(np.float32)
        truth = np.kron(rng.random((9, 9)) < 0.25, np.ones((5, 5), bool))[: shape[0], : shape[1]]
        probability = (smooth * rng.uniform(0.8, 1, shape)).astype(np.float32)
        regions = find_regions(probability, truth, 0.6)
        for peak in (None, 0.6, 0.75, 0.85, 0.93):
            mask = keep_peaks(probability, 0.6, peak)
            kept += int(mask.sum())
            assert regions.counts(peak) == ((mask & truth).sum(), (mask & ~truth).sum(), (truth & ~mask).sum())
            polyps, marked = label(truth, connectivity=2), label(mask, connectivity=2)
            large = [i for i in range(1, polyps.max() + 1) if (polyps == i).sum() >= 20]
            assert regions.polyps == len(large)
            assert regions.found_polyps(peak) == sum((mask & (polyps == i)).any() for i in large)
            false = sum(not truth[marked == i].any() for i in range(1, marked.max() + 1))
            assert regions.false_regions(peak) == false
    assert kept > 1000
