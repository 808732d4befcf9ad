"""LabelMe: a JSON file for each image, with polygons (which have no holes) or masks.

A file names its image by the way from its folder to the image, so LabelMe finds it without a copy, and no absolute
path of the machine stands in it.
"""

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from ..inputs import NAME_BYTES, shortened
from .frames import AnnotatedFrame, Region
from .options import Options, rounded

FOLDER, SUFFIX = "labelme", ".json"
VERSION = "5.4.1"  # of LabelMe, whose files these are like: the first versions with masks are older


def files(frames: Iterable[AnnotatedFrame], options: Options) -> Iterator[tuple[str, Iterable[str]]]:
    for frame in frames:
        stem = shortened(frame.mask.stem, frame.mask.stem, NAME_BYTES - len(SUFFIX))
        file = PurePath(FOLDER, frame.mask.parent, stem + SUFFIX)
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": list(_shapes(frame, options)),
            "imagePath": _way_to(frame, options.folder / file.parent),
            "imageData": None,
            "imageHeight": frame.height,
            "imageWidth": frame.width,
        }
        yield file.as_posix(), [json.dumps(content, indent=1), "\n"]


def _way_to(frame: AnnotatedFrame, folder: Path) -> str:
    """The path from a folder to an image; the image's name alone if nothing tells where it lies."""
    if frame.path is None:
        return frame.name
    try:
        return PurePath(os.path.relpath(frame.path, os.path.realpath(folder))).as_posix()
    except ValueError:  # on Windows, where the two are on different drives
        return frame.name


def _shapes(frame: AnnotatedFrame, options: Options) -> Iterator[dict[str, Any]]:
    for number, region in enumerate(frame.regions, start=1):
        if options.masks:
            yield _shape(region, options, "mask", _box(region), mask=_encode(region.inside))
            continue
        options.filled += region.holes
        group = number if len(region.polygons) > 1 else None
        for polygon in region.polygons:
            yield _shape(region, options, "polygon", rounded(polygon.exterior), group_id=group)


def _shape(region: Region, options: Options, kind: str, points: list[list[float]], **fields: Any) -> dict[str, Any]:
    shape = {"label": options.label, "points": points, "group_id": None, "description": "", "shape_type": kind}
    shape |= {"flags": {}, "mask": None} | fields
    return shape if region.score is None else shape | {"score": region.score}


def _box(region: Region) -> list[list[float]]:
    """The first and the last pixel of a region's box."""
    return [[region.left, region.top], [region.left + region.width - 1, region.top + region.height - 1]]


def _encode(inside: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
