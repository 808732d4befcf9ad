"""Thumbnails of segmented images for report.html, with the outlines of their regions.

    picture = read_picture(output, mask_file, record, path, earlier={})
    for picture in place(pictures, output): picture.url

All are in the page itself or, if that would make it large, files in a folder beside it. Each holds the hash of the
mask's file, which stands for image, mask and settings: one that fits is not made again, and outlives its image.
"""

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..common.errors import UserError
from ..common.files import open_image, read_file, to_rgb, write_atomic
from ..common.prefetch import prefetch_map
from ..inference.inputs import MASKS, OVERLAYS, THUMBNAILS
from ..inference.overlay import draw_overlay

SIDE = 320  # of a thumbnail's longer side, in pixels: sharp at twice the density of a grid cell's 160
QUALITY = 80
MAX_INSIDE_BYTES = 2**23  # of all thumbnails in the page itself
MAX_BYTES = 2**20  # of one; they have some 10 kB
THREADS = 4
MARK = "unet-kvasir-seg thumbnail 1 of "  # comment in each file; another number if they are drawn in another way
DATA_URL = "data:image/jpeg;base64,"


@dataclass(frozen=True)
class Picture:
    """An image that was segmented, as the page shows it.

    Attributes:
        mask: Path of its mask, below the folder of masks.
        record: The record in the mask.
        size: Width and height in pixels.
        problem: Why the image's file cannot be shown; None if it can.
        thumbnail: The JPEG file; None if there is no picture of the image.
        url: Of the thumbnail, once it has its place: a data URL, or a path below the output folder. None without one.
    """

    mask: Path
    record: dict[str, Any]
    size: tuple[int, int]
    problem: str | None
    thumbnail: bytes | None
    url: str | Path | None = None

    @property
    def file(self) -> Path:
        """Path of its thumbnail below the output folder, if it becomes a file."""
        return Path(THUMBNAILS, self.mask).with_suffix(".jpg")


def read_picture(
    output: Path, mask_file: Path, record: dict[str, Any], path: str | None, earlier: Mapping[str, bytes]
) -> Picture:
    """An image with its thumbnail: an earlier one that fits, else one of the image or of its overlay.

    Args:
        output: The output folder.
        mask_file: The image's mask.
        record: The record in it.
        path: Where the image's file is; None if that is not known.
        earlier: Thumbnails by the hashes of their masks' files, to be used if no file fits.

    Raises:
        OSError: If the mask cannot be read.
        UserError: If a file of another program has the thumbnail's name.
    """
    content = read_file(mask_file)
    key = hashlib.sha256(content).hexdigest()
    mask, size, problem = _read_mask(content)
    image, problem_of_image = _read_image(path, record["digest"])
    picture = Picture(mask_file.relative_to(output / MASKS), record, size, problem or problem_of_image, None)
    thumbnail = _read_thumbnail(output / picture.file, key) or earlier.get(key)
    if thumbnail is None and image is not None:
        try:
            thumbnail = _draw(image, mask, key)
        except ValueError as error:
            picture = replace(picture, problem=f"Its file {error}.")
    if thumbnail is None:
        with suppress(OSError, ValueError):  # most runs write no overlays
            thumbnail = _draw(read_file(output / OVERLAYS / picture.mask), None, key)
    return replace(picture, thumbnail=thumbnail)


def _read_mask(content: bytes) -> tuple[Image.Image | None, tuple[int, int], str | None]:
    """A mask, its width and height; or None and why, if its pixels are damaged."""
    size = 1, 1
    try:
        with open_image(content) as mask:
            size = mask.size
            mask.load()
    except ValueError as error:
        return None, size, f"Its mask {error}: remove the mask, and segment the image again."
    return mask, size, None


def _read_image(path: str | None, digest: str) -> tuple[bytes | None, str | None]:
    """An image's file, if it still is the one that was segmented; else None, and why."""
    if path is None:
        return None, "Where its file is was not recorded: an earlier version of this program segmented it."
    try:
        content = read_file(path)
    except FileNotFoundError:
        return None, "Its file is no longer there."
    except (OSError, ValueError) as error:
        return None, f"Its file cannot be read ({getattr(error, 'strerror', None) or error})."
    if hashlib.sha256(content).hexdigest() != digest:
        return None, "Its file was changed since it was segmented."
    return content, None


def _read_thumbnail(file: Path, key: str) -> bytes | None:
    """A thumbnail of an earlier report, if it is of this mask; None without one.

    Raises:
        UserError: If it is not of this program.
    """
    try:
        content = read_file(file, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _foreign(file) from error
    found = key_of(content)
    if found is None:
        raise _foreign(file)
    return content if found == key else None


def _foreign(file: Path) -> UserError:
    return UserError(f"{file} is there and not from this command: move it away, and make the report again.")


def key_of(content: bytes) -> str | None:
    """The hash in a thumbnail; None if it is a file of another program."""
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            comment = image.info.get("comment", b"").decode("ascii", "replace")
    except Exception:  # Pillow's readers raise errors of all kinds for damaged files
        return None
    return comment.removeprefix(MARK) if comment.startswith(MARK) else None


def _draw(content: bytes, mask: Image.Image | None, key: str) -> bytes:
    """A small JPEG of an image, with its mask drawn in if one is given.

    Raises:
        ValueError: If the image cannot be decoded.
    """
    with open_image(content) as opened:
        opened.draft("RGB", (2 * SIDE, 2 * SIDE))  # decodes large JPEG files at a fraction of their size
        image = to_rgb(opened)
    image.thumbnail((SIDE, SIDE))
    if mask is not None:
        # The mean of a pixel's part of the mask: also what is smaller than a pixel stays.
        image = draw_overlay(image, np.asarray(mask.resize(image.size, Image.Resampling.BOX)) > 0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, comment=MARK + key)
    return buffer.getvalue()


def place(pictures: Iterator[Picture], output: Path) -> Iterator[Picture]:
    """Give the thumbnails their place: in the page or, if all take more than `MAX_INSIDE_BYTES`, in files.

    Raises:
        OSError: If a file cannot be written.
    """
    first: list[Picture] = []
    size = 0
    for picture in pictures:
        first.append(picture)
        size += len(picture.thumbnail or b"")
        if size > MAX_INSIDE_BYTES:
            write = partial(_write, output)
            yield from prefetch_map(write, chain(first, pictures), threads=THREADS, ahead=4 * THREADS)
            return
    for picture in first:
        inside = base64.b64encode(picture.thumbnail).decode() if picture.thumbnail else None
        yield replace(picture, url=inside and DATA_URL + inside)


def _write(output: Path, picture: Picture) -> Picture:
    if picture.thumbnail is None:
        return picture
    file = output / picture.file
    if not file.exists() or file.read_bytes() != picture.thumbnail:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, picture.thumbnail)
    return replace(picture, url=picture.file)


def thumbnails_inside(page: str) -> dict[str, bytes]:
    """The thumbnails inside an earlier page, by the hashes of their masks' files."""
    found = {}
    for encoded in re.findall(f'"{DATA_URL}([A-Za-z0-9+/=]*)"', page):
        content = base64.b64decode(encoded)
        if key := key_of(content):
            found[key] = content
    return found


def remove_unused(output: Path, used: set[Path]) -> None:
    """Remove thumbnails of masks that have gone, or that are in the page now, and folders that are left empty.

    Args:
        output: The output folder.
        used: The files to keep, below the output folder. Those of other programs are kept too.
    """
    for parent, _, names in os.walk(output / THUMBNAILS, topdown=False):
        for name in names:
            file = Path(parent, name)
            with suppress(ValueError):  # too large or no regular file
                if file.relative_to(output) not in used and key_of(read_file(file, MAX_BYTES)) is not None:
                    file.unlink()
        with suppress(OSError):  # not empty
            os.rmdir(parent)
