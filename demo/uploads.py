"""What visitors upload: bounds, checks, and the segmentation of an image or a video."""

import errno
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..common.errors import UserError, first_line
from ..inference.prediction import BasePredictor
from ..inference.video import VideoError, VideoReader, segment_video
from .decoder import MAX_PIXELS, ask, decode
from .render import SegmentedImage, SegmentedVideo

MAX_FILE_MEBIBYTES = 100  # a 16-bit TIFF of MAX_PIXELS, or MAX_VIDEO_SECONDS at 25 Mbit/s
MAX_VIDEO_SECONDS = 30  # a few minutes of work for two cores
MAX_VIDEO_FRAMES = 60 * MAX_VIDEO_SECONDS  # for files that do not state their length
MAX_VIDEO_WORK_SECONDS = 900  # for videos that others wait behind
PREVIEW_SIDE = 1280  # longest side in pixels of the pictures in the page, so that they are redrawn at once

logger = logging.getLogger(__name__)
_one_image = threading.Lock()  # images are decoded side by side, and segmented one at a time, with all cores


def uploaded_path(upload: Any, folder: Path) -> Path:
    """The file of an upload.

    Args:
        upload: The page's description of the upload; a visitor can forge it.
        folder: The folder of all uploads.

    Raises:
        UserError: If it is no file in that folder.
    """
    try:
        path = Path(upload["path"]).resolve()
        is_upload = path.is_relative_to(folder.resolve()) and path.is_file()
    except (TypeError, KeyError, ValueError, OSError) as error:  # no path, or none that a system can have
        raise UserError("That is no file that was uploaded here.") from error
    if not is_upload:
        raise UserError("That file is not here, or no longer. Upload it again.")
    return path


def cannot_be_kept(what: str, error: OSError) -> UserError:
    """The error for a visitor whose upload or result cannot be written. The log gets a line, without the file's name.

    Args:
        what: "The upload" or "The result".
        error: The system's.
    """
    logger.error("app.py: %s of a visitor cannot be kept: %s.", what.lower(), error.strerror or error)
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "the server's disk is full" if is_full else "the server cannot write to its disk"
    return UserError(f"{what} cannot be kept: {reason}. Try again later.")


def segment_image(path: Path, predictor: BasePredictor) -> SegmentedImage:
    """Read an uploaded image and segment it.

    Raises:
        UserError: If the file is no image, is damaged, too large or takes too long, or the model gives NaN.
    """
    picture = decode(path)
    with _one_image:
        started = time.perf_counter()
        try:
            # The page thresholds when it draws. At 0, any peak threshold of the model is accepted.
            prediction = predictor(picture, threshold=0.0)
        except ValueError as error:
            raise UserError(f"{path.name} {first_line(error)}.") from error
        seconds = time.perf_counter() - started
    if not prediction.is_valid:
        raise UserError(f"The model gives NaN for {path.name}: start the program with --dtype float32.")
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), reducing_gap=2)
    return SegmentedImage(path.name, picture, prediction, seconds)


def segment_clip(
    path: Path,
    predictor: BasePredictor,
    folder: Path,
    threshold: float,
    smoothing: float,
    on_progress: Callable[[float], Any],
) -> SegmentedVideo:
    """Segment an uploaded video.

    Args:
        path: The video.
        predictor: Segments its frames.
        folder: Where to write the overlay.
        threshold, smoothing: As for `video.segment_video`. A threshold above the model's peak threshold takes its
            place.
        on_progress: Called after each frame with the share of the video that is done; an estimate if the file does
            not state its length. It may raise a VideoError to end the work.

    Raises:
        UserError: If the file is no video, is damaged from the start, too large or too long, or the model gives NaN.
        OSError: If the overlay cannot be written.
    """
    name = path.name
    overlay, table = folder / f"{path.stem}-overlay.mp4", folder / "frames.csv"
    done = 0
    end = time.monotonic() + MAX_VIDEO_WORK_SECONDS

    def on_frame() -> None:
        nonlocal done
        done += 1
        if done > MAX_VIDEO_FRAMES:
            raise VideoError(f"is too long: at most {MAX_VIDEO_FRAMES} frames are segmented here. Use predict.py")
        if time.monotonic() > end:
            raise VideoError(f"takes longer than {MAX_VIDEO_WORK_SECONDS // 60} minutes. Cut it, or use predict.py")
        on_progress(min(done / frames, 1.0))

    try:
        # First in a process with bounds: a video of a few bytes can state tables of gigabytes.
        frames = ask(partial(expected_frames, most_seconds=MAX_VIDEO_SECONDS), path)
        report = segment_video(
            path,
            overlay,
            table,
            predictor,
            threshold=threshold,
            smoothing=smoothing,
            peak_threshold=max(threshold, predictor.peak_threshold or 0),
            on_frame=on_frame,
        )
    except VideoError as error:
        raise UserError(f"{name} {first_line(error)}.") from error
    return SegmentedVideo(name, overlay, table.read_bytes(), report)


def expected_frames(path: Path, most_seconds: float) -> int:
    """Number of frames of a video, at least 1; the most that are accepted if the file does not state its length.

    Raises:
        VideoError: If it cannot be read, is too long or too large.
    """
    with VideoReader(path) as video:
        if video.width * video.height > MAX_PIXELS:
            raise VideoError(f"is too large ({video.width}x{video.height} pixels). Scale it down")
        frames, rate = video.frames_stated, float(video.rate)
        microseconds = video.container.duration
    if microseconds:
        seconds = microseconds / 1e6
        frames = frames or round(seconds * rate)
    elif frames:
        seconds = frames / rate
    else:
        return MAX_VIDEO_FRAMES
    if seconds > most_seconds + 0.5:
        raise VideoError(
            f"is too long ({seconds:.0f} seconds): at most {most_seconds:g} are segmented here. Cut it, or use "
            "predict.py"
        )
    return max(frames, 1)
