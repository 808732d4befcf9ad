"""Scores of predicted masks, computed from pixel counts so that no mask is kept."""

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor

COUNTS = ("true_positives", "false_positives", "false_negatives")


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
    overlap = (predicted & ground_truth).sum(1)
    return torch.stack((overlap, predicted.sum(1) - overlap, ground_truth.sum(1) - overlap), dim=1)


class PolypSegmentation(evaluate.Metric):
    """Dice, IoU, precision and recall of one foreground class, as an `evaluate` metric.

    "Per image" scores are means over images; an image whose true and predicted masks are both empty counts 1,
    an image where one of them is empty counts 0. "Pooled" scores add up the pixels of all images first.
    Precision and recall are pooled; where nothing is predicted, precision is 1 if there was nothing to find
    and else 0, and likewise recall where there is no polyp.
    """

    def __init__(self):
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Overlap of predicted and true masks of one foreground class.",
            citation="",
            features=datasets.Features({name: datasets.Value("int64") for name in COUNTS}),
        )

    def add_batch(self, *, predictions: Tensor, references: Tensor) -> None:
        """Add a batch of predicted and true masks, (B, H, W) each, nonzero where there is polyp."""
        self.add_counts(pixel_counts(torch.as_tensor(predictions), torch.as_tensor(references)))

    def add_counts(self, counts: np.ndarray | Tensor) -> None:
        """Add the `pixel_counts` of a batch, (B, 3)."""
        columns = np.asarray(counts).T
        super().add_batch(**dict(zip(COUNTS, columns, strict=True)))

    def _compute(self, **counts: list[int]) -> dict[str, float]:
        overlap, excess, missed = (np.asarray(counts[name]) for name in COUNTS)
        both_empty = overlap + excess + missed == 0
        denominator = np.where(both_empty, 1, overlap + excess + missed)
        iou = np.where(both_empty, 1.0, overlap / denominator)
        # Dice and IoU of one image are functions of each other.
        dice = 2 * iou / (1 + iou)
        return {
            "dice_per_image": float(dice.mean()),
            "iou_per_image": float(iou.mean()),
            "dice_pooled": _share(2 * overlap.sum(), (excess + missed).sum()),
            "precision": _share(overlap.sum(), excess.sum(), if_nothing=missed.sum() == 0),
            "recall": _share(overlap.sum(), missed.sum(), if_nothing=excess.sum() == 0),
        }


def _share(right: int, wrong: int, if_nothing: bool = True) -> float:
    """right / (right + wrong), and `if_nothing` (as 1 or 0) where both are 0."""
    return float(right / (right + wrong)) if right + wrong else float(if_nothing)
