"""VIA 2 JSON: projects and exported annotations: https://www.robots.ox.ac.uk/~vgg/software/via/."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .entries import NO_LABEL, Frame, Reading, Region, mapping_of, number_of, numbers_of, value_of
from .shapes import EntryError, Shape, ellipse, polygon, rectangle

NAME = "VIA"
PROJECT = "_via_img_metadata"
NO_REGIONS = ("point", "polyline", "line")
SCORE = "score"  # region attribute of `predict.py --annotations via`


def recognise(data: Any) -> bool:
    """Whether a JSON file's value is a project of VIA 2, or the annotations that it exports."""
    if not isinstance(data, Mapping):
        return False
    images = data.get(PROJECT, data)
    if not isinstance(images, Mapping):
        return False
    are_images = [isinstance(image, Mapping) and {"filename", "regions"} <= image.keys() for image in images.values()]
    return PROJECT in data or (bool(are_images) and all(are_images))


def read(data: Mapping[str, Any], file: Path, reading: Reading) -> list[Frame]:
    """The images that a file lists, with the regions of each."""
    frames = []
    for key, image in data.get(PROJECT, data).items():
        with reading.noting(file, f"image {key}"):
            fields = mapping_of(image)
            frame = Frame(file, f"image {key}", value_of(fields, "filename", str, "the name of its file"), None)
            size = fields.get("size")
            frame.bytes_there = size if isinstance(size, int) and size > 0 else None
            frames.append(frame)
            regions = fields.get("regions")
            # VIA 1 numbers them in an object.
            listed = list(regions.values()) if isinstance(regions, Mapping) else regions
            if not isinstance(listed, list):
                raise EntryError("has no list of regions")
            for number, region in enumerate(listed):
                entry = f"region {number} of image {key}"
                with reading.noting(file, entry):
                    frame.regions.append(_region(mapping_of(region), entry))
    return frames


def _region(region: Mapping[str, Any], entry: str) -> Region:
    attributes = mapping_of(region.get("shape_attributes"))
    kind = str(attributes.get("name"))
    shape = None if kind in NO_REGIONS else _shape(attributes, kind)
    named = region.get("region_attributes")
    has_score = isinstance(named, Mapping) and named.get(SCORE) not in (None, "")
    return Region(entry, _labels(named), shape, kind, has_score)


def _labels(attributes: Any) -> list[str]:
    """The values of all attributes; of check boxes, the checked ones. `SCORE` is none, but how sure a program was."""
    labels: list[str] = []
    for name, value in (attributes if isinstance(attributes, Mapping) else {}).items():
        if name == SCORE:
            continue
        if isinstance(value, Mapping):
            labels += [label for label, is_checked in value.items() if is_checked]
        elif value not in (None, ""):
            labels.append(str(value).strip())
    return labels or [NO_LABEL]


def _shape(attributes: Mapping[str, Any], kind: str) -> Shape:
    def of(*names: str) -> list[float]:
        return [number_of(attributes, name) for name in names]

    if kind == "polygon":
        x, y = (
            numbers_of(value_of(attributes, f"all_points_{axis}", list, "a list of numbers"), f"all_points_{axis}")
            for axis in "xy"
        )
        if len(x) != len(y):
            raise EntryError(f"has {len(x)} x and {len(y)} y: expected as many. Draw it anew")
        return polygon(np.stack([x, y], axis=1))
    if kind == "rect":
        return rectangle(*of("x", "y", "width", "height"))
    if kind == "circle":
        x_centre, y_centre, radius = of("cx", "cy", "r")
        return ellipse(x_centre, y_centre, radius, radius)
    if kind == "ellipse":
        x_centre, y_centre, radius_x, radius_y = of("cx", "cy", "rx", "ry")
        theta = number_of(attributes, "theta") if "theta" in attributes else 0.0
        return ellipse(x_centre, y_centre, radius_x, radius_y, math.degrees(theta))
    raise EntryError(f"has the shape {kind}, which is not known. Draw it as a polygon")
