"""Image files: their suffixes, reading them, and atomic writing of any file."""

import io
import os
import shutil
import zlib
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import first_line

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def image_from_bytes(content: bytes, most_pixels: int | None = None) -> Image.Image:
    """Decode the one image of a file, rotated as its EXIF tag says.

    Args:
        content: The file's bytes.
        most_pixels: A larger image is refused before it is decoded; None: Pillow's own limit.

    Raises:
        ValueError: If the file holds no image or several, is damaged, or is too large.
    """
    if not content:
        raise ValueError("is empty (0 bytes)")
    most_pixels = most_pixels or Image.MAX_IMAGE_PIXELS
    try:
        with Image.open(io.BytesIO(content)) as image:
            if most_pixels is not None and image.width * image.height > most_pixels:
                raise ValueError(_too_large(most_pixels, f" ({image.width}x{image.height} pixels)"))
            # Phones put a second picture, for editing, into a JPEG.
            pictures = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if pictures > 1:
                raise ValueError(
                    f"holds {pictures} images, as an animation or in pages: expected one. Convert an animation to "
                    "mp4, or save the images one by one"
                )
            return ImageOps.exif_transpose(image)  # reads the pixels
    except UnidentifiedImageError as error:
        raise ValueError("is no image of a format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(most_pixels)) from error
    except ValueError:
        raise
    except Exception as error:  # Pillow's readers raise errors of all kinds for damaged files
        raise ValueError(f"is damaged ({first_line(error)})") from error


def _too_large(most_pixels: int | None, size: str = "") -> str:
    assert most_pixels is not None  # without a bound nothing is too large
    return f"is too large{size}: at most {most_pixels / 1e6:.1f} million pixels are decoded. Scale it down"


def write_atomic(path: Path, content: bytes) -> None:
    """Write or replace a file atomically: it is complete or not there. Its permissions are kept."""
    unfinished = partial_path(path)
    unfinished.write_bytes(content)
    if path.exists():
        shutil.copymode(path, unfinished)
    os.replace(unfinished, path)


def partial_path(path: Path) -> Path:
    """Where to write a file until it is complete. The name is short: `path` may have the longest name allowed."""
    return path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.part")
