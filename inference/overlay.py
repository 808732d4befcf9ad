"""Draws masks onto images: a tint inside, and contours that stay readable on pink mucosa.

    draw_overlay(image, mask).save("overlay.png")
    draw_overlay(image, mask, ground_truth)  # the annotated polyp too, as a dashed contour
    draw_numbers(overlay, [lesion.box for lesion in lesions])  # those of the lesions in their table
    draw_alert(overlay, box, number)  # a box around a lesion, with the number of its track

Fast enough for video: the time depends on the area of the polyps, not of the image.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ..common.files import to_rgb
from .lesions import bounding_box

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # first column, first row, and column and row after the last, in pixels

# Mucosa, blood and residue lack these colours, and readers with any colour blindness can tell them apart. In black and
# white the dashes show which contour is the ground truth.
PREDICTION_COLOUR: Colour = (0, 229, 255)
GROUND_TRUTH_COLOUR: Colour = (255, 235, 59)
HALO_COLOUR: Colour = (10, 20, 40)
ALERT_COLOUR: Colour = (255, 255, 255)  # what tells an alert is its box, in any colour

LETTERS, MIN_LETTERS = 6, 11  # height of numbers: so many contours, and pixels at least
DIGIT_WIDTH = 0.62  # of a number's height; room for the digits of any usual font
NUMBERED = 12  # lesions of an image that get a number: more would hide it
CONTOURS_PER_SIDE = 130  # shorter side of an image / width of its contours: 2 pixels in 288, 8 in 1080


def draw_overlay(
    image: Image.Image,
    mask: np.ndarray,
    ground_truth: np.ndarray | None = None,
    opacity: float = 0.35,
    width: int | None = None,
) -> Image.Image:
    """Draw a mask onto its image, and the ground truth if there is one.

    The contour covers the outermost pixels of the mask, a dark halo the pixels just outside; the rest of the image
    is unchanged. A mask that touches the image's border is outlined there too.

    Args:
        image: Of any mode, see `to_rgb` of common/files.py. It is not changed.
        mask: (H, W) bool, at the size of the upright image.
        ground_truth: (H, W) bool; drawn over `mask` as a dashed contour without a tint.
        opacity: Of the tint inside `mask`, from 0 to 1.
        width: Of the contours, in pixels; by default `contour_width` of the image's size.

    Returns:
        The upright image in RGB with the masks drawn in; where they are empty, just the image.

    Raises:
        ValueError: For masks of another size or type, and for an opacity or width out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; expected a number from 0 to 1.")
    canvas = to_rgb(image)
    width = contour_width(canvas.size) if width is None else width
    if width < 1:
        raise ValueError(f"width is {width}; expected at least 1 pixel.")
    if area := _Area.of(mask, canvas, "mask", margin=width):
        _tint(canvas, area, opacity)
        _trace(canvas, area, width, PREDICTION_COLOUR)
    if ground_truth is not None and (area := _Area.of(ground_truth, canvas, "ground truth", margin=width)):
        _trace(canvas, area, width, GROUND_TRUTH_COLOUR, dash=4 * width)
    return canvas


def contour_width(size: tuple[int, int]) -> int:
    """Width in pixels of the contours in an image of this size."""
    return max(1, round(min(size) / CONTOURS_PER_SIDE))


def draw_numbers(image: Image.Image, boxes: Sequence[Box]) -> None:
    """Write the number of each lesion beside it, at the places of `number_places`.

    Args:
        image: RGB; it is changed.
        boxes: Of the lesions, in the order of their table: the first gets the 1.
    """
    canvas = ImageDraw.Draw(image)
    font = _font(_letter_height(image.size))
    for number, place in enumerate(number_places(image.size, boxes), start=1):
        if place is None:
            continue
        left, top, right, bottom = place
        canvas.rectangle((left, top, right - 1, bottom - 1), fill=HALO_COLOUR)
        text_left, text_top, text_right, text_bottom = canvas.textbbox((0, 0), str(number), font=font)
        x = (left + right - text_left - text_right) / 2
        y = (top + bottom - text_top - text_bottom) / 2
        canvas.text((x, y), str(number), fill=PREDICTION_COLOUR, font=font)


def number_places(size: tuple[int, int], boxes: Sequence[Box]) -> list[Box | None]:
    """Where the numbers of the first `NUMBERED` lesions are written.

    A number lies above, below or beside its lesion's box, in the middle of that side if possible, or inside. It never
    covers another number, and other lesions' boxes only if no place is free of them.

    Args:
        size: Width and height of the image.
        boxes: Of the lesions, in the order of their numbers.

    Returns:
        A rectangle for each; None where no place is left within the image.
    """
    boxes = boxes[:NUMBERED]
    places: list[Box | None] = []
    for index, box in enumerate(boxes):
        written = [place for place in places if place is not None]
        others = [*boxes[:index], *boxes[index + 1 :]]
        possible = _possible_places(size, box, digits=len(str(index + 1)))
        free = [place for place in possible if not any(_overlap(place, other) for other in written)]
        best = [place for place in free if not any(_overlap(place, other) for other in others)]
        places.append(next(iter(best or free), None))
    return places


def _possible_places(size: tuple[int, int], box: Box, digits: int) -> list[Box]:
    """The rectangles within the image that a number of so many digits may take, the best first."""
    contour, letters = contour_width(size), _letter_height(size)
    width, height = math.ceil(DIGIT_WIDTH * letters * digits) + 2 * contour, letters + 2 * contour
    left, top, right, bottom = box
    gap = _halo_width(contour)
    in_columns, in_rows = size[0] - width, size[1] - height  # the last place that is within the image
    over, under, beside = top - gap - height, bottom + gap, (top + bottom - height) // 2
    columns = [min(max(column, 0), in_columns) for column in ((left + right - width) // 2, left, right - width)]
    row = min(max(beside, 0), in_rows)
    corners = [(columns[0], over), (columns[0], under), (right + gap, row), (left - gap - width, row)]
    corners += [(column, row) for row in (over, under) for column in columns[1:]]
    corners.append((left + 2 * contour, top + 2 * contour))
    return [(x, y, x + width, y + height) for x, y in corners if 0 <= x <= in_columns and 0 <= y <= in_rows]


def _overlap(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _letter_height(size: tuple[int, int]) -> int:
    return max(MIN_LETTERS, LETTERS * contour_width(size))


def _halo_width(contour: int) -> int:
    return max(1, contour // 2)


def draw_alert(image: Image.Image, box: Box, number: int) -> None:
    """Frame a lesion with a box, and write a number on it.

    Args:
        image: RGB; it is changed.
        box: Of the lesion.
        number: Of the lesion's track.
    """
    width = contour_width(image.size)
    gap = 3 * width  # room for the lesion's contour, its halo, and the frame
    left, top = max(box[0] - gap, 0), max(box[1] - gap, 0)
    right, bottom = min(box[2] + gap, image.width) - 1, min(box[3] + gap, image.height) - 1
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=HALO_COLOUR, width=width + 2)
    canvas.rectangle((left, top, right, bottom), outline=ALERT_COLOUR, width=width)
    # Above the frame, or inside where there is no room.
    font, text = _font(_letter_height(image.size)), str(number)
    _, _, text_width, text_height = canvas.textbbox((0, 0), text, font=font)
    room = 2 * width
    x = min(left, image.width - round(text_width) - room)
    y = top - round(text_height) - room if top > text_height + room else top
    canvas.rectangle((x, y, x + text_width + room, y + text_height + room), fill=ALERT_COLOUR)
    canvas.text((x + width, y + width), text, fill=HALO_COLOUR, font=font)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class _Area:
    """The part of a mask that holds polyp. Only this part of the image is drawn on, which saves time.

    Attributes:
        inside: (h, w) bool, with a margin around, so it may reach beyond the image.
        corner: x and y of its first pixel in the image; may be negative.
    """

    def __init__(self, inside: np.ndarray, corner: tuple[int, int]):
        self.inside = inside
        self.corner = corner

    @classmethod
    def of(cls, mask: np.ndarray, image: Image.Image, name: str, margin: int) -> "_Area | None":
        """Check a mask against its image and take its area; None if it is empty."""
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"The {name} has the shape {mask.shape} and its image, of {image.width}x{image.height} pixels, "
                f"{(image.height, image.width)}. Resize the mask to the upright image."
            )
        if mask.dtype != bool:
            raise ValueError(
                f"The {name} holds {mask.dtype}; expected booleans. Compare probabilities with a threshold, or "
                "labels with 0."
            )
        box = bounding_box(mask)
        if box is None:
            return None
        rows, columns = box
        return cls(np.pad(mask[box], margin), (columns.start - margin, rows.start - margin))


def _tint(canvas: Image.Image, area: _Area, opacity: float) -> None:
    left, top = area.corner
    height, width = area.inside.shape
    levels = np.arange(256)
    blend = np.concatenate([levels + opacity * (channel - levels) for channel in PREDICTION_COLOUR])
    tinted = canvas.crop((left, top, left + width, top + height)).point(blend.round().astype(int).tolist())
    canvas.paste(tinted, area.corner, Image.fromarray(area.inside))


def _trace(canvas: Image.Image, area: _Area, width: int, colour: Colour, dash: int | None = None) -> None:
    """Draw the contour; with `dash`, as dashes of that length in pixels."""
    contour = area.inside & _grown(~area.inside, width)
    halo = _grown(area.inside, _halo_width(width)) & ~area.inside
    if dash is not None:
        pattern = _dashes(area, dash)
        contour &= pattern
        halo &= pattern
    for part, paint in ((halo, HALO_COLOUR), (contour, colour)):
        canvas.paste(paint, area.corner, Image.fromarray(part))


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask, grown by `steps` pixels: by diamonds and squares in turn, which approximates a disk by an octagon."""
    for step in range(steps):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        source = grown.copy() if step % 2 else mask
        grown[:, 1:] |= source[:, :-1]
        grown[:, :-1] |= source[:, 1:]
        mask = grown
    return mask


def _dashes(area: _Area, length: int) -> np.ndarray:
    """Stripes (h, w) bool across the outline: vertical where it runs horizontally, horizontal where it is steep."""
    height, width = area.inside.shape
    left, top = area.corner
    smooth = ndimage.uniform_filter(area.inside.astype(np.float32), size=2 * length - 1, mode="constant")
    slope_y, slope_x = (np.abs(slope) for slope in np.gradient(smooth))
    y, x = np.arange(top, top + height)[:, None], np.arange(left, left + width)[None, :]
    return np.where(slope_y > slope_x, x // length % 2 == 0, y // length % 2 == 0)
