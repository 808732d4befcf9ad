"""The validation scores of a training, as an `evaluate` metric. It keeps pixel counts, never masks."""

import tempfile

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor

from .overlap import COUNTS, overlap_scores, pixel_counts


class PolypSegmentation(evaluate.Metric):
    """Dice, IoU, precision and recall of one foreground class, as an `evaluate` metric.

    "Per image" scores are means over images. "Pooled" scores add up the pixels of all images first (micro); precision
    and recall are pooled. `overlap.py` says how empty masks are scored.
    """

    def __init__(self):
        # All is kept in memory, but a folder is made; not in the home, which may be read-only.
        with tempfile.TemporaryDirectory() as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder)

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
        """Add the `pixel_counts` of a batch, (B, 3), on any device."""
        columns = torch.as_tensor(counts).cpu().numpy().T
        super().add_batch(**dict(zip(COUNTS, columns, strict=True)))

    def _compute(self, **columns: list[int]) -> dict[str, float]:
        counts = np.array([columns[name] for name in COUNTS])
        per_image, pooled = overlap_scores(*counts), overlap_scores(*counts.sum(axis=1))
        return {
            "dice_per_image": float(per_image["dice"].mean()),
            "iou_per_image": float(per_image["iou"].mean()),
            "dice_pooled": float(pooled["dice"]),
            "precision": float(pooled["precision"]),
            "recall": float(pooled["recall"]),
        }
