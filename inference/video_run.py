"""Segments a video, from its file to the files of its outputs, unless it is done already."""

import hashlib
import json
import os
from pathlib import Path

from tqdm.auto import tqdm

from ..common.errors import first_line
from ..common.files import partial_path, write_atomic
from .image_run import Report
from .inputs import VIDEOS, Failure, Source
from .output_folder import cannot_write, refuse_mismatch
from .prediction import BasePredictor
from .video import VideoError, segment_video


def segment_video_file(
    source: Source,
    predictor: BasePredictor,
    output: Path,
    report: Report,
    *,
    threshold: float = 0.5,
    tta: bool = False,
    smoothing: float = 0.0,
    peak_threshold: float | None = None,
    batch_size: int = 8,
    show_progress: bool = False,
) -> None:
    """Segment a video and write its outputs.

    Args:
        source: The video.
        predictor: Segments its frames.
        output: The output folder, opened by `open_output`.
        report: The outcome is added to it.
        threshold, tta, smoothing, peak_threshold, batch_size: As for `segment_video`.
        show_progress: Whether to show a progress bar.

    Raises:
        UserError: If a file cannot be written, or the network gives NaN.
    """
    overlay, table, record = (output / source.output(VIDEOS, suffix) for suffix in (".mp4", ".csv", ".json"))
    try:
        digest = file_digest(source.path)
    except OSError as error:
        report.failures.append(Failure(source.path, f"cannot be read ({error.strerror})"))
        return
    if overlay.exists():
        _report_earlier_run(source, digest, overlay, record, report)
        return
    unfinished = partial_path(overlay), partial_path(table)
    try:
        overlay.parent.mkdir(parents=True, exist_ok=True)
        with tqdm(desc=source.name, unit="frame", smoothing=0, disable=not show_progress) as progress:
            done = segment_video(
                source.path,
                *unfinished,
                predictor,
                threshold=threshold,
                tta=tta,
                smoothing=smoothing,
                peak_threshold=peak_threshold,
                batch_size=batch_size,
                on_frame=progress.update,
            )
        summary = {"video": source.name, "digest": digest, "frames": done.frames, "problem": done.problem}
        write_atomic(record, (json.dumps(summary, indent=2) + "\n").encode())
        os.replace(unfinished[1], table)
        os.replace(unfinished[0], overlay)  # last: when it is there, the video is done
    except VideoError as error:
        report.failures.append(Failure(source.path, first_line(error)))
        return
    except OSError as error:
        raise cannot_write(overlay, error) from error
    finally:
        for file in unfinished:
            file.unlink(missing_ok=True)
    report.videos += 1
    tqdm.write(f"{source.path}: {done}.")
    if done.problem:
        report.failures.append(Failure(source.path, f"{done.problem}; what was read is kept"))


def _report_earlier_run(source: Source, digest: str, overlay: Path, record: Path, report: Report) -> None:
    """Report a video whose overlay is there: done by an earlier run, or refused."""
    before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    if refusal := refuse_mismatch(before, digest, overlay, source):
        report.failures.append(refusal)
        return
    report.videos_before += 1
    if before["problem"]:
        report.failures.append(Failure(source.path, f"{before['problem']}; what was read is kept"))


def file_digest(path: str) -> str:
    """Hash of a file, read in parts, since videos may not fit into memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
