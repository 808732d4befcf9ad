"""Image files: their suffixes, reading them, RGB of all modes; and atomic writing of any file."""

import io
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import first_line

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Pillow's names of these formats. A file's content chooses the decoder, and others start programs (EPS: Ghostscript).
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_SIDE = 16_384  # pixels, of an image or a video frame: a tiny file can state millions, and costs time and memory


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
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            check_sides(*image.size)
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


def check_sides(width: int, height: int) -> None:
    """Refuse an image with a side of more than `MAX_SIDE` pixels.

    Raises:
        ValueError: The message gives both sides.
    """
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"is too large ({width}x{height} pixels): each side may have at most {MAX_SIDE}. Scale it down")


def _too_large(most_pixels: int | None, size: str = "") -> str:
    assert most_pixels is not None  # without a bound nothing is too large
    return f"is too large{size}: at most {most_pixels / 1e6:.1f} million pixels are decoded. Scale it down"


def to_rgb(image: Image.Image) -> Image.Image:
    """A copy of an image in RGB, rotated as its EXIF tag says, with the grey levels that the network sees.

    Modes `I` and `I;16` are 16-bit and are scaled to 8 bits; `F` holds grey levels 0 to 255. The result equals that of
    `UNetImageProcessor.upright`, which needs torch; levels of mode `F` are rounded and cut to 0..255.

    Raises:
        ValueError: For an image of mode `I` with values beyond 16 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow's `convert` would clip at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"Got an image of mode I with values from {values.min()} to {values.max()}; expected 16 bits, "
                "0 to 65535. Scale the image to that range."
            )
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 / 255 = 257; 128 rounds
    elif image.mode == "F":  # Pillow's `convert` would cut off decimals
        image = Image.fromarray(np.asarray(image).round().clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


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
