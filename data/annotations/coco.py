"""COCO JSON, as CVAT, Label Studio, Roboflow, VIA and others export it: https://cocodataset.org/#format-data."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .entries import NO_LABEL, Frame, Reading, Region, mapping_of, numbers_of, shown, size_of, value_of
from .shapes import EntryError, ImageRuns, Polygons, Shape

NAME = "COCO"
INSTANCES = "instances"
OTHER_TASKS = ("captions", "image_info", "keypoints", "labels", "panoptic", "person_keypoints", "stuff")
NOT_READ = "of other tasks than COCO's instances: not read"
PANOPTIC = (
    "holds COCO's panoptic segmentation, whose regions are in images beside it, which are not read: export "
    "instances, with polygons or run lengths"
)
RESULTS = (
    "holds results for COCO's evaluation, that is predictions without their images: to train on them, have them "
    "corrected in an annotation program first, and export COCO there"
)


def recognise(data: Any) -> bool:
    """Whether a JSON file's value is COCO's, with instances: files of captions have no regions."""
    if not isinstance(data, Mapping) or not all(
        isinstance(data.get(name), list) for name in ("images", "annotations")
    ):
        return False
    first = next(iter(data["annotations"]), None)
    if not isinstance(first, Mapping):
        return True
    return "segments_info" not in first and (isinstance(data.get("categories"), list) or "segmentation" in first)


def other_kind(data: Any) -> str | None:
    """What a JSON file of COCO holds that is not read, with the remedy; None if it is none of these."""
    entries = data.get("annotations") if isinstance(data, Mapping) else data
    first = entries[0] if isinstance(entries, list) and entries else None
    if not isinstance(first, Mapping):
        return None
    if isinstance(data, Mapping):
        return PANOPTIC if "segments_info" in first else None
    is_result = "image_id" in first and "category_id" in first and bool({"segmentation", "bbox"} & first.keys())
    return RESULTS if is_result else None


def of_instances(files: Sequence[Path]) -> list[Path]:
    """Without the files that name another task, if one names instances: datumaro and COCO itself have them beside."""
    tasks = {file: _task(file) for file in files}
    return [file for file in files if tasks[file] in ("", INSTANCES)] if INSTANCES in tasks.values() else list(files)


def _task(file: Path) -> str:
    """The task with which a file's name begins, as "instances" of instances_train2017.json; "" if none."""
    if file.suffix.lower() != ".json":
        return ""
    bare = re.sub(r"[\W\d]+", "_", file.stem.lower())
    return next((task for task in (INSTANCES, *OTHER_TASKS) if f"{bare}_".startswith(f"{task}_")), "")


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
    known = {_key(image, "id") for image in data["images"] if _has_id(image)}
    for key in entries.keys() - known:
        for entry in entries[key]:
            reading.add_problem(file, f"{entry} is of the image {key}, which the file does not list. Remove one.")
    return list(frames.values())


def _has_id(entry: Any) -> bool:
    return isinstance(entry, Mapping) and _is_key(entry.get("id"))


def _is_key(value: Any) -> bool:
    is_whole = isinstance(value, float) and value.is_integer()  # pandas writes ids so
    return is_whole or (isinstance(value, int | str) and not isinstance(value, bool))


def _key(fields: Mapping[str, Any], name: str) -> str:
    """An id as text: some programs write 3 in one place, and "3" or 3.0 in another."""
    value = fields.get(name)
    if not _is_key(value):
        raise EntryError(f"has {shown(value)} as its {name}: expected a whole number or text")
    return str(int(value)) if isinstance(value, float) else str(value)


def _category_names(data: Mapping[str, Any], file: Path, reading: Reading) -> dict[str, str]:
    names: dict[str, str] = {}
    for index, category in enumerate(data.get("categories") or []):
        with reading.noting(file, f"category number {index}"):
            fields = mapping_of(category)
            key, name = _key(fields, "id"), str(fields.get("name") or fields["id"])
            if names.setdefault(key, name) != name:
                raise EntryError(f"({name}) has the id of another category ({names[key]}): ids must differ")
    reading.declared.update(names.values())
    return names


def _region(fields: Mapping[str, Any], entry: str, names: Mapping[str, str]) -> Region:
    category = fields.get("category_id")
    if category is None and not names:
        label = NO_LABEL
    elif _is_key(category) and (key := _key(fields, "category_id")) in names:
        label = names[key]
    else:
        declared = ", ".join(f"{key} ({name})" for key, name in list(names.items())[:12]) or "none"
        raise EntryError(f"has {shown(category)} as its category; the file declares {declared}. Declare or correct it")
    shape = _shape(fields.get("segmentation"))
    kind = "box" if shape is None else "segmentation"
    return Region(entry, [label], shape, kind, has_score=fields.get("score") is not None)


def _shape(segmentation: Any) -> Shape | None:
    """A region's shape: several parts, or run lengths, compressed or not; None if it has a box alone."""
    if segmentation in (None, [], [[]]):
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
