"""Shapes that annotation programs draw, and the pixels that they cover.

Coordinates are in pixels from the top left corner of the image: the pixel in column x and row y covers x to x + 1 and
y to y + 1. A pixel belongs to a polygon if its centre lies inside: the rule of pycocotools, which moves corners to the
nearest fifth of a pixel first. Circles, ellipses and turned rectangles are polygons, with so many corners that these
are nowhere further than a twentieth of a pixel from the curve. Where a polygon covers itself twice, as along the cut
that leads to a hole, even-odd counts: inside is what a ray to the outside crosses an odd number of times.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..mask_runs import checked_lengths, run_lengths

Size: TypeAlias = tuple[int, int]  # width and height
Runs: TypeAlias = dict[str, Any]  # COCO's: "size" (height, width) and compressed "counts"

MAX_COORDINATE = 1e6  # pixels; the rasteriser's memory grows with the length of the outline
SAGITTA = 0.05  # pixels between a curve and its polygon, at most
OUTSIDE = 1e-6  # pixels beyond the frame that are rounding
# Area in pixels, and share of the polygon's, of the loops that a freehand outline may make.
LOOPS, LOOP_SHARE = 2.0, 0.01


class EntryError(ValueError):
    """An entry of an annotations file cannot be used; the message goes on from the entry's name, without full stop."""


@dataclass(frozen=True)
class Polygons:
    """The union of polygons.

    Attributes:
        parts: Each (N, 2) float, x and y.
        is_relative: In units of the image's width and height, in place of pixels.
    """

    parts: Sequence[np.ndarray]
    is_relative: bool = False


@dataclass(frozen=True)
class Bitmap:
    """Pixels within a box.

    Attributes:
        pixels: (h, w) bool.
        left, top: Column and row of its first pixel in the image.
    """

    pixels: np.ndarray
    left: int
    top: int


@dataclass(frozen=True)
class ImageRuns:
    """Run lengths of all of the image, along columns.

    Attributes:
        counts: Lengths, background first; or the same compressed, as COCO does.
        size: Of the image that they are of.
    """

    counts: bytes | Sequence[int]
    size: Size


Shape: TypeAlias = Polygons | Bitmap | ImageRuns


def polygon(points: np.ndarray, is_relative: bool = False) -> Polygons:
    """One polygon, (N, 2)."""
    return Polygons([points], is_relative)


def rectangle(left: float, top: float, width: float, height: float, degrees: float = 0.0) -> Polygons:
    """A rectangle, turned clockwise around its top left corner.

    Raises:
        EntryError: If it has no area.
    """
    if not (width > 0 and height > 0):
        raise EntryError(f"has a rectangle of {width:g}x{height:g} pixels: expected more than 0. Draw it anew")
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=float)
    return polygon(corners @ _turn(degrees) + (left, top))


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> Polygons:
    """An ellipse, turned clockwise around its centre.

    Raises:
        EntryError: If it has no area.
    """
    largest = max(radius_x, radius_y)
    if not (radius_x > 0 and radius_y > 0 and largest <= MAX_COORDINATE):
        raise EntryError(f"has radii of {radius_x:g} and {radius_y:g} pixels: expected more than 0. Draw it anew")
    count = max(16, math.ceil(math.pi / math.acos(max(0.0, 1 - SAGITTA / largest))))
    angles = np.arange(count) * (2 * math.pi / count)
    curve = np.stack([radius_x * np.cos(angles), radius_y * np.sin(angles)], axis=1)
    return polygon(curve @ _turn(degrees) + (x, y))


def _turn(degrees: float) -> np.ndarray:
    """What rows of x and y are multiplied with, to turn them clockwise as seen on an image, whose y points down."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cosine, sine], [-sine, cosine]])


def runs_of_shape(shape: Shape, size: Size) -> tuple[Runs, bool]:
    """The pixels of a shape in an image.

    Args:
        shape: As it was drawn.
        size: Of the image.

    Returns:
        The runs, and whether some of the shape lay outside of the image.

    Raises:
        EntryError: If it cannot be a region of such an image.
    """
    if isinstance(shape, Polygons):
        return _runs_of_polygons(shape, size)
    if isinstance(shape, Bitmap):
        return _runs_of_bitmap(shape, size)
    return _checked_runs(shape, size), False


def merged(runs: Sequence[Runs], size: Size) -> bytes:
    """The union of some regions of an image, as compressed runs; without any, the empty mask."""
    from pycocotools import mask as coco_mask

    if not runs:
        width, height = size
        return bytes(coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))["counts"])
    return bytes((runs[0] if len(runs) == 1 else coco_mask.merge(list(runs)))["counts"])


def area_of(runs: Runs) -> int:
    """Number of pixels in some runs."""
    from pycocotools import mask as coco_mask

    return int(coco_mask.area(runs))


def runs_of_pixels(pixels: np.ndarray) -> ImageRuns:
    """The runs of all pixels of an image, (H, W) bool, which take less memory."""
    from pycocotools import mask as coco_mask

    height, width = pixels.shape
    return ImageRuns(bytes(coco_mask.encode(np.asfortranarray(pixels, np.uint8))["counts"]), (width, height))


def _runs_of_bitmap(shape: Bitmap, size: Size) -> tuple[Runs, bool]:
    width, height = size
    rows, columns = shape.pixels.shape
    left, top = max(0, shape.left), max(0, shape.top)
    right, bottom = min(width, shape.left + columns), min(height, shape.top + rows)
    if right <= left or bottom <= top:
        raise EntryError(_nowhere((shape.left, shape.top, shape.left + columns, shape.top + rows), size))
    inside = shape.pixels[top - shape.top : bottom - shape.top, left - shape.left : right - shape.left]
    pixels = np.zeros((height, width), dtype=bool)
    pixels[top:bottom, left:right] = inside
    return _coco(runs_of_pixels(pixels)), bool(inside.sum() < shape.pixels.sum())


def _coco(runs: ImageRuns) -> Runs:
    return {"size": [runs.size[1], runs.size[0]], "counts": runs.counts}


def _checked_runs(shape: ImageRuns, size: Size) -> Runs:
    from pycocotools import mask as coco_mask

    if shape.size != size:
        found, wanted = (f"{width}x{height}" for width, height in (shape.size, size))
        raise EntryError(f"has run lengths of a mask of {found} pixels, and the image has {wanted}. Export it anew")
    try:
        if isinstance(shape.counts, bytes):
            run_lengths(shape.counts, size)
            return _coco(shape)
        lengths = checked_lengths(np.asarray(shape.counts, dtype=np.int64), size)
    except OverflowError as error:
        raise EntryError("has a run that is longer than any image. Export it anew") from error
    except (ValueError, TypeError) as error:
        raise EntryError(f"has run lengths that are damaged: it {error}. Export it anew") from error
    width, height = size
    found = coco_mask.frPyObjects({"size": [height, width], "counts": lengths.tolist()}, height, width)
    return dict(found)


def _runs_of_polygons(shape: Polygons, size: Size) -> tuple[Runs, bool]:
    from pycocotools import mask as coco_mask

    found: list[Runs] = []
    is_clipped = False
    for part in shape.parts:
        points = part * size if shape.is_relative else part
        rings, is_cut = _rings_within(points, size)
        is_clipped |= is_cut
        height_width = (size[1], size[0])
        runs = coco_mask.frPyObjects([ring.ravel().tolist() for ring in rings], *height_width)
        if (
            len(runs) > 1
        ):  # clipped into pieces, or with holes: those are cut out where an odd number lies above another
            pixels = np.bitwise_xor.reduce([coco_mask.decode(one) for one in runs]).astype(bool)
            runs = [_coco(runs_of_pixels(pixels))]
        found += runs
    return (found[0] if len(found) == 1 else coco_mask.merge(found)), is_clipped


def _rings_within(points: np.ndarray, size: Size) -> tuple[list[np.ndarray], bool]:
    """The outlines of a polygon within the image, and whether some of it lay outside."""
    import shapely

    _check_points(points)
    area = shapely.Polygon(points)
    if not area.is_valid:
        area = _without_crossing(area, points)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    if left >= -OUTSIDE and top >= -OUTSIDE and right <= size[0] + OUTSIDE and bottom <= size[1] + OUTSIDE:
        return [points], False
    inside = shapely.intersection(area, shapely.box(0, 0, *size))
    pieces = [piece for piece in shapely.get_parts(inside) if piece.geom_type == "Polygon" and piece.area > 0]
    if not pieces:
        raise EntryError(_nowhere((left, top, right, bottom), size))
    rings = [ring for piece in pieces for ring in (piece.exterior, *piece.interiors)]
    return [np.asarray(ring.coords)[:-1] for ring in rings], True


def _check_points(points: np.ndarray) -> None:
    different = len(set(map(tuple, points.tolist())))
    if different < 3:
        raise EntryError(
            f"has a polygon of {different} different points: expected 3 or more. Draw it anew or remove it"
        )
    if not np.isfinite(points).all() or np.abs(points).max() > MAX_COORDINATE:
        raise EntryError("has points that are no pixels of an image. Draw it anew or remove it")


def _without_crossing(area: Any, points: np.ndarray) -> Any:
    """The same area as valid polygons.

    Raises:
        EntryError: If it crosses itself: a loop that is wound the other way takes away from the area.
    """
    import shapely

    loops = np.array([_valid(shapely.Polygon(loop), loop) for loop in _loops(points)])
    # One loop may lie in another, which is a hole, or outside; if they overlap, what is in both would be left out.
    first, second = loops[shapely.STRtree(loops).query(loops, predicate="overlaps")]
    common, smaller = shapely.area(shapely.intersection(first, second)), np.minimum(*shapely.area([first, second]))
    if (np.minimum(common, smaller - common) > np.maximum(LOOPS, LOOP_SHARE * smaller)).any():
        raise _crossing(area)
    return _made_valid(area)


def _loops(points: np.ndarray) -> list[np.ndarray]:
    """Parts of an outline between two visits of one corner, as of the line that joins two parts or leads to a hole.

    Programs of YOLO's join all parts of a region so, however each is wound.
    """
    loops: list[list[tuple[float, ...]]] = []
    path: list[tuple[float, ...]] = []
    places: dict[tuple[float, ...], int] = {}
    for point in map(tuple, points.tolist()):
        if point in places:
            start = places[point]
            loops.append(path[start:])
            for passed in path[start + 1 :]:
                del places[passed]
            del path[start + 1 :]
        else:
            places[point] = len(path)
            path.append(point)
    return [np.array(loop) for loop in [*loops, path] if len(loop) > 2]


def _valid(area: Any, points: np.ndarray) -> Any:
    """A loop as valid polygons; refused if it makes loops of its own that are more than those of an unsteady hand."""
    if area.is_valid:
        return area
    valid = _made_valid(area)
    x, y = (points - points.mean(axis=0)).T
    wound = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    if abs(valid.area - wound) > max(LOOPS, LOOP_SHARE * valid.area):
        raise _crossing(area)
    return valid


def _made_valid(area: Any) -> Any:
    import shapely

    parts = shapely.get_parts(shapely.make_valid(area))
    return shapely.union_all([part for part in parts if part.geom_type in ("Polygon", "MultiPolygon")])


def _crossing(area: Any) -> EntryError:
    import shapely

    where = shapely.is_valid_reason(area).partition("[")[2].rstrip("]").replace(" ", ", ")
    return EntryError(f"has a polygon that crosses itself near ({where}): which part is meant? Draw it anew")


def _nowhere(box: Iterable[float], size: Size) -> str:
    left, top, right, bottom = (f"{value:g}" for value in box)
    return (
        f"lies outside of its image: from ({left}, {top}) to ({right}, {bottom}), where the image has "
        f"{size[0]}x{size[1]} pixels. Draw it anew, or remove it"
    )
