"""Samples: pairs of an image and its ground truth, read from the encoded cells of a data set's rows.

sample = load_sample(row)
sample.image, sample.ground_truth
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps

from ..common.errors import UserError
from ..common.files import open_image, to_rgb
from ..common.mask_rules import USUAL_MASKS, MaskRules
from ..field_of_view_unet import Box, box_within
from ..image_processing_unet import binarize_mask, may_misalign, orientation_of
from .locations import file_of, read_location
from .mask_runs import decode_runs, holds_runs, size_of_runs

Cell: TypeAlias = dict[str, Any]
Result = TypeVar("Result")

# What undoes the turn of each EXIF orientation.
UNDO = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_90,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_270,
}


class DatasetError(UserError):
    """The data cannot be used as given; the message says what was found, what is expected and the remedy."""


@dataclass(frozen=True)
class Sample:
    """An image and its ground truth.

    Attributes:
        name: File name of the image without its suffix, or "row_7" where none is stored.
        image: Upright, or with `MaskRules.ignore_exif` as stored. Smaller than the ground truth if `load_sample` was
            allowed to read it so.
        ground_truth: (H, W) bool, True for polyp.
    """

    name: str
    image: PILImage.Image
    ground_truth: np.ndarray


@dataclass(frozen=True)
class Header:
    """What the file of an image or a mask says before its pixels.

    Attributes:
        size: Full width and height, turned as its EXIF tag says, or as stored if tags are ignored.
        tag: Its EXIF orientation, 1 to 8; 1 where tags are ignored.
    """

    size: tuple[int, int]
    tag: int


@dataclass(frozen=True)
class Picture(Header):
    """A decoded image or mask.

    Attributes:
        pixels: Turned as `size` is; at full or at reduced scale.
    """

    pixels: PILImage.Image


def load_sample(
    row: Mapping[str, Any],
    mask_rules: MaskRules = USUAL_MASKS,
    smallest_side: int | None = None,
    fit_image: bool = False,
) -> Sample:
    """Read a pair of image and mask, turn both upright as their EXIF tags say, and binarise the mask.

    A sample whose mask is an empty cell is a frame without polyp.

    Args:
        row: With `image`, `mask` and `index`, as `load_splits` gives it.
        mask_rules: How the mask is read, and whether EXIF tags count.
        smallest_side: Pixels that the sides of the image need at least. A JPEG image is then decoded, faster, at the
            smallest of 1/8, 1/4 and 1/2 of its size that has them, if its sides are multiples of 8, 4 or 2. The mask
            is always read at full size. None: so is the image.
        fit_image: Resize an image to its mask's size, where both have the same proportions within 2 %.

    Raises:
        DatasetError: If image or mask cannot be read, they differ in size, it is not known whether they fit, or polyp
            cannot be told from background in the mask. The message names the file or the sample.
    """
    image = _decode(row["image"], "image", row["index"], mask_rules, smallest_side)
    name = sample_name(row["image"], row["index"])
    if is_empty(row["mask"]):
        width, height = image.size
        return Sample(name, image.pixels, np.zeros((height, width), dtype=bool))
    mask = decode_mask(row, mask_rules)
    if fit_image:
        image = _fitted(image, mask)
    _check_pair(row, image, mask, mask_rules)
    return Sample(name, image.pixels, _binarized(mask, row, mask_rules))


def decode_image(cell: Cell, index: int) -> PILImage.Image:
    """Read an encoded image without its mask, in RGB, turned upright as its EXIF tag says.

    Raises:
        DatasetError: If it cannot be read; the message names the file or the sample.
    """
    return _decode(cell, "image", index, as_rgb=True).pixels


def decode_mask(row: Mapping[str, Any], mask_rules: MaskRules) -> Picture:
    """Read an encoded mask, whatever its values.

    Raises:
        DatasetError: If it cannot be read; the message names the file or the sample.
    """
    return _decode(row["mask"], "mask", row["index"], mask_rules)


@contextlib.contextmanager
def errors_name_the_mask(row: Mapping[str, Any]) -> Iterator[None]:
    """Turn a ValueError about a mask's values into a `DatasetError` that names it."""
    try:
        yield
    except ValueError as error:
        raise DatasetError(f"{cell_name(row['mask'], row['index'])}: {error}") from error


def _fitted(image: Picture, mask: Picture) -> Picture:
    """The image at its mask's size, if both have the same proportions; otherwise as it is."""
    (width, height), (mask_width, mask_height) = image.size, mask.size
    across, along = width * mask_height, height * mask_width
    if image.size == mask.size or abs(across - along) > 0.02 * max(across, along):
        return image
    pixels = to_rgb(image.pixels).resize(mask.size, PILImage.Resampling.BILINEAR)
    return replace(image, size=mask.size, pixels=pixels)


def _binarized(mask: Picture, row: Mapping[str, Any], mask_rules: MaskRules) -> np.ndarray:
    """(H, W) bool, True for polyp."""
    with errors_name_the_mask(row):
        return binarize_mask(mask.pixels, mask_rules.foreground_values, mask_rules.threshold) == 1


def find_faults(
    row: Mapping[str, Any], mask_rules: MaskRules, *, in_pixels: bool, field_of_view: Box | None = None
) -> list[tuple[Cell, DatasetError]]:
    """All reasons why a pair cannot be used, each with the cell that it is about.

    Args:
        row, mask_rules: As for `load_sample`.
        in_pixels: Decode image and mask. Otherwise only what their files say first is looked at: whether they are
            images, how large, and how they are turned.
        field_of_view: A rectangle that the image has to hold; None: none.
    """
    faults: list[tuple[Cell, DatasetError]] = []

    def attempt(cell: Cell, step: Callable[[], Result]) -> Result | None:
        try:
            return step()
        except DatasetError as error:
            faults.append((cell, error))
            return None

    def read(kind: str) -> Header | None:
        cell, index = row[kind], row["index"]
        if in_pixels:
            return attempt(cell, lambda: _decode(cell, kind, index, mask_rules, as_rgb=kind == "image"))
        return attempt(cell, lambda: _read_header(cell, kind, index, mask_rules))

    image = read("image")
    mask = None if is_empty(row["mask"]) else read("mask")
    if image and field_of_view:
        attempt(row["image"], lambda: _check_rectangle(row, image, field_of_view))
    if image and mask:
        attempt(row["mask"], lambda: _check_pair(row, image, mask, mask_rules))
    if isinstance(mask, Picture):
        attempt(row["mask"], lambda: _binarized(mask, row, mask_rules))
    return faults


def _check_rectangle(row: Mapping[str, Any], image: Header, box: Box) -> None:
    """Refuse an image that a rectangle does not lie within."""
    width, height = image.size
    try:
        box_within(box, height, width)
    except ValueError as error:
        raise DatasetError(f"{cell_name(row['image'], row['index'])}: {error}") from error


def image_size(row: Mapping[str, Any], mask_rules: MaskRules = USUAL_MASKS) -> tuple[int, int]:
    """Width and height of a row's image, turned as `load_sample` turns it, from what its file says first.

    Raises:
        DatasetError: If it cannot be read; the message names the file or the sample.
    """
    return _read_header(row["image"], "image", row["index"], mask_rules).size


def _check_pair(row: Mapping[str, Any], image: Header, mask: Header, mask_rules: MaskRules) -> None:
    """Refuse a mask that does not fit its image, or of which that is not known."""
    name = cell_name(row["image"], row["index"])
    image_size, mask_size = (f"{one.size[0]}x{one.size[1]}" for one in (image, mask))
    if mask_rules.ignore_exif is None and may_misalign(image.tag, image.size, mask.tag, mask.size):
        raise DatasetError(
            f"{name}: the image has the EXIF orientation {image.tag} and its mask {mask.tag} (1: none), and both are "
            "stored in one size. If the mask was drawn on the image as stored, give --ignore_exif true; if on the "
            f"image as shown, {'turn the mask' if image.size != mask.size else 'give --ignore_exif false'}."
        )
    if image.size != mask.size:
        if is_drawn(row["mask"]):
            raise DatasetError(
                f"{cell_name(row['mask'], row['index'])} is of an image of {mask_size} pixels, and {name} measures "
                f"{image_size}. Restore the image that was annotated, or export the annotations anew."
            )
        turned = " once they are turned as their EXIF tags say" if (image.tag, mask.tag) != (1, 1) else ""
        raise DatasetError(
            f"{name}: the image measures {image_size} pixels and its mask {mask_size}{turned}. A mask must have its "
            "image's size: fix or remove the pair."
        )


def is_empty(cell: Cell | None) -> bool:
    """Whether a cell holds nothing: of a frame without polyp, the mask may be left out."""
    return cell is None or (cell["bytes"] is None and not cell["path"])


def is_drawn(cell: Cell | None) -> bool:
    """Whether a mask is the regions of an annotation program."""
    return cell is not None and cell["bytes"] is not None and holds_runs(cell["bytes"])


def cell_name(cell: Cell, index: int) -> str:
    """Name of an image or mask in messages: its file, or "row 7" where no file name is stored."""
    return str(cell["path"]) if cell.get("path") else f"row {index}"


def sample_name(image: Cell, index: int) -> str:
    """Name of a sample in results: its image's file name without suffix, or "row_7" where none is stored."""
    return Path(file_of(image["path"])).stem if image.get("path") else f"row_{index}"


def _decode(
    cell: Cell,
    kind: str,
    index: int,
    mask_rules: MaskRules = USUAL_MASKS,
    smallest_side: int | None = None,
    as_rgb: bool = False,
) -> Picture:
    """A picture, reduced as `load_sample` describes."""
    if kind == "mask" and is_drawn(cell):
        with _errors_name_the_cell(cell, kind, index):
            drawn = PILImage.fromarray(decode_runs(cell["bytes"]).astype(np.uint8))
        return Picture(drawn.size, 1, drawn)
    with _errors_name_the_cell(cell, kind, index):
        with open_image(encoded_bytes(cell)) as image:
            tag = orientation_of(image)  # first: Pillow drops that of a TIFF when it decodes the pixels
            size = _reduce(image, smallest_side) if smallest_side else None
            pixels = ImageOps.exif_transpose(image)
        full_size = pixels.size if size is None else size[::-1] if tag >= 5 else size
        if as_rgb or (kind == "image" and pixels.mode == "F"):
            pixels = to_rgb(pixels)
    if not mask_rules.ignore_exif:
        return Picture(full_size, tag, pixels)
    stored = pixels.transpose(UNDO[tag]) if tag in UNDO else pixels
    return Picture(full_size[::-1] if tag >= 5 else full_size, 1, stored)


def _read_header(cell: Cell, kind: str, index: int, mask_rules: MaskRules) -> Header:
    if kind == "mask" and is_drawn(cell):
        with _errors_name_the_cell(cell, kind, index):
            return Header(size_of_runs(cell["bytes"]), 1)
    with _errors_name_the_cell(cell, kind, index), open_image(encoded_bytes(cell)) as image:
        tag, size = orientation_of(image), image.size
    if mask_rules.ignore_exif:
        return Header(size, 1)
    return Header(size[::-1] if tag >= 5 else size, tag)


@contextlib.contextmanager
def _errors_name_the_cell(cell: Cell, kind: str, index: int) -> Iterator[None]:
    """Turn the errors of reading an encoded image or mask into a `DatasetError` that names the file or the sample."""
    if is_empty(cell):
        raise DatasetError(f"The {kind} of row {index} is missing: its cell is empty. Remove the row.")
    try:
        yield
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"The {kind} {cell_name(cell, index)} cannot be read ({error}). Replace or remove the pair."
        ) from error


def _reduce(image: PILImage.Image, smallest_side: int) -> tuple[int, int] | None:
    """Have a JPEG image decoded at 1/2, 1/4 or 1/8; returns its full width and height, None for any other image."""
    if image.format != "JPEG":
        return None
    width, height = image.size
    # Sides that the scale does not divide would be padded, which shifts the image against its mask.
    scales = [scale for scale in (2, 4, 8) if width % scale == height % scale == 0]
    scale = max((scale for scale in scales if min(width, height) >= scale * smallest_side), default=1)
    image.draft(None, (width // scale, height // scale))
    return width, height


def encoded_bytes(cell: Cell) -> bytes:
    return cell["bytes"] if cell["bytes"] is not None else read_location(cell["path"])
