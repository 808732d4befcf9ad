"""From a mask to polygons with holes that lie at most one pixel from the outline of its pixels.

    for row, column, polygon in find_polygons(mask):
        polygon.exterior, polygon.holes

Coordinates are those of the tools: pixel (row, column) is the square from (column, row) to (column + 1, row + 1), and
a polygon covers the pixels whose centres are inside, as pycocotools has it. An outline goes through the middles of the
sides between polyp and background, so it passes between their centres; then points are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from pycocotools import mask as coco_masks
from scipy import ndimage

# Sides of a pixel, clockwise from the top: the step (row, column) to the neighbour beyond it, and along it.
OUTWARD = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
ALONG = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
# Pixels that an outline may move when points are left out, tried in this order; then it stays as it is. A corner of
# the mask lies 0.36 from an outline through the middles of its sides: 0.6 more is below one pixel.
TOLERANCES = (0.6, 0.3)
LEAST_IOU = 0.99  # of the pixels inside an outline before and after; thin lines would fall away
EXACT_LENGTH = 40  # sides of an outline around less than 100 pixels: one pixel that moved would be more than 1 %


@dataclass(frozen=True)
class Polygon:
    """Pixels that touch at their sides.

    Attributes:
        exterior: (N, 2) float, x and y of the points, the last not the first again.
        holes: Outlines of holes, likewise.
    """

    exterior: np.ndarray
    holes: Sequence[np.ndarray] = ()


def find_polygons(mask: np.ndarray) -> list[tuple[int, int, Polygon]]:
    """The polygons of a mask (H, W) bool, each with row and column of one of its pixels.

    Pixels that touch only at a corner are of two polygons. No two outlines touch before points are left out.
    """
    labels, _ = ndimage.label(mask)
    outlines: dict[int, list[np.ndarray]] = {}
    places: dict[int, tuple[int, int]] = {}
    for row, column, outline in _trace(mask):
        label = int(labels[row, column])
        places.setdefault(label, (row, column))  # the first outline, by rows, is the one around all others
        outlines.setdefault(label, []).append(outline)
    return [(*places[label], _simplify(rings)) for label, rings in outlines.items()]


def _trace(mask: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """The closed outlines of a mask, each with row and column of its first pixel by rows: (N, 2) x and y."""
    padded = np.pad(mask, 1)
    width = padded.shape[1]
    outward, along = OUTWARD @ (width, 1), ALONG @ (width, 1)  # as steps in the flattened mask
    flat = padded.ravel()
    pixels = np.flatnonzero(flat)
    on_side = [pixels[~flat[pixels + step]] for step in outward]  # those with background beyond the side
    # A number for each side of each pixel, in ascending order: those at the top come first.
    sides = np.concatenate([found + side * flat.size for side, found in enumerate(on_side)])
    following = np.concatenate([_next_sides(flat, found, side, outward, along) for side, found in enumerate(on_side)])
    next_index = np.searchsorted(sides, following).tolist()

    side, pixel = np.divmod(sides, flat.size)
    row, column = np.divmod(pixel, width)
    middles = np.stack([column - 0.5, row - 0.5], axis=1) + 0.5 * OUTWARD[side][:, ::-1]
    seen = bytearray(len(sides))
    outlines = []
    for start in range(len(on_side[0])):  # each outline has a side at the top
        index, chain = start, []
        while not seen[index]:
            seen[index] = 1
            chain.append(index)
            index = next_index[index]
        if chain:
            outlines.append((int(row[start]) - 1, int(column[start]) - 1, middles[chain]))
    return outlines


def _next_sides(flat: np.ndarray, pixels: np.ndarray, side: int, outward: np.ndarray, along: np.ndarray) -> np.ndarray:
    """The sides that follow on one side of these pixels, clockwise; pixels that touch at a corner are kept apart."""
    ahead = pixels + along[side]
    beyond = ahead + outward[side]
    turned_back = beyond + (side - 1) % 4 * flat.size
    straight_on = ahead + side * flat.size
    around_corner = pixels + (side + 1) % 4 * flat.size
    return np.where(flat[ahead], np.where(flat[beyond], turned_back, straight_on), around_corner)


def _simplify(outlines: Sequence[np.ndarray]) -> Polygon:
    """The polygon of an outline and of those of its holes, with as few points as `TOLERANCES` allow."""
    shorter = [_leave_out_points(outline) for outline in outlines]
    if len(shorter) > 1 and not shapely.is_valid(shapely.Polygon(shorter[0], shorter[1:])):
        shorter = [_on_lines(outline) for outline in outlines]  # or outlines would cross
    return Polygon(shorter[0], shorter[1:])


def _leave_out_points(outline: np.ndarray) -> np.ndarray:
    if len(outline) >= EXACT_LENGTH:
        ring = shapely.Polygon(outline)
        for tolerance in TOLERANCES:
            shorter = shapely.get_coordinates(shapely.simplify(ring, tolerance))[:-1]
            if _iou(outline, shorter) >= LEAST_IOU:
                return shorter
    return _on_lines(outline)


def _on_lines(outline: np.ndarray) -> np.ndarray:
    """An outline without the points that lie on a line with their neighbours."""
    before = outline - np.roll(outline, 1, axis=0)
    after = np.roll(outline, -1, axis=0) - outline
    return outline[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of the pixels inside two outlines."""
    corner = np.floor(first.min(axis=0))
    width, height = np.ceil(first.max(axis=0) - corner).astype(int) + 1
    rings = [(outline - corner).ravel().tolist() for outline in (first, second)]
    one, other = coco_masks.frPyObjects(rings, int(height), int(width))
    return float(coco_masks.iou([one], [other], [0])[0, 0])
