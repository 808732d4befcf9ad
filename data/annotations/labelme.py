"""LabelMe JSON: a file for each image, as labelme 3 to 6 writes it: https://github.com/wkentaro/labelme."""

import base64
import binascii
import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import counted
from ...common.files import image_from_bytes
from ...common.frame_hashes import MAX_DISTANCE, frame_hash
from ..layouts import is_image
from .entries import NO_LABEL, Frame, Reading, Region, mapping_of, points_of, read_content, size_of, value_of
from .shapes import Bitmap, EntryError, Shape, ellipse, polygon, rectangle

NAME = "LabelMe"
NO_REGIONS = ("point", "points", "line", "linestrip")
TURNED = ("oriented_rectangle", "rotation", "quadrilateral")  # by four corners; the last two are X-AnyLabeling's


def recognise(data: Any) -> bool:
    """Whether a JSON file's value is LabelMe's."""
    return isinstance(data, Mapping) and isinstance(data.get("shapes"), list) and "imagePath" in data


def read(data: Mapping[str, Any], file: Path, reading: Reading) -> list[Frame]:
    """The file's image with its shapes. The image in the file is taken if there is none of its name on the disk."""
    frames = []
    with reading.noting(file, "the file"):
        name = value_of(data, "imagePath", str, "the path of an image")
        size = size_of(data, "imageWidth", "imageHeight")
        image, content = _image_of(name, data.get("imageData"), file, reading)
        frame = Frame(file, "the file", image, size, content=content)
        frames.append(frame)
        for number, shape in enumerate(data["shapes"]):
            with reading.noting(file, f"shape {number}"):
                frame.regions.append(_region(mapping_of(shape), f"shape {number}"))
    return frames


def file_name(name: str) -> str:
    """That of a path as it is written in a file, also of Windows."""
    return name.replace("\\", "/").rpartition("/")[2]


def _image_of(name: str, encoded: Any, file: Path, reading: Reading) -> tuple[str | Path, bytes | None]:
    """The file of an image; or, if there is none but the annotations file holds it, where it would lie, and its bytes.

    Raises:
        EntryError: If there is no image.
    """
    if (there := _path_of(name, file, reading)) is not None:
        return there, None
    if not encoded:
        return reading.finder.find(name, file.parent), None
    content = _from_base64(encoded, "imageData")
    with contextlib.suppress(EntryError):
        found = reading.finder.find(name, file.parent)
        if _is_picture(content, read_content(found)):  # frames of another video may have the same name
            return found, None
    reading.note("image", "read from the annotations, since no image file is there")
    return (file.parent.relative_to(reading.finder.folder) / file_name(name)).as_posix(), content


def _path_of(name: str, file: Path, reading: Reading) -> Path | None:
    """The image at its path from the annotations file on; None if that leads nowhere, or out of the data set."""
    root = Path(os.path.abspath(reading.finder.root))
    found = Path(os.path.abspath(file.parent / name.replace("\\", "/")))
    if not (found.is_relative_to(root) and found.is_file() and is_image(found)):
        return None
    return reading.finder.root / found.relative_to(root)


def _is_picture(content: bytes, other: bytes) -> bool:
    """Whether two encoded images show the same: LabelMe encodes some anew."""
    if content == other:
        return True
    try:
        first, second = (frame_hash(image_from_bytes(one)) for one in (content, other))
    except (OSError, ValueError):
        return False
    return int((first != second).sum()) <= MAX_DISTANCE


def _from_base64(text: Any, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise EntryError(f"has {name} that is no base64 ({error}). Save it anew in LabelMe") from error


def _region(shape: Mapping[str, Any], entry: str) -> Region:
    kind = shape.get("shape_type") or "polygon"
    label = shape.get("label")
    labels = [NO_LABEL if label in (None, "") else str(label)]
    drawn = None if kind in NO_REGIONS else _shape(shape, kind)
    return Region(entry, labels, drawn, str(kind), has_score=shape.get("score") is not None)


def _shape(shape: Mapping[str, Any], kind: Any) -> Shape:
    points = points_of(shape.get("points"))
    if kind in ("polygon", *TURNED) or (kind == "rectangle" and len(points) == 4):
        return polygon(points)
    if kind not in ("rectangle", "circle", "ellipse", "mask"):
        raise EntryError(f"has the type {kind}, which is not known. Draw it as a polygon")
    if len(points) != 2:
        raise EntryError(f"is a {kind} of {counted(len(points), 'point')}: expected 2. Draw it anew")
    if kind == "circle":  # its centre, and a point on it
        (x, y), on_it = points.tolist()
        radius = math.dist((x, y), on_it)
        return ellipse(x, y, radius, radius)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    if kind == "mask":
        return _bitmap(shape.get("mask"), points)
    if kind == "ellipse":  # two corners of its box
        return ellipse((left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2)
    return rectangle(left, top, right - left, bottom - top)


def _bitmap(mask: Any, points: np.ndarray) -> Bitmap:
    """A PNG in base64; the points are its first and last pixel."""
    content = _from_base64(mask, "a mask")
    try:
        pixels = np.asarray(image_from_bytes(content).convert("L")) > 0
    except (OSError, ValueError) as error:
        raise EntryError(f"has a mask that is no image ({error}). Save it anew in LabelMe") from error
    (left, top), (right, bottom) = points.astype(int).tolist()
    wanted = (right - left + 1, bottom - top + 1)
    if pixels.shape[::-1] != wanted:
        found, expected = (f"{width}x{height}" for width, height in (pixels.shape[::-1], wanted))
        raise EntryError(f"has a mask of {found} pixels, whose two points are {expected} apart. Draw it anew")
    return Bitmap(pixels, left, top)
