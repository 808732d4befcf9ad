"""Writes the masks of an output folder as files of annotation tools: `predict.py --annotations`.

    print(write_annotations(Path("outputs/predictions"), "coco", label="polyp"))

The files lie in annotations/, of all masks in the folder. Each is written atomically. One that was changed since, as
by LabelMe, which saves corrections in place, is never overwritten.
"""

import hashlib
import importlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...common.errors import UserError, counted, printable, some
from ...common.files import atomic_file, digest_of, open_regular, read_file, write_atomic
from ...common.progress import show_progress
from ..inputs import ANNOTATIONS, MASKS
from ..output_folder import MAX_INPUTS_BYTES, cannot_write, read_run
from .frames import AnnotatedFrame, annotated_frames
from .options import Options

ONE_PER_IMAGE = ("labelme", "yolo")  # formats with a file for each image
DIGESTS = "written.json"  # hashes of the files as they were written
MODEL_DIGITS = 12  # of the hash that names the model


class _ChangedError(Exception):
    """A file that someone else has changed."""


def write_annotations(output: Path, format: str, label: str, masks: bool = False) -> str:
    """Write the annotations of all images in an output folder.

    Args:
        output: The folder.
        format: One of `FORMATS`; the module of that name here has `files(frames, options)`.
        label: Name of the label.
        masks: Whether to write masks in place of polygons.

    Returns:
        Lines that say what was written, and what the format does not hold.

    Raises:
        UserError: If a mask is damaged, a name cannot be stated in the format, a file that all images share was
            changed since it was written, or files cannot be written.
    """
    folder = output / ANNOTATIONS
    model = str(read_run(output)["model"]).removeprefix("sha256:")[:MODEL_DIGITS]
    options = Options(folder, label, masks, model=f"unet-kvasir-seg {model}")
    counts = {"images": 0, "regions": 0, "empty": 0}
    try:
        folder.mkdir(exist_ok=True)
        kept = _write_all(files_of(_counting(output, masks, counts), format, options), folder)
    except OSError as error:
        raise cannot_write(error.filename or folder, error) from error
    return _describe(folder, format, kept, counts) + _describe_holes(options, format)


def files_of(frames: Iterable[AnnotatedFrame], format: str, options: Options) -> Iterator[tuple[str, Iterable[str]]]:
    """The files of a format: the names of each, below the folder of annotations, and its content in parts.

    Each content is to be read before the next file is asked for.
    """
    return importlib.import_module(f".{format.replace('-', '_')}", __package__).files(frames, options)


def _counting(output: Path, masks: bool, counts: dict[str, int]) -> Iterator[AnnotatedFrame]:
    """The images, counted as they pass, with a bar."""
    total = sum(1 for _ in (output / MASKS).rglob("*.png"))
    with show_progress("Annotations", "image", total) as progress:
        for frame in annotated_frames(output, with_polygons=not masks):
            counts["images"] += 1
            counts["regions"] += len(frame.regions)
            counts["empty"] += not frame.regions
            yield frame
            progress.update()


def _write_all(files: Iterable[tuple[str, Iterable[str]]], folder: Path) -> list[str]:
    """Write files and remember their hashes, and give the names of those that were changed and are kept."""
    digests = _read_digests(folder)
    kept = []
    try:
        for name, parts in files:
            try:
                digests[name] = _write(folder / name, parts, digests.get(name))
            except _ChangedError:
                kept.append(name)
    finally:  # also of those before an error
        write_atomic(folder / DIGESTS, (json.dumps(digests, indent=0) + "\n").encode())
    return kept


def _write(file: Path, parts: Iterable[str], digest_before: str | None) -> str:
    """Write a file atomically, and give its hash.

    Raises:
        _ChangedError: If it is there, is neither as it was written before nor as it would be now, and is left.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with atomic_file(file) as unfinished:
        for part in parts:
            content = part.encode()
            digest.update(content)
            unfinished.write(content)
        if file.exists() and _digest(file) not in (digest_before, digest.hexdigest()):
            raise _ChangedError
    return digest.hexdigest()


def _digest(file: Path) -> str:
    with open_regular(file, most_bytes=2**62) as content:
        return digest_of(content)


def _read_digests(folder: Path) -> dict[str, Any]:
    """The hashes of files as they were written; without them, a file that differs counts as changed."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(read_file(folder / DIGESTS, MAX_INPUTS_BYTES))
        return found if isinstance(found, dict) else {}
    return {}


def _describe(folder: Path, format: str, kept: list[str], counts: dict[str, int]) -> str:
    """What was written, in a line, and which files were kept in another.

    Raises:
        UserError: If one that all images share was kept: new predictions are not in it.
    """
    if kept and format not in ONE_PER_IMAGE:
        raise UserError(
            f"{folder / kept[0]} was changed since it was written, and is left as it is: the predictions are not in "
            "it. Move it away, and run the same command again."
        )
    what = f"{counted(counts['regions'], 'region')} in {counted(counts['images'], 'image')}"
    lines = f"{printable(str(folder))}, annotations for {format}: {what}; without polyp: {counts['empty']:,}.\n"
    if kept:
        lines += (
            f"Changed since they were written, and kept as they are: {counted(len(kept), 'file')} of "
            f"{printable(str(folder))} ({some(kept)}). Remove them to have the predictions there.\n"
        )
    return lines


def _describe_holes(options: Options, format: str) -> str:
    """A line on holes, if the polygons of the format do not have them."""
    if options.as_masks:
        regions = (
            "1 region has holes and is"
            if options.as_masks == 1
            else f"{options.as_masks:,} regions have holes and are"
        )
        return f"{regions} written as RLE, since COCO's polygons have none.\n"
    if options.filled:
        remedy = "" if format in ("via", "yolo") else " --annotation_masks keeps them."
        holes = "1 hole was" if options.filled == 1 else f"{options.filled:,} holes were"
        return f"{holes} filled, since polygons of {format} have none.{remedy}\n"
    return ""
