"""Masks as run lengths: what a data set's table holds of regions that an annotation program drew.

content = encode_runs(runs, (width, height))  # some hundred bytes
decode_runs(content)                          # (H, W) bool: pixels are made when a sample is read, and not before

Runs are those of COCO: along columns, from the top left on, by turns background and polyp. Their compressed form is
COCO's too. It is decoded here and not by pycocotools, which reads beyond the end of text that was cut off: tables of
strangers may hold such bytes.
"""

import struct

import numpy as np
from PIL import Image

from ..common.files import MAX_SIDE

MAGIC = b"\x93unet-kvasir-seg runs\n"  # as no image file begins
SIZE = struct.Struct("<II")


def encode_runs(runs: bytes, size: tuple[int, int]) -> bytes:
    """A mask's cell.

    Args:
        runs: COCO's compressed run lengths.
        size: Width and height in pixels.
    """
    return MAGIC + SIZE.pack(*size) + runs


def holds_runs(content: bytes) -> bool:
    """Whether a cell's bytes are a mask of `encode_runs`."""
    return content.startswith(MAGIC)


def size_of_runs(content: bytes) -> tuple[int, int]:
    """Width and height of a mask of `encode_runs`.

    Raises:
        ValueError: If they are missing, or no size of an image.
    """
    start = content[len(MAGIC) : len(MAGIC) + SIZE.size]
    if len(start) < SIZE.size:
        raise ValueError("is cut off")
    width, height = SIZE.unpack(start)
    check_size(width, height)
    return width, height


def check_size(width: int, height: int) -> None:
    """Check that an image can have a size.

    Raises:
        ValueError: If it has no pixels, or too many.
    """
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= (Image.MAX_IMAGE_PIXELS or 0)):
        raise ValueError(f"has the size {width}x{height}, which no image has that can be read")


def decode_runs(content: bytes) -> np.ndarray:
    """The pixels of a mask of `encode_runs`: (H, W) bool, True for polyp.

    Raises:
        ValueError: If its runs do not make up an image of its size.
    """
    width, height = size_of_runs(content)
    counts = run_lengths(content[len(MAGIC) + SIZE.size :], (width, height))
    is_polyp = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_polyp, counts).reshape(width, height).T


def run_lengths(runs: bytes, size: tuple[int, int]) -> np.ndarray:
    """The lengths of COCO's compressed runs, int64.

    Each is written in groups of five bits, the lowest first, as characters from "0" on; bit 6 says that another group
    follows. From the fourth on, it is the difference from the length before the last.

    Raises:
        ValueError: If the text is no such runs, or they do not make up an image of this size.
    """
    groups = np.frombuffer(runs, np.uint8).astype(np.int64) - 48
    if len(groups) == 0 or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("holds characters that are no run lengths, or ends within one")
    last = (groups & 32) == 0
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    place = np.arange(len(groups)) - np.repeat(starts, np.diff([*starts, len(groups)]))
    if place.max() > 6:
        raise ValueError("holds a run length that no image has")
    values = np.add.reduceat((groups & 31) << (5 * place), starts)
    is_negative = (groups[last] & 16) != 0
    values -= np.where(is_negative, 1 << (5 * (place[last] + 1)), 0)
    values[2::2] = np.cumsum(values[2::2])
    values[1::2] = np.cumsum(values[1::2])
    return checked_lengths(values, size)


def checked_lengths(lengths: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Run lengths that make up an image of this size.

    Raises:
        ValueError: If they do not.
    """
    pixels = size[0] * size[1]
    if len(lengths) and (lengths.min() < 0 or lengths.max() > pixels):
        raise ValueError(f"holds a run of {lengths.min() if lengths.min() < 0 else lengths.max()} pixels")
    if lengths.sum() != pixels:
        raise ValueError(f"has runs of {lengths.sum()} pixels in all; {size[0]}x{size[1]} are {pixels}")
    return lengths
