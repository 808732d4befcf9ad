"""What report.html shows of each video: its overlay, a time line, and its tracks."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import describe_error, printable
from ..inference.output_folder import video_records
from ..inference.tracks import COLUMNS as TRACK_COLUMNS
from ..regions_unet import presence_of

TIME_LINE_PARTS = 500
LARGEST = 1e12  # of the numbers in a table; seconds of the longest film are far fewer
NO_TRACKS = "Its tracks were not recorded: an earlier version of this program segmented it."
NO_TABLE = "Its table of frames is gone or was changed, so there is no time line"


def describe_videos(output: Path, calibration: Sequence[float] | None) -> Iterator[dict[str, Any]]:
    """What the page says of each video of an output folder, sorted by path.

    Args:
        output: The folder.
        calibration: Of presence, as `presence_of` takes it.

    Yields:
        Plain values for JSON: times in seconds, areas as shares of the frame. `overlay` is a path below the folder;
        `tracks` is None if they are not known.
    """
    for overlay, record in video_records(output):
        problems = [printable(record["problem"])] if record["problem"] else []
        times: list[float] = []
        line: dict[str, Any] = {"presences": [], "areas": []}
        try:
            times, presences, areas = _read_frames(overlay.with_suffix(".csv"), calibration)
            line = {"presences": time_line(times, presences), "areas": time_line(times, areas)}
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or describe_error(error)  # without the path
            problems.append(f"{NO_TABLE} ({printable(reason)}).")
        tracks = record.get("tracks")
        if tracks is None:
            problems.append(NO_TRACKS)
        yield {
            "name": printable(record["video"]),
            "overlay": overlay.relative_to(output),
            "problems": problems,
            "frames": len(times),
            "seconds": _length(times),
            **line,
            "tracks": tracks and [_track(number, numbers, times) for number, numbers in enumerate(tracks, start=1)],
        }


def _read_frames(table: Path, calibration: Sequence[float] | None) -> tuple[list[float], list[float], list[float]]:
    """Time, presence and marked share of each frame of a video.

    Raises:
        OSError: If its table cannot be read.
        ValueError, KeyError, TypeError, ArithmeticError, csv.Error: If that is not as `segment_video` writes it.
    """
    times, presences, areas = [], [], []
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            times.append(_number(row["seconds"]))
            presences.append(_number(presence_of(_number(row["max_probability"]), calibration)))
            areas.append(_number(row["area_percent"]) / 100)
    return times, presences, areas


def _number(value: str | float) -> float:
    """A number that JSON has and that can be computed with.

    Raises:
        ValueError: If it is none.
    """
    number = float(value)
    if not abs(number) <= LARGEST:  # NaN is not
        raise ValueError(f"got {value}, expected a number")
    return number


def _length(times: Sequence[float]) -> float:
    """The time until the last frame has been shown as long as the others are on average; 0 for a single frame."""
    return times[-1] * len(times) / (len(times) - 1) if len(times) > 1 else 0.0


def time_line(times: Sequence[float], values: Sequence[float]) -> list[float]:
    """The highest value in each of at most `TIME_LINE_PARTS` equal parts of a video's time.

    Args:
        times: When each frame is shown; a frame stays until the next.
        values: Its value.
    """
    if not times:
        return []
    parts = np.full(min(len(times), TIME_LINE_PARTS), np.nan)
    places = np.array(times) / (_length(times) or 1.0) * len(parts)
    np.fmax.at(parts, places.astype(int).clip(0, len(parts) - 1), values)
    latest = np.maximum.accumulate(np.where(np.isnan(parts), 0, np.arange(len(parts))))
    return np.nan_to_num(parts[latest]).round(6).tolist()


def _track(number: int, numbers: Sequence[float], times: Sequence[float]) -> dict[str, Any]:
    """A track of a video's record, whose frames were shown at these times."""
    track = dict(zip(TRACK_COLUMNS[2:], numbers, strict=True))
    best = int(track["best_frame"])
    return {
        "number": number,
        "alert": bool(track["alert"]),
        "first": track["first_seconds"],
        "last": track["last_seconds"],
        "best": times[best] if 0 <= best < len(times) else track["first_seconds"],
        "frames": int(track["frames"]),
        "area": track["largest_area_percent"] / 100,
        "mean": track["mean_probability"],
        "highest": track["highest_probability"],
    }
