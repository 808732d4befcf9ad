"""Intervals and p-values against full enumeration, SciPy, and simulated data of which the ground truth is known."""

import itertools
from collections import Counter

import numpy as np
import pytest
import scipy.stats
from unet_kvasir_seg.scoring import intervals
from unet_kvasir_seg.scoring.intervals import (
    bootstrap_weights,
    compare_paired,
    mean_and_interval,
    resampled_sums,
    with_interval,
)


def weights(images: int, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate(list(bootstrap_weights(images, resamples, seed)))


def test_every_resample_draws_as_many_images_as_there_are():
    drawn = weights(images=7, resamples=20_000, seed=0)
    assert drawn.shape == (20_000, 7)
    assert (drawn.sum(axis=1) == 7).all()
    # Each image's count is binomial with 7 tries of 1/7.
    expected = scipy.stats.binom.pmf(np.arange(8), 7, 1 / 7)
    for column in drawn.T:
        seen = np.bincount(column.astype(int), minlength=8) / 20_000
        np.testing.assert_allclose(seen, expected, atol=0.015)


def test_all_orders_of_draws_are_equally_likely():
    # Of 3 images, 27 equally likely draws make the counts (1, 1, 1) in 6 ways, (2, 1, 0) in 3, and (3, 0, 0) in 1.
    seen = Counter(tuple(row) for row in weights(images=3, resamples=27_000, seed=1).astype(int))
    assert len(seen) == 10
    for counts, times in seen.items():
        ways = {1: 6, 2: 3, 3: 1}[max(counts)]
        assert times == pytest.approx(1000 * ways, abs=6 * (1000 * ways) ** 0.5)


def test_resamples_depend_on_the_seed_and_not_on_the_blocks(monkeypatch):
    at_once = weights(images=11, resamples=500, seed=3)
    assert (at_once == weights(images=11, resamples=500, seed=3)).all()
    assert not (at_once == weights(images=11, resamples=500, seed=4)).all()
    monkeypatch.setattr(intervals, "BLOCK", 11 * 7)
    assert [len(block) for block in bootstrap_weights(11, 500, seed=3)] == [7] * 71 + [3]
    assert (at_once == weights(images=11, resamples=500, seed=3)).all()
    monkeypatch.setattr(intervals, "BLOCK", 1)
    assert (at_once == weights(images=11, resamples=500, seed=3)).all()


def test_sums_by_hand():
    columns = np.array([[1, 10], [2, 0], [4, -3]])
    sums = resampled_sums(columns, resamples=50, seed=5)
    assert sums[0].tolist() == [7, 7]
    for row, (first, second, third) in zip(sums[1:], weights(3, 50, 5), strict=True):
        assert row.tolist() == [first + 2 * second + 4 * third, 10 * first - 3 * third]


@pytest.mark.parametrize("values", [[0.1, 0.55, 0.9], [0.0, 0.31, 0.7, 0.96], [0.2, 0.2, 0.2, 0.9], [3, -1, 4, 11, 5]])
def test_interval_is_that_of_all_possible_resamples(values):
    means = np.sort([np.mean(draw) for draw in itertools.product(values, repeat=len(values))])
    # Random draws cannot tell neighbouring means apart, so each bound lies within a small share of the exact ranks.
    found = mean_and_interval(values, resamples=40_000, seed=0)
    assert found["value"] == pytest.approx(np.mean(values))
    for bound, share in zip(found["ci95"], (0.025, 0.975), strict=True):
        low, high = np.quantile(means, [share - 0.004, share + 0.004], method="inverted_cdf")
        assert low - 1e-12 <= bound <= high + 1e-12


def test_interval_of_three_images_by_hand():
    # All three draws are 0 in 8 of 27 draws, and all 1 in 1 of 27, which is more than 2.5 %.
    assert mean_and_interval([0, 0, 1], seed=0) == {"value": pytest.approx(1 / 3), "ci95": [0, 1]}


@pytest.mark.parametrize("images", [5, 40, 300])
def test_interval_agrees_with_scipy(images):
    values = np.random.default_rng(images).beta(6, 2, images)
    found = mean_and_interval(values, resamples=10_000, seed=0)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = expected.high - expected.low
    assert found["ci95"] == pytest.approx([expected.low, expected.high], abs=0.04 * width)


def test_ratio_agrees_with_scipy():
    rng = np.random.default_rng(2)
    whole = rng.integers(1, 2000, 60).astype(float)
    part = rng.binomial(whole.astype(int), rng.beta(6, 2, 60)).astype(float)
    sums = resampled_sums(np.stack([part, whole], axis=1), resamples=10_000, seed=0)
    found = with_interval(sums[:, 0] / sums[:, 1])
    expected = scipy.stats.bootstrap(
        (part, whole),
        lambda part, whole, axis: part.sum(axis=axis) / whole.sum(axis=axis),
        paired=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found["value"] == pytest.approx(part.sum() / whole.sum())
    assert found["ci95"] == pytest.approx([expected.low, expected.high], abs=0.04 * (expected.high - expected.low))


def test_95_percent_of_the_intervals_hold_the_true_mean():
    rng = np.random.default_rng(0)
    # One set of resamples serves all: 1,000 data sets of 60 images, a column each, whose true mean is 0.7.
    columns = rng.normal(0.7, 0.2, (60, 1000))
    means = resampled_sums(columns, resamples=2000, seed=1)[1:] / 60
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    assert ((low <= 0.7) & (high >= 0.7)).mean() == pytest.approx(0.95, abs=0.025)
    assert [low[0], high[0]] == pytest.approx(mean_and_interval(columns[:, 0], 2000, 1)["ci95"])


def test_interval_of_one_image_is_its_value():
    assert mean_and_interval([0.3], resamples=100) == {"value": 0.3, "ci95": [0.3, 0.3]}


def test_resamples_without_a_score_are_left_out():
    scores = np.array([0.5, np.nan, *np.linspace(0, 1, 101), np.nan])
    found = with_interval(scores)
    assert found["value"] == 0.5
    assert found["ci95"] == pytest.approx([0.025, 0.975])
    assert with_interval(np.array([np.nan, 0.5, np.nan])) is None
    with pytest.raises(ValueError, match="None of 2 resamples"):
        with_interval(np.array([0.5, np.nan, np.nan]))


def test_results_are_plain_numbers():
    found = [mean_and_interval(np.float32([0, 1])), compare_paired(np.float32([0, 1]), np.float32([1, 1]), 10)]
    numbers = [number for result in found for value in result.values() for number in np.ravel([value]).tolist()]
    assert {type(value) for result in found for value in result.values()} == {float, list, int}
    assert {type(bound) for result in found for bound in result["ci95"]} == {float}
    assert np.isfinite(numbers).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_refused(bad):
    values = np.array([0.5, 0.7, bad, 0.2])
    with pytest.raises(ValueError, match=r"Row 2 of column 0 is (nan|inf|-inf)"):
        mean_and_interval(values)
    with pytest.raises(ValueError, match=r"Row 2 of column 0 is"):
        compare_paired(values, np.zeros(4))
    with pytest.raises(ValueError, match=r"Row 1 of column 1 is"):
        resampled_sums(np.array([[1, 2], [3, bad]]))


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        mean_and_interval([])
    with pytest.raises(ValueError, match="at least one image"):
        compare_paired([], [])
    with pytest.raises(ValueError, match="3 images and 0 resamples"):
        mean_and_interval([1, 2, 3], resamples=0)


def enumerated_p_value(differences: np.ndarray) -> float:
    """Of all 2^n changes of signs, the share whose sum is as extreme as the one seen."""
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    return float((abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean())


def test_p_value_by_hand():
    # Of the 8 sign changes of (1, 2, 4), +++ and --- alone reach a sum of 7; none is nearer to 0 than 1 + 2 - 4.
    assert enumerated_p_value(np.array([1, 2, 4])) == 2 / 8
    assert compare_paired([1, 2, 4], [0, 0, 0])["p_value"] == pytest.approx(2 / 8, abs=0.02)
    assert enumerated_p_value(np.array([1, 2, -4])) == 1
    assert compare_paired([1, 2, 0], [0, 0, 4])["p_value"] == 1


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.06, -0.1])
def test_p_value_agrees_with_enumeration_and_scipy(shift):
    rng = np.random.default_rng(4)
    first = rng.beta(6, 2, 12).round(2)
    second = (first + rng.normal(shift, 0.08, 12)).round(2)
    exact = enumerated_p_value(first - second)
    by_scipy = scipy.stats.permutation_test(
        (first, second),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert exact == pytest.approx(by_scipy.pvalue)
    found = compare_paired(first, second, resamples=20_000, seed=0)
    assert found["p_value"] == pytest.approx(exact, abs=0.012)
    assert found["difference"] == pytest.approx(by_scipy.statistic)
    assert found["images"] == 12


def test_comparison_with_its_sides_swapped_is_mirrored():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 30))
    one, other = compare_paired(first, second, 2000), compare_paired(second, first, 2000)
    assert one["difference"] == -other["difference"]
    assert one["p_value"] == other["p_value"]
    assert one["ci95"] == pytest.approx([-bound for bound in other["ci95"][::-1]])
    assert one["ci95"] == mean_and_interval(first - second, 2000)["ci95"]


def test_equal_models_do_not_differ():
    scores = np.random.default_rng(0).random(20)
    assert compare_paired(scores, scores, 500) == {"difference": 0, "ci95": [0, 0], "p_value": 1, "images": 20}


def test_sums_that_differ_by_rounding_count_as_equal():
    # No sign change of (0.1, 0.2, -0.3, 0.1) has a sum nearer to 0 than its own 0.1; but -0.1 - 0.2 + 0.3 + 0.1 comes
    # out as 0.09999999999999998 or so, and its own as 0.10000000000000005.
    assert compare_paired([0.1, 0.2, 0, 0.1], [0, 0, 0.3, 0], 500)["p_value"] == 1


def test_smallest_p_value_counts_the_observed_difference():
    # 60 differences of one sign: a random change of signs matches them once in 2^59.
    assert compare_paired(np.ones(60), np.zeros(60), resamples=999)["p_value"] == 1 / 1000


def test_p_values_of_equal_models_are_uniform():
    rng = np.random.default_rng(0)
    p_values = [compare_paired(*rng.normal(0, 1, (2, 15)), resamples=199, seed=seed)["p_value"] for seed in range(400)]
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert scipy.stats.kstest(p_values, "uniform").statistic < 0.08


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1, 2, 3]), ([[1, 2]], [[1, 2]]), (1, 2)])
def test_unpaired_scores_are_refused(first, second):
    with pytest.raises(ValueError, match="one score an image"):
        compare_paired(first, second)
