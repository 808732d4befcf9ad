"""The output folder of `predict.py`: run.json, inputs.json, the records of images and videos, and the tables.

    open_output(Path("out"), settings)    # makes it, or refuses what is not of these settings
    output = OutputFolder(Path("out"))
    output.write(Path("out/masks/frame.png"), content)

A mask's PNG file holds a record of its image and lesions, and a JSON file beside a video's overlay one of the video
and its tracks. So a run that goes on knows what is done, and the tables can be written from the records alone.
"""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..common.csv_tables import open_table, write_row
from ..common.errors import UserError, counted, printable
from ..common.files import open_regular, read_file, write_atomic
from ..common.output_lock import output_lock
from .ensemble import Ensemble
from .frame_differences import describe_differences
from .inputs import MASKS, OUTPUT_FOLDERS, SELECTED, VIDEO_OUTPUTS, VIDEOS, Failure, Source
from .lesions import COLUMNS, lesion_numbers, lesion_row
from .prediction import BasePredictor, Prediction
from .tracks import ALERT_SECONDS, track_numbers, track_row
from .tracks import COLUMNS as TRACK_COLUMNS

if TYPE_CHECKING:
    from .video import VideoReport  # which needs the extra "video"

RUN_SCHEMA = 1
RUN_FILE, INPUTS, REPORT = "run.json", "inputs.json", "report.html"
SELECTION = "selected.csv"
SCORES = ("presence", "uncertainty")  # of an image, in its record; those of earlier versions lack one or both
RECORD = "unet-kvasir-seg"  # key of the text in a mask's PNG file
TABLES = PREDICTIONS, IMAGES, TRACKS = ("predictions.csv", "images.csv", "tracks.csv")
VIDEO_SETTINGS = ("smoothing", "alert_seconds")  # which images do not depend on
# What the run.json of earlier versions lacks.
LATER_SETTINGS = {"min_area": 0, "largest_lesion": False, "field_of_view": "none"}
MEMBER_NAMES = "member_names"  # what the models of an ensemble were called
MAX_INPUTS_BYTES = 2**30
MAX_JSON_BYTES = 2**20  # of run.json, which has some hundred
MAX_RECORD_BYTES = 2**28  # of a video's record: a track has some hundred, and a long film may have very many
# Errors of the disk, which further files would meet too. Others may be those of one name.
ERRORS_OF_ALL_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
REMEDY = "What was done is kept: mend that, and run the same command again to go on."
IMAGE_COLUMNS = ("image", "presence", "regions", "area_pixels", "area_percent", "uncertainty")
# Settings of the image processor that change the predictions.
PROCESSOR_SETTINGS = (
    *("size", "resample", "do_resize", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std"),
)


def describe_settings(
    predictor: BasePredictor,
    threshold: float,
    tta: bool,
    smoothing: float,
    peak_threshold: float | None = None,
    alert_seconds: float = ALERT_SECONDS,
    min_area: int = 0,
    largest_lesion: bool = False,
    field_of_view: str = "none",
) -> dict[str, Any]:
    """What run.json holds: everything that the outputs depend on, images apart.

    Args:
        predictor, threshold, tta, smoothing, alert_seconds, min_area, largest_lesion: As in `predict.py`.
        peak_threshold, field_of_view: Those that are used, whether they were given or are the model's own.
    """
    processor = predictor.processor_settings
    members = [member.identity for member in predictor.members]
    of_ensemble = {"members": members, MEMBER_NAMES: predictor.names} if isinstance(predictor, Ensemble) else {}
    return {
        "schema_version": RUN_SCHEMA,
        "model": predictor.identity,
        **of_ensemble,
        "image_processor": {name: processor.get(name) for name in PROCESSOR_SETTINGS},
        "threshold": threshold,
        "peak_threshold": peak_threshold,
        "min_area": min_area,
        "largest_lesion": largest_lesion,
        "field_of_view": field_of_view,
        "presence_calibration": predictor.presence_calibration,
        "tta": tta,
        "smoothing": smoothing,
        "alert_seconds": alert_seconds,
        "dtype": str(predictor.runtime.dtype).removeprefix("torch."),
    }


def open_output(output: Path, settings: dict[str, Any], *, with_videos: bool = True) -> dict[str, Any]:
    """Make the output folder, or check that the outputs in it are of the same model and settings.

    Args:
        output: The folder.
        settings: As `describe_settings` gives them.
        with_videos: Whether the run has videos. If not, the folder keeps the settings of its own videos.

    Returns:
        What run.json holds now.

    Raises:
        UserError: If it holds other outputs, or cannot be written to.
    """
    remedy = "Choose another --output_dir, or remove what is there."
    try:
        output.mkdir(parents=True, exist_ok=True)
        if difference := find_difference(output, settings, with_videos=with_videos):
            raise UserError(f"{output} holds {difference}. {remedy}")
        if files := [name for name in OUTPUT_FOLDERS if (output / name).exists() and not (output / name).is_dir()]:
            raise UserError(f"{output / files[0]} is a file: expected a folder for outputs. {remedy}")
        if not with_videos:
            before = _read_settings(output) or {}
            settings = {name: value for name, value in settings.items() if name not in VIDEO_SETTINGS}
            settings |= {name: before[name] for name in VIDEO_SETTINGS if name in before}
        _write_settings(output, settings)
        (output / MASKS).mkdir(exist_ok=True)
        return settings
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--output_dir {output} cannot be written to: {reason}. Choose another one.") from error
    except DamagedRunError as error:
        raise UserError(f"{error}. {remedy}") from error


def find_difference(output: Path, settings: dict[str, Any], *, with_videos: bool) -> str | None:
    """What is in a folder, in words, if the outputs of a run cannot be added to it; None if they can.

    Settings count for what they shape: those of videos only where the run has videos and the folder holds some, and
    none where it holds no output.

    Args:
        output: The folder.
        settings, with_videos: As for `open_output`.

    Raises:
        OSError: If it cannot be read.
        DamagedRunError: If its run.json is not of this command.
    """
    before = _read_settings(output)
    if before is None:
        taken = [
            name
            for name in (*OUTPUT_FOLDERS, SELECTED, *TABLES, INPUTS, REPORT, SELECTION)
            if _is_taken(output / name)
        ]
        return f"{', '.join(taken)} that no run of this command wrote" if taken else None
    if not any(holds_files(output / name) for name in OUTPUT_FOLDERS):
        return None
    settings = json.loads(json.dumps(settings, default=str))  # as they are read back
    of_videos = VIDEO_SETTINGS if with_videos and holds_files(output / VIDEOS) else ()
    # The run.json of earlier versions lacks some settings of videos, whose outputs did not depend on them.
    compared = [name for name in settings if name != MEMBER_NAMES]  # a model may have been moved
    compared = [name for name in compared if name not in VIDEO_SETTINGS or (name in of_videos and name in before)]
    before = LATER_SETTINGS | before
    differing = [name for name in compared if before.get(name) != settings[name]]
    if "model" in differing or "image_processor" in differing:
        return "the outputs of another model"
    if differing:
        values = ", ".join(f"{name} {before.get(name)} and not {settings[name]}" for name in differing)
        return f"outputs of other settings: {values}"
    return None


class DamagedRunError(ValueError):
    """A run.json that is not of this command; the message says which and why."""


def _read_settings(output: Path) -> dict[str, Any] | None:
    """What run.json holds; None without one.

    Raises:
        OSError: If it cannot be read.
        DamagedRunError: If it is not of this command.
    """
    file = output / RUN_FILE
    try:
        settings = json.loads(read_file(file, MAX_JSON_BYTES))
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedRunError(f"{file} is not the {RUN_FILE} of this command ({error})") from error
    if not isinstance(settings, dict):
        raise DamagedRunError(f"{file} is not the {RUN_FILE} of this command")
    return settings


def holds_files(folder: Path) -> bool:
    """Whether there is a file at any depth, but for hidden ones, which a killed run may leave."""
    return any(not name.startswith(".") for _, _, files in os.walk(folder) for name in files)


def _is_taken(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _write_settings(output: Path, settings: dict[str, Any]) -> None:
    write_atomic(output / RUN_FILE, (json.dumps(settings, indent=2, default=str) + "\n").encode())


@contextlib.contextmanager
def held_folder(output: Path, program: str) -> Iterator[dict[str, Any]]:
    """Hold an output folder for this process.

    Yields:
        A dict, to be filled with what `open_output` returns: if run.json is gone in the end, it is written again.

    Raises:
        UserError: As `output_lock`.
    """
    settings: dict[str, Any] = {}
    try:
        with output_lock(output, program, [*OUTPUT_FOLDERS, SELECTED]):
            yield settings
    finally:
        restore_settings(output, settings, program)


def restore_settings(output: Path, settings: dict[str, Any], program: str) -> None:
    """Write run.json again if outputs of this run are left without it, as where the folder was being removed.

    Else the next run would take them for those of another program. Call it after the folder's lock was released: it
    does nothing if another command has taken the folder since.

    Args:
        output: The folder.
        settings: Those given to `open_output`; empty if it was not opened.
        program: Name of the command.
    """
    if not settings or (output / RUN_FILE).exists() or not any(_is_taken(output / name) for name in OUTPUT_FOLDERS):
        return
    with contextlib.suppress(UserError, OSError), output_lock(output, program, OUTPUT_FOLDERS):
        if not (output / RUN_FILE).exists():
            _write_settings(output, settings)


class OutputFolder:
    """An output folder that `open_output` opened, to write into as long as it is the same folder.

    Attributes:
        path: Its path.
    """

    def __init__(self, path: Path):
        self.path = path
        self._identity = self._identify()

    def _identify(self) -> tuple[int, ...] | None:
        """What tells its run.json from any other; None if it is gone."""
        try:
            status = (self.path / RUN_FILE).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns

    def check(self) -> None:
        """Check that it is still the folder that was opened.

        Raises:
            UserError: If it was removed, moved or made anew. Outputs would get lost, or mixed with another run's.
        """
        if self._identity is None or self._identify() != self._identity:
            raise UserError(
                f"{self.path} was removed, moved or made anew while this ran ({RUN_FILE} is not the one that this run "
                "wrote). Run the same command again: it does what is not there."
            )

    def write(self, target: Path, content: bytes) -> None:
        """Write a file atomically, and make the folders that it lies in.

        Raises:
            OSError: If this file cannot be written.
            UserError: If no file can be written.
        """
        self.check()  # the folder would be made again
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, content)
        except OSError as error:
            self.refuse_error_of_all_files(target, error)
            raise

    def refuse_error_of_all_files(self, target: Path, error: OSError) -> None:
        """Check whether other outputs can be written if one cannot.

        Raises:
            UserError: If not, as on a full disk, or without the folder.
        """
        self.check()
        if error.errno in ERRORS_OF_ALL_FILES:
            raise cannot_write(target, error) from error


def video_targets(output: Path, source: Source) -> list[Path]:
    """The files to write for a video: overlay, table and summary."""
    return [output / source.output(VIDEOS, suffix) for suffix in VIDEO_OUTPUTS]


def make_record(
    source: Source, digest: str, prediction: Prediction, measures: Mapping[str, float] | None = None
) -> str:
    """The text in a mask's file: name and hash of its image, its scores, the lesions, and measures of the frame.

    In one file mask and lesions are written together or not at all.
    """
    rows = [lesion_numbers(lesion) for lesion in prediction.lesions]
    scores = {name: getattr(prediction, name) for name in SCORES}
    record = {"image": source.name, "digest": digest, **scores, "lesions": rows}
    return json.dumps({**record, "measures": dict(measures)} if measures else record)


def read_record(mask: Path) -> dict[str, Any] | None:
    """The record in a mask's file; None if another program wrote the file, or changed the record.

    Raises:
        OSError: If the file is no image.
    """
    try:
        with open_regular(mask) as file, Image.open(file, formats=["PNG"]) as image:
            text = image.info.get(RECORD)
    except OSError:
        raise
    except Exception as error:  # Pillow's readers raise errors of all kinds for damaged files
        raise OSError(f"{mask} {error}") from error
    try:
        record = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return record if is_record(record) else None


def is_record(record: Any) -> bool:
    """Whether it is what `make_record` writes, in this version or an earlier one, which had no scores or measures."""
    if not isinstance(record, dict) or not all(_is_name(record.get(key)) for key in ("image", "digest")):
        return False
    lesions = record.get("lesions")
    if not _are_measures(record.get("measures", {})):
        return False
    scores = [record.get(name, 0.0) for name in SCORES]
    if not isinstance(lesions, list) or not all(map(_is_number, scores)):
        return False
    numbers = len(COLUMNS) - 2  # without the names of image and lesion
    return all(
        isinstance(lesion, list) and len(lesion) == numbers and all(map(_is_number, lesion)) for lesion in lesions
    )


def _are_measures(value: Any) -> bool:
    """Whether it is a table of numbers."""
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_name(value: Any) -> bool:
    """Whether it is text that a file system's names can hold; JSON can also state halves of characters."""
    try:
        return isinstance(value, str) and bool(os.fsencode(value))
    except UnicodeEncodeError:
        return False


def _is_number(value: Any) -> bool:
    """Whether it is a number that fits into a float, and no NaN."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


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


def cannot_write(target: Path | str, error: OSError) -> UserError:
    """The error for an output that could not be written."""
    return UserError(f"{target} cannot be written: {error.strerror or error}. {REMEDY}")


def write_tables(output: Path, processor_settings: Mapping[str, Any] | None = None) -> None:
    """Write the `TABLES` from the records of all masks and videos in the folder, and print a summary.

    Args:
        output: The folder.
        processor_settings: Those of the model. If they hold statistics of the frames that it was trained on, the
            summary says in which respects the images and the videos of the folder are far off.

    Raises:
        UserError: If they cannot be written.
    """
    try:
        of_images, measured = _write_image_tables(output)
        of_videos, films = _write_tracks(output)
    except OSError as error:
        raise cannot_write(f"{output / PREDICTIONS}, {IMAGES} or {TRACKS}", error) from error
    compared = describe_differences(processor_settings or {}, measured, films) if measured or films else ""
    print(of_images + of_videos + compared, end="")


def _write_image_tables(output: Path) -> tuple[str, list[dict[str, float]]]:
    """Write the tables of images.

    Returns:
        The line that sums them up, an empty text without images, and what was measured of each image.
    """
    images = empty = lesions = 0
    measured = []
    with open_table(output / PREDICTIONS) as lesion_table, open_table(output / IMAGES) as image_table:
        write_row(lesion_table, COLUMNS)
        write_row(image_table, IMAGE_COLUMNS)
        for _, record in records(output / MASKS):
            images += 1
            empty += not record["lesions"]
            lesions += len(record["lesions"])
            for number, numbers in enumerate(record["lesions"], start=1):
                write_row(lesion_table, lesion_row(record["image"], number, numbers))
            write_row(image_table, image_row(record))
            measured.append(record.get("measures", {}))
    if not images:
        return "", []
    table = printable(str(output / PREDICTIONS))
    found = f"{counted(lesions, 'lesion')} in {images - empty:,} of {counted(images, 'image')}"
    return f"{table}, of all runs into this folder: {found}; without polyp: {empty:,}.\n", measured


def _write_tracks(output: Path) -> tuple[str, dict[str, list[dict[str, float]]]]:
    """Write the table of tracks.

    Returns:
        The line that sums it up, an empty text without videos, and what was measured of frames of each video.
    """
    videos = tracks = alerts = unknown = 0
    measured = {}
    with open_table(output / TRACKS) as table:
        write_row(table, TRACK_COLUMNS)
        for _, record in video_records(output):
            videos += 1
            measured[record["video"]] = record.get("measures", [])
            unknown += "tracks" not in record
            for number, numbers in enumerate(record.get("tracks", []), start=1):
                tracks += 1
                alerts += numbers[0]
                write_row(table, track_row(record["video"], number, numbers))
    if not videos:
        return "", {}
    table_name, rest = printable(str(output / TRACKS)), f"; those of {unknown} are not known" if unknown else ""
    found = f"{counted(alerts, 'alert')} among {counted(tracks, 'track')} in {counted(videos, 'video')}"
    return f"{table_name}: {found}{rest}.\n", measured


def image_row(record: dict[str, Any]) -> list[str]:
    """The row of an image in `images.csv`, from its mask's record. What older records lack is an empty cell."""
    lesions = [dict(zip(COLUMNS[2:], numbers, strict=True)) for numbers in record["lesions"]]
    presence, uncertainty = (f"{record[name]:.6f}" if name in record else "" for name in SCORES)
    pixels = sum(lesion["area_pixels"] for lesion in lesions)
    percent = sum(lesion["area_percent"] for lesion in lesions)
    return [record["image"], presence, str(len(lesions)), str(pixels), f"{percent:.4f}", uncertainty]


def records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All masks below a folder, and their records; damaged files and those of other programs are passed over."""
    for file in _files_below(folder, ".png"):
        try:
            record = read_record(file)
        except OSError:
            continue
        if record is not None:
            yield file, record


def video_records(output: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The overlays of all videos that are done, and their records, as `read_summary` gives them."""
    for file in _files_below(output / VIDEOS, ".json"):
        record, overlay = read_summary(file), file.with_suffix(".mp4")
        if record is not None and overlay.is_file():
            yield overlay, record


def count_passed_over(output: Path, images: int, videos: int) -> int:
    """Number of masks and overlay videos in the folder that no report shows: damaged, or of another program.

    Args:
        output: The output folder.
        images, videos: Numbers of those that are shown.
    """
    masks, overlays = _files_below(output / MASKS, ".png"), _files_below(output / VIDEOS, ".mp4")
    return max(0, sum(1 for _ in masks) - images) + max(0, sum(1 for _ in overlays) - videos)


def _files_below(folder: Path, suffix: str) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(files) if name.endswith(suffix))


def write_inputs(output: Path, sources: Iterable[Source], *, keep_known: bool = False) -> None:
    """Add the paths of inputs to `inputs.json`, so that the report can show them later.

    Args:
        output: The output folder.
        sources: The inputs.
        keep_known: Whether a name that is there keeps its path: the output of that name may be of another file.

    Raises:
        UserError: If it cannot be written.
    """
    paths = {source.name: os.path.abspath(source.path) for source in sources}
    known = read_inputs(output)
    text = json.dumps(paths | known if keep_known else known | paths, indent=0)
    try:
        write_atomic(output / INPUTS, f"{text}\n".encode())
    except OSError as error:
        raise cannot_write(output / INPUTS, error) from error


def read_inputs(output: Path) -> dict[str, str]:
    """The paths of inputs by their names; those of other programs are passed over."""
    try:
        inputs = json.loads(read_file(output / INPUTS, MAX_INPUTS_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(inputs, dict):
        return {}
    return {name: path for name, path in inputs.items() if isinstance(path, str)}


def read_run(output: Path) -> dict[str, Any]:
    """What run.json holds.

    Raises:
        UserError: If the folder holds no run.
    """
    file = output / RUN_FILE
    try:
        run = _read_settings(output)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
    except DamagedRunError as error:
        raise UserError(f"{error}.") from error
    if run is None:
        raise UserError(
            f"{output} holds no run of this command: expected {RUN_FILE} in it. Name the folder of a run with "
            "--output_dir, or the inputs of a new one."
        )
    if "model" not in run:
        raise UserError(f"{file} is not the {RUN_FILE} of this command.")
    return run


def refuse_unused_flags(run: dict[str, Any], flags: dict[str, Any]) -> None:
    """Refuse flags that a report without inputs would ignore.

    Args:
        run: What run.json holds.
        flags: Those that were given and decide what the outputs are, by their names.

    Raises:
        UserError: If one is not as it was in the run.
    """
    run = LATER_SETTINGS | run
    for name, value in flags.items():
        if run.get(name) != value:
            was = f" of {name} {run[name]}" if name in run else ""
            raise UserError(
                f"--{name} {value} changes nothing without INPUT: --report alone shows the outputs{was} that are "
                f"there. Leave --{name} out, or name the inputs to segment."
            )


def video_record(source: Source, digest: str, done: "VideoReport") -> bytes:
    """The content of the JSON file beside a video's overlay.

    It holds the video's name and hash, what was read, its tracks, and measures of a sample of its frames.
    """
    tracks = [track_numbers(track) for track in done.tracks]
    counts = {"frames": done.frames, "problem": done.problem, "notes": done.notes}
    found = {"tracks": tracks, "measures": done.measures}
    return (json.dumps({"video": source.name, "digest": digest, **counts, **found}) + "\n").encode()


def read_summary(file: Path) -> dict[str, Any] | None:
    """The record beside a video; None if there is none, or another program changed it.

    Those of earlier versions have no tracks, or no measures.
    """
    try:
        record = json.loads(read_file(file, MAX_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return record if _is_video_record(record) else None


def _is_video_record(record: Any) -> bool:
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("video", "digest")):
        return False
    if not isinstance(record.get("problem", 0), str | None) or not isinstance(record.get("frames"), int):
        return False
    tracks, measured = record.get("tracks", []), record.get("measures", [])
    if not isinstance(measured, list) or not all(map(_are_measures, measured)):
        return False
    numbers = len(TRACK_COLUMNS) - 2  # without the names of video and track
    return isinstance(tracks, list) and all(
        isinstance(track, list) and len(track) == numbers and all(map(_is_number, track)) for track in tracks
    )
