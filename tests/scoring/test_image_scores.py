"""Every score against a definition written out here, over 600 small pairs of masks, many of them degenerate."""

import importlib.util
import math
import sys
import warnings
from collections import Counter
from dataclasses import astuple, dataclass, replace

import numpy as np
import pytest

pytest.importorskip("monai", reason='the scores need pip install -e ".[evaluation]"')
pytest.importorskip("py_sod_metrics", reason='the scores need pip install -e ".[evaluation]"')

from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.optimize import linear_sum_assignment
from skimage.measure import label
from sklearn.metrics import fbeta_score, jaccard_score, precision_recall_fscore_support
from unet_kvasir_seg.scoring import image_scores
from unet_kvasir_seg.scoring.image_scores import CALIBRATION_BINS, ImageScores, dice_by_level, score_image

EPSILON = np.finfo(float).eps
KINDS = {
    "blobs": 180,
    "noise": 60,
    "touching the border": 60,
    "eight bits": 60,
    "single pixel": 60,
    "empty ground truth": 60,
    "empty prediction": 40,
    "both empty": 20,
    "full ground truth": 20,
    "full prediction": 20,
    "both full": 10,
    "missed everywhere": 10,
    "false alarm everywhere": 10,
    "perfect": 10,
}


@dataclass
class Pair:
    kind: str
    probability: np.ndarray
    ground_truth: np.ndarray
    threshold: float
    tolerance: float
    scores: ImageScores

    @property
    def mask(self) -> np.ndarray:
        return self.probability > self.threshold


def smooth_field(rng, shape, sigma):
    field = gaussian_filter(rng.normal(size=shape), sigma)
    return field / field.std()


def make_pair(kind, rng):
    """Probability (H, W) float32, ground truth (H, W) bool and threshold."""
    shape = tuple(rng.integers(8, 25, 2))
    threshold = 0.5 if rng.random() < 0.7 else rng.uniform(0.2, 0.8)
    field = smooth_field(rng, shape, rng.uniform(1, 3))
    ground_truth = field > rng.uniform(-0.5, 1)
    probability = 1 / (1 + np.exp(-3 * (field - 0.3 + 0.7 * smooth_field(rng, shape, 1))))
    if kind == "noise":
        ground_truth, probability = rng.random(shape) < rng.uniform(0.1, 0.9), rng.random(shape)
    elif kind == "touching the border":
        ground_truth[: rng.integers(1, shape[0]), : rng.integers(1, 4)] = True
        probability[-rng.integers(1, 4) :] = 0.9
    elif kind == "eight bits":
        probability = np.round(probability * rng.choice([1, 255])) / 255
        probability[0, :2] = 0.5, threshold
    elif kind == "single pixel":
        # A third each in the ground truth, in the prediction and in both; every fourth pixel is a corner.
        where = rng.integers(3)
        for i, array in enumerate((ground_truth, probability)):
            if where in (i, 2):
                row, column = (0 if rng.random() < 0.25 else rng.integers(0, n) for n in shape)
                array[:] = 0
                array[-row, -column] = 1
    elif kind in ("empty ground truth", "both empty", "false alarm everywhere"):
        ground_truth[:] = False
    elif kind in ("full ground truth", "both full", "missed everywhere"):
        ground_truth[:] = True
    elif kind == "perfect":
        probability = ground_truth.astype(float)
    if kind in ("empty prediction", "both empty", "missed everywhere"):
        # Faint, or nothing at all.
        probability *= threshold * rng.choice([0, 0.9])
    elif kind in ("full prediction", "both full", "false alarm everywhere"):
        probability = threshold + 0.01 + (0.99 - threshold) * rng.choice([probability, np.ones(shape)])
    return probability.astype(np.float32), ground_truth, threshold


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    found = []
    for kind in (kind for kind, count in KINDS.items() for _ in range(count)):
        probability, ground_truth, threshold = make_pair(kind, rng)
        tolerance = float(rng.choice([0, 1, 1.5, 2]))
        scores = score_image(kind, probability, ground_truth, threshold=threshold, tolerance=tolerance)
        found.append(Pair(kind, probability, ground_truth, threshold, tolerance, scores))
    return found


def score_masks(predicted, ground_truth, threshold=0.5, tolerance=1.0):
    """Score a mask given as rows of 0 and 1, or an array."""
    predicted, ground_truth = (
        np.array([[int(pixel) for pixel in row] for row in rows], np.float32) for rows in (predicted, ground_truth)
    )
    return score_image("case", predicted, ground_truth > 0, threshold=threshold, tolerance=tolerance)


def pixels(mask) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in np.argwhere(mask)}


def extent(mask) -> str:
    return "full" if mask.all() else "some" if mask.any() else "empty"


def test_pairs_are_of_all_kinds(pairs):
    assert len(pairs) == sum(KINDS.values()) >= 500
    extents = Counter((extent(pair.mask), extent(pair.ground_truth)) for pair in pairs)
    assert len(extents) == 9
    assert min(extents.values()) >= 10
    assert sum(pair.ground_truth.sum() == 1 for pair in pairs) >= 20
    assert sum(pair.mask.sum() == 1 for pair in pairs) >= 20


def test_sizes_and_counts(pairs):
    for pair in pairs:
        scores, predicted, ground_truth = pair.scores, pixels(pair.mask), pixels(pair.ground_truth)
        assert (scores.name, scores.height, scores.width) == (pair.kind, *pair.ground_truth.shape)
        assert scores.true_pixels == len(ground_truth)
        assert scores.counts == (
            len(predicted & ground_truth),
            len(predicted - ground_truth),
            len(ground_truth - predicted),
        )
        assert scores.input_counts is None


def test_scores_of_the_counts_are_scikit_learns(pairs):
    """Only of pairs without an empty mask, for which scikit-learn leaves the scores undefined."""
    some = [pair for pair in pairs if pair.mask.any() and pair.ground_truth.any()]
    tp, fp, fn = np.array([pair.scores.counts for pair in some]).T
    # A column an image, filled up with background, which none of these scores counts.
    ground_truth, predicted = np.zeros((2, 24 * 24, len(some)), bool)
    for i, pair in enumerate(some):
        ground_truth[: pair.ground_truth.size, i], predicted[: pair.ground_truth.size, i] = (
            pair.ground_truth.ravel(),
            pair.mask.ravel(),
        )
    precision, recall, dice, _ = precision_recall_fscore_support(ground_truth, predicted, average=None)
    f2 = fbeta_score(ground_truth, predicted, beta=2, average=None)
    iou = jaccard_score(ground_truth, predicted, average=None)
    for ours, theirs in (
        (2 * tp / (2 * tp + fp + fn), dice),
        (tp / (tp + fp + fn), iou),
        (tp / (tp + fp), precision),
        (tp / (tp + fn), recall),
        (5 * tp / (5 * tp + 4 * fn + fp), f2),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_input_pair_is_counted_at_its_own_size():
    probability, ground_truth = np.full((4, 6), 0.9, np.float32), np.ones((4, 6), bool)
    network = np.array([[0.6, 0.7], [0.1, 0.71]], np.float32), np.array([[True, False], [True, False]])
    scores = score_image("a", probability, ground_truth, threshold=0.65, tolerance=1, input_pair=network)
    assert scores.counts == (24, 0, 0)
    assert scores.input_counts == (0, 2, 2)


def test_a_peak_threshold_changes_the_scores_of_the_mask_alone():
    """Of two regions, one on the polyp with a peak of 0.75 and a false one with 0.625, at 0.7 the first is left."""
    probability, ground_truth = np.full((12, 20), 0.125, np.float32), np.zeros((12, 20), bool)
    ground_truth[1:6, 1:6] = True
    probability[1:6, 1:5], probability[3, 3] = 0.625, 0.75
    probability[8:11, 10:14] = 0.625
    pair = (probability[:, ::2].copy(), ground_truth[:, ::2].copy())  # without the pixel of 0.75
    alone, peak, nothing = (
        score_image("a", probability, ground_truth, threshold=0.5, tolerance=1, peak_threshold=value, input_pair=pair)
        for value in (None, 0.7, 0.8)
    )
    assert [one.counts for one in (alone, peak, nothing)] == [(20, 12, 5), (20, 0, 5), (0, 0, 25)]
    assert [one.input_counts for one in (alone, peak)] == [(10, 6, 0), (0, 0, 10)]
    assert [(one.found_polyps, one.predicted_polyps, one.false_polyps) for one in (alone, peak, nothing)] == [
        (1, 2, 1),
        (1, 1, 0),
        (0, 0, 0),
    ]
    assert (alone.nsd < peak.nsd == 1, nothing.nsd, nothing.hd95) == (True, 0, math.hypot(12, 20))
    for name in ("minmax_dice", "absolute_error", "s_measure", "e_measure", "weighted_f"):
        assert getattr(alone, name) == getattr(peak, name), name
    np.testing.assert_array_equal(alone.polyp_levels, peak.polyp_levels)
    np.testing.assert_array_equal(alone.calibration, peak.calibration)
    assert [one.peak_threshold for one in (alone, peak)] == [None, 0.7]
    assert peak.regions.counts(None) == alone.counts  # the regions are those before the peak threshold


def test_levels_stand_for_thresholds(pairs):
    """A mask "level >= k" is the mask p > (k - 0.5) / 255, also where p is 0.5 exactly."""
    thresholds = (np.arange(1, 256) - 0.5) / 255
    for pair in pairs:
        probability = pair.probability.astype(np.float64)
        for levels, region in (
            (pair.scores.polyp_levels, pair.ground_truth),
            (pair.scores.background_levels, ~pair.ground_truth),
        ):
            assert levels.shape == (256,)
            assert levels.dtype == np.int32
            assert levels.sum() == region.sum()
            above = (probability[region] > thresholds[:, None]).sum(1)
            np.testing.assert_array_equal(levels[::-1].cumsum()[::-1][1:], above)
        if pair.threshold == 0.5:
            assert pair.scores.polyp_levels[128:].sum() == pair.scores.counts[0]
            assert pair.scores.background_levels[128:].sum() == pair.scores.counts[1]


def test_dice_by_level_is_dice_of_each_mask(pairs):
    curves = dice_by_level(
        np.stack([pair.scores.polyp_levels for pair in pairs]),
        np.stack([pair.scores.background_levels for pair in pairs]),
    )
    assert curves.shape == (len(pairs), 256)
    thresholds = (np.arange(256) - 0.5)[:, None] / 255
    for pair, curve in zip(pairs, curves, strict=True):
        masks = pair.probability.astype(np.float64).ravel() > thresholds
        ground_truth = pair.ground_truth.ravel()
        total = masks.sum(1) + ground_truth.sum()
        expected = [2 * (mask & ground_truth).sum() / n if n else 1 for mask, n in zip(masks, total, strict=True)]
        np.testing.assert_allclose(curve, expected, rtol=0, atol=1e-12)


def test_dice_by_level_by_hand_for_any_leading_shape():
    polyp, background = np.zeros((2, 3, 256), np.int32), np.zeros((2, 3, 256), np.int32)
    polyp[..., 200], background[..., 100] = 4, 6
    curves = dice_by_level(polyp, background)
    assert curves.shape == (2, 3, 256)
    expected = np.repeat([8 / 14, 1, 0], [101, 100, 55])
    np.testing.assert_array_equal(curves, np.broadcast_to(expected, curves.shape))
    # No polyp: every mask is an alarm until it is empty.
    np.testing.assert_array_equal(dice_by_level(0 * polyp, background)[0, 0], np.repeat([0, 1], [101, 155]))


def pranet_dice(probability, ground_truth):
    """What PraNet's MyTest.py and MATLAB toolbox do, one step after the other."""
    saved = probability.astype(np.float64)
    if saved.max() > saved.min():
        saved = (saved - saved.min()) / (saved.max() - saved.min())
    saved = np.floor(255 * saved + 0.5)
    dice = []
    for threshold in range(255, -1, -1):
        predicted = saved >= threshold
        tp = (predicted & ground_truth).sum()
        dice.append(0 if tp == 0 else 2 * tp / (ground_truth.sum() + predicted.sum()))
    return np.mean(dice)


def test_minmax_dice_is_pranets(pairs):
    for pair in pairs:
        dice = pair.scores.minmax_dice
        if pair.ground_truth.any():
            assert dice == pytest.approx(pranet_dice(pair.probability, pair.ground_truth), abs=1e-9)
        else:
            # On purpose: there an image without polyp is 0, here each level that raises no alarm counts 1.
            assert pranet_dice(pair.probability, pair.ground_truth) == 0
            low, high = pair.probability.min().astype(float), pair.probability.max().astype(float)
            highest_level = 255 if high > low else math.floor(255 * high + 0.5)
            assert dice == pytest.approx((255 - highest_level) / 256, abs=1e-12)


def test_mean_dice_over_levels_of_a_perfect_mask():
    ground_truth = np.zeros((4, 5), bool)
    ground_truth[1:3, 1:3] = True
    scores = score_masks(ground_truth, ground_truth)
    assert scores.minmax_dice == pytest.approx((255 + 2 * 4 / (4 + 20)) / 256)


def test_absolute_error(pairs):
    for pair in pairs:
        difference = [abs(float(p) - y) for p, y in zip(pair.probability.flat, pair.ground_truth.flat, strict=True)]
        assert pair.scores.absolute_error == pytest.approx(math.fsum(difference) / len(difference), abs=1e-12)


def structure_measure(p, y):
    """Fan et al., ICCV 2017, equations 1 to 13, lambda 0.5 and alpha 0.5."""
    share = y.mean()
    if share == 0:
        return 1 - p.mean()
    if share == 1:
        return p.mean()

    def object_score(x):
        spread = math.sqrt(((x - x.mean()) ** 2).sum() / (len(x) - 1)) if len(x) > 1 else 0
        return 2 * x.mean() / (x.mean() ** 2 + 1 + spread)

    def similarity(x, y):
        if not x.size:
            return 0  # a quarter without pixels: its weight is 0
        n = max(x.size - 1, EPSILON)
        product = 4 * x.mean() * y.mean() * ((x - x.mean()) * (y - y.mean())).sum() / n
        sums = (x.mean() ** 2 + y.mean() ** 2) * (((x - x.mean()) ** 2).sum() + ((y - y.mean()) ** 2).sum()) / n
        if product == 0:
            return float(sums == 0)
        return product / (sums + EPSILON)

    of_object = share * object_score(p[y]) + (1 - share) * object_score(1 - p[~y])
    # The authors' code rounds a centre of gravity between two pixels up, pysodmetrics (as Python) to the even one.
    row, column = (round(float(index.mean())) + 1 for index in np.nonzero(y))
    of_regions = sum(
        p[rows, columns].size / p.size * similarity(p[rows, columns], y[rows, columns].astype(float))
        for rows in (slice(0, row), slice(row, None))
        for columns in (slice(0, column), slice(column, None))
    )
    return max(0, (of_object + of_regions) / 2)


def test_s_measure(pairs):
    for pair in pairs:
        expected = structure_measure(pair.probability.astype(np.float64), pair.ground_truth)
        assert pair.scores.s_measure == pytest.approx(expected, abs=1e-9), pair.kind


def alignment_measure(mask, y):
    """Fan et al., IJCAI 2018, equations 1 to 5, with the constants of the authors' code."""
    if not y.any():
        enhanced = 1.0 - mask
    elif y.all():
        enhanced = mask.astype(float)
    else:
        a, b = mask - mask.mean(), y - y.mean()
        enhanced = (1 + 2 * a * b / (a**2 + b**2 + EPSILON)) ** 2 / 4
    return enhanced.sum() / (y.size - 1)


def test_e_measure(pairs):
    for pair in pairs:
        p = pair.probability.astype(np.float64)
        thresholds = (np.arange(256) - 0.5) / 255
        # Masks that are the same are worked out once.
        changes = {(p > t).sum(): t for t in thresholds}
        values = {count: alignment_measure(p > t, pair.ground_truth) for count, t in changes.items()}
        expected = np.mean([values[(p > t).sum()] for t in thresholds])
        assert pair.scores.e_measure == pytest.approx(expected, abs=1e-9), pair.kind


def weighted_f(p, y):
    """Margolin et al., CVPR 2014, with beta 1 and the constants of the authors' code."""
    error = abs(p - y)
    polyp, everywhere = np.argwhere(y), np.argwhere(np.ones_like(y))
    distances = np.sqrt(((everywhere[:, None] - polyp) ** 2).sum(-1))
    nearest_distance = distances.min(1).reshape(y.shape)
    # Of several nearest pixels the definition takes any; the library's choice must be one of them.
    nearest = distance_transform_edt(~y, return_indices=True, return_distances=False)
    chosen = np.sqrt(((nearest - np.indices(y.shape)) ** 2).sum(0))
    np.testing.assert_array_equal(chosen, nearest_distance)
    dependent = np.where(y, error, error[tuple(nearest)])

    offsets = np.arange(-3, 4)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 5**2))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(dependent, 3), (7, 7))
    smoothed = (windows * kernel / kernel.sum()).sum((-2, -1))
    least = np.where(y, np.minimum(error, smoothed), error)
    importance = np.where(y, 1, 2 - np.exp(math.log(0.5) / 5 * nearest_distance))
    weighted = least * importance

    hits = y.sum() - weighted[y].sum()
    recall, precision = 1 - weighted[y].mean(), hits / (hits + weighted[~y].sum() + EPSILON)
    return 2 * recall * precision / (recall + precision + EPSILON)


def test_weighted_f(pairs):
    for pair in pairs:
        # On purpose the library's 0 where there is no polyp, which the paper leaves undefined.
        expected = weighted_f(pair.probability.astype(np.float64), pair.ground_truth) if pair.ground_truth.any() else 0
        assert pair.scores.weighted_f == pytest.approx(expected, abs=1e-9), pair.kind


@pytest.mark.parametrize("pixel", [(0, 0), (0, 6), (4, 0), (4, 6), (4, 3), (2, 6), (2, 3)])
def test_polyp_of_one_pixel_at_the_border_has_scores(pixel):
    """The library divides the image at the polyp, and makes NaN of a part without pixels."""
    ground_truth = np.zeros((5, 7), bool)
    ground_truth[pixel] = True
    scores = score_masks(ground_truth, ground_truth)
    numbers = np.hstack([np.ravel(field) for field in astuple(scores) if isinstance(field, (int, float, np.ndarray))])
    assert np.isfinite(numbers).all()
    assert scores.s_measure == pytest.approx(1)
    assert (scores.weighted_f, scores.hd95, scores.nsd, scores.found_polyps) == (pytest.approx(1), 0, 1, 1)


def edge(mask) -> np.ndarray:
    """(N, 2): pixels of the mask of whose four neighbours one is background or off the image."""
    inside = pixels(mask)
    return np.array(
        [(r, c) for r, c in inside if not {(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)} <= inside], dtype=float
    )


def test_hd95_and_surface_dice(pairs):
    compared = 0
    for pair in pairs:
        predicted, ground_truth = edge(pair.mask), edge(pair.ground_truth)
        if len(predicted) and len(ground_truth):
            distances = np.sqrt(((predicted[:, None] - ground_truth) ** 2).sum(-1))
            there, back = distances.min(1), distances.min(0)
            expected = max(np.percentile(there, 95), np.percentile(back, 95))
            near = (there <= pair.tolerance).sum() + (back <= pair.tolerance).sum()
            expected_dice = near / (len(there) + len(back))
            compared += 1
        elif len(predicted) or len(ground_truth):
            expected, expected_dice = math.hypot(*pair.ground_truth.shape), 0
        else:
            expected, expected_dice = 0, 1
        # MONAI works in float32: 7 digits of a distance.
        assert pair.scores.hd95 == pytest.approx(expected, rel=1e-6, abs=1e-6), pair.kind
        assert pair.scores.nsd == pytest.approx(expected_dice, abs=1e-6), pair.kind
    assert compared > 400


def test_surfaces_do_not_depend_on_the_image_around_them(pairs):
    """Background beyond the masks, which MONAI crops, changes nothing; nor does the memory's order."""
    for pair in [pair for pair in pairs if pair.mask.any() and pair.ground_truth.any()][::5]:
        larger = np.pad(pair.probability, ((9, 2), (0, 30))), np.pad(pair.ground_truth, ((9, 2), (0, 30)))
        turned = [np.rot90(array) for array in larger]
        turned[1].flags.writeable = False
        scores = score_image("a", *turned, threshold=pair.threshold, tolerance=pair.tolerance)
        assert (scores.hd95, scores.nsd) == pytest.approx((pair.scores.hd95, pair.scores.nsd), abs=1e-6)


def test_lesions(pairs):
    for pair in pairs:
        (true_labels, polyps), (predicted_labels, predicted) = (
            label(mask, connectivity=2, return_num=True) for mask in (pair.ground_truth, pair.mask)
        )
        iou = np.zeros((polyps, predicted))
        for i, j in np.ndindex(iou.shape):
            a, b = true_labels == i + 1, predicted_labels == j + 1
            iou[i, j] = (a & b).sum() / (a | b).sum()
        # The most pairs that can be made, in general: the module says why there is only one way here.
        rows, columns = linear_sum_assignment(iou >= 0.5, maximize=True)
        found = int((iou[rows, columns] >= 0.5).sum())
        assert pair.scores.polyps == polyps
        assert pair.scores.predicted_polyps == predicted
        assert pair.scores.found_polyps == found
        assert pair.scores.false_polyps == predicted - found


def test_lesions_by_hand():
    ground_truth = ["110000", "001000", "000000", "111100", "000000", "000011"]
    predicted = ["110000", "000000", "000000", "110100", "000000", "000001"]
    scores = score_masks(predicted, ground_truth)
    # The first polyp is joined at a corner and found at 2/3, the others at exactly 1/2; a piece of the second is left.
    assert (scores.polyps, scores.predicted_polyps) == (3, 4)
    assert (scores.found_polyps, scores.false_polyps) == (3, 1)
    # Cut into pieces of 3/7 each, a polyp is not found.
    scores = score_masks(["111011100"], ["111111100"])
    assert (scores.polyps, scores.found_polyps, scores.false_polyps) == (1, 0, 2)


def test_calibration(pairs):
    for pair in pairs:
        p, table = pair.probability.astype(np.float64), pair.scores.calibration
        assert table.shape == (CALIBRATION_BINS, 3)
        assert table.dtype == np.float64
        for i, row in enumerate(table):
            inside = (p >= i / CALIBRATION_BINS) & ((p < (i + 1) / CALIBRATION_BINS) | (i == CALIBRATION_BINS - 1))
            expected = [inside.sum(), math.fsum(p[inside]), pair.ground_truth[inside].sum()]
            assert row == pytest.approx(expected, abs=1e-9)


EMPTY, SOME, FULL = ["0000", "0000", "0000"], ["0000", "0110", "0000"], ["1111", "1111", "1111"]


@pytest.mark.parametrize(
    ("predicted", "ground_truth", "expected"),
    [
        # Ground truth and prediction empty: nothing was to be found and nothing is.
        (EMPTY, EMPTY, {"hd95": 0, "nsd": 1, "s_measure": 1, "e_measure": 12 / 11 * 255 / 256, "weighted_f": 0}),
        # A miss and a false alarm cost the diagonal of 3x4 pixels.
        (EMPTY, SOME, {"hd95": 5, "nsd": 0, "counts": (0, 0, 2)}),
        (SOME, EMPTY, {"hd95": 5, "nsd": 0, "s_measure": 10 / 12, "weighted_f": 0, "counts": (0, 2, 0)}),
        (FULL, EMPTY, {"hd95": 5, "nsd": 0, "s_measure": 0, "e_measure": 0, "weighted_f": 0, "counts": (0, 12, 0)}),
        (EMPTY, FULL, {"hd95": 5, "nsd": 0, "s_measure": 0, "e_measure": 12 / 11 / 256, "counts": (0, 0, 12)}),
        (FULL, FULL, {"hd95": 0, "nsd": 1, "s_measure": 1, "e_measure": 12 / 11, "weighted_f": 1, "minmax_dice": 1}),
    ],
)
def test_scores_if_one_or_both_masks_are_empty(predicted, ground_truth, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_masks(predicted, ground_truth)
    assert {name: getattr(scores, name) for name in expected} == {
        name: value if isinstance(value, tuple) else pytest.approx(value, abs=1e-9) for name, value in expected.items()
    }


def test_no_warning_is_raised(pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pair in pairs[::20]:
            score_image("a", pair.probability, pair.ground_truth, threshold=pair.threshold, tolerance=pair.tolerance)


def test_faint_map_without_polyp_is_not_stretched():
    """The libraries' default, a stretch to [0, 1], would make an alarm of it; only PraNet's Dice does so."""
    probability = np.full((6, 6), 0.01, np.float32)
    probability[2, 2] = 0.02
    scores = score_image("a", probability, np.zeros((6, 6), bool), threshold=0.5, tolerance=1)
    assert scores.s_measure > 0.98
    assert scores.e_measure > 0.97
    assert scores.minmax_dice == 0


def test_same_result_each_time(pairs):
    for pair in pairs[::50]:
        again = score_image(
            pair.kind, pair.probability, pair.ground_truth, threshold=pair.threshold, tolerance=pair.tolerance
        )
        numbers, numbers_again = (
            [*astuple(replace(scores, regions=None)), *astuple(scores.regions)] for scores in (pair.scores, again)
        )
        for first, second in zip(numbers, numbers_again, strict=True):
            np.testing.assert_array_equal(first, second)


def array(value, dtype=np.float32):
    return np.full((3, 4), value, dtype)


@pytest.mark.parametrize(
    ("probability", "ground_truth", "message"),
    [
        (
            array(0.5)[:2],
            array(1, bool),
            r"frame 7: got a probability map of shape \(2, 4\) and a true mask of shape \(3",
        ),
        (array(0.5)[None], array(1, bool)[None], r"expected one shape \(height, width\)"),
        (array(0.5)[:1, :1], array(1, bool)[:1, :1], "of two pixels or more"),
        (array(0.5), array(255, np.uint8), "frame 7: got a true mask of uint8; expected booleans.*mask > 127"),
        (array(np.nan), array(1, bool), "frame 7: 12 of 12 probabilities are not finite"),
        (array(np.inf), array(1, bool), "not finite"),
        (array(-0.25), array(1, bool), "frame 7: got probabilities from -0.25 to -0.25; expected 0 to 1. Logits need"),
        (array(255, np.uint8), array(1, bool), "from 255 to 255.*division by 255"),
    ],
)
def test_bad_input_is_refused(probability, ground_truth, message):
    with pytest.raises(ValueError, match=message):
        score_image("frame 7", probability, ground_truth, threshold=0.5, tolerance=1)
    good = array(0.5), array(1, bool)
    with pytest.raises(ValueError, match=message):
        score_image("frame 7", *good, threshold=0.5, tolerance=1, input_pair=(probability, ground_truth))


def test_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    spec = importlib.util.spec_from_file_location("unet_kvasir_seg.scoring.without_monai", image_scores.__file__)
    with pytest.raises(ImportError, match=r'monai.*pip install -e "\.\[evaluation\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
