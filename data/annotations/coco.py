"""COCO JSON, as CVAT, Label Studio, Roboflow, VIA and others export it: https://cocodataset.org/#format-data."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .entries import NO_LABEL, Frame, Reading, Region, mapping_of, numbers_of, size_of, value_of
from .shapes import EntryError, ImageRuns, Polygons, Shape

NAME = "COCO"


def recognise(data: Any) -> bool:
    """Whether a JSON file's value is COCO's, with instances: files of captions have no regions."""
    if not isinstance(data, Mapping) or not all(
        isinstance(data.get(name), list) for name in ("images", "annotations")
    ):
        return False
    first = next(iter(data["annotations"]), None)
    if not isinstance(first, Mapping):
        return True
    is_panoptic = "segments_info" in first  # whose regions are in images beside it
    return not is_panoptic and (isinstance(data.get("categories"), list) or "segmentation" in first)


def read(data: Mapping[str, Any], file: Path, reading: Reading) -> list[Frame]:
    """The images that a file lists, with the regions of each."""
    names = _category_names(data, file, reading)
    regions = defaultdict(list)
    entries = defaultdict(list)
    for index, annotation in enumerate(data["annotations"]):
        entry = f"annotation {annotation['id'] if _has_id(annotation) else f'number {index}'}"
        with reading.noting(file, entry):
            fields = mapping_of(annotation)
            image = _key(fields, "image_id")
            entries[image].append(entry)
            regions[image].append(_region(fields, entry, names))
    frames = {}
    for index, image in enumerate(data["images"]):
        entry = f"image {image['id'] if _has_id(image) else f'number {index}'}"
        with reading.noting(file, entry):
            fields = mapping_of(image)
            key = _key(fields, "id")
            if key in frames:
                raise EntryError("has the id of another image: ids must differ. Export the annotations anew")
            name = value_of(fields, "file_name", str, "the name of its file")
            frames[key] = Frame(file, entry, name, size_of(fields, "width", "height"), regions[key])
    known = {image.get("id") for image in data["images"] if isinstance(image, Mapping) and _has_id(image)}
    for key in entries.keys() - known:
        for entry in entries[key]:
            reading.add_problem(file, f"{entry} is of the image {key!r}, which the file does not list. Remove one.")
    return list(frames.values())


def _has_id(entry: Any) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("id"), int | str)


def _key(fields: Mapping[str, Any], name: str) -> int | str:
    value: int | str = value_of(fields, name, (int, str), "a number or text")  # type: ignore[arg-type]
    return value


def _category_names(data: Mapping[str, Any], file: Path, reading: Reading) -> dict[int | str, str]:
    names: dict[int | str, str] = {}
    for index, category in enumerate(data.get("categories") or []):
        with reading.noting(file, f"category number {index}"):
            fields = mapping_of(category)
            names[_key(fields, "id")] = str(fields.get("name") or fields["id"])
    reading.declared.update(names.values())
    return names


def _region(fields: Mapping[str, Any], entry: str, names: Mapping[int | str, str]) -> Region:
    category = fields.get("category_id")
    if category is None and not names:
        label = NO_LABEL
    elif isinstance(category, int | str) and category in names:
        label = names[category]
    else:
        declared = ", ".join(f"{key!r} ({name})" for key, name in list(names.items())[:12]) or "none"
        raise EntryError(f"has the category {category!r}; the file declares {declared}. Declare it or correct it")
    shape = _shape(fields.get("segmentation"))
    return Region(entry, [label], shape, "box" if shape is None else "segmentation")


def _shape(segmentation: Any) -> Shape | None:
    """A region's shape: several parts, or run lengths, compressed or not; None if it has a box alone."""
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, Mapping):
        size = segmentation.get("size")
        if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) for side in size):
            raise EntryError("has run lengths without a size: expected [height, width]")
        counts = segmentation.get("counts")
        if isinstance(counts, str):
            if not counts.isascii():
                raise EntryError("has compressed run lengths with other characters than COCO's. Export it anew")
            return ImageRuns(counts.encode("ascii"), (size[1], size[0]))
        if not isinstance(counts, list) or not all(type(count) is int for count in counts):
            raise EntryError("has run lengths that are neither a list of whole numbers nor text. Export it anew")
        return ImageRuns(counts, (size[1], size[0]))
    if not isinstance(segmentation, list):
        raise EntryError("has a segmentation that is neither polygons nor run lengths. Export it anew")
    parts = [segmentation] if isinstance(segmentation[0], int | float) else segmentation
    return Polygons([_part(part) for part in parts])


def _part(values: Any) -> np.ndarray:
    """(N, 2) of [x, y, x, y, ...]."""
    if not isinstance(values, list) or len(values) % 2:
        raise EntryError("has a polygon that is no list of x and y by turns. Draw it anew or remove it")
    return np.array(numbers_of(values, "polygon")).reshape(-1, 2)
