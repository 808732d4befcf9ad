"""report.html: one page to look through what `predict.py` made, without network and without a server.

    write_report(Path("outputs/predictions"))

It is made from what is on disk: the records in the masks, those beside the videos, and `inputs.csv`, which names the
images' files. So it can be made again at any time; images that have gone or changed since are shown as missing.
"""

import base64
import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import chain
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from ..common.errors import UserError
from ..common.files import image_from_bytes, open_regular, read_file, to_rgb, write_atomic
from ..common.prefetch import prefetch_map
from ..inference.inputs import MASKS, PROBABILITIES
from ..inference.lesions import COLUMNS as LESION_COLUMNS
from ..inference.output_folder import REPORT, read_inputs, read_run, records, video_records
from ..inference.overlay import PREDICTION_COLOUR, draw_overlay
from ..inference.tracks import COLUMNS as TRACK_COLUMNS

THUMBNAILS = "thumbnails"  # folder beside the page, if they do not fit into it
NOTICE = "Research use only. Not a medical device; not for diagnosis or treatment."
SIDE = 320  # of a thumbnail's longer side, in pixels: sharp at twice the density of a grid cell's 160
MAX_INSIDE_BYTES = 2**23  # of all thumbnails in the page itself
TIME_LINE_POINTS = 500
THREADS = 4
ASSETS = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    Attributes:
        entry: What the page says of it, but for the thumbnail.
        file: Its thumbnail's path below the folder of thumbnails.
        thumbnail: The JPEG file; None if the image is gone or changed.
    """

    entry: dict[str, Any]
    file: str
    thumbnail: bytes | None


def write_report(output: Path) -> Path:
    """Write the page of an output folder, and its thumbnails, and return its path.

    Args:
        output: The output folder of a run of `predict.py`.

    Raises:
        UserError: If it holds no run.
        OSError: If the page cannot be written.
    """
    run = read_run(output)
    paths = read_inputs(output)
    describe = partial(_describe_image, output, paths)
    pictures = prefetch_map(describe, records(output / MASKS), threads=THREADS, ahead=16)
    images = list(_with_thumbnails(pictures, output))
    videos = list(_videos(output))
    if not images and not videos:
        raise UserError(f"{output} holds no image and no video that was segmented: there is nothing to report.")
    data = {
        "summary": _summary(images, videos),
        "settings": [(name, _as_text(value)) for name, value in run.items() if name != "schema_version"],
        "images": images,
        "videos": videos,
    }
    page = Template((ASSETS / "report.html").read_text(encoding="utf-8")).substitute(
        style=(ASSETS / "report.css").read_text(encoding="utf-8"),
        script=(ASSETS / "report.js").read_text(encoding="utf-8"),
        notice=escape(NOTICE),
        accent="#{:02x}{:02x}{:02x}".format(*PREDICTION_COLOUR),
        # In a script element, "</script" and "<!--" would end or change it.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )
    file = output / REPORT
    write_atomic(file, page.encode())
    return file


def _describe_image(output: Path, paths: dict[str, str], found: tuple[Path, dict[str, Any]]) -> Picture:
    """An image, by its mask and the record in it."""
    file, record = found
    with open_regular(file) as opened, Image.open(opened, formats=["PNG"]) as mask:
        width, height = mask.size
        path = paths.get(record["image"])
        thumbnail = _thumbnail(path, record["digest"], mask) if path is not None else None
    below = file.relative_to(output / MASKS)
    probability = output / PROBABILITIES / below
    regions = [dict(zip(LESION_COLUMNS[2:], numbers, strict=True)) for numbers in record["lesions"]]
    entry = {
        "name": record["image"],
        "presence": record.get("presence"),
        "width": width,
        "height": height,
        "path": None if thumbnail is None else _url(os.path.relpath(str(path), output)),
        "mask": _url(file.relative_to(output)),
        "probability": _url(probability.relative_to(output)) if probability.exists() else None,
        "regions": [
            {
                "box": [region[side] for side in ("left", "top", "right", "bottom")],
                "area": region["area_percent"] / 100,
                "probability": region["mean_probability"],
            }
            for region in regions
        ],
    }
    return Picture(entry, str(below.with_suffix(".jpg")), thumbnail)


def _thumbnail(path: str, digest: str, mask: Image.Image) -> bytes | None:
    """A small JPEG of an image with its mask drawn in; None if the file is gone, or is no longer the one segmented."""
    try:
        content = read_file(path)
        if hashlib.sha256(content).hexdigest() != digest:
            return None
        image = to_rgb(image_from_bytes(content))
    except (OSError, ValueError):
        return None
    image.thumbnail((SIDE, SIDE))
    small = np.asarray(mask.resize(image.size, Image.Resampling.NEAREST)) > 0
    buffer = io.BytesIO()
    draw_overlay(image, small).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _with_thumbnails(pictures: Iterator[Picture], output: Path) -> Iterator[dict[str, Any]]:
    """The pictures' entries with their thumbnails: inside, or as files if all are larger than `MAX_INSIDE_BYTES`."""
    first: list[Picture] = []
    size = 0
    for picture in pictures:
        first.append(picture)
        size += len(picture.thumbnail or b"")
        if size > MAX_INSIDE_BYTES:
            break
    for picture in chain(first, pictures):
        if picture.thumbnail is None:
            url = None
        elif size <= MAX_INSIDE_BYTES:
            url = "data:image/jpeg;base64," + base64.b64encode(picture.thumbnail).decode()
        else:
            file = output / THUMBNAILS / picture.file
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, picture.thumbnail)
            url = _url(file.relative_to(output))
        yield {**picture.entry, "thumbnail": url}


def _videos(output: Path) -> Iterator[dict[str, Any]]:
    """The videos, by the records beside them."""
    for overlay, record in video_records(output):
        seconds, areas = _time_line(overlay.with_suffix(".csv"))
        yield {
            "name": record["video"],
            "overlay": _url(overlay.relative_to(output)),
            "frames": record["frames"],
            "problem": record["problem"],
            "seconds": seconds,
            "areas": areas,
            "tracks": [_track(number, numbers) for number, numbers in enumerate(record.get("tracks", []), start=1)],
        }


def _time_line(table: Path) -> tuple[float, list[float]]:
    """Length of a video in seconds, and the largest marked share of the frame in each of at most some parts of it."""
    times, shares = [], []
    for row in _rows(table):
        times.append(float(row["seconds"]))
        shares.append(float(row["area_percent"]) / 100)
    if not times:
        return 0.0, [0.0]
    step = times[-1] / (len(times) - 1) if len(times) > 1 else 0.0  # also the last frame is shown for some time
    length = times[-1] + step
    parts = np.zeros(min(len(times), TIME_LINE_POINTS))
    places = (np.array(times) / (length or 1) * len(parts)).astype(int)
    np.maximum.at(parts, places, shares)
    return length, parts.round(6).tolist()


def _track(number: int, numbers: Sequence[float]) -> dict[str, Any]:
    track = dict(zip(TRACK_COLUMNS[2:], numbers, strict=True))
    return {
        "number": number,
        "alert": track["alert"] == 1,
        "first": track["first_seconds"],
        "last": track["last_seconds"],
        "frames": track["frames"],
        "area": track["largest_area_percent"] / 100,
        "mean": track["mean_probability"],
        "highest": track["highest_probability"],
    }


def _rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table of this program; none if it is not there."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def _summary(images: list[dict[str, Any]], videos: list[dict[str, Any]]) -> str:
    """What the folder holds, in a sentence."""
    parts = []
    if images:
        marked = sum(bool(image["regions"]) for image in images)
        gone = sum(image["thumbnail"] is None for image in images)
        parts.append(f"{len(images)} images, {marked} of them with regions")
        if gone:
            parts.append(f"{gone} image files are gone or changed since they were segmented")
    if videos:
        alerts = sum(track["alert"] for video in videos for track in video["tracks"])
        parts.append(f"{len(videos)} videos with {alerts} alerts")
    return "; ".join(parts) + "."


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(each)}" for name, each in value.items())
    return "none" if value is None else str(value)


def _url(path: str | Path) -> str:
    """A relative URL of a path, whatever characters are in it."""
    return quote(os.fsencode(Path(path).as_posix()))
