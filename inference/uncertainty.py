"""How unsure a probability map is of its own mask."""

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
