"""What a peak threshold finds and spares, and how well presence tells, by hand and against SciPy."""

import numpy as np
import pytest
import scipy.stats
from unet_kvasir_seg.scoring.presence import (
    FROC_PEAKS,
    ScoredImages,
    froc,
    operating_point,
    presence_auc,
    sensitivity_at_specificity,
)
from unet_kvasir_seg.scoring.regions import Regions

ONCE = {"resamples": 200, "seed": 0}


def image(
    *regions: tuple[float, int, int, list[int]], polyps: int = 0, true_pixels: int | None = None, highest: float = 0.25
) -> Regions:
    """An image of 100 pixels, with regions of (peak, pixels, tp, the polyps that it lies on)."""
    on_polyp = np.zeros((len(regions), polyps), bool)
    for row, (*_, lies_on) in enumerate(regions):
        on_polyp[row, lies_on] = True
    return Regions(
        peaks=np.array([peak for peak, *_ in regions], np.float32),
        pixels=np.array([pixels for _, pixels, *_ in regions], np.int64),
        tp=np.array([tp for *_, tp, _ in regions], np.int64),
        on_polyp=on_polyp,
        true_pixels=30 * polyps if true_pixels is None else true_pixels,
        area=100,
        highest=max([highest, *(peak for peak, *_ in regions)]),
    )


SPLIT = [
    image((0.75, 30, 20, [0]), (0.625, 10, 0, []), polyps=1),  # found until 0.75, with a false region until 0.625
    image((0.9375, 50, 40, [0, 1]), polyps=2),  # one region on both polyps
    image(polyps=1),  # missed
    image((0.875, 4, 4, []), true_pixels=4),  # its polyp is too small to count
]
NEGATIVES = [image((0.6875, 20, 0, [])), image((0.8125, 10, 0, []), (0.5625, 30, 0, [])), image(), image(highest=0.5)]


def values(point: dict) -> dict:
    """The numbers, without intervals."""
    return {name: score["value"] if isinstance(score, dict) else score for name, score in point.items()}


def test_an_operating_point_by_hand():
    images = ScoredImages.of(SPLIT, NEGATIVES)
    dice = [2 * 20 / (40 + 30), 2 * 40 / (50 + 60), 0, 1]
    assert values(operating_point(images, [None] * 8, **ONCE)) == {
        "polyps": 4,
        "found": 3,
        "negatives": 4,
        "alarms": 2,
        "found_share": 3 / 4,
        "sensitivity": pytest.approx(2 / 3),
        "dice_per_image_native": pytest.approx(np.mean(dice)),
        "false_per_image": 4 / 8,
        "alarm_share": 2 / 4,
        "marked_share": pytest.approx((0.2 + 0.4) / 4),
    }
    dice = [0, 2 * 40 / (50 + 60), 0, 1]
    assert values(operating_point(images, [0.8125] * 8, **ONCE)) == {
        "polyps": 4,
        "found": 2,
        "negatives": 4,
        "alarms": 1,
        "found_share": 2 / 4,
        "sensitivity": pytest.approx(1 / 3),
        "dice_per_image_native": pytest.approx(np.mean(dice)),
        "false_per_image": 1 / 8,
        "alarm_share": 1 / 4,
        "marked_share": pytest.approx(0.1 / 4),
    }


def test_each_image_may_have_its_own_peak():
    images = ScoredImages.of(SPLIT, NEGATIVES)
    point = operating_point(images, [0.99, None, 0.5, 0.875, 0.99, 0.6, None, None], **ONCE)
    assert (point["found"], point["alarms"]) == (2, 1)
    assert point["dice_per_image_native"]["value"] == pytest.approx((0 + 80 / 110 + 0 + 1) / 4)
    assert point["marked_share"]["value"] == pytest.approx(0.1 / 4)


def test_without_negatives_the_images_of_the_split_that_show_nothing_are_negatives():
    images = ScoredImages.of([*SPLIT, image((0.75, 5, 0, [])), image()])
    assert images.is_negative.tolist() == [False] * 4 + [True] * 2
    point = operating_point(images, [None] * 6, **ONCE)
    assert (point["negatives"], point["alarms"], point["alarm_share"]["value"]) == (2, 1, 0.5)
    # They are images of the split: nothing marked is right.
    assert point["dice_per_image_native"]["value"] == pytest.approx((40 / 70 + 80 / 110 + 0 + 1 + 0 + 1) / 6)
    only_polyps = operating_point(ScoredImages.of(SPLIT), [None] * 4, **ONCE)
    assert only_polyps["alarm_share"] is only_polyps["marked_share"] is None
    assert only_polyps["negatives"] == 0


def test_windows_are_resampled_with_their_frame():
    """Ten windows a frame that are alike tell no more than one: the interval is that of the frames."""
    alarm, quiet = image((0.75, 5, 0, [])), image()
    frames = [image(polyps=1)] * 20
    of_frames = [alarm] * 5 + [quiet] * 15
    clustered = ScoredImages.of(frames, of_frames * 10, list(range(20)) * 10)
    found = operating_point(clustered, [None] * 220, 4000, 0)["alarm_share"]
    expected = scipy.stats.binom.ppf([0.025, 0.975], 20, 0.25) / 20
    assert found["value"] == 0.25
    assert found["ci95"] == pytest.approx(expected, abs=0.051)
    alone = operating_point(ScoredImages.of(frames, of_frames * 10), [None] * 220, 4000, 0)["alarm_share"]
    assert alone["ci95"][1] - alone["ci95"][0] < 0.5 * (found["ci95"][1] - found["ci95"][0])


def test_the_free_response_curve_by_hand():
    points = froc(ScoredImages.of(SPLIT, NEGATIVES), **ONCE)
    assert [point["peak_threshold"] for point in points] == [None, *FROC_PEAKS]
    by_peak = {
        point["peak_threshold"]: (point["found_share"]["value"], point["false_per_image"]["value"]) for point in points
    }
    assert by_peak[None] == (3 / 4, 4 / 8)
    assert by_peak[0.6] == (3 / 4, 3 / 8)
    assert by_peak[0.7] == (3 / 4, 1 / 8)
    assert by_peak[0.8] == (2 / 4, 1 / 8)
    assert by_peak[0.9] == (2 / 4, 0)
    assert by_peak[0.95] == (0, 0)


def test_the_area_under_the_curve_by_hand():
    # With polyp 0.75, 0.9375 and 0.25; without 0.6875, 0.8125, 0.25 and 0.5. Won: 3, 4 and, of a tie, 1/2 of 12.
    # The image whose polyp is too small is of neither kind.
    found = presence_auc(ScoredImages.of(SPLIT, NEGATIVES), None, **ONCE)
    assert found["value"] == pytest.approx(7.5 / 12)
    assert presence_auc(ScoredImages.of(SPLIT), None, **ONCE) is None
    assert presence_auc(ScoredImages.of(NEGATIVES), None, **ONCE) is None


def test_the_area_agrees_with_mann_and_whitneys_test_and_its_interval_with_the_bootstrap():
    rng = np.random.default_rng(0)
    of_polyps, of_negatives = rng.integers(4, 20, 40) / 20, rng.integers(0, 16, 70) / 20  # with ties
    images = ScoredImages.of(
        [image(polyps=1, highest=value) for value in of_polyps], [image(highest=value) for value in of_negatives]
    )
    found = presence_auc(images, None, 4000, 0)
    statistic = scipy.stats.mannwhitneyu(of_polyps, of_negatives).statistic
    assert found["value"] == pytest.approx(statistic / (40 * 70))

    def area(polyps, negatives):
        return scipy.stats.mannwhitneyu(polyps, negatives).statistic / (40 * 70)

    expected = scipy.stats.bootstrap(
        (of_polyps, of_negatives), area, n_resamples=1500, method="percentile", vectorized=False, rng=rng
    ).confidence_interval
    width = expected.high - expected.low
    assert found["ci95"] == pytest.approx([expected.low, expected.high], abs=0.1 * width)


def test_a_calibration_that_rises_changes_no_rank():
    images = ScoredImages.of(SPLIT, NEGATIVES)
    assert presence_auc(images, (2.5, -4.0), **ONCE) == presence_auc(images, None, **ONCE)
    assert presence_auc(images, (0.0, 1.0), **ONCE)["value"] == 0.5  # all tied


def test_sensitivity_at_a_specificity_by_hand():
    # Of 20 images without polyp, the highest regions are at 0.95, 0.9, 0.85 ...; one alarm in 20 is allowed at 95 %.
    negatives = [image((peak, 5, 0, [])) for peak in (0.95, 0.9, 0.85, *[0.6] * 7)] + [image()] * 10
    frames = [image((peak, 30, 30, [0]), polyps=1) for peak in (0.55, 0.88, 0.9, 0.925, 0.97)]
    images = ScoredImages.of(frames, negatives)
    found = sensitivity_at_specificity(images, 0.95, **ONCE)
    assert found["peak_above"] == pytest.approx(0.9)
    assert found["sensitivity"]["value"] == pytest.approx(2 / 5)  # 0.9 itself would be the second alarm's
    assert sensitivity_at_specificity(images, 0.99, **ONCE)["peak_above"] == pytest.approx(0.95)
    assert sensitivity_at_specificity(images, 0.99, **ONCE)["sensitivity"]["value"] == pytest.approx(1 / 5)
    half = sensitivity_at_specificity(images, 0.5, **ONCE)
    assert (half["peak_above"], half["sensitivity"]["value"]) == (0, 1)  # all alarms are allowed
    assert sensitivity_at_specificity(ScoredImages.of(frames), 0.95, **ONCE) is None


def test_a_false_region_beside_a_polyp_makes_no_frame_seen():
    frames = [image((0.97, 5, 0, []), (0.6, 30, 30, [0]), polyps=1)]
    images = ScoredImages.of(frames, [image((0.9, 5, 0, []))] + [image()] * 3)
    assert sensitivity_at_specificity(images, 0.99, **ONCE)["sensitivity"]["value"] == 0
    assert sensitivity_at_specificity(images, 0.75, **ONCE)["sensitivity"]["value"] == 1
