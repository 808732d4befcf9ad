"""Draws masks onto images: a tint inside, and contours that stay readable on pink mucosa.

    draw_overlay(image, mask).save("overlay.png")
    draw_overlay(image, mask, ground_truth)  # the annotated polyp too, as a dashed contour

Quick enough for video: the time goes with the area of the polyps.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

Colour = tuple[int, int, int]

# Colours that mucosa, blood and residue lack, and that readers with any colour blindness tell apart; the dashes tell
# the two contours apart in print.
PREDICTION_COLOUR: Colour = (0, 229, 255)
GROUND_TRUTH_COLOUR: Colour = (255, 235, 59)
HALO_COLOUR: Colour = (10, 20, 40)

CONTOURS_PER_SIDE = 130  # contours that would fill an image's shorter side: 2 pixels wide in 288, 8 in 1080


def draw_overlay(
    image: Image.Image,
    mask: np.ndarray,
    ground_truth: np.ndarray | None = None,
    opacity: float = 0.35,
    width: int | None = None,
) -> Image.Image:
    """Draw a mask onto its image, and the true mask if there is one.

    The contour covers the outermost pixels of the mask, a dark halo the pixels just outside; the rest of the image
    is left as it is. Along the image's border a mask is outlined too.

    Args:
        image: Of any mode, `I` and `I;16` being 16-bit; any EXIF rotation is applied already.
        mask: (H, W) bool, at the image's size.
        ground_truth: (H, W) bool; drawn over `mask` as a dashed contour without a tint.
        opacity: Of the tint inside `mask`, from 0 to 1.
        width: Of the contours, in pixels; by default `contour_width` of the image's size.

    Returns:
        An RGB image of `image`'s size; where the masks are empty, `image` in RGB.

    Raises:
        ValueError: For masks of another size or type, and for an opacity or width out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; expected a number from 0 to 1.")
    canvas = to_rgb(image)
    width = contour_width(image.size) if width is None else width
    if width < 1:
        raise ValueError(f"width is {width}; expected at least 1 pixel.")
    if area := _Area.of(mask, image, "mask", margin=width):
        _tint(canvas, area, opacity)
        _trace(canvas, area, width, PREDICTION_COLOUR)
    if ground_truth is not None and (area := _Area.of(ground_truth, image, "true mask", margin=width)):
        _trace(canvas, area, width, GROUND_TRUTH_COLOUR, dash=4 * width)
    return canvas


def contour_width(size: tuple[int, int]) -> int:
    """Width in pixels of the contours in an image of this size."""
    return max(1, round(min(size) / CONTOURS_PER_SIDE))


def to_rgb(image: Image.Image) -> Image.Image:
    """A copy of the image in RGB; of 16 bits the upper ones are kept."""
    if image.mode.startswith("I"):  # Pillow would cut all values off at 255
        image = Image.fromarray((np.asarray(image, np.float32) / 257).round().clip(0, 255).astype(np.uint8))
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


class _Area:
    """The part of a mask that holds polyp, so that the time to draw goes with the polyp and not with the image."""

    def __init__(self, inside: np.ndarray, corner: tuple[int, int]):
        self.inside = inside  # (h, w) bool, with a margin, so it may reach out of the image
        self.corner = corner  # x and y of its first pixel in the image; may be negative

    @classmethod
    def of(cls, mask: np.ndarray, image: Image.Image, name: str, margin: int) -> "_Area | None":
        """The area of a mask that was checked against its image, or None if it is empty."""
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"The {name} has the shape {mask.shape} and its image, of {image.width}x{image.height} pixels, "
                f"{(image.height, image.width)}. Resize the mask to the image; if the image is a photograph with "
                "EXIF rotation, apply that first."
            )
        if mask.dtype != bool:
            raise ValueError(
                f"The {name} holds {mask.dtype}; expected booleans. Compare probabilities with a threshold, or "
                "labels with 0."
            )
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            return None
        inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(np.pad(inside, margin), (int(columns[0]) - margin, int(rows[0]) - margin))


def _tint(canvas: Image.Image, area: _Area, opacity: float) -> None:
    left, top = area.corner
    height, width = area.inside.shape
    levels = np.arange(256)
    blend = np.concatenate([levels + opacity * (channel - levels) for channel in PREDICTION_COLOUR])
    tinted = canvas.crop((left, top, left + width, top + height)).point(blend.round().astype(int).tolist())
    canvas.paste(tinted, area.corner, Image.fromarray(area.inside))


def _trace(canvas: Image.Image, area: _Area, width: int, colour: Colour, dash: int | None = None) -> None:
    """Draw the contour, of dashes `dash` pixels long if given."""
    contour = area.inside & _grown(~area.inside, width)
    halo = _grown(area.inside, max(1, width // 2)) & ~area.inside
    if dash is not None:
        pattern = _dashes(area, dash)
        contour &= pattern
        halo &= pattern
    for part, paint in ((halo, HALO_COLOUR), (contour, colour)):
        canvas.paste(paint, area.corner, Image.fromarray(part))


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask with `steps` pixels more at its outline: diamonds and squares in turn, which makes octagons."""
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
    """Stripes (h, w) bool that cross the outline: upright ones where it is level, level ones where it is steep."""
    height, width = area.inside.shape
    left, top = area.corner
    smooth = ndimage.uniform_filter(area.inside.astype(np.float32), size=2 * length - 1, mode="constant")
    slope_y, slope_x = (np.abs(slope) for slope in np.gradient(smooth))
    y, x = np.arange(top, top + height)[:, None], np.arange(left, left + width)[None, :]
    return np.where(slope_y > slope_x, x // length % 2 == 0, y // length % 2 == 0)
