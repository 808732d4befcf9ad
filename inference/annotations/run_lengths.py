"""Masks as lengths of runs: background, polyp, background and so on."""

from itertools import pairwise

import numpy as np


def run_lengths(
    lines: np.ndarray, first_line: int = 0, offset: int = 0, line_length: int = 0, total: int = 0
) -> list[int]:
    """The lengths of the runs of a picture that is background but for a part of it, in the order of its lines.

    Args:
        lines: (N, L) bool, the part: rows, or the columns if the picture is read by columns.
        first_line, offset: Where in the picture it begins.
        line_length: Pixels of a line of the picture; 0: the part is all of it.
        total: Pixels of the picture; 0 likewise.

    Returns:
        Lengths, in turns of background and of polyp. The first, of background, may be 0; a last one of 0 is left out.
    """
    line_length, total = line_length or lines.shape[1], total or lines.size
    edges = np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    line, start = np.nonzero(edges == 1)
    _, end = np.nonzero(edges == -1)
    before = (first_line + line) * line_length + offset
    starts, ends = before + start, before + end
    goes_on = starts[1:] == ends[:-1]  # from the end of a line to the next one
    starts, ends = starts[np.append(True, ~goes_on)[: len(starts)]], ends[np.append(~goes_on, True)[-len(ends) :]]
    bounds = [0, *np.stack([starts, ends], axis=1).ravel().tolist(), total]
    lengths = [stop - start for start, stop in pairwise(bounds)]
    return lengths if lengths[-1] else lengths[:-1]
