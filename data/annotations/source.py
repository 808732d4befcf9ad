"""Data sets of annotation programs: rows of images with masks that are drawn when they are read.

splits = annotation_splits(Path("export.json"), AnnotationRules(labels=["polyp"]))
splits["train"][0]["mask"]  # run lengths, some hundred bytes; samples.py makes pixels of them
"""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...common.annotation_rules import NEGATIVE, AnnotationRules
from ...common.errors import counted, first_line, printable, some
from ...common.files import open_image, read_file
from ...image_processing_unet import orientation_of
from ..columns import PAIR_FEATURES
from ..mask_runs import check_size, encode_runs
from ..samples import DatasetError
from ..split_names import split_in_name
from . import exports
from .entries import Frame, Reading
from .images import ImageFinder
from .shapes import EntryError, Size, area_of, merged, runs_of_shape

logger = logging.getLogger(__name__)

UNNAMED = ""  # of the only split, where annotations name none


def annotation_splits(path: Path, rules: AnnotationRules) -> dict[str, Dataset] | None:
    """The splits of a data set that an annotation program wrote.

    Args:
        path: An annotations file, or a folder with one, or with one for each image or split.
        rules: Which labels are polyp, and what images without annotation are.

    Returns:
        Columns `image` and `mask`, encoded, by the names of the splits; `UNNAMED` is the only one if none is named.
        None if a folder holds no annotations.

    Raises:
        DatasetError: If anything is wrong; within `problems.noting`, entries are noted and left out.
    """
    folder = path if path.is_dir() else path.parent
    reading = Reading(ImageFinder(folder))
    if path.is_dir():
        frames = exports.read_folder(path, reading)
        if frames is None:
            return None
    else:
        frames = exports.read_file(path, reading)
        for frame in frames:
            frame.split = frame.split or split_in_name(path.stem)
    try:
        labels = _foreground(path, frames, reading, rules)
    except DatasetError:
        reading.refuse_problems()  # labels may be missing because of them
        raise
    kept = _kept(frames, labels, reading, rules)
    rows = _rows(kept, labels, reading)
    reading.refuse_problems()
    _say(path, labels, reading)
    _warn_of_predictions(path, kept, labels)
    if not any(rows.values()):
        raise _no_samples(path, frames, labels)
    return {split: Dataset.from_list(found, features=PAIR_FEATURES) for split, found in rows.items()}


def _no_samples(path: Path, frames: Sequence[Frame], labels: set[str]) -> DatasetError:
    listed = f"{path} leaves no image to work with: of {counted(len(frames), 'image')} that it lists"
    unfinished = Counter(frame.unfinished for frame in frames if frame.unfinished)
    if unfinished:
        (reason, count), *_ = unfinished.most_common()
        return DatasetError(f"{listed}, {count:,} left out: {reason}. Accept or correct them there, and export again.")
    of_labels = f" of {some(sorted(labels))}" if labels else ""
    return DatasetError(
        f"{listed}, none has a region{of_labels}. Without any, an image is only a sample with --unlabelled negative; "
        "one with boxes, lines or points around a polyp is none: draw outlines."
    )


def _foreground(path: Path, frames: Iterable[Frame], reading: Reading, rules: AnnotationRules) -> set[str]:
    """The labels that mean polyp.

    Raises:
        DatasetError: If they are not named and there are several, or one that is named is not there.
    """
    counts = Counter(label for frame in frames for region in frame.regions for label in set(region.labels))
    listed = some([f"{label} ({count:,})" for label, count in counts.most_common()], most=20) or "none"
    if rules.labels is None:
        if len(counts) > 1:
            raise DatasetError(
                f"{path} has regions of several labels: {listed}. Name those that are polyp: --labels "
                f"{printable(counts.most_common(1)[0][0])}."
            )
        return set(counts)
    unknown = [label for label in rules.labels if label not in counts and label not in reading.declared]
    if unknown:
        raise DatasetError(f"--labels {some(unknown)}: {path} has no such label; it has {listed}.")
    return set(rules.labels)


def _kept(frames: Iterable[Frame], labels: set[str], reading: Reading, rules: AnnotationRules) -> list[Frame]:
    """The frames that can be samples: not those without any annotation, nor those whose polyps have no outline."""
    kept = []
    for frame in frames:
        without_outline = [one for one in frame.regions if one.shape is None and labels & set(one.labels)]
        if without_outline:
            kinds = some(sorted({region.kind for region in without_outline}))
            reading.note("image", f"left out: polyps are marked without an outline ({kinds})")
        elif frame.unfinished and not frame.regions:
            reading.note("image", f"left out: {frame.unfinished}")
        elif frame.regions or frame.is_annotated or rules.unlabelled == NEGATIVE:
            kept.append(frame)
        else:
            reading.note("image", "without annotation left out: give --unlabelled negative if there is no polyp")
    return kept


def _rows(frames: Iterable[Frame], labels: set[str], reading: Reading) -> dict[str, list[dict[str, Any]]]:
    """Encoded images and masks of each split, in order of the images' paths."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    owners: dict[str, Frame] = {}
    for frame in frames:
        with reading.noting(frame.file, frame.entry):
            image, size = _image_of(frame, reading)
            if image["path"] in owners:
                other = owners[image["path"]]
                raise EntryError(
                    f"is of {image['path']}, as is {other.entry} of {other.file.name}: each image may be listed once"
                )
            owners[image["path"]] = frame
            found[frame.split][image["path"]] = {"image": image, "mask": _mask_of(frame, labels, size, reading)}
    splits = {split: [rows[path] for path in sorted(rows)] for split, rows in found.items()}
    if len(splits) > 1 and UNNAMED in splits:
        splits["default"] = splits.pop(UNNAMED)
    return splits


def _image_of(frame: Frame, reading: Reading) -> tuple[dict[str, Any], Size]:
    """The encoded image of a frame, and the size that its regions are of."""
    image: dict[str, Any]
    if frame.content is not None:
        image = {"bytes": frame.content, "path": str(frame.image)}
    else:
        file = frame.image
        if isinstance(file, str):
            file = reading.finder.find(file, frame.file.parent, frame.split)
        image = {"bytes": None, "path": str(file)}
        if frame.bytes_there is not None and frame.bytes_there != os.path.getsize(file):
            reading.note("image", "with another number of bytes than when it was annotated")
    size = frame.size or _shown_size(image)
    try:
        check_size(*size)
    except ValueError as error:
        raise EntryError(str(error)) from error
    return image, size


def _shown_size(image: Mapping[str, Any]) -> Size:
    """Width and height of an image, turned as its EXIF tag says, as programs show it."""
    try:
        content = image["bytes"] if image["bytes"] is not None else read_file(image["path"])
        with open_image(content) as opened:
            width, height = opened.size
            return (height, width) if orientation_of(opened) >= 5 else (width, height)
    except (OSError, ValueError) as error:
        raise EntryError(f"is of {image['path']}, which cannot be read ({first_line(error)})") from error


def _mask_of(frame: Frame, labels: set[str], size: Size, reading: Reading) -> dict[str, Any] | None:
    """The encoded mask of a frame; None if nothing was drawn on it."""
    if not frame.regions and not frame.is_annotated:
        return None
    runs = []
    for region in frame.regions:
        if region.shape is None or not labels & set(region.labels):
            continue
        with reading.noting(frame.file, region.entry):
            found, is_clipped = runs_of_shape(region.shape, size)
            runs.append(found)
            if not area_of(found):
                reading.note("region", "between the centres of pixels: nothing is marked there")
            if is_clipped:
                reading.note("region", "clipped at the edge of the image")
    return {"bytes": encode_runs(merged(runs, size), size), "path": f"{frame.file}: {frame.entry}"}


def _warn_of_predictions(path: Path, frames: Iterable[Frame], labels: set[str]) -> None:
    """Say so if all regions may be a model's that nobody has looked at: corrected ones keep their scores, too."""
    regions = [region for frame in frames for region in frame.regions if labels & set(region.labels)]
    if regions and all(region.has_score for region in regions):
        logger.warning(
            "%s: all of %s with the score of a model, as predict.py writes them: if nobody has looked at them yet, "
            "correct them in your program first, and give its export.",
            printable(str(path)),
            counted(len(regions), "region"),
        )


def _say(path: Path, labels: Iterable[str], reading: Reading) -> None:
    logger.info("%s: %s is polyp", path, some(sorted(labels)))
    for note in reading.notes():
        logger.warning("%s: %s.", printable(str(path)), note)
