"""Image files: their formats, reading them within bounds, RGB of all modes; and atomic writing of any file."""

import contextlib
import hashlib
import io
import logging
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from .errors import first_line
from .signatures import HEAD_BYTES, Kind, recognise

# Pillow's names of formats. A file's content chooses the decoder, and others start programs (EPS: Ghostscript).
IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# All endings of their files. ".mpo" is a JPEG with further pictures behind it, which are not read.
IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pjp", ".pjpeg", ".png"),
    *(".tif", ".tiff", ".webp"),
)
MAX_SIDE = 16_384  # pixels, of an image or a video frame: a tiny file can state millions, and costs time and memory
MAX_FILE_BYTES = 2**29  # of an image's file: uncompressed RGB of twice the pixels that Pillow takes without a warning
MAX_SCANS = 100  # of a JPEG; each goes over the whole image, and progressive files have about ten
SCAN_HEADER = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e][\x01-\x04]")  # with its length and number of components
MAX_READING_SECONDS = 30.0  # of computation between the first and the last read: a GIF's long comment takes hours
MAX_OVERSHOOT = 16  # of floats beyond 0 to 255, as resizing with a sharp filter leaves them
UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")  # name of a file until it is complete
MAX_EXIF_BYTES = 2**16  # a segment of a JPEG; each of its entries may refer to all of it

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def open_regular(path: str | Path, most_bytes: int = MAX_FILE_BYTES) -> Iterator[BinaryIO]:
    """A file to read; of a link, the file that it leads to.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is a device, a pipe or a socket, which may never end, or larger than `most_bytes`.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is no regular file, but a device, a pipe or a link to one, which may never end")
        if status.st_size > most_bytes:
            megabytes = f"{status.st_size / 1e6:.0f} MB"
            raise ValueError(f"is too large ({megabytes}): at most {most_bytes / 1e6:.0f} MB are read")
        yield file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would wait for a writer


def read_file(path: str | Path, most_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Read a regular file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no regular file, or larger than `most_bytes`.
    """
    with open_regular(path, most_bytes) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # a file that grows may have no end


def recognise_file(path: str | Path) -> Kind | None:
    """The format of images or videos that a regular file of any size begins as; None if it is none of these.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no regular file.
    """
    with open_regular(path, sys.maxsize) as file:
        return recognise(file.read(HEAD_BYTES))


def image_from_bytes(content: bytes, most_pixels: int | None = None) -> Image.Image:
    """Decode the one image of a file, rotated as its EXIF tag says; arguments and errors as for `open_image`."""
    with open_image(content, most_pixels) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # a copy would take the memory of the image once more
        return image


@contextlib.contextmanager
def open_image(content: bytes, most_pixels: int | None = None) -> Iterator[Image.Image]:
    """The one image of a file, whose pixels are not yet decoded.

    Args:
        content: The file's bytes.
        most_pixels: A larger image is refused before it is decoded; None: Pillow's own limit.

    Raises:
        ValueError: If the file holds no image or several, is damaged, or is too large; also where the block shows it.
    """
    if not content:
        raise ValueError("is empty (0 bytes)")
    try:
        if content.count(b"Exif\0\0") > MAX_SCANS:  # of a JPEG, Pillow would copy them all with each further one
            raise _RefusedError("holds EXIF data again and again")
        with Image.open(_BoundedReader(content), formats=IMAGE_FORMATS) as image:
            _check_header(image, most_pixels or Image.MAX_IMAGE_PIXELS)
            _check_exif(image)
            _check_scans(image, content)
            yield image
    except _RefusedError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(_describe_unidentified(content)) from error
    except Image.DecompressionBombError as error:
        raise ValueError(_too_many_pixels(most_pixels or Image.MAX_IMAGE_PIXELS)) from error
    except MemoryError as error:
        raise ValueError("needs more memory to decode than there is") from error
    except Exception as error:  # Pillow's readers raise errors of all kinds for damaged files
        raise ValueError(f"is damaged ({first_line(error)})") from error


def _describe_unidentified(content: bytes) -> str:
    """Why no decoder takes a file."""
    kind = recognise(content[:HEAD_BYTES])
    formats = ", ".join(IMAGE_FORMATS)
    if kind is None:
        return f"is no image of a format that is read here: {formats}"
    if kind.is_video:
        return f"holds {kind}: expected an image ({formats}). {kind.renaming}"
    if kind.name not in IMAGE_FORMATS:
        return f"holds {kind}, which is not read here: {formats} are. {kind.remedy}"
    return f"begins as {kind}, but is damaged, or of a kind that this version of Pillow does not read. {kind.remedy}"


class _RefusedError(ValueError):
    """An image that is not decoded."""


class _BoundedReader(io.BytesIO):
    """A file's bytes, to be read a few times over: entries of a TIFF may all refer to the same million bytes."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self.left = 10 * len(content) + 2**20
        self.end = time.thread_time() + MAX_READING_SECONDS

    def read(self, size: int | None = -1) -> bytes:
        part = super().read(size)
        self.left -= len(part)
        if self.left < 0:
            raise _RefusedError("refers to the same bytes again and again")
        if time.thread_time() > self.end:
            raise _RefusedError(f"takes more than {MAX_READING_SECONDS:g} seconds to decode")
        return part


def _check_exif(image: Image.Image) -> None:
    for name in ("exif", "Raw profile type exif"):
        if (size := len(image.info.get(name, ""))) > MAX_EXIF_BYTES:
            raise _RefusedError(f"holds {size} bytes of EXIF data: at most {MAX_EXIF_BYTES} are read. Remove them")


def _check_scans(image: Image.Image, content: bytes) -> None:
    if image.format in ("JPEG", "MPO") or "jpeg" in str(image.info.get("compression")):
        parts = max(1, len(getattr(image, "tile", [])))  # of a TIFF, each is a JPEG of its own
        scans = len(SCAN_HEADER.findall(content))
        if scans > MAX_SCANS * parts:
            raise _RefusedError(f"has {scans} passes over the image: at most {MAX_SCANS * parts} are decoded")


def _check_header(image: Image.Image, most_pixels: int | None) -> None:
    """Refuse, before its pixels are decoded, an image that is too large, or one of several.

    Raises:
        ValueError: The message says why.
    """
    sizes = [image.size]
    if isinstance(image, TiffImageFile):  # its tiles may be larger than the image, and are decoded as a whole
        sizes.append((image.tag_v2.get(TILEWIDTH, 1), image.tag_v2.get(TILELENGTH, 1)))
    for width, height in sizes:
        check_sides(width, height)
        if most_pixels is not None and width * height > most_pixels:
            raise _RefusedError(_too_many_pixels(most_pixels, f" ({width}x{height} pixels)"))
    # Phones put a second picture, for editing, into a JPEG. `n_frames` would visit each of 100,000 pages.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise _RefusedError(
            "holds several images, as an animation or in pages: expected one. Convert an animation to mp4, or save "
            "the images one by one"
        )


def check_sides(width: int, height: int) -> None:
    """Refuse an image with a side of more than `MAX_SIDE` pixels.

    Raises:
        ValueError: The message gives both sides.
    """
    if max(width, height) > MAX_SIDE:
        raise _RefusedError(
            f"is too large ({width}x{height} pixels): each side may have at most {MAX_SIDE}. Scale it down"
        )


def _too_many_pixels(most_pixels: int | None, size: str = "") -> str:
    assert most_pixels is not None  # without a bound nothing is too large
    return f"is too large{size}: at most {most_pixels / 1e6:.1f} million pixels are decoded. Scale it down"


def to_rgb(image: Image.Image) -> Image.Image:
    """A copy of an image in RGB, rotated as its EXIF tag says, with the grey levels that the network sees.

    Alpha is dropped. Modes `I` and `I;16` are 16-bit and are scaled to 8 bits; `F` holds grey levels 0 to 255 or, if
    all are within 0 and 1, black to white, and a warning says so. The result equals that of
    `UNetImageProcessor.upright`, which needs torch; levels of mode `F` are rounded and cut to 0..255.

    Raises:
        ValueError: For an image of mode `I` with values beyond 16 bits, of 16 bits with values of 8 bits, or of mode
            `F` with others than those.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow's `convert` would clip at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"Got an image of mode I with values from {values.min()} to {values.max()}; expected 16 bits, "
                "0 to 65535. Scale the image to that range."
            )
        if 0 < values.max() <= 255:
            raise ValueError(
                f"Got a 16-bit image whose highest value is {values.max()}; expected 0 to 65535, of which that is "
                "black. If its values are 0 to 255, save it with 8 bits."
            )
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 / 255 = 257; 128 rounds
    elif image.mode == "F":  # Pillow's `convert` would cut off decimals
        image = Image.fromarray(_grey_levels_of_floats(np.asarray(image)).round().clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_levels_of_floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= -MAX_OVERSHOOT and high <= 255 + MAX_OVERSHOOT):  # NaN is neither
        raise ValueError(
            f"Got an image of floats from {low:g} to {high:g}; expected grey levels 0 to 255, or 0 to 1. Scale the "
            "image to that range."
        )
    if low < 0 or high > 1 or high == 0:
        return values
    _say_that_floats_are_scaled()
    return values * 255


@cache
def _say_that_floats_are_scaled() -> None:
    logger.warning("Got an image of floats within 0 and 1: they are read as 0 for black and 1 for white.")


def write_atomic(path: Path, content: bytes) -> None:
    """Write or replace a file atomically: it is complete or not there. Its permissions are kept."""
    with atomic_file(path) as file:
        file.write(content)


def give_usual_permissions(files: Iterable[Path]) -> None:
    """Give files the permissions that the umask gives to new ones.

    Libraries that write a temporary file first, such as safetensors, leave one that its owner alone may read.

    Raises:
        OSError: If a file is not there, or no file can be written beside it.
    """
    for file in files:
        new = file.with_name(f".{secrets.token_hex(8)}.part")  # UNFINISHED
        new.touch(exist_ok=False)
        try:
            shutil.copymode(new, file)
        finally:
            new.unlink()


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of an open file, read in parts, since it may not fit into memory."""
    digest = hashlib.sha256()
    while part := file.read(2**20):
        digest.update(part)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends; after an error it is removed.

    Raises:
        OSError: If it cannot be written; "filename" is `path`.

    Until then it lies beside `path`. Its name, in `name`, is random, and it is created only if nothing has that name:
    whoever else may write to the folder cannot plant a link there that would be followed. The name is short: `path`
    may have the longest name allowed.
    """
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")  # UNFINISHED
    try:
        with unfinished.open("xb") as file:
            try:
                yield file
                file.close()
                if path.exists():
                    shutil.copymode(path, unfinished)
                os.replace(unfinished, path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
    except OSError as error:
        if error.filename in (None, str(unfinished)):
            error.filename = str(path)
        raise


def remove_unfinished(folder: Path, subfolders: Iterable[str]) -> None:
    """Remove what a killed process left of `atomic_file`; nobody may be writing there.

    Args:
        folder: Its own files are looked at.
        subfolders: Folders in it, whose files are looked at at any depth.
    """
    found = [folder.glob(".*.part"), *((folder / name).rglob(".*.part") for name in subfolders)]
    for file in chain.from_iterable(found):
        if UNFINISHED.fullmatch(file.name):
            file.unlink(missing_ok=True)
