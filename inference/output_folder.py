"""The output folder of `predict.py`: run.json, the records inside the masks' files, and the tables.

A mask's PNG file holds a record of its image and lesions. So a run that goes on knows what is done, and the tables can
be written from the masks alone.
"""

import csv
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ..common.errors import UserError
from ..common.files import partial_path, write_atomic
from .inputs import MASKS, OUTPUT_FOLDERS, Failure, Source
from .lesions import COLUMNS, lesion_numbers, lesion_row
from .prediction import BasePredictor, Prediction

RUN_SCHEMA = 1
RECORD = "unet-kvasir-seg"  # key of the text in a mask's PNG file
TABLES = ("predictions.csv", "images.csv")
IMAGE_COLUMNS = ("image", "presence", "regions", "area_pixels", "area_percent")
# Settings of the image processor that change the predictions.
PROCESSOR_SETTINGS = (
    *("size", "resample", "do_resize", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std"),
)


def describe_settings(
    predictor: BasePredictor, threshold: float, tta: bool, smoothing: float, peak_threshold: float | None = None
) -> dict[str, Any]:
    """What run.json holds: everything that the outputs depend on, images apart.

    Args:
        predictor, threshold, tta, smoothing: As in `predict.py`.
        peak_threshold: The one that is used, whether it was given or is the model's own.
    """
    processor = predictor.processor_settings
    return {
        "schema_version": RUN_SCHEMA,
        "model": predictor.identity,
        "image_processor": {name: processor.get(name) for name in PROCESSOR_SETTINGS},
        "threshold": threshold,
        "peak_threshold": peak_threshold,
        "presence_calibration": predictor.presence_calibration,
        "tta": tta,
        "smoothing": smoothing,
        "dtype": str(predictor.runtime.dtype).removeprefix("torch."),
    }


def open_output(output: Path, settings: dict[str, Any]) -> None:
    """Make the output folder, or check that the outputs in it are of the same model and settings.

    Args:
        output: The folder.
        settings: As `describe_settings` gives them.

    Raises:
        UserError: If it holds other outputs, or cannot be written to.
    """
    remedy = "Choose another --output_dir, or remove what is there."
    file = output / "run.json"
    settings = json.loads(json.dumps(settings, default=str))  # as they are read back
    try:
        output.mkdir(parents=True, exist_ok=True)
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            differing = [name for name in settings if before.get(name) != settings[name]]
            if "model" in differing or "image_processor" in differing:
                raise UserError(f"{output} holds the outputs of another model. {remedy}")
            if differing:
                values = ", ".join(f"{name} {before.get(name)} and not {settings[name]}" for name in differing)
                raise UserError(f"{output} holds outputs of other settings: {values}. {remedy}")
        elif taken := [name for name in (*OUTPUT_FOLDERS, *TABLES) if _is_taken(output / name)]:
            raise UserError(f"{output} holds {', '.join(taken)} that no run of this command wrote. {remedy}")
        write_atomic(file, (json.dumps(settings, indent=2) + "\n").encode())
        (output / MASKS).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {output} cannot be written to: {error.strerror}.") from error
    except (ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is not the run.json of this command ({error}). {remedy}") from error


def _is_taken(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def make_record(source: Source, digest: str, prediction: Prediction) -> str:
    """The text in a mask's file: name and hash of its image, its presence, and the lesions.

    In one file mask and lesions are written together or not at all.
    """
    rows = [lesion_numbers(lesion) for lesion in prediction.lesions]
    record = {"image": source.name, "digest": digest, "presence": prediction.presence, "lesions": rows}
    return json.dumps(record)


def read_record(mask: Path) -> dict[str, Any] | None:
    """The record in a mask's file; None if another program wrote the file.

    Raises:
        OSError: If the file is no image.
    """
    with Image.open(mask) as image:
        text = image.info.get(RECORD)
    return None if text is None else json.loads(text)


def refuse_mismatch(record: dict[str, Any] | None, digest: str, target: Path, source: Source) -> Failure | None:
    """Check that an existing output belongs to an input.

    Args:
        record: Of the output.
        digest: Hash of the input.
        target: The output.
        source: The input.

    Returns:
        None if it does; otherwise why it is not replaced.
    """
    if not record:
        return Failure(source.path, f"not done, since {target} is there and not from this command: move it away")
    if record["digest"] != digest:
        return Failure(
            source.path,
            f"not done, since {target} is there, of another file of that name or of this one before it was changed: "
            "remove that, or choose another --output_dir",
        )
    return None


def cannot_write(target: Path, error: OSError) -> UserError:
    """The error for an output that could not be written."""
    return UserError(
        f"{target} cannot be written: {error.strerror or error}. What was done is kept: mend that, and run the same "
        "command again to go on."
    )


def write_tables(output: Path) -> None:
    """Write `predictions.csv` and `images.csv` from the records of all masks in the folder, and print a summary."""
    files = [output / name for name in TABLES]
    unfinished = [partial_path(file) for file in files]
    images = empty = lesions = 0
    # File names may hold bytes that are not UTF-8.
    open_table = partial(open, mode="w", newline="", encoding="utf-8", errors="surrogateescape")
    with open_table(unfinished[0]) as lesion_table, open_table(unfinished[1]) as image_table:
        lesion_rows, image_rows = csv.writer(lesion_table), csv.writer(image_table)
        lesion_rows.writerow(COLUMNS)
        image_rows.writerow(IMAGE_COLUMNS)
        for record in _records(output / MASKS):
            images += 1
            empty += not record["lesions"]
            lesions += len(record["lesions"])
            for number, numbers in enumerate(record["lesions"], start=1):
                lesion_rows.writerow(lesion_row(record["image"], number, numbers))
            image_rows.writerow(image_row(record))
    for written, file in zip(unfinished, files, strict=True):
        os.replace(written, file)
    if images:
        print(f"{files[0]}: {lesions} lesions in {images - empty} of {images} images; {empty} are without polyp.")


def image_row(record: dict[str, Any]) -> list[str]:
    """The row of an image in `images.csv`, from its mask's record. Older records have no presence: an empty cell."""
    lesions = [dict(zip(COLUMNS[2:], numbers, strict=True)) for numbers in record["lesions"]]
    presence = f"{record['presence']:.6f}" if "presence" in record else ""
    pixels = sum(lesion["area_pixels"] for lesion in lesions)
    percent = sum(lesion["area_percent"] for lesion in lesions)
    return [record["image"], presence, str(len(lesions)), str(pixels), f"{percent:.4f}"]


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of all masks below a folder; damaged files and those of other programs are passed over."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if not name.endswith(".png"):
                continue
            try:
                record = read_record(Path(parent, name))
            except OSError:
                continue
            if record is not None:
                yield record
