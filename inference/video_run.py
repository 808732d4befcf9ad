"""Segments a video, from its file to the files of its outputs, unless it is done already."""

import os
from pathlib import Path

from tqdm.auto import tqdm

from ..common.errors import UserError, describe_error, printable
from ..common.files import atomic_file, digest_of, open_regular, write_atomic
from ..common.progress import show_progress
from .image_run import Done, Report
from .inputs import Failure, Source
from .output_folder import OutputFolder, read_summary, refuse_mismatch, video_record, video_targets
from .prediction import BasePredictor
from .tracks import ALERT_SECONDS
from .video import VideoError, segment_video

MAX_VIDEO_BYTES = 2**38  # a day of 4K at 25 Mbit/s; a file with holes may state more than any disk has


def segment_video_file(
    source: Source,
    predictor: BasePredictor,
    output: OutputFolder,
    report: Report,
    *,
    threshold: float = 0.5,
    tta: bool = False,
    smoothing: float = 0.0,
    peak_threshold: float | None = None,
    alert_seconds: float = ALERT_SECONDS,
    batch_size: int = 8,
    shown: bool = False,
) -> None:
    """Segment a video and write its outputs.

    A video that cannot be done is reported, whatever the error.

    Args:
        source: The video.
        predictor: Segments its frames.
        output: The output folder.
        report: The outcome is added to it.
        threshold, tta, smoothing, peak_threshold, alert_seconds, batch_size: As for `segment_video`.
        shown: Whether to show the progress.

    Raises:
        UserError: If no file can be written, or the network gives NaN.
    """
    overlay, table, record = video_targets(output.path, source)
    try:
        status = os.stat(source.path)
        digest = file_digest(source.path)
    except OSError as error:
        report.failures.append(Failure(source.path, f"cannot be read ({error.strerror})"))
        return
    except ValueError as error:
        report.failures.append(Failure(source.path, describe_error(error)))
        return
    if overlay.exists() and _report_earlier_run(source, digest, output.path, report):
        return
    output.check()  # the folder would be made again
    try:
        overlay.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_file(overlay) as overlay_file,  # complete last: when it is there, the video is done
            atomic_file(table) as table_file,
            show_progress(printable(source.name), "frame", shown=shown) as progress,
        ):

            def on_start(frames: int | None) -> None:
                progress.total = frames

            def on_frame() -> None:
                output.check()  # a film may take hours
                progress.update()

            done = segment_video(
                source.path,
                overlay_file.name,
                table_file.name,
                predictor,
                threshold=threshold,
                tta=tta,
                smoothing=smoothing,
                peak_threshold=peak_threshold,
                alert_seconds=alert_seconds,
                batch_size=batch_size,
                on_start=on_start,
                on_frame=on_frame,
            )
            if not done.problem:
                progress.total = done.frames  # a file may state a few more
            if was_changed(source.path, status):
                raise VideoError("was changed while it was read: run the same command again when it is complete")
            write_atomic(record, video_record(source, digest, done))
    except OSError as error:
        output.refuse_error_of_all_files(overlay, error)
        reason = getattr(error, "strerror", None) or error
        report.failures.append(Failure(source.path, f"{overlay} cannot be written ({reason})"))
        return
    except UserError:
        raise
    except Exception as error:
        report.failures.append(Failure(source.path, describe_error(error)))
        return
    report.done.append(Done(source, by_earlier_run=False))
    tqdm.write(printable(f"{source.path}: {done}."))
    if done.problem:
        report.failures.append(Failure(source.path, f"{done.problem}; what was read is kept"))


def _report_earlier_run(source: Source, digest: str, output: Path, report: Report) -> bool:
    """Report a video whose overlay is there: done by an earlier run, or refused.

    Returns:
        False, and nothing is reported, if it is to be done again, since its table is gone.
    """
    overlay, table, record = video_targets(output, source)
    before = read_summary(record)
    if refusal := refuse_mismatch(before, digest, overlay, source):
        report.failures.append(refusal)
        return True
    if not table.is_file():
        return False
    report.done.append(Done(source, by_earlier_run=True))
    assert before is not None  # else it was refused
    if "tracks" not in before:
        tqdm.write(
            printable(
                f"{source.path}: done by an earlier version, without tracks and alerts. To get them, remove {overlay} "
                "and run the same command again."
            )
        )
    if before["problem"]:
        report.failures.append(Failure(source.path, f"{before['problem']}; what was read is kept"))
    return True


def was_changed(path: str, before: os.stat_result) -> bool:
    """Whether a file was written to or replaced. One that was removed stays as it was for those who read it."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return any(getattr(status, name) != getattr(before, name) for name in ("st_ino", "st_size", "st_mtime_ns"))


def file_digest(path: str) -> str:
    """Hash of a video's file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no regular file, or larger than `MAX_VIDEO_BYTES`.
    """
    with open_regular(path, MAX_VIDEO_BYTES) as file:
        return digest_of(file)
