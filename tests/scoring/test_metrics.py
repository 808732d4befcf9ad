"""Scores against values worked out by hand."""

import numpy as np
import pytest
import torch
from unet_kvasir_seg.scoring.metrics import PolypSegmentation
from unet_kvasir_seg.scoring.overlap import pixel_counts


def masks(*rows: str) -> torch.Tensor:
    """Masks (B, 1, W) from strings of 0 and 1."""
    return torch.tensor([[[int(pixel) for pixel in row]] for row in rows])


PREDICTED = masks("1100", "0000", "0000", "1110")
GROUND_TRUTH = masks("1010", "0000", "0011", "0000")


def test_scores_by_hand():
    metric = PolypSegmentation()
    metric.add_batch(predictions=PREDICTED[:1], references=GROUND_TRUTH[:1])
    metric.add_counts(pixel_counts(PREDICTED[1:], GROUND_TRUTH[1:]))
    scores = metric.compute()
    assert scores["dice_per_image"] == pytest.approx((1 / 2 + 1 + 0 + 0) / 4)
    assert scores["iou_per_image"] == pytest.approx((1 / 3 + 1 + 0 + 0) / 4)
    # Pooled: tp 1, fp 4, fn 3.
    assert scores["dice_pooled"] == pytest.approx(2 / 9)
    assert scores["precision"] == pytest.approx(1 / 5)
    assert scores["recall"] == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("predicted", "ground_truth", "expected"),
    [
        ("00", "00", {"dice_pooled": 1, "precision": 1, "recall": 1}),
        ("00", "01", {"dice_pooled": 0, "precision": 0, "recall": 0}),
        ("10", "00", {"dice_pooled": 0, "precision": 0, "recall": 0}),
        ("11", "11", {"dice_pooled": 1, "precision": 1, "recall": 1}),
    ],
)
def test_scores_of_empty_masks(predicted, ground_truth, expected):
    metric = PolypSegmentation()
    metric.add_batch(predictions=masks(predicted), references=masks(ground_truth))
    scores = metric.compute()
    assert {name: scores[name] for name in expected} == expected


def test_scores_do_not_depend_on_the_batches_and_start_afresh():
    rng = np.random.default_rng(0)
    predicted, ground_truth = (torch.tensor(rng.random((7, 5, 6)) > 0.5) for _ in range(2))
    metric = PolypSegmentation()
    metric.add_batch(predictions=predicted, references=ground_truth)
    at_once = metric.compute()
    for i in range(7):
        metric.add_batch(predictions=predicted[i : i + 1], references=ground_truth[i : i + 1])
    assert metric.compute() == pytest.approx(at_once)
    a, b = predicted.numpy(), ground_truth.numpy()
    expected = np.mean([2 * (x & y).sum() / (x.sum() + y.sum()) for x, y in zip(a, b, strict=True)])
    assert at_once["dice_per_image"] == pytest.approx(expected)
