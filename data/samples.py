"""Samples: pairs of an image and its ground truth, read from the encoded cells of a data set's rows.

sample = load_sample(row)
sample.image, sample.ground_truth
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage

from ..common.errors import UserError
from ..common.files import image_from_bytes, open_image, read_file
from ..image_processing_unet import binarize_mask

Cell: TypeAlias = dict[str, Any]


class DatasetError(UserError):
    """The data cannot be used as given; the message says what was found, what is expected and the remedy."""


@dataclass(frozen=True)
class Sample:
    """An image and its ground truth.

    Attributes:
        name: File name of the image without its suffix, or "row_7" where none is stored.
        image: Upright. Smaller than the ground truth if `load_sample` was allowed to read it so.
        ground_truth: (H, W) bool, True for polyp.
    """

    name: str
    image: PILImage.Image
    ground_truth: np.ndarray


def load_sample(
    row: Mapping[str, Any], foreground_values: list[int] | None = None, smallest_side: int | None = None
) -> Sample:
    """Read a pair of image and mask, turn both upright as their EXIF tags say, and binarise the mask.

    A sample whose mask is an empty cell is a frame without polyp.

    Args:
        row: With `image`, `mask` and `index`, as `load_splits` gives it.
        foreground_values: Mask values that mean polyp, where they are not the usual ones.
        smallest_side: Pixels that the sides of the image need at least. A JPEG image is then decoded, faster, at the
            smallest of 1/8, 1/4 and 1/2 of its size that has them, if its sides are multiples of 8, 4 or 2. The mask
            is always read at full size. None: so is the image.

    Raises:
        DatasetError: If image or mask cannot be read, they differ in size, or polyp cannot be told from background
            in the mask. The message names the file or the sample.
    """
    image, image_size = _decode(row["image"], "image", row["index"], smallest_side)
    if is_empty(row["mask"]):
        nothing = np.zeros((image_size[1], image_size[0]), dtype=bool)
        return Sample(sample_name(row["image"], row["index"]), image, nothing)
    mask, mask_size = _decode(row["mask"], "mask", row["index"])
    if image_size != mask_size:
        raise DatasetError(
            f"{cell_name(row['image'], row['index'])}: the image measures {image_size[0]}x{image_size[1]} pixels and "
            f"its mask {mask_size[0]}x{mask_size[1]}. A mask must have its image's size: fix or remove the pair."
        )
    try:
        ground_truth = binarize_mask(mask, foreground_values) == 1
    except ValueError as error:
        raise DatasetError(f"{cell_name(row['mask'], row['index'])}: {error}") from error
    return Sample(sample_name(row["image"], row["index"]), image, ground_truth)


def decode_image(cell: Cell, index: int) -> PILImage.Image:
    """Read an encoded image without its mask, turned upright as its EXIF tag says.

    Raises:
        DatasetError: If it cannot be read; the message names the file or the sample.
    """
    return _decode(cell, "image", index)[0]


def is_empty(cell: Cell | None) -> bool:
    """Whether a cell holds nothing: of a frame without polyp, the mask may be left out."""
    return cell is None or (cell["bytes"] is None and not cell["path"])


def cell_name(cell: Cell, index: int) -> str:
    """Name of an image or mask in messages: its file, or "row 7" where no file name is stored."""
    return str(cell["path"]) if cell.get("path") else f"row {index}"


def sample_name(image: Cell, index: int) -> str:
    """Name of a sample in results: its image's file name without suffix, or "row_7" where none is stored."""
    return Path(image["path"]).stem if image.get("path") else f"row_{index}"


def _decode(
    cell: Cell, kind: str, index: int, smallest_side: int | None = None
) -> tuple[PILImage.Image, tuple[int, int]]:
    """An upright image, reduced as `load_sample` describes, and its full width and height."""
    if is_empty(cell):
        raise DatasetError(f"The {kind} of row {index} is missing: its cell is empty. Remove the row.")
    try:
        content = encoded_bytes(cell)
        if smallest_side and (reduced := _decode_reduced(content, smallest_side)):
            return reduced
        image = image_from_bytes(content)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"The {kind} {cell_name(cell, index)} cannot be read ({error}). Replace or remove the pair."
        ) from error
    return image, image.size


def _decode_reduced(content: bytes, smallest_side: int) -> tuple[PILImage.Image, tuple[int, int]] | None:
    """A JPEG image at 1/2, 1/4 or 1/8 and its full width and height; None if it must be read at full size.

    Errors are not reported here: `image_from_bytes` then reads the image again and says what is wrong.
    """
    try:
        with open_image(content) as image:
            width, height = image.size
            # Sides that the scale does not divide would be padded, which shifts the image against its mask.
            scales = [scale for scale in (2, 4, 8) if width % scale == height % scale == 0]
            scale = max((scale for scale in scales if min(width, height) >= scale * smallest_side), default=1)
            if image.format != "JPEG" or scale == 1:
                return None
            is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # by 90 degrees either way
            image.draft(None, (width // scale, height // scale))
            return ImageOps.exif_transpose(image), (height, width) if is_turned else (width, height)
    except ValueError:
        return None


def encoded_bytes(cell: Cell) -> bytes:
    return cell["bytes"] if cell["bytes"] is not None else read_file(cell["path"])
