"""How unsure a prediction is: of its mask as a whole, and, by the spread of several maps, of each pixel."""

import numpy as np


def mask_uncertainty(probability: np.ndarray, mask: np.ndarray) -> float:
    """1 minus the Dice that a mask can be expected to have if the probabilities are true.

    The expectation is taken of numerator and denominator apart, as soft Dice does: 2 Σpm / (Σp + Σm).

    Args:
        probability: (H, W) float, the probability of polyp.
        mask: (H, W) bool, the mask that was made of it.

    Returns:
        From 0, sure, to 1. Without any pixel of polyp in the mask it is 1 unless all probabilities are 0, and then
        says little: whether there is a polyp at all is what presence tells.
    """
    total = float(probability.sum(dtype=np.float64)) + int(np.count_nonzero(mask))
    if total == 0:
        return 0.0
    return 1.0 - 2.0 * float(probability.sum(dtype=np.float64, where=mask)) / total


class Spread:
    """The standard deviation of maps that come one by one.

    Args:
        first: (H, W) float32, the first map.

    Attributes:
        first: A copy of it.
    """

    def __init__(self, first: np.ndarray):
        self.first = first.copy()
        # Sums of differences from the first map, which are exact where the maps hardly differ.
        self._sum = np.zeros_like(first)
        self._squares = np.zeros_like(first)
        self._count = 1

    def add(self, other: np.ndarray) -> None:
        """Add a further map (H, W)."""
        difference = other - self.first
        self._sum += difference
        difference *= difference
        self._squares += difference
        self._count += 1

    def deviation(self) -> np.ndarray:
        """(H, W) float32, the standard deviation of the maps as they are (divided by their number): at most 0.5."""
        mean = self._sum / self._count
        variance = self._squares / self._count - mean * mean
        return np.sqrt(np.maximum(variance, 0, out=variance), out=variance)
