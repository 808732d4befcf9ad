"""YOLO's text files of polygons, with or without a data.yaml: https://docs.ultralytics.com/datasets/segment/."""

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...common.csv_tables import is_number
from ...common.errors import counted, first_line, some
from ...common.files import IMAGE_SUFFIXES
from ..layouts import files_below, is_image
from ..samples import DatasetError
from ..split_names import known_split
from .entries import Frame, Reading, Region, numbers_of, read_text
from .shapes import EntryError, polygon

NAME = "YOLO"
SPLITS = ("train", "val", "test")
ROUNDING = 0.01  # beyond 1: what Ultralytics' own reader takes, too
NAMES_FILES = ("classes.txt", "obj.names")  # LabelImg's and Label Studio's; darknet's
MOST_YAML_BYTES = 2**20
MOST_DIGITS = 9  # of a class


def recognise(content: bytes, file: Path) -> Mapping[str, Any] | None:
    """What a data.yaml of YOLO says; None if a file is none. Without labels' names, a split has to be there."""
    data = _parse(content)
    if data is None or not any(name in data for name in SPLITS):
        return None
    places = [place for name in SPLITS if isinstance(place := data.get(name), str)]
    is_there = any(_place(place, str(data.get("path") or ""), file) for place in places)
    return data if "names" in data or is_there else None


def names_labels(content: bytes) -> bool:
    """Whether a data.yaml says what the labels are called, if not where the images are."""
    return "names" in (_parse(content) or {})


def is_text(content: bytes) -> bool:
    """Whether a text file is that of an image, with regions."""
    first = next((line.split() for line in _text(content).splitlines() if line.strip()), [])
    return len(first) > 4 and first[0].isdecimal() and all(map(is_number, first))


def _parse(content: bytes) -> Mapping[str, Any] | None:
    """The fields of a YAML file; None if it is another file."""
    if len(content) > MOST_YAML_BYTES:
        return None
    try:
        data = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return data if isinstance(data, Mapping) else None


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig", errors="replace")


def read(data: Mapping[str, Any], file: Path, reading: Reading) -> list[Frame]:
    """The images of all splits, with the regions of each; those without a text file have none.

    Raises:
        DatasetError: If two splits share images, or a split has none.
    """
    names = _names(data, file) if "names" in data else names_beside(file.parent, reading)
    reading.declared.update((names or {}).values())
    frames: list[Frame] = []
    splits: dict[Path, str] = {}
    for split in SPLITS:
        for image in _images(data, split, file, reading):
            if splits.setdefault(image, split) != split:
                raise DatasetError(
                    f"{file}: {splits[image]} and {split} share images, as {image}. Give each split images of its "
                    "own; or leave out val, so that some of train are held out."
                )
            frames.append(_frame(image, file, names, reading))
            frames[-1].split = known_split(split)
    if not frames:
        raise DatasetError(f"{file}: none of {some(SPLITS)} names images. Write their folder there, as train: images.")
    if all(frame.file == file for frame in frames):
        raise DatasetError(
            f"{file}: no image has a text file, as {_labels_beside(Path(frames[0].image))} of {frames[0].image}. "
            "Put them in folders labels/ beside images/."
        )
    return frames


def read_bare(folder: Path, reading: Reading) -> list[Frame] | None:
    """The images of a folder without a data.yaml that lists them, whose text files lie beside them or in labels/.

    Returns:
        None if there are no such text files, or most hold something else.

    Raises:
        DatasetError: If there are, but no images of their names.
    """
    # Before images are looked for, which may lie in the folder above, among much else.
    contents = [read_text(file) for file in files_below(folder) if file.suffix == ".txt"]
    contents = [content for content in contents if content.strip()]
    count = sum(map(is_text, contents))
    if not count or 2 * count < len(contents):
        return None
    texts = {image: text for image in reading.finder.files if (text := _text_of(image)) is not None}
    texts = {image: text for image, text in texts.items() if _is_below(text, folder)}
    if not texts:
        raise DatasetError(
            f"{folder} holds YOLO's text files, but no image of their names: put the images beside them, or in "
            "images/ beside labels/."
        )
    names = names_beside(folder, reading)
    reading.declared.update((names or {}).values())
    # Others in these folders are images without annotation; the folder above may hold those of other data sets.
    folders = {image.parent for image in texts}
    images = [image for image in reading.finder.files if image.parent in folders or _is_below(image, folder)]
    return [_frame(image, folder, names, reading) for image in images]


def _is_below(file: Path, folder: Path) -> bool:
    return file.is_relative_to(folder) or file.is_relative_to(folder.resolve())


def names_beside(folder: Path, reading: Reading) -> dict[int, str] | None:
    """The labels' names that a file beside images or texts says; None: their numbers are all that there is."""
    places = dict.fromkeys([folder, folder.parent if folder.name == "labels" else folder, reading.finder.root])
    for place in (one for base in places for one in (base, base / "labels")):
        for file in sorted(place.glob("*.y*ml")):
            if (data := _parse(read_text(file))) and "names" in data:
                return _names(data, file)
        for file in (place / name for name in NAMES_FILES):
            if file.is_file():
                lines = _text(read_text(file)).splitlines()
                return {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    return None


def _frame(image: Path, file: Path, names: Mapping[int, str] | None, reading: Reading) -> Frame:
    """An image with what its text file says; `file` stands for one that is not there."""
    text = _text_of(image)
    frame = Frame(text or file, f"image {image.name}", image, None)
    frame.regions = list(_regions(text, names, reading)) if text else []
    return frame


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
            reading.note("test split", "named in data.yaml but not there: left out")
            return []
        if path is None:
            raise DatasetError(f"{file}: {split} is {place}, which is not beside the file. Put it there or remove it.")
        if path.is_dir():
            found += [image for image in files_below(path) if is_image(image)]
            continue
        for line in _text(read_text(path)).splitlines():
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
    """Where the text file of an image belongs: in labels/ in place of the last images/ of its path, or beside it."""
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts) / f"{image.stem}.txt"


def _text_of(image: Path) -> Path | None:
    """The text file of an image if it is there; its umlauts may be written as one or as two signs."""
    files = dict.fromkeys([_labels_beside(image), image.with_suffix(".txt")])
    forms = [file.with_name(unicodedata.normalize(form, file.name)) for file in files for form in ("NFC", "NFD")]
    return next((file for file in [*files, *forms] if file.is_file()), None)


def _regions(file: Path, names: Mapping[int, str] | None, reading: Reading) -> Iterator[Region]:
    try:
        lines = read_text(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is no text file ({first_line(error)}). Export it anew.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with reading.noting(file, f"line {number}"):
                yield _region(line.split(), names, f"line {number}")


def _region(fields: list[str], names: Mapping[int, str] | None, entry: str) -> Region:
    labels = [_label(fields[0], names)]
    values = np.array(numbers_of(fields[1:], "coordinates"))
    if len(values) and (values.min() < -ROUNDING or values.max() > 1 + ROUNDING):
        wrong = values.min() if values.min() < -ROUNDING else values.max()
        raise EntryError(f"has the coordinate {wrong:g}: expected 0 to 1, shares of the image's width and height")
    if len(values) == 4:
        return Region(entry, labels, None, "box")
    if len(values) % 2 or len(values) == 0:
        raise EntryError(
            f"has {counted(len(values), 'number')} after its class: expected x and y by turns, of 3 points or more"
        )
    return Region(entry, labels, polygon(values.reshape(-1, 2), is_relative=True), "polygon")


def _label(number: str, names: Mapping[int, str] | None) -> str:
    if not number.isdecimal() or len(number) > MOST_DIGITS:
        raise EntryError(f"has the class {number}: expected a whole number from 0 on")
    if names is None:
        return str(int(number))
    if int(number) not in names:
        declared = ", ".join(f"{key} ({name})" for key, name in list(names.items())[:12]) or "none"
        raise EntryError(f"has the class {number}; the file of labels declares {declared}. Declare it or correct it")
    return names[int(number)]
