"""Finds the annotations of a data set, by what files hold and not by their names, and reads the images they list."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...common.errors import counted, first_line, require_extra, some
from ..layouts import DEEPEST, files_below, subfolders
from ..samples import DatasetError
from ..split_names import SPLIT_NAMES, known_split, split_in_name
from . import coco, cvat, label_studio, labelme, via, yolo
from .entries import Frame, Reading, parse_json, read_text

JSON_FORMATS = (label_studio, coco, labelme, via)
ENDINGS = (".json", ".xml", ".yaml", ".yml")
KNOWN_KINDS = (label_studio, coco)  # which have files that are not read, for which there is a remedy
EXPECTED = (
    "Expected COCO, LabelMe, VIA 2 or Label Studio (JSON or JSON-MIN) as .json, CVAT for images 1.1 as .xml, CVAT's "
    "labelmap.txt, or YOLO's data.yaml or folder (docs/annotate.md)."
)


def read_file(file: Path, reading: Reading) -> list[Frame]:
    """The images that one annotations file lists.

    Raises:
        DatasetError: If it is none, or is damaged.
    """
    if file.name == cvat.LABELMAP and (folders := cvat.labelled_folders([file.parent])):
        _check_extra()
        return cvat.read_masks(folders[0], reading)
    found = _read_one(file, reading)
    if not isinstance(found, str):
        return found[1]
    _refuse_known_kind(file, found)
    content = read_text(file)
    if file.suffix.lower() == ".txt" and yolo.is_text(content):
        raise DatasetError(f"{file} is YOLO's text of one image: give the folder that holds images and texts.")
    if file.suffix.lower() in (".yaml", ".yml") and yolo.names_labels(content):
        if (frames := _read_bare(file.parent, reading)) is not None:
            return frames
        raise DatasetError(
            f"{file} names labels, but no images: write the lines train: and val: with their folders, or put the text "
            "files beside the images, or in labels/ beside images/."
        )
    raise DatasetError(f"{file} holds no annotations that are known ({found}). {EXPECTED}")


def read_folder(folder: Path, reading: Reading) -> list[Frame] | None:
    """The images that the annotations in a folder list; None if it holds none.

    Raises:
        DatasetError: If it is not clear which of several files are meant, or one is damaged.
    """
    if found := mask_folders(folder):
        _check_extra()
        return [frame for one in found for frame in cvat.read_masks(one, reading)]
    formats: dict[str, dict[Path, list[Frame]]] = defaultdict(dict)
    others: list[tuple[Path, str]] = []
    files = [file for file in files_below(folder) if file.suffix.lower() in ENDINGS]
    files = [file for file in files if len(file.relative_to(folder).parts) <= DEEPEST + 1]
    chosen = coco.of_instances(files)
    reading.note("file", coco.NOT_READ, len(files) - len(chosen))
    for file in chosen:
        read = _read_one(file, reading)
        if isinstance(read, str):
            others.append((file, read))
        else:
            formats[read[0]][file] = read[1]
    if not formats:
        for file, reason in others:
            _refuse_known_kind(file, reason)
        return _read_bare(folder, reading)
    if coco.NAME in formats:
        formats[coco.NAME] = _with_outlines(folder, formats[coco.NAME], reading)
    _refuse_several(folder, formats)
    ((name, by_file),) = formats.items()
    for file, reason in others:
        if reason.startswith("damaged"):
            reading.add_problem(file, f"The file is {reason}. Export it anew, or remove it.")
        else:
            reading.note("file", "beside the annotations without any: not read")
    if name == labelme.NAME:
        return _with_unlisted(folder, by_file, reading)
    for file, frames in by_file.items():
        for frame in frames:
            frame.split = frame.split or _split_of(file, folder)
    return [frame for frames in by_file.values() for frame in frames]


def mask_folders(folder: Path) -> list[Path]:
    """The unpacked "Segmentation mask 1.1" of CVAT in a folder: itself, or folders in it."""
    return cvat.labelled_folders([folder]) or cvat.labelled_folders(subfolders(folder))


def _split_of(file: Path, folder: Path) -> str:
    """That of a file, or of the folders that it is in, as Roboflow has train/_annotations.coco.json."""
    above = [known_split(part) for part in reversed(file.relative_to(folder).parts[:-1])]
    return split_in_name(file.stem) or next((split for split in above if split in SPLIT_NAMES), "")


def _check_extra() -> None:
    require_extra("annotations", "pycocotools", "shapely", "defusedxml")


def _read_one(file: Path, reading: Reading) -> tuple[str, list[Frame]] | str:
    """The format of a file with the images it lists, or why it is none, such as "damaged: ..."."""
    content = read_text(file)
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start == b"<":
        if not cvat.recognise(content):
            return "XML of another kind"
        _check_extra()
        return cvat.NAME, cvat.read(content, file, reading)
    if start in (b"{", b"["):
        return _read_json(content, file, reading)
    data = None if file.suffix.lower() == ".json" else yolo.recognise(content, file)
    if data is not None:
        _check_extra()
        return yolo.NAME, yolo.read(data, file, reading)
    return "damaged: it is no JSON" if file.suffix.lower() == ".json" else "a file of another kind"


def _read_json(content: bytes, file: Path, reading: Reading) -> tuple[str, list[Frame]] | str:
    try:
        data = parse_json(content)
    except ValueError as error:
        return f"damaged: {first_line(error)}"
    for module in JSON_FORMATS:
        if module.recognise(data):
            _check_extra()
            return module.NAME, module.read(data, file, reading)
    known = (module.other_kind(data) for module in KNOWN_KINDS)
    return next(filter(None, known), f"JSON of another kind: {_described(data)}")


def _refuse_known_kind(file: Path, reason: str) -> None:
    """Say what is to be done with a file that is not read, if that is known."""
    if reason in (coco.PANOPTIC, coco.RESULTS, label_studio.PREDICTIONS):
        raise DatasetError(f"{file} {reason}.")


def _read_bare(folder: Path, reading: Reading) -> list[Frame] | None:
    """The images of YOLO's text files without a data.yaml that lists them, with the splits that their folders say."""
    frames = yolo.read_bare(folder, reading)
    if frames is not None:
        _check_extra()
        for frame in frames:
            frame.split = next(iter(_known_parts(Path(frame.image).relative_to(reading.finder.root))), "")
    return frames


def _described(data: Any) -> str:
    if isinstance(data, dict):
        return f"an object with the fields {some(list(data), most=4) or 'none'}"
    return f"a list of {counted(len(data), 'value')}" if isinstance(data, list) else "text"


def _refuse_several(folder: Path, formats: dict[str, dict[Path, list[Frame]]]) -> None:
    if len(formats) > 1:
        found = [f"{next(iter(files)).relative_to(folder)} ({name})" for name, files in formats.items()]
        raise DatasetError(f"{folder} holds annotations of several formats: {some(found)}. Give one of the files.")
    ((name, by_file),) = formats.items()
    if name == labelme.NAME:
        return
    splits = Counter(_split_of(file, folder) for file in by_file)
    for split, count in splits.items():
        if count > 1 or (split == "" and len(by_file) > 1):
            files = [
                str(file.relative_to(folder)) for file in by_file if count == 1 or _split_of(file, folder) == split
            ]
            raise DatasetError(
                f"{folder} holds several annotations files, and their names do not tell splits apart: {some(files)}. "
                "Give one of them, or call them train.json, val.json and test.json."
            )


def _with_outlines(folder: Path, by_file: dict[Path, list[Frame]], reading: Reading) -> dict[Path, list[Frame]]:
    """Without files of other COCO tasks: those that have no regions, while a file of the same images has some."""
    kept = dict(by_file)
    outlined = [file for file, frames in by_file.items() if any(_has_outline(frame) for frame in frames)]
    images = {file: {frame.image for frame in frames} for file, frames in by_file.items()}
    for file in by_file:
        same = [one for one in outlined if _split_of(one, folder) == _split_of(file, folder)]
        if file not in outlined and any(images[file] <= images[one] for one in same):
            del kept[file]
            reading.forget(file)
    reading.note("file", coco.NOT_READ, len(by_file) - len(kept))
    return kept


def _has_outline(frame: Frame) -> bool:
    return any(region.shape is not None for region in frame.regions)


def _with_unlisted(folder: Path, by_file: dict[Path, list[Frame]], reading: Reading) -> list[Frame]:
    """LabelMe's images, and those beside its files that have no file: nothing was drawn on them."""
    frames = []
    for file, found in by_file.items():
        for frame in found:
            frame.split = next(iter(_known_parts(file.relative_to(folder))), "")
            frames.append(frame)
    listed = {frame.image for frame in frames if isinstance(frame.image, Path)}
    # A file with the name of an image that was read from an annotations file may be the same one, changed.
    names = {labelme.file_name(frame.image) for frame in frames if isinstance(frame.image, str)}
    folders = {image.parent for image in listed}
    finder = reading.finder
    for image in finder.files:
        # The folder above, where images may be too, may also hold those of other data sets.
        is_beside = finder.root == finder.folder or image.parent in folders
        if is_beside and image not in listed and image.name not in names:
            split = next(iter(_known_parts(image.relative_to(reading.finder.root))), "")
            frames.append(Frame(image, "the image", image, None, split=split))
    return frames


def _known_parts(path: Path) -> Iterator[str]:
    for part in path.parts[:-1]:
        if known_split(part) in SPLIT_NAMES:
            yield known_split(part)
