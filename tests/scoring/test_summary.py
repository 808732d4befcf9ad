"""Results of a data set against hand-made cases, scikit-learn, SciPy, and masks thresholded one by one."""

import csv
import dataclasses
import json
import math
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("py_sod_metrics", reason="needs the extra [evaluation]")
pytest.importorskip("monai", reason="needs the extra [evaluation]")

import scipy.stats
import sklearn.calibration
import sklearn.metrics
from unet_kvasir_seg.scoring.image_scores import ImageScores, score_image
from unet_kvasir_seg.scoring.regions import Regions
from unet_kvasir_seg.scoring.summary import (
    METRICS,
    at_threshold,
    best_threshold,
    compare,
    per_image_dice,
    per_image_iou,
    summarise,
    write_per_image_csv,
)

# What is summed up here does not read them: test_presence.py does.
NO_REGIONS = Regions(*(np.zeros(0) for _ in range(3)), np.zeros((0, 1)), true_pixels=20, area=200, highest=0.0)
PER_IMAGE = ("dice", "iou", "precision", "recall", "f2")


def image(name: str = "frame", **changes) -> ImageScores:
    """An image of 10 x 20 with a polyp of 20 pixels that was found exactly, with certainty, and what is changed."""
    scores = {
        "name": name,
        "height": 10,
        "width": 20,
        "true_pixels": 20,
        "polyps": 1,
        "counts": (20, 0, 0),
        "input_counts": (10, 0, 0),
        "polyp_levels": levels({255: 20}),
        "background_levels": levels({0: 180}),
        "minmax_dice": 1.0,
        "absolute_error": 0.0,
        "s_measure": 1.0,
        "e_measure": 1.0,
        "weighted_f": 1.0,
        "hd95": 0.0,
        "nsd": 1.0,
        "calibration": bins({0: (180, 0, 0), 14: (20, 20, 20)}),
        "found_polyps": 1,
        "predicted_polyps": 1,
        "false_polyps": 0,
        "regions": NO_REGIONS,
        "peak_threshold": None,
    }
    return ImageScores(**scores | changes)


def levels(pixels: dict[int, int]) -> np.ndarray:
    histogram = np.zeros(256, dtype=np.int32)
    histogram[list(pixels)] = list(pixels.values())
    return histogram


def bins(sums: dict[int, tuple[float, float, float]]) -> np.ndarray:
    table = np.zeros((15, 3))
    table[list(sums)] = list(sums.values())
    return table


def without_polyp(name: str, fp: int, **changes) -> ImageScores:
    nothing = {"true_pixels": 0, "polyps": 0, "found_polyps": 0, "input_counts": (0, fp, 0)}
    alarms = {"predicted_polyps": int(fp > 0), "false_polyps": int(fp > 0)}
    return image(name, counts=(0, fp, 0), **nothing | alarms | changes)


@pytest.fixture(scope="module")
def maps() -> list[tuple[np.ndarray, np.ndarray]]:
    """12 maps of probabilities and their true masks, of several sizes; two without polyp."""
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(12):
        height, width = 14 + i, 30 - i
        rows, columns = np.ogrid[:height, :width]
        ground_truth = (rows - 7) ** 2 + (columns - 9) ** 2 < (2 + i / 2) ** 2
        if i in (3, 8):
            ground_truth = np.zeros_like(ground_truth)
        logits = 3 * ground_truth - 1.8 + rng.normal(0, 1.2, ground_truth.shape)
        pairs.append(((1 / (1 + np.exp(-logits))).astype(np.float32), ground_truth))
    return pairs


@pytest.fixture(scope="module")
def scored(maps) -> list[ImageScores]:
    return [
        score_image(
            f"frame {i}",
            probability,
            ground_truth,
            threshold=0.5,
            tolerance=2,
            input_pair=(probability, ground_truth),
        )
        for i, (probability, ground_truth) in enumerate(maps)
    ]


def dice_of_masks(predicted: np.ndarray, ground_truth: np.ndarray) -> float:
    size = predicted.sum() + ground_truth.sum()
    return 2 * (predicted & ground_truth).sum() / size if size else 1.0


def random_masks() -> tuple[np.ndarray, np.ndarray]:
    """Ground truth and prediction of 600 images of 24 pixels, a column each; the first 9 are every degenerate pair."""
    rng = np.random.default_rng(0)
    ground_truth, predicted = (rng.random((24, 600)) < rng.random(600) for _ in range(2))
    ends = [np.zeros(24, dtype=bool), np.ones(24, dtype=bool), np.arange(24) == 5]
    for i in range(9):
        ground_truth[:, i], predicted[:, i] = ends[i // 3], ends[i % 3]
    return ground_truth, predicted


def test_overlap_scores_of_each_image_agree_with_scikit_learn(tmp_path):
    ground_truth, predicted = random_masks()
    images = [
        image(
            f"{i}",
            height=4,
            width=6,
            counts=(int((p & t).sum()), int((p & ~t).sum()), int((~p & t).sum())),
        )
        for i, (t, p) in enumerate(zip(ground_truth.T, predicted.T, strict=True))
    ]
    write_per_image_csv(images, tmp_path / "per_image.csv")
    with open(tmp_path / "per_image.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    # scikit-learn says 0/0 is NaN, where our policy takes over.
    both_empty = ~ground_truth.any(axis=0) & ~predicted.any(axis=0)
    nothing = {"average": None, "zero_division": np.nan}
    precision, recall, dice, _ = sklearn.metrics.precision_recall_fscore_support(ground_truth, predicted, **nothing)
    *_, f2, _ = sklearn.metrics.precision_recall_fscore_support(ground_truth, predicted, beta=2, **nothing)
    # Its Jaccard score takes 0 or 1 for 0/0.
    iou = sklearn.metrics.jaccard_score(ground_truth, predicted, average=None, zero_division=1)
    for score in (dice, f2):
        assert (np.isnan(score) == both_empty).all()
        score[both_empty] = 1
    assert (np.isnan(precision) == ~predicted.any(axis=0)).all()
    assert (np.isnan(recall) == ~ground_truth.any(axis=0)).all()
    for score in (precision, recall):
        score[np.isnan(score)] = both_empty[np.isnan(score)]
    expected = {
        "dice": dice,
        "iou": iou,
        "precision": precision,
        "recall": recall,
        "f2": f2,
        "accuracy": [sklearn.metrics.accuracy_score(t, p) for t, p in zip(ground_truth.T, predicted.T, strict=True)],
    }
    for name, values in expected.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(per_image_dice(images), dice, atol=1e-12)
    np.testing.assert_allclose(per_image_iou(images), iou, atol=1e-12)

    found = summarise(images, resamples=20)["metrics"]
    for name, values in expected.items():
        assert found[f"{name}_per_image_native"]["value"] == pytest.approx(np.mean(values))
    everything = ground_truth.ravel(), predicted.ravel()
    assert found["dice_pooled_native"]["value"] == pytest.approx(sklearn.metrics.f1_score(*everything))
    assert found["iou_pooled_native"]["value"] == pytest.approx(sklearn.metrics.jaccard_score(*everything))
    assert found["precision_pooled_native"]["value"] == pytest.approx(sklearn.metrics.precision_score(*everything))
    assert found["recall_pooled_native"]["value"] == pytest.approx(sklearn.metrics.recall_score(*everything))
    assert found["f2_pooled_native"]["value"] == pytest.approx(sklearn.metrics.fbeta_score(*everything, beta=2))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((0, 0, 0), (1, 1, 1, 1, 1)),
        ((0, 7, 0), (0, 0, 0, 0, 0)),
        ((0, 0, 7), (0, 0, 0, 0, 0)),
        ((0, 3, 7), (0, 0, 0, 0, 0)),
        ((7, 0, 0), (1, 1, 1, 1, 1)),
        ((6, 2, 4), (12 / 18, 6 / 12, 6 / 8, 6 / 10, 30 / 48)),
    ],
)
def test_overlap_scores_by_hand(counts, expected):
    found = summarise([image(counts=counts, input_counts=counts)], resamples=10)["metrics"]
    assert [found[f"{name}_per_image_native"]["value"] for name in PER_IMAGE] == pytest.approx(expected)
    assert [found[f"{name}_pooled_native"]["value"] for name in PER_IMAGE] == pytest.approx(expected)
    for kind in ("per_image", "pooled"):
        network = [found[f"{name}_{kind}_network"]["value"] for name in ("dice", "iou")]
        assert network == pytest.approx(expected[:2])
    wrong = counts[1] + counts[2]
    assert found["accuracy_per_image_native"]["value"] == pytest.approx(1 - wrong / 200)


def test_a_small_data_set_by_hand():
    # The second image: 20 of its 40 polyp pixels are found, and 10 of background; at the input size 5, 5 and 5.
    second = image(
        "second",
        height=20,
        true_pixels=40,
        polyps=2,
        counts=(20, 10, 20),
        input_counts=(5, 5, 5),
        polyp_levels=levels({255: 20, 51: 20}),
        background_levels=levels({0: 350, 204: 10}),
        minmax_dice=0.5,
        absolute_error=0.06,
        s_measure=0.4,
        e_measure=0.3,
        weighted_f=0.2,
        hd95=7.0,
        nsd=0.25,
        calibration=bins({0: (350, 0, 0), 3: (20, 4, 20), 12: (10, 8, 0), 14: (20, 20, 20)}),
        predicted_polyps=3,
        false_polyps=2,
    )
    found = summarise([image("first"), second], resamples=2000, seed=0)
    # All levels down to k = 1 are right in the first image, and k = 0 marks all: Dice 2 * 20 / (200 + 20). In the
    # second, k > 204 finds 20 of 40, 52...204 has 10 too many, 1...51 finds all 40, and k = 0 marks all 400.
    by_level = [(255 + 40 / 220) / 256, (51 * 40 / 60 + 153 * 40 / 70 + 51 * 80 / 90 + 80 / 440) / 256]
    expected = {
        "dice_per_image_native": (1 + 40 / 70) / 2,
        "iou_per_image_native": (1 + 20 / 50) / 2,
        "dice_pooled_native": 80 / 110,
        "iou_pooled_native": 40 / 70,
        "dice_per_image_network": (1 + 1 / 2) / 2,
        "iou_per_image_network": (1 + 1 / 3) / 2,
        "dice_pooled_network": 30 / 40,
        "iou_pooled_network": 15 / 25,
        "dice_256_thresholds_native": np.mean(by_level),
        "dice_256_thresholds_minmax_native": 0.75,
        "precision_per_image_native": (1 + 20 / 30) / 2,
        "recall_per_image_native": (1 + 20 / 40) / 2,
        "f2_per_image_native": (1 + 100 / 190) / 2,
        "accuracy_per_image_native": (1 + 370 / 400) / 2,
        "precision_pooled_native": 40 / 50,
        "recall_pooled_native": 40 / 60,
        "f2_pooled_native": 200 / 290,
        "mae_native": 0.03,
        "s_measure_native": 0.7,
        "e_measure_native": 0.65,
        "weighted_f_native": 0.6,
        "hd95_native": 3.5,
        "nsd_native": 0.625,
        # 20 pixels of 600 said 0.2 and were polyp, 10 said 0.8 and were not.
        "ece_native": (20 * 0.8 + 10 * 0.8) / 600,
    }
    assert list(found["metrics"]) == list(expected) == list(METRICS)
    assert {name: score["value"] for name, score in found["metrics"].items()} == pytest.approx(expected)
    # A quarter of the resamples are the first image twice, a quarter the second twice.
    assert found["metrics"]["hd95_native"]["ci95"] == [0, 7]
    assert found["metrics"]["dice_pooled_native"]["ci95"] == pytest.approx([40 / 70, 1])
    assert found["metrics"]["ece_native"]["ci95"] == pytest.approx([0, 24 / 400])

    assert found["lesions"] == {
        "true": 3,
        "found": 2,
        "predicted": 4,
        "false": 2,
        "sensitivity": {"value": pytest.approx(2 / 3), "ci95": [0.5, 1]},
        "precision": {"value": 0.5, "ci95": pytest.approx([1 / 3, 1])},
        "false_per_image": {"value": 1, "ci95": [0, 2]},
    }
    assert found["without_polyp"] == {"images": 0, "false_alarms": 0, "share": None, "area_share": None}
    table = found["calibration"]["bins"]
    assert len(table) == 15
    assert table[3] == {
        "low": pytest.approx(3 / 15),
        "high": pytest.approx(4 / 15),
        "pixels": 20,
        "mean_probability": pytest.approx(0.2),
        "polyp_share": 1,
    }
    assert table[0]["low"] == 0
    assert table[14]["high"] == 1
    assert table[0]["pixels"] == 530
    assert table[5]["mean_probability"] is table[5]["polyp_share"] is None

    curve = found["threshold_curve"]
    assert len(curve["thresholds"]) == len(curve["dice_per_image"]) == 255
    assert curve["thresholds"][0] == 0.5 / 255
    assert curve["thresholds"][127] == 0.5
    assert curve["dice_per_image"][127] == pytest.approx((1 + 40 / 70) / 2)
    assert curve["dice_per_image"][254] == pytest.approx((1 + 40 / 60) / 2)


def test_masks_without_scores_at_the_input_size():
    found = summarise([image("a", input_counts=None), image("b", input_counts=None)], resamples=10)["metrics"]
    assert list(found) == [name for name in METRICS if not name.endswith("_network")]
    with pytest.raises(ValueError, match=r"1 of 2 images have no scores at the input size: b\."):
        summarise([image("a"), image("b", input_counts=None)], resamples=10)


def test_intervals_of_pooled_scores_agree_with_scipy(scored):
    found = summarise(scored, resamples=10_000, seed=0)["metrics"]
    tp, fp, fn = np.array([scores.counts for scores in scored], dtype=float).T
    calibration = np.stack([scores.calibration for scores in scored])
    numbers = np.arange(len(scored))

    def calibration_error(numbers):
        pixels, probability, polyp = calibration[numbers].sum(axis=0).T
        used = pixels > 0
        gaps = abs(probability[used] / pixels[used] - polyp[used] / pixels[used])
        return np.average(gaps, weights=pixels[used])

    statistics = {
        "dice_pooled_native": lambda i: 2 * tp[i].sum() / (2 * tp + fp + fn)[i].sum(),
        "precision_pooled_native": lambda i: tp[i].sum() / (tp + fp)[i].sum(),
        "ece_native": calibration_error,
        "hd95_native": lambda i: np.mean([scored[j].hd95 for j in i]),
    }
    for name, statistic in statistics.items():
        expected = scipy.stats.bootstrap(
            (numbers,),
            statistic,
            n_resamples=3000,
            method="percentile",
            vectorized=False,
            rng=np.random.default_rng(1),
        ).confidence_interval
        assert found[name]["value"] == pytest.approx(statistic(numbers)), name
        width = expected.high - expected.low
        assert found[name]["ci95"] == pytest.approx([expected.low, expected.high], abs=0.08 * width), name


def test_calibration_agrees_with_scikit_learn(scored, maps):
    probability = np.concatenate([pair[0].ravel() for pair in maps]).astype(np.float64)
    ground_truth = np.concatenate([pair[1].ravel() for pair in maps])
    shares, means = sklearn.calibration.calibration_curve(ground_truth, probability, n_bins=15)
    pixels, _ = np.histogram(probability, np.linspace(0, 1, 16))
    found = summarise(scored, resamples=10)
    table = [row for row in found["calibration"]["bins"] if row["pixels"]]
    assert [row["pixels"] for row in found["calibration"]["bins"]] == pixels.tolist()
    assert [row["mean_probability"] for row in table] == pytest.approx(means)
    assert [row["polyp_share"] for row in table] == pytest.approx(shares)
    expected = np.average(abs(means - shares), weights=pixels[pixels > 0])
    assert found["metrics"]["ece_native"]["value"] == pytest.approx(expected)


def test_strata_have_their_own_images_and_intervals():
    # Of 200 pixels, 9 are under 5 %, 10 are 5 %, 39 under 20 %, and 40 are 20 %.
    sizes = {"a": (9, 1), "b": (10, 2), "c": (39, 3), "d": (39, 7), "e": (40, 1)}
    images = [
        image(name, true_pixels=pixels, polyps=polyps, counts=(pixels - i, i, i))
        for i, (name, (pixels, polyps)) in enumerate(sizes.items())
    ]
    strata = summarise([*images, without_polyp("f", fp=3)], resamples=4000, seed=0)["strata"]
    assert {name: group["images"] for name, group in strata["size"].items()} == {"small": 1, "medium": 3, "large": 1}
    numbers = {name: group["images"] for name, group in strata["polyps"].items()}
    assert numbers == {"one": 2, "two": 1, "three or more": 2}
    for groups in strata.values():
        for group in groups.values():
            assert list(group["metrics"]) == [f"{name}_per_image_native" for name in ("dice", "iou", "recall")]
    # One image: (36, 4, 4).
    assert strata["size"]["large"]["metrics"] == {
        "dice_per_image_native": {"value": 0.9, "ci95": [0.9, 0.9]},
        "iou_per_image_native": {"value": 36 / 44, "ci95": [36 / 44, 36 / 44]},
        "recall_per_image_native": {"value": 0.9, "ci95": [0.9, 0.9]},
    }
    # Three images: 1 in 27 resamples is thrice the worst, and as many thrice the best.
    medium = strata["size"]["medium"]["metrics"]["dice_per_image_native"]
    assert medium["value"] == pytest.approx((9 / 10 + 37 / 39 + 36 / 39) / 3)
    assert medium["ci95"] == pytest.approx([9 / 10, 37 / 39])
    many = strata["polyps"]["three or more"]["metrics"]["dice_per_image_native"]
    assert many["ci95"] == pytest.approx([36 / 39, 37 / 39])


def test_strata_without_images():
    strata = summarise([without_polyp("a", fp=0)], resamples=10)["strata"]
    nothing = {"images": 0, "metrics": {}}
    assert strata == {
        "size": {"small": nothing, "medium": nothing, "large": nothing},
        "polyps": {"one": nothing, "two": nothing, "three or more": nothing},
    }


def test_false_alarms_by_hand():
    images = [
        image("polyp"),
        without_polyp("right", fp=0),
        without_polyp("small", fp=10),
        without_polyp("large", fp=60),
    ]
    found = summarise(images, resamples=4000, seed=0)
    # None of three draws is an alarm in 1 of 27 resamples, all are in 8 of 27.
    assert found["without_polyp"] == {
        "images": 3,
        "false_alarms": 2,
        "share": {"value": pytest.approx(2 / 3), "ci95": [0, 1]},
        "area_share": pytest.approx((10 / 200 + 60 / 200) / 2),
    }
    quiet = summarise([without_polyp("a", 0), without_polyp("b", 0)], resamples=10)["without_polyp"]
    assert quiet == {"images": 2, "false_alarms": 0, "share": {"value": 0, "ci95": [0, 0]}, "area_share": None}


def test_two_empty_masks_score_one():
    found = summarise([without_polyp("a", 0), without_polyp("b", 0)], resamples=50)
    for name in PER_IMAGE:
        for kind in ("per_image", "pooled"):
            assert found["metrics"][f"{name}_{kind}_native"] == {"value": 1, "ci95": [1, 1]}
    assert found["lesions"]["sensitivity"] is None
    assert found["lesions"]["precision"] is None
    assert found["lesions"]["false_per_image"] == {"value": 0, "ci95": [0, 0]}


def test_resamples_with_nothing_to_count():
    # A quarter of the resamples has the empty image twice. Scored as a data set, it is right in every pixel;
    # sensitivity has nothing to say about it, and keeps to the resamples with a polyp, which was missed.
    images = [image("missed", counts=(0, 0, 20), found_polyps=0, predicted_polyps=0), without_polyp("b", 0)]
    found = summarise(images, resamples=2000)
    for name in PER_IMAGE:
        assert found["metrics"][f"{name}_pooled_native"] == {"value": 0, "ci95": [0, 1]}
    assert found["lesions"]["sensitivity"] == {"value": 0, "ci95": [0, 0]}
    assert found["lesions"]["precision"] is None


def test_results_are_json_and_repeat(scored):
    found = summarise(scored, resamples=200, seed=1)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert summarise(scored, resamples=200, seed=1) == found
    assert summarise(scored, resamples=200, seed=2) != found
    # The order of the images changes the resamples, not the scores.
    turned = summarise(scored[::-1], resamples=200, seed=1)["metrics"]
    for name, score in found["metrics"].items():
        assert turned[name]["value"] == pytest.approx(score["value"])


def test_threshold_curve_agrees_with_thresholding_the_maps(scored, maps):
    curve = summarise(scored, resamples=10)["threshold_curve"]
    for threshold, dice in zip(curve["thresholds"], curve["dice_per_image"], strict=True):
        expected = np.mean(
            [dice_of_masks(probability > threshold, ground_truth) for probability, ground_truth in maps]
        )
        assert dice == pytest.approx(expected), threshold


def test_best_threshold_agrees_with_trying_them_all(scored, maps):
    for some in (slice(None), slice(0, 3), slice(4, 8), slice(9, None), slice(3, 4)):
        candidates = [(k - 0.5) / 255 for k in range(1, 256)]
        means = [np.mean([dice_of_masks(p > candidate, t) for p, t in maps[some]]) for candidate in candidates]
        equals = [c for c, mean in zip(candidates, means, strict=True) if math.isclose(mean, max(means))]
        assert best_threshold(scored[some]) == min(equals, key=lambda c: (round(abs(c - 0.5), 9), c))


def test_best_threshold_by_hand():
    # Equal from 1 to 255: the nearest to 0.5 is 0.5.
    assert best_threshold([image()]) == 0.5
    # Right from 11 to 60, or from 180 to 200: the nearest level to 128.
    polyp = {"polyp_levels": levels({60: 20}), "background_levels": levels({10: 180})}
    assert best_threshold([image(**polyp)]) == 59.5 / 255
    polyp = {"polyp_levels": levels({200: 20}), "background_levels": levels({179: 180})}
    assert best_threshold([image(**polyp)]) == 179.5 / 255
    # One image is right up to level 127 and else 0, the others are 40 / 60 up to 128 and else right: with three of
    # them 127 and 129 are as good and as near, and the lower is taken; with four, 129 is better.
    below = image(polyp_levels=levels({127: 20}), background_levels=levels({0: 180}))
    above = image(polyp_levels=levels({255: 20}), background_levels=levels({0: 160, 128: 20}))
    assert best_threshold([below, above, above, above]) == 126.5 / 255
    assert best_threshold([below, above, above, above, above]) == 128.5 / 255
    # Without polyp: the lowest that leaves no alarm is the nearest to 0.5.
    alarm = {"polyp_levels": levels({}), "background_levels": levels({150: 200})}
    assert best_threshold([without_polyp("a", 200, **alarm)]) == 150.5 / 255


def test_scores_at_another_threshold(scored, maps):
    for threshold in (0.5, (1 - 0.5) / 255, (200 - 0.5) / 255, best_threshold(scored)):
        masks = [(probability > threshold, ground_truth) for probability, ground_truth in maps]
        unions = [(p | t).sum() for p, t in masks]
        iou = [(p & t).sum() / union if union else 1 for (p, t), union in zip(masks, unions, strict=True)]
        found = at_threshold(scored, threshold, resamples=100)
        assert found["dice_per_image_native"]["value"] == pytest.approx(
            np.mean([dice_of_masks(*pair) for pair in masks])
        )
        assert found["iou_per_image_native"]["value"] == pytest.approx(np.mean(iou))
    # They were scored at 0.5, and the same resamples give the same intervals.
    metrics = summarise(scored, resamples=500, seed=3)["metrics"]
    for name, score in at_threshold(scored, 0.5, resamples=500, seed=3).items():
        assert score["value"] == pytest.approx(metrics[name]["value"])
        assert score["ci95"] == pytest.approx(metrics[name]["ci95"])


@pytest.mark.parametrize("threshold", [0.25, 0, 1, 0.5 + 1e-6, math.nan])
def test_thresholds_between_the_levels_are_refused(threshold):
    with pytest.raises(ValueError, match=rf"at the threshold {threshold} are not known.*Score the images again"):
        at_threshold([image()], threshold)


def test_compare_matches_images_by_name():
    first = [image("a"), image("b", counts=(10, 0, 10)), image("c", counts=(5, 5, 15))]
    second = [image("c", counts=(10, 0, 10)), image("a", counts=(10, 0, 10)), image("b", counts=(10, 0, 10))]
    found = compare(first, second, resamples=4000, seed=0)
    # Dice 1, 2/3 and 1/3 against 2/3 each; IoU 1, 1/2 and 1/5 against 1/2 each.
    assert list(found) == ["dice_per_image_native", "iou_per_image_native"]
    dice, iou = found.values()
    assert dice["difference"] == pytest.approx(0)
    assert dice["ci95"] == pytest.approx([-1 / 3, 1 / 3])
    assert dice["p_value"] == 1
    assert dice["images"] == 3
    assert iou["difference"] == pytest.approx((1 / 2 - 3 / 10) / 3)
    # Half of the sign changes of (0.5, 0, -0.3) reach 0.8, the others only 0.2, as seen: all count.
    assert iou["p_value"] == 1
    assert json.loads(json.dumps(found)) == found


def test_compare_refuses_other_images():
    images = [image("a"), image("b")]
    with pytest.raises(ValueError, match=r"Only the first of the two results has 2 images: a, b\."):
        compare(images, [image("c")])
    with pytest.raises(ValueError, match=r"Only the second of the two results has 1 image: c\."):
        compare(images, [*images, image("c")])
    with pytest.raises(ValueError, match=r"1 names stand for more than one image in the second of.*: b\."):
        compare(images, [*images, image("b")])
    with pytest.raises(ValueError, match=r"true masks of 1 image differ between the two results.*: b\."):
        compare(images, [image("a"), image("b", true_pixels=21)])
    many = [image(f"{i:02}") for i in range(9)]
    with pytest.raises(ValueError, match=r"the first .* has 9 images: 00, 01, 02, 03, 04 and 4 more\."):
        compare(many, images)
    with pytest.raises(ValueError, match="at least one image"):
        compare([], [])


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("minmax_dice", "dice_256_thresholds_minmax_native"),
        ("absolute_error", "mae_native"),
        ("s_measure", "s_measure_native"),
        ("e_measure", "e_measure_native"),
        ("weighted_f", "weighted_f_native"),
        ("hd95", "hd95_native"),
        ("nsd", "nsd_native"),
        ("counts", "dice_per_image_native"),
        ("input_counts", "dice_per_image_network"),
        ("calibration", "calibration_4"),
    ],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused_by_name(field, column, bad, tmp_path):
    wrong = {"counts": (math.nan, 0, 0), "input_counts": (math.nan, 0, 0), "calibration": bins({4: (200, bad, 0)})}
    images = [image("good"), image("bad one", **{field: wrong.get(field, bad)}), image("also good")]
    with pytest.raises(ValueError, match=rf"The image bad one has the score (nan|inf) in {column}, as 1 of 3"):
        summarise(images, resamples=10)
    if field != "calibration":
        with pytest.raises(ValueError, match=r"The image bad one has the score"):
            write_per_image_csv(images, tmp_path / "per_image.csv")
        assert not (tmp_path / "per_image.csv").exists()


def test_no_images_are_refused(tmp_path):
    for function in (summarise, best_threshold, lambda images: at_threshold(images, 0.5)):
        with pytest.raises(ValueError, match="no image to score"):
            function([])
    with pytest.raises(ValueError, match="no image to score"):
        write_per_image_csv([], tmp_path / "per_image.csv")


def test_table_of_images(tmp_path, scored):
    odd = image('a "frame", größer', height=7, width=9, true_pixels=9, hd95=1 / 3, polyps=2, input_counts=None)
    path = tmp_path / "per_image.csv"
    write_per_image_csv([odd], path)
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == (
        "name,height,width,area_share,polyps,dice,iou,precision,recall,f2,accuracy,dice_network,mae,s_measure,"
        "e_measure,weighted_f,hd95,nsd,found_polyps,predicted_polyps,false_polyps"
    )
    assert text.splitlines()[1] == (
        f'"a ""frame"", größer",7,9,{9 / 63},2,1.0,1.0,1.0,1.0,1.0,1.0,,0.0,1.0,1.0,1.0,{1 / 3},1.0,1,1,0'
    )
    # Means of the columns are the metrics.
    write_per_image_csv(scored, path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [scores.name for scores in scored]
    metrics = summarise(scored, resamples=10)["metrics"]
    names = {"dice": "dice_per_image_native", "dice_network": "dice_per_image_network"}
    names |= {name: f"{name}_per_image_native" for name in ("iou", "precision", "recall", "f2", "accuracy")}
    names |= {name: f"{name}_native" for name in ("mae", "s_measure", "e_measure", "weighted_f", "hd95", "nsd")}
    for column, metric in names.items():
        assert np.mean([float(row[column]) for row in rows]) == pytest.approx(metrics[metric]["value"]), metric


def test_a_thousand_images_take_little_memory(scored):
    images = [dataclasses.replace(scored[i % len(scored)], name=str(i)) for i in range(1000)]
    tracemalloc.start()
    summarise(images, resamples=10_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


def test_a_name_is_no_formula_in_the_table(tmp_path):
    write_per_image_csv([image("=HYPERLINK(A1)"), image("frame")], tmp_path / "per_image.csv")
    with open(tmp_path / "per_image.csv", newline="", encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["./=HYPERLINK(A1)", "frame"]
