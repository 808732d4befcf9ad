"""Overlap of masks against values worked out by hand, and against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import fbeta_score, jaccard_score, precision_recall_fscore_support
from unet_kvasir_seg.scoring.overlap import OVERLAP_SCORES, mask_counts, mask_dice, overlap_scores, pixel_counts


def masks(*rows: str) -> torch.Tensor:
    """Masks (B, 1, W) from strings of 0 and 1."""
    return torch.tensor([[[int(pixel) for pixel in row]] for row in rows])


PREDICTED = masks("1100", "0000", "0000", "1110")
GROUND_TRUTH = masks("1010", "0000", "0011", "0000")


def scores_of(tp: int, fp: int, fn: int) -> list[float]:
    scores = overlap_scores(*np.array([[tp], [fp], [fn]]))
    assert list(scores) == list(OVERLAP_SCORES)
    return [float(values[0]) for values in scores.values()]


@pytest.fixture(scope="module")
def random_masks() -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W) bool predictions and ground truth, none of them empty."""
    rng = np.random.default_rng(0)
    predicted, ground_truth = rng.random((2, 50, 6, 7)) < rng.uniform(0.1, 0.9, (2, 50, 1, 1))
    return predicted, ground_truth


def test_counts_by_hand():
    assert pixel_counts(PREDICTED, GROUND_TRUTH).tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 2], [0, 3, 0]]
    assert pixel_counts(PREDICTED[:, None], GROUND_TRUTH[:, None]).tolist()[0] == [1, 1, 1]


def test_counts_of_one_mask_are_those_of_a_batch(random_masks):
    counts = pixel_counts(*map(torch.from_numpy, random_masks)).tolist()
    assert [list(mask_counts(*pair)) for pair in zip(*random_masks, strict=True)] == counts


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and true masks \(1, 2, 3\)"):
        pixel_counts(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((2, 1, 3), [4 / 8, 2 / 6, 2 / 3, 2 / 5, 10 / (10 + 12 + 1)]),
        ((4, 0, 0), [1, 1, 1, 1, 1]),
        ((0, 0, 0), [1, 1, 1, 1, 1]),  # both masks are empty
        ((0, 0, 7), [0, 0, 0, 0, 0]),  # the prediction is empty
        ((0, 7, 0), [0, 0, 0, 0, 0]),  # the ground truth is empty
        ((0, 2, 3), [0, 0, 0, 0, 0]),  # neither is empty, and nothing overlaps
    ],
)
def test_scores_by_hand(counts, expected):
    assert scores_of(*counts) == pytest.approx(expected)


def test_scores_are_scikit_learns(random_masks):
    predicted, ground_truth = (masks.reshape(len(masks), -1).T for masks in random_masks)  # a column an image
    scores = overlap_scores(*pixel_counts(*map(torch.from_numpy, random_masks)).numpy().T)
    precision, recall, dice, _ = precision_recall_fscore_support(ground_truth, predicted, average=None)
    np.testing.assert_allclose(scores["dice"], dice, rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores["precision"], precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores["recall"], recall, rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores["iou"], jaccard_score(ground_truth, predicted, average=None), rtol=0, atol=1e-12)
    f2 = fbeta_score(ground_truth, predicted, beta=2, average=None)
    np.testing.assert_allclose(scores["f2"], f2, rtol=0, atol=1e-12)


def test_dice_of_two_masks(random_masks):
    expected = overlap_scores(*pixel_counts(*map(torch.from_numpy, random_masks)).numpy().T)["dice"]
    assert [mask_dice(*pair) for pair in zip(*random_masks, strict=True)] == expected.tolist()
    empty, full = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    assert (mask_dice(empty, empty), mask_dice(empty, full), mask_dice(full, full)) == (1, 0, 1)


def test_scores_keep_the_shape_of_the_counts():
    tp, fp, fn = np.arange(6).reshape(2, 3), np.ones((2, 3)), np.zeros((2, 3))
    assert {values.shape for values in overlap_scores(tp, fp, fn).values()} == {(2, 3)}
