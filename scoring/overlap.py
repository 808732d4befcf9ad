"""How well two masks overlap: pixels that are true positive, false positive and false negative, and scores of these.

    tp, fp, fn = pixel_counts(predicted, ground_truth).numpy().T
    overlap_scores(tp, fp, fn)["dice"]  # of each image

If ground truth and prediction are both empty, all scores are 1. If only one of them is empty, all are 0.
"""

import numpy as np
import torch
from torch import Tensor

COUNTS = ("tp", "fp", "fn")
OVERLAP_SCORES = ("dice", "iou", "precision", "recall", "f2")


def pixel_counts(predicted: Tensor, ground_truth: Tensor) -> Tensor:
    """Count the pixels of each image that are true positive, false positive and false negative.

    Args:
        predicted, ground_truth: (B, ..., H, W), nonzero where there is polyp.

    Returns:
        (B, 3) int64, in the order of `COUNTS`.

    Raises:
        ValueError: If the shapes differ.
    """
    if predicted.shape != ground_truth.shape:
        raise ValueError(
            f"Predicted masks have the shape {tuple(predicted.shape)} and true masks {tuple(ground_truth.shape)}; "
            "expected one shape."
        )
    predicted, ground_truth = predicted.bool().flatten(1), ground_truth.bool().flatten(1)
    tp = (predicted & ground_truth).sum(1)
    return torch.stack((tp, predicted.sum(1) - tp, ground_truth.sum(1) - tp), dim=1)


def mask_counts(predicted: np.ndarray, ground_truth: np.ndarray) -> tuple[int, int, int]:
    """The `pixel_counts` of one image, from (H, W) bool arrays."""
    tp = int((predicted & ground_truth).sum())
    return tp, int(predicted.sum()) - tp, int(ground_truth.sum()) - tp


def dice(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """Dice of pixel counts of any one shape, 1 where all three are 0."""
    return np.where(tp + fp + fn == 0, 1.0, ratio(2 * tp, 2 * tp + fp + fn))


def overlap_scores(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> dict[str, np.ndarray]:
    """The `OVERLAP_SCORES` of pixel counts.

    Args:
        tp, fp, fn: Of any one shape: of images, or summed over images for pooled (micro-averaged) scores.

    Returns:
        float64 of the same shape for each score.
    """
    both_empty = tp + fp + fn == 0
    return {
        "dice": dice(tp, fp, fn),
        "iou": np.where(both_empty, 1.0, ratio(tp, tp + fp + fn)),
        "precision": np.where(tp + fp == 0, both_empty, ratio(tp, tp + fp)),
        "recall": np.where(tp + fn == 0, both_empty, ratio(tp, tp + fn)),
        "f2": np.where(both_empty, 1.0, ratio(5 * tp, 5 * tp + 4 * fn + fp)),
    }


def mask_dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice of two (H, W) bool masks; 1 if both are empty."""
    tp, fp, fn = np.array(mask_counts(first, second))
    return float(dice(tp, fp, fn))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.not_equal(whole, 0))
