"""YOLO's text files of polygons beside a data.yaml: https://docs.ultralytics.com/datasets/segment/."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...common.errors import first_line, some
from ...common.files import IMAGE_SUFFIXES
from ..layouts import files_below, is_image
from ..samples import DatasetError
from ..split_names import known_split
from .entries import Frame, Reading, Region, numbers_of, read_content
from .shapes import EntryError, polygon

NAME = "YOLO"
SPLITS = ("train", "val", "test")
ROUNDING = 1e-4  # beyond 1


def recognise(content: bytes) -> Mapping[str, Any] | None:
    """What a data.yaml of YOLO says; None if a file is none."""
    try:
        data = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    is_there = isinstance(data, Mapping) and "names" in data and any(name in data for name in SPLITS)
    return data if is_there else None


def read(data: Mapping[str, Any], file: Path, reading: Reading) -> list[Frame]:
    """The images of all splits, with the regions of each; those without a text file have none.

    Raises:
        DatasetError: If two splits share images, or a split has none.
    """
    names = _names(data, file)
    reading.declared.update(names.values())
    frames: list[Frame] = []
    splits: dict[Path, str] = {}
    text_files = 0
    for split in SPLITS:
        for image in _images(data, split, file, reading):
            if splits.setdefault(image, split) != split:
                raise DatasetError(
                    f"{file}: {splits[image]} and {split} share images, as {image}. Give each split images of its "
                    "own; or leave out val, so that some of train are held out."
                )
            labels = _labels_beside(image)
            text_files += labels.is_file()
            frame = Frame(labels if labels.is_file() else file, f"image {image.name}", image, None)
            frame.split = known_split(split)
            frame.regions = list(_regions(labels, names, reading)) if labels.is_file() else []
            frames.append(frame)
    if frames and not text_files:
        raise DatasetError(
            f"{file}: no image has a text file, as {_labels_beside(Path(frames[0].image))} of {frames[0].image}. "
            "Put them in folders labels/ beside images/."
        )
    return frames


def _names(data: Mapping[str, Any], file: Path) -> dict[int, str]:
    names = data["names"]
    names = [names] if isinstance(names, str) else names
    try:
        pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
        return {int(number): str(name) for number, name in pairs}
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{file}: names is {names!r}; expected a list of labels, or numbers with labels."
        ) from error


def _images(data: Mapping[str, Any], split: str, file: Path, reading: Reading) -> list[Path]:
    """The images of a split: of folders, or of text files with a path in each line."""
    places = data.get(split) or []
    places = [places] if isinstance(places, str) else places
    if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
        raise DatasetError(f"{file}: {split} is {places!r}; expected a folder, or a list of folders.")
    found: list[Path] = []
    for place in places:
        path = _place(place, str(data.get("path") or ""), file)
        if path is None and split == "test":  # Roboflow names it also in exports that have none
            reading.notes["test splits are named in data.yaml but are not there, and were left out"] += 1
            return []
        if path is None:
            raise DatasetError(f"{file}: {split} is {place}, which is not beside the file. Put it there or remove it.")
        if path.is_dir():
            found += [image for image in files_below(path) if is_image(image)]
            continue
        for line in read_content(path).decode("utf-8-sig", errors="replace").splitlines():
            if line.strip():
                with reading.noting(path, f"the line {line.strip()}"):
                    found.append(reading.finder.find(line.strip(), path.parent))
    if places and not found:
        raise DatasetError(f"{file}: {split} ({some(places)}) holds no image; expected {some(IMAGE_SUFFIXES, 20)}.")
    return found


def _place(place: str, base: str, file: Path) -> Path | None:
    """Where a split lies: below `path` of the data.yaml, or beside it, also where a program wrote ../ before it."""
    folder = file.parent
    bare = Path(*[part for part in Path(place).parts if part not in ("..", "/")])
    candidates = (folder / base / place, folder / place, folder / base / bare, folder / bare)
    return next((path for path in candidates if path.exists()), None)


def _labels_beside(image: Path) -> Path:
    """The text file of an image: in labels/ in place of the last images/ of its path, or beside it."""
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts) / f"{image.stem}.txt"


def _regions(file: Path, names: Mapping[int, str], reading: Reading) -> Iterator[Region]:
    try:
        lines = read_content(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is no text file ({first_line(error)}). Export it anew.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with reading.noting(file, f"line {number}"):
                yield _region(line.split(), names, f"line {number}")


def _region(fields: list[str], names: Mapping[int, str], entry: str) -> Region:
    if not fields[0].isdecimal() or int(fields[0]) not in names:
        declared = ", ".join(f"{key} ({name})" for key, name in list(names.items())[:12]) or "none"
        raise EntryError(f"has the class {fields[0]}; data.yaml declares {declared}. Declare it or correct it")
    labels = [names[int(fields[0])]]
    values = np.array(numbers_of(fields[1:], "coordinates"))
    if len(values) and (values.min() < -ROUNDING or values.max() > 1 + ROUNDING):
        wrong = values.min() if values.min() < -ROUNDING else values.max()
        raise EntryError(f"has the coordinate {wrong:g}: expected 0 to 1, shares of the image's width and height")
    if len(values) == 4:
        return Region(entry, labels, None, "box")
    if len(values) % 2 or len(values) == 0:
        raise EntryError(f"has {len(values)} numbers after its class: expected x and y by turns, of 3 points or more")
    return Region(entry, labels, polygon(values.reshape(-1, 2), is_relative=True), "polygon")
