"""The field of view: where the picture lies in a frame that an endoscopy system drew a black border and text into.

    box = find_field_of_view(frame)  # (H, W, 3) -> (left, top, right, bottom), or None: all of the frame is picture
    box = choose_box("auto", frame)  # the same by the setting `field_of_view` of the image processor

Needs numpy alone: the Hub runs it without the rest of the project, and ONNX files are used without PyTorch.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np

from .regions_unet import number_regions, runs_of

# First column, first row, and column and row after the last, in pixels.
Box: TypeAlias = tuple[int, int, int, int]

# The rule of `find_field_of_view`. Levels are grey levels of a pixel's brightest channel.
SAMPLES = 512  # at most so many pixels of a side are looked at
CELL = 4  # samples along the side of a cell
MOST_BLACK = 32  # level up to which an edge of the frame counts as black
CONTRAST, DEVIATIONS = 6, 3  # a lit pixel exceeds the black by so many levels, and by so many deviations of its noise
NOISE = 10  # levels above its lowest that the black's noise may reach
CORE = 0.2  # share of the picture's median level that its cells reach: JPEG spreads less of the picture's red so far
GAP = 0.015  # beside the picture this share of the frame's side is black
LIT_IN_GAP = 0.2  # but for so many of its pixels: text
LIT_BESIDE, LIT_AT_SIDE = 0.5, 0.25  # the picture begins where so many pixels reach so much of the level inside
SMALLEST_BORDER = 0.015  # of the frame's side: less is not cut off
SMALLEST_PICTURE = 0.2  # of the frame's area: what is less is not taken for the picture
OTHER_PICTURE = 0.3  # of the picture's area: what is as large beside it is no thumbnail, and belongs to it
FRAMES = 25  # of a video, over which the rectangle is found
NO_PICTURE = (
    "is black all over: there is no picture to find in it. If it is to be segmented nonetheless, set the field of "
    "view to none"
)


def read_field_of_view(value: Any) -> "str | Box | None":
    """
    The setting `field_of_view` in one form.

    Args:
        value: `None` or "none"; "auto"; or left, top, right and bottom in pixels of the frame, right and bottom the
            first outside: four whole numbers, or a text such as "80,0,1360,1024".

    Returns:
        `None`, "auto", or the four numbers.

    Raises:
        ValueError: it is something else, or the rectangle is empty or begins outside of any frame.
    """
    if value is None or (isinstance(value, str) and value in ("none", "auto")):
        return None if value == "none" else value
    numbers: Any = value
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
        numbers = [int(part) if part.isascii() and part.isdigit() else part for part in parts]
    is_box = isinstance(numbers, Sequence) and not isinstance(numbers, str) and len(numbers) == 4
    if not is_box or not all(isinstance(side, Integral) and not isinstance(side, bool) for side in numbers):
        raise ValueError(
            f'Got field_of_view={value!r}; expected "none", "auto", or left, top, right and bottom in pixels, four '
            "whole numbers such as 80,0,1360,1024."
        )
    left, top, right, bottom = (int(side) for side in numbers)
    if not (0 <= left < right and 0 <= top < bottom):
        raise ValueError(
            f"Got field_of_view={value!r}, an empty rectangle or one that begins outside the frame; expected left, "
            "top, right and bottom in pixels, right and bottom the first outside: 0 <= left < right and "
            "0 <= top < bottom."
        )
    return left, top, right, bottom


def field_of_view_text(value: Any) -> str:
    """The setting as flags and files of settings hold it: "none", "auto" or "80,0,1360,1024"; errors as above."""
    setting = read_field_of_view(value)
    return "none" if setting is None else setting if isinstance(setting, str) else ",".join(map(str, setting))


def choose_box(value: Any, frame: np.ndarray) -> Box | None:
    """
    The rectangle of a frame that the network is to see.

    Args:
        value: the setting, as `read_field_of_view` takes it.
        frame: (H, W, 3) grey levels 0 to 255, upright.

    Returns:
        The rectangle; `None` if it is all of the frame.

    Raises:
        ValueError: the setting is invalid, or a rectangle that does not lie within the frame.
    """
    setting = read_field_of_view(value)
    if setting is None or isinstance(setting, str):
        return None if setting is None else find_field_of_view(frame)
    return box_within(setting, frame.shape[0], frame.shape[1])


def box_within(box: Box, height: int, width: int) -> Box | None:
    """
    A rectangle, if it lies within a frame; `None` if it is all of it.

    Raises:
        ValueError: it does not.
    """
    if box[2] > width or box[3] > height:
        raise ValueError(
            f"The field of view {','.join(map(str, box))} (left, top, right, bottom) does not lie within the frame of "
            f"{width}x{height} pixels. Name the rectangle of frames of this size, or take auto."
        )
    return None if box == (0, 0, width, height) else box


def crop_to(values: np.ndarray, box: Box | None) -> np.ndarray:
    """A view of what an array (H, W, ...) holds in a rectangle; of `None` all of it."""
    return values if box is None else values[box[1] : box[3], box[0] : box[2]]


def in_whole_frame(values: np.ndarray, box: Box | None, height: int, width: int) -> np.ndarray:
    """A map (h, w) of the rectangle as a map (height, width) of the frame, 0 outside; `None`: it is one already."""
    if box is None:
        return values
    whole = np.zeros((height, width), values.dtype)
    crop_to(whole, box)[:] = values
    return whole


def brightest(frames: Iterable[np.ndarray]) -> np.ndarray | None:
    """The pixelwise maximum of frames of one size, as the rule looks at a video; `None` of no frames."""
    total: np.ndarray | None = None
    for frame in frames:
        total = frame.copy() if total is None else np.maximum(total, frame, out=total)
    return total


def is_black(frame: np.ndarray) -> bool:
    """Whether a frame (H, W, 3) is black all over, so that there is no picture to find in it."""
    return int(frame.max(initial=0)) <= MOST_BLACK


def find_field_of_view(frame: np.ndarray) -> Box | None:
    """
    Find the rectangle of the picture in a frame with a black border, and text or small pictures in it.

    The black is the level that a tenth of the frame's edge does not exceed. Cells of some 1 % of the frame's side are
    lit if most of their pixels are brighter: strokes of text are not. The picture is the largest region of lit cells,
    with others that are nearly as large. Each side of its bounding box moves outwards until a strip beside it is black
    but for text, and then to where the picture begins. Less than `SMALLEST_BORDER` is not cut off.

    Args:
        frame: (H, W, 3) grey levels 0 to 255.

    Returns:
        The rectangle; `None` if it is all of the frame, or none that is sure: the frame has no black edge, is black
        all over, or too little of it is lit.
    """
    height, width = frame.shape[:2]
    step = -(-max(height, width) // SAMPLES)
    levels = _levels(frame[::step, ::step])
    if min(levels.shape) < 4 * CELL:
        return None
    black = _edge_level(levels)
    if black > MOST_BLACK:
        return None
    threshold = _threshold(levels, black)
    lit = levels > threshold
    if not lit.any():
        return None
    cells = _picture_cells(levels > max(threshold, CORE * float(np.median(levels[lit]))))
    if cells is None:
        return None
    left, top, right, bottom = _box_of_cells(cells, lit)
    # Each side as the left one of the frame turned or mirrored; distances are from the frame's edge, in samples.
    turned, turned_cells = frame.swapaxes(0, 1), cells.T
    rest_across, rest_down = lit.shape[1] - right, lit.shape[0] - bottom
    borders = (
        _border(frame, cells, left, threshold, step),
        _border(turned, turned_cells, top, threshold, step),
        _border(frame[:, ::-1], cells[:, ::-1], rest_across, threshold, step),
        _border(turned[:, ::-1], turned_cells[:, ::-1], rest_down, threshold, step),
    )
    box = borders[0], borders[1], width - borders[2], height - borders[3]
    return None if box == (0, 0, width, height) else box


def _levels(frame: np.ndarray) -> np.ndarray:
    """The brightest channel of each pixel: (H, W, 3) -> (H, W)."""
    return np.maximum(np.maximum(frame[..., 0], frame[..., 1]), frame[..., 2])


def _edge_level(levels: np.ndarray) -> float:
    """The level that a tenth of the pixels along the frame's edge do not exceed: that of its border, if it has one."""
    edges = levels[:CELL], levels[-CELL:], levels[:, :CELL], levels[:, -CELL:]
    ring = np.concatenate([edge.ravel() for edge in edges])
    return float(np.partition(ring, len(ring) // 10)[len(ring) // 10])


def _threshold(levels: np.ndarray, black: float) -> float:
    """The level that lit pixels exceed, by the noise of those that may belong to the border."""
    dark = levels[levels <= black + NOISE]
    return float(dark.mean() + max(CONTRAST, DEVIATIONS * dark.std()))


def _picture_cells(lit: np.ndarray) -> np.ndarray | None:
    """Which cells (h, w) belong to the picture; `None` if no region of them is large enough."""
    height, width = (length // CELL for length in lit.shape)
    pixels = lit[: height * CELL, : width * CELL].view(np.uint8)
    rows = reduce(np.add, [pixels[i::CELL] for i in range(CELL)])  # slices are faster than sums over short axes
    cells = reduce(np.add, [rows[:, i::CELL] for i in range(CELL)]) > CELL * CELL // 2
    if not cells.any():
        return None
    _, changes = runs_of(cells, cells)
    starts, ends = changes[::2], changes[1::2]
    regions = number_regions(starts, ends, row_length=width + 1)
    areas = np.zeros(len(starts), np.int64)  # at the first run of each region
    np.add.at(areas, regions, ends - starts)
    is_kept = (areas >= OTHER_PICTURE * areas.max())[regions]
    line = np.zeros(height * (width + 1) + 1, np.int8)  # +1 where a run begins, -1 after it
    line[starts[is_kept]] += 1
    line[ends[is_kept]] -= 1
    kept = np.cumsum(line, dtype=np.int8)[:-1].reshape(height, width + 1)[:, :width].view(bool)
    return kept if kept.sum() >= SMALLEST_PICTURE * kept.size else None


def _box_of_cells(cells: np.ndarray, lit: np.ndarray) -> Box:
    """The bounding box of the picture's cells in samples, moved outwards to where it is black."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    height, width = lit.shape
    left, top = int(columns[0]) * CELL, int(rows[0]) * CELL
    # What does not fill a cell, at the right and below, goes with the last one.
    right = width if columns[-1] == cells.shape[1] - 1 else int(columns[-1] + 1) * CELL
    bottom = height if rows[-1] == cells.shape[0] - 1 else int(rows[-1] + 1) * CELL
    across, down = lit[top:bottom].mean(axis=0), lit[:, left:right].mean(axis=1)
    right, bottom = _to_black(across, right), _to_black(down, bottom)
    left, top = width - _to_black(across[::-1], width - left), height - _to_black(down[::-1], height - top)
    return left, top, right, bottom


def _to_black(shares: np.ndarray, end: int) -> int:
    """The first place from `end` on behind which a strip is black but for text, by the lit share of each line."""
    gap = max(1, int(GAP * len(shares) + 0.5))
    while end < len(shares) and shares[end : end + gap].mean() > LIT_IN_GAP:
        end += 1
    return end


def _border(frame: np.ndarray, cells: np.ndarray, samples: int, threshold: float, step: int) -> int:
    """
    The width in pixels of the border at the left of a frame: up to the first column that is lit.

    Looked at are the rows where the picture comes near: of a round picture, those are few.

    Args:
        frame: (H, W, 3).
        cells: (h, w) bool, those of the picture.
        samples: where it ends by the samples.
        threshold: lit pixels exceed it.
        step: pixels from one sample to the next.

    Returns:
        The width; 0 if it is not above `SMALLEST_BORDER`.
    """
    if samples == 0:
        return 0
    first = int(np.flatnonzero(cells.any(axis=0))[0])
    near = np.flatnonzero(np.repeat(cells[:, first : first + 3].any(axis=1), CELL)) * step
    reach = step * CELL
    start = max(0, samples * step - reach)
    levels = _levels(frame[near, start : samples * step + 2 * reach])
    inside = levels[:, -reach:]
    inside = inside[inside > threshold]
    lit = levels > max(threshold, LIT_BESIDE * float(np.median(inside)) if inside.size else 0)
    begins = np.flatnonzero(lit.mean(axis=0) >= LIT_AT_SIDE)
    border = start + int(begins[0]) if len(begins) else samples * step
    return border if border > SMALLEST_BORDER * frame.shape[1] else 0
