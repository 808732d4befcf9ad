"""report.html: one page to look through what `predict.py` made, without network and without a server.

    write_report(Path("outputs/predictions"))

It is made from what is on disk: run.json, the records in the masks, the tables beside the videos, and `inputs.json`,
which says where the images' files are. So it can be made again at any time; of images that have gone or changed since
it says so, and shows what is left. It holds names and small pictures of the images, so it is as private as they are.
"""

import json
import os
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from PIL import Image
from tqdm.auto import tqdm

from ..common.errors import UserError, printable
from ..common.files import open_regular, read_file, write_atomic
from ..common.notice import NOTICE
from ..common.prefetch import prefetch_map
from ..inference.inputs import MASKS, OVERLAYS, PROBABILITIES
from ..inference.lesions import COLUMNS as LESION_COLUMNS
from ..inference.output_folder import REPORT, TABLES, cannot_write, count_passed_over, read_inputs, read_run, records
from ..inference.overlay import PREDICTION_COLOUR
from .report_videos import describe_videos
from .thumbnails import THREADS, Picture, place, read_picture, remove_unused, thumbnails_inside

GENERATOR = "unet-kvasir-seg predict.py --report"  # in the page: others of that name are not replaced
MAX_PAGE_BYTES = 2**30
READ_PIXELS = 2**26  # bound of the images that are decoded at the same time, as in inference/image_run.py
ASSETS = Path(__file__).parent / "page"

Found = tuple[Path, dict[str, Any]]  # a mask's file and the record in it


def write_report(output: Path) -> Path:
    """Write the page of an output folder, and its thumbnails, and return its path.

    Args:
        output: The output folder of a run of `predict.py`, whose lock is held.

    Raises:
        UserError: If it holds no run or no outputs, the page cannot be written, or a file of another program is in
            its place.
    """
    file = output / REPORT
    run = read_run(output)
    earlier = thumbnails_inside(_read_earlier(file))
    try:
        images = list(_describe_images(output, earlier))
        videos = list(describe_videos(output, run.get("presence_calibration")))
        if not images and not videos:
            raise UserError(f"{output} holds no image and no video that was segmented: there is nothing to report.")
        write_atomic(file, _page(output, run, images, videos).encode())
        remove_unused(output, {image["thumbnail"] for image in images if isinstance(image["thumbnail"], Path)})
    except OSError as error:
        raise cannot_write(error.filename or file, error) from error
    return file


def _read_earlier(file: Path) -> str:
    """An earlier page; empty without one.

    Raises:
        UserError: If the file is not of this program.
    """
    try:
        page = read_file(file, MAX_PAGE_BYTES).decode()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError):
        page = ""  # a folder, or no text
    if f'content="{GENERATOR}"' not in page:
        raise UserError(f"{file} is there and not from this command: move it away, and run it again.")
    return page


def _page(output: Path, run: dict[str, Any], images: list[dict[str, Any]], videos: list[dict[str, Any]]) -> str:
    data = {
        "summary": _summary(images, videos, count_passed_over(output, len(images), len(videos))),
        "settings": [(name, _as_text(value)) for name, value in run.items() if name != "schema_version"],
        "tables": [name for name in TABLES if (output / name).exists()],
        "images": images,
        "videos": videos,
    }
    encoded = json.dumps(data, separators=(",", ":"), allow_nan=False, default=_url)
    return Template((ASSETS / "report.html").read_text(encoding="utf-8")).substitute(
        style=(ASSETS / "report.css").read_text(encoding="utf-8"),
        script=(ASSETS / "report.js").read_text(encoding="utf-8"),
        generator=GENERATOR,
        title=escape(f"Predictions: {printable(output.resolve().name)}"),
        notice=escape(NOTICE),
        accent="#{:02x}{:02x}{:02x}".format(*PREDICTION_COLOUR),
        # In a script element, "</script" and "<!--" would end or change it.
        data=encoded.replace("<", "\\u003c"),
    )


def _describe_images(output: Path, earlier: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    """What the page says of each image, sorted by path; paths are below the output folder.

    Raises:
        OSError: If a file cannot be read or written.
    """
    paths = read_inputs(output)

    def read(found: Found) -> Picture:
        file, record = found
        return read_picture(output, file, record, paths.get(record["image"]), earlier)

    found = records(output / MASKS)
    limits = {"size": _pixels, "largest_sum": READ_PIXELS}
    pictures = prefetch_map(read, found, threads=THREADS, ahead=4 * THREADS, **limits)
    # Shown if it takes long: thousands of thumbnails take a minute.
    for picture in tqdm(place(pictures, output), desc="Report", unit="image", delay=2):
        yield _entry(output, picture, paths.get(picture.record["image"]))


def _pixels(found: Found) -> int:
    """Number of pixels of a mask and its image."""
    try:
        with open_regular(found[0]) as file, Image.open(file, formats=["PNG"]) as mask:
            return mask.width * mask.height
    except Exception:  # Pillow's readers raise errors of all kinds for damaged files
        return 0


def _entry(output: Path, picture: Picture, path: str | None) -> dict[str, Any]:
    name, presence = picture.record["image"], picture.record.get("presence")
    overlay, probability = (Path(folder, picture.mask) for folder in (OVERLAYS, PROBABILITIES))
    large = [_relative(path, output)] if path is not None and picture.problem is None else []
    if (output / overlay).exists():
        large.append(overlay)
    regions = [dict(zip(LESION_COLUMNS[2:], numbers, strict=True)) for numbers in picture.record["lesions"]]
    return {
        "name": printable(name),
        "presence": presence,
        "width": picture.size[0],
        "height": picture.size[1],
        "problem": picture.problem and printable(picture.problem),
        "thumbnail": picture.url,
        "large": large,
        "mask": Path(MASKS, picture.mask),
        "probability": probability if (output / probability).exists() else None,
        "regions": [
            {
                "box": [region[side] for side in ("left", "top", "right", "bottom")],
                "area": region["area_percent"] / 100,
                "probability": region["mean_probability"],
            }
            for region in regions
        ],
    }


def _relative(path: str, output: Path) -> Path:
    """A path as seen from the output folder, so that both can be moved together."""
    try:
        return Path(os.path.relpath(path, output))
    except ValueError:  # on another drive, as Windows has them
        return Path(path)


def _summary(images: list[dict[str, Any]], videos: list[dict[str, Any]], passed_over: int) -> str:
    """What the folder holds, in a sentence; with the number of its files that are not shown."""
    parts = []
    if images:
        marked = sum(bool(image["regions"]) for image in images)
        missing = sum(image["problem"] is not None for image in images)
        parts.append(f"{_counted(len(images), 'image')}, {marked} with regions and {len(images) - marked} without")
        if missing:
            parts.append(f"the files of {missing} cannot be shown")
    if videos:
        tracks = [track for video in videos for track in video["tracks"] or []]
        alerts = sum(track["alert"] for track in tracks)
        parts.append(f"{_counted(len(videos), 'video')} with {_counted(alerts, 'alert')}")
        unknown = sum(video["tracks"] is None for video in videos)
        if unknown:
            parts.append(f"the alerts of {unknown} are not known")
    if passed_over:
        parts.append(f"{_counted(passed_over, 'mask or video')} not shown: damaged, or from another program")
    return f"{'; '.join(parts)}."


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _as_text(value: Any, levels: int = 3) -> str:
    """A value of run.json in words; what lies deeper than so many levels is left out."""
    if levels and isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(each, levels - 1)}" for name, each in value.items())
    if levels and isinstance(value, list):
        return ", ".join(_as_text(each, levels - 1) for each in value)
    if isinstance(value, dict | list):
        return "..."
    return "none" if value is None else printable(str(value))


def _url(path: Path) -> str:
    """The URL of a path, whatever characters are in it."""
    return path.as_uri() if path.is_absolute() else quote(os.fsencode(path.as_posix()))
