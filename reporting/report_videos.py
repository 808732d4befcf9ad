"""What report.html shows of each video: its overlay, a time line, and its tracks."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import printable
from ..inference.inputs import VIDEOS
from ..inference.output_folder import read_summary, tracks_file
from ..regions_unet import presence_of

TIME_LINE_PARTS = 500
NO_TRACKS = "Its tracks were not recorded: an earlier version of this program segmented it."
CHANGED = "Its tables are not as this program wrote them, and are not shown"


def describe_videos(output: Path, calibration: Sequence[float] | None) -> Iterator[dict[str, Any]]:
    """What the page says of each video of an output folder, sorted by path.

    Args:
        output: The folder.
        calibration: Of presence, as `presence_of` takes it.

    Yields:
        Plain values for JSON: times in seconds, areas as shares of the frame. `overlay` is a path below the folder;
        `tracks` is None if they are not known.
    """
    for record in sorted((output / VIDEOS).rglob("*.json")):
        summary = read_summary(record)
        overlay = record.with_suffix(".mp4")
        if summary is None or not overlay.exists():
            continue
        problems = [printable(str(summary["problem"]))] if summary["problem"] else []
        try:
            tables = _read_tables(overlay, calibration)
            if tables["tracks"] is None:
                problems.append(NO_TRACKS)
        except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
            problems.append(f"{CHANGED} ({printable(str(error))}).")
            tables = {"frames": None, "seconds": 0.0, "presences": [], "areas": [], "tracks": None}
        name = printable(str(summary.get("video", overlay.stem)))
        yield {"name": name, "overlay": overlay.relative_to(output), "problems": problems, **tables}


def _read_tables(overlay: Path, calibration: Sequence[float] | None) -> dict[str, Any]:
    times, presences, areas = [], [], []
    for row in _rows(overlay.with_suffix(".csv")):
        times.append(_number(row["seconds"]))
        presences.append(presence_of(_number(row["max_probability"]), calibration))
        areas.append(_number(row["area_percent"]) / 100)
    tracks = tracks_file(overlay)
    return {
        "frames": len(times),
        "seconds": _length(times),
        "presences": time_line(times, presences),
        "areas": time_line(times, areas),
        "tracks": [_track(row, times) for row in _rows(tracks)] if tracks.exists() else None,
    }


def _rows(table: Path) -> Iterator[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _number(text: str) -> float:
    """A finite number: JSON has no other.

    Raises:
        ValueError: If it is none.
    """
    if not math.isfinite(number := float(text)):
        raise ValueError(f"got {text}, expected a number")
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


def _track(row: dict[str, str], times: Sequence[float]) -> dict[str, Any]:
    return {
        "number": int(row["track"]),
        "alert": row["alert"] == "1",
        "first": _number(row["first_seconds"]),
        "last": _number(row["last_seconds"]),
        "best": times[int(row["best_frame"])],
        "frames": int(row["frames"]),
        "area": _number(row["largest_area_percent"]) / 100,
        "mean": _number(row["mean_probability"]),
        "highest": _number(row["highest_probability"]),
    }
