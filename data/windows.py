"""Windows without polyp: square parts of frames in which no pixel is labelled, as examples of normal mucosa.

Every frame of Kvasir-SEG shows a polyp, so that windows are the only normal mucosa in it.

    for window in negative_windows(splits["validation"], count=500, seed=0):
        image = window.crop(load_sample(splits["validation"][window.index]).image)
"""

import math
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from PIL import Image

from ..common.mask_rules import USUAL_MASKS, MaskRules
from .samples import DatasetError, load_sample

SMALLEST_SHARE = 0.25  # of the frame's short side


@dataclass(frozen=True)
class NegativeWindow:
    """A window without polyp.

    Attributes:
        index: Place of its frame in the split.
        rows, columns: Where it lies in the upright frame, in pixels.
    """

    index: int
    rows: slice
    columns: slice

    def crop(self, frame: Image.Image) -> Image.Image:
        """The window of its frame, which is upright and of its original size."""
        return frame.crop((self.columns.start, self.rows.start, self.columns.stop, self.rows.stop))


def draw_window(ground_truth: np.ndarray, generator: np.random.Generator) -> tuple[slice, slice] | None:
    """Draw a square without polyp: its side, then its place, each of those that fit being equally likely.

    Args:
        ground_truth: (H, W) bool, True for polyp.
        generator: Source of the two draws.

    Returns:
        Its rows and columns. The side is at least 25 % of the frame's short side, and at most all of it. None if no
        such square is free of polyp.
    """
    short_side = min(ground_truth.shape)
    smallest = math.ceil(SMALLEST_SHARE * short_side)
    # sums[y, x]: labelled pixels above row y and left of column x, so that those of a square are four lookups.
    sums = np.pad(ground_truth, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.int32).cumsum(axis=1)
    largest = _largest_free_side(sums, smallest, short_side)
    if largest is None:
        return None
    side = int(generator.integers(smallest, largest + 1))
    tops, lefts = np.nonzero(_free_places(sums, side))
    place = generator.integers(len(tops))
    top, left = int(tops[place]), int(lefts[place])
    return slice(top, top + side), slice(left, left + side)


def negative_windows(
    rows: Dataset, count: int, seed: int, mask_rules: MaskRules = USUAL_MASKS
) -> list[NegativeWindow]:
    """A fixed list of windows of a split: from every frame one, then from every frame another, until there are enough.

    Args:
        rows: A split, as `load_splits` gives it.
        count: Number of windows.
        seed: The same seed gives the same list, of which a shorter list is the beginning.
        mask_rules: How masks are read.

    Raises:
        DatasetError: If a mask cannot be read, or no frame has room for a window.
    """
    windows: list[NegativeWindow] = []
    # Frames without room for a window leave the round, which ends once there are enough or no frame is left.
    in_round = np.random.default_rng(seed).permutation(len(rows)).tolist()
    generators = {index: np.random.default_rng((seed, index)) for index in in_round}
    while in_round:
        for index in list(in_round):
            place = draw_window(load_sample(rows[index], mask_rules).ground_truth, generators[index])
            if place is None:
                in_round.remove(index)
                continue
            windows.append(NegativeWindow(index, *place))
            if len(windows) == count:
                return windows
    raise DatasetError(
        f"None of the {len(rows)} frames has room for a window without polyp, a square of at least "
        f"{SMALLEST_SHARE:.0%} of the frame's short side."
    )


def _largest_free_side(sums: np.ndarray, smallest: int, largest: int) -> int | None:
    """The largest side, from `smallest` to `largest`, of a square without polyp; None if there is none.

    A free square holds free squares of every smaller side, so that the sides can be bisected.
    """
    if not _free_places(sums, smallest).any():
        return None
    fits, too_large = smallest, largest + 1
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if _free_places(sums, middle).any():
            fits = middle
        else:
            too_large = middle
    return fits


def _free_places(sums: np.ndarray, side: int) -> np.ndarray:
    """(H - side + 1, W - side + 1) bool: whether the square with its top left corner there is free of polyp."""
    labelled = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return labelled == 0
