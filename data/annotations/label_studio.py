"""Label Studio's exports "JSON" and "JSON-MIN": https://labelstud.io/guide/export."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from ...common.errors import counted
from ...common.files import IMAGE_SUFFIXES
from ..layouts import UPLOAD_CODE
from ..mask_runs import check_size
from .entries import (
    NO_LABEL,
    Frame,
    Reading,
    Region,
    mapping_of,
    number_of,
    points_of,
    value_of,
    whole_number_of,
)
from .shapes import EntryError, ImageRuns, Shape, Size, ellipse, polygon, rectangle, runs_of_pixels

NAME = "Label Studio"
LABELS = (
    "polygonlabels",
    "brushlabels",
    "rectanglelabels",
    "ellipselabels",
    "labels",
    "keypointlabels",
    "vectorlabels",
)
ROUNDING = 0.01  # per cent beyond 100
PREDICTIONS = (
    "holds tasks with predictions alone, as predict.py writes them: import it into Label Studio, accept or correct "
    "them there (Submit), and give what it then exports as JSON"
)
FOREGROUND = 127  # a brush's opacity above which a pixel is marked, as in masks of grey levels


def recognise(data: Any) -> bool:
    """Whether a JSON file's value is an export of Label Studio."""
    if not isinstance(data, list) or not data or not all(isinstance(task, Mapping) for task in data):
        return False
    is_full = all("data" in task and ("annotations" in task or "completions" in task) for task in data)
    return is_full or all(_is_short(task) for task in data)


def other_kind(data: Any) -> str | None:
    """What a JSON file of Label Studio holds that is not read, with the remedy; None if it is none of these."""
    if not isinstance(data, list) or not data or not all(isinstance(task, Mapping) for task in data):
        return None
    return PREDICTIONS if all({"data", "predictions"} <= task.keys() for task in data) else None


def _is_short(task: Mapping[str, Any]) -> bool:
    """Whether a task is one of JSON-MIN."""
    return "id" in task and ("annotation_id" in task or any(map(_is_result, task.values()))) and bool(_urls(task))


def _is_result(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, Mapping) and "original_width" in one for one in value)


def read(data: Sequence[Mapping[str, Any]], file: Path, reading: Reading) -> list[Frame]:
    """The images of all tasks, with the regions of each; what a model predicted is not read."""
    frames = []
    for number, task in enumerate(data):
        entry = f"task {task.get('id', f'number {number}')}"
        with reading.noting(file, entry):
            fields = mapping_of(task["data"]) if "data" in task else task
            results = _results(task, reading) if "data" in task else _short_results(task)
            frame = Frame(file, entry, _image_of(fields, results, reading), None)
            frame.unfinished = "" if results else _unfinished(task)
            frames.append(frame)
            labels = _labels_by_region(results)
            for index, result in enumerate(results):
                what = f"{entry}, region {result.get('id', index)}"
                with reading.noting(file, what):
                    frame.regions += _regions(result, what, labels, frame)
    return frames


def _urls(fields: Mapping[str, Any]) -> dict[str, str]:
    """The fields that are addresses or paths of images."""
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    return {name: value for name, value in texts.items() if _path_in(value).lower().endswith(IMAGE_SUFFIXES)}


def _path_in(url: str) -> str:
    """The path of an image in its address: of /data/local-files/?d=a/b.jpg, what follows d=."""
    try:
        parts = urlsplit(url)
    except ValueError:  # some text that is no address
        return url
    found = parse_qs(parts.query).get("d") or [unquote(parts.path)]
    return found[0]


def _image_of(fields: Mapping[str, Any], results: Sequence[Mapping[str, Any]], reading: Reading) -> str:
    found = _urls(fields)
    # A task may have a small picture too, or a text that ends as an address does. Which field is labelled is not
    # exported; most have the name of the tag that is, and those of Label Studio's templates are called "image".
    tags = {str(result.get("to_name")) for result in results}
    named = [name for name in found if name in tags] or [name for name in found if name == "image"]
    urls = [found[name] for name in (named if len(found) > 1 else found)] or list(found.values())
    if len(urls) != 1:
        raise EntryError(f"names {counted(len(urls), 'image')}: expected one, with an ending such as .jpg")
    path = _path_in(urls[0])
    name = path.rpartition("/")[2]
    bare = re.sub(rf"^{UPLOAD_CODE}", "", name)
    if bare != name and not reading.finder.has(name):
        return path.removesuffix(name) + (reading.finder.uploaded(bare) or bare)
    if "://" in urls[0] and not reading.finder.has(name):
        kind = urls[0].partition("://")[0]
        raise EntryError(
            f"is of {name} at an address of the kind {kind}://, from which nothing is loaded: download the images to "
            f"below {reading.finder.folder}"
        )
    return path


def _results(task: Mapping[str, Any], reading: Reading) -> list[Mapping[str, Any]]:
    """What the one annotation of a task says.

    Raises:
        EntryError: If it has several, of which none is marked as ground truth.
    """
    if task.get("predictions") and not _unfinished(task):
        reading.note("task", "with predictions of a model: these were not read")
    annotations = [mapping_of(one) for one in _listed(task)]
    valid = [one for one in annotations if not one.get("was_cancelled")]
    if valid:
        reading.note("annotation", "skipped in Label Studio: not read", len(annotations) - len(valid))
    chosen = [one for one in valid if one.get("ground_truth")] if len(valid) > 1 else valid
    if len(valid) > 1 and len(chosen) != 1:
        raise EntryError(
            f"has {len(valid)} annotations, and {len(chosen)} of them are marked as ground truth: mark one (the star) "
            "or remove the others"
        )
    return [mapping_of(one) for one in value_of(chosen[0], "result", list, "a list")] if chosen else []


def _listed(task: Mapping[str, Any]) -> list[Any]:
    listed = task.get("annotations", task.get("completions"))
    return _list_of(listed)


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _unfinished(task: Mapping[str, Any]) -> str:
    """Why nobody has said yet what is on a task's image, though something is marked there or was skipped; or ""."""
    annotations = _listed(task)
    if any(not mapping_of(one).get("was_cancelled") for one in annotations):
        return ""
    if annotations:
        return "skipped in Label Studio"
    if any(_has_result(one) for one in _list_of(task.get("drafts"))):
        return "a draft in Label Studio that was not submitted"
    if any(_has_result(one) for one in _list_of(task.get("predictions"))):
        return "predictions of a model that nobody has submitted as annotations in Label Studio"
    return ""


def _has_result(entry: Any) -> bool:
    """Whether a draft or a prediction marks something; some exports hold the ids of predictions alone."""
    return bool(entry.get("result")) if isinstance(entry, Mapping) else isinstance(entry, int)


def _short_results(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The regions of a task of JSON-MIN, which lie in the field that the labelling interface names."""
    return [one for value in task.values() if _is_result(value) for one in value if isinstance(one, Mapping)]


def _labels_by_region(results: Sequence[Mapping[str, Any]]) -> dict[Any, list[str]]:
    """The labels of each region: its own, or those of an entry of the same id."""
    found: dict[Any, list[str]] = defaultdict(list)
    for result in results:
        fields = _fields(result)
        for kind in LABELS:
            if isinstance(fields.get(kind), list):
                found[str(result.get("id", id(result)))] += map(str, fields[kind])
    return found


def _fields(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """A region's shape and labels: in JSON they are in `value`, in JSON-MIN beside the rest."""
    return value_of(result, "value", dict, "a shape, or what it is called") if "value" in result else result


def _regions(result: Mapping[str, Any], entry: str, labels: Mapping[Any, list[str]], frame: Frame) -> Iterator[Region]:
    fields = _fields(result)
    kind = _kind(fields)
    if kind is None:  # a choice, a text, or the labels of another entry
        return
    size = whole_number_of(result, "original_width"), whole_number_of(result, "original_height")
    if result.get("image_rotation"):
        raise EntryError("is drawn on an image that was turned in Label Studio: turn it back and draw it anew")
    try:
        check_size(*size)
    except ValueError as error:
        raise EntryError(f"{error}: see original_width and original_height") from error
    if frame.size not in (None, size):
        raise EntryError(f"is of an image of {size}, and an earlier region of {frame.size}: draw it anew")
    frame.size = size
    shape = None if kind == "keypoint" else _shape(fields, kind, size)
    yield Region(entry, labels.get(str(result.get("id", id(result)))) or [NO_LABEL], shape, kind)


def _kind(fields: Mapping[str, Any]) -> str | None:
    if "rle" in fields:
        return "brush"
    if "points" in fields:
        return "polygon"
    if "vertices" in fields:
        return "keypoint"
    if "radiusX" in fields:
        return "ellipse"
    if "x" in fields and "y" in fields:
        return "rectangle" if "height" in fields else "keypoint"
    return None


def _shape(fields: Mapping[str, Any], kind: str, size: Size) -> Shape:
    if kind == "brush":
        return _brush(fields.get("rle"), size)
    scale = np.array(size) / 100
    if kind == "polygon":
        points = points_of(fields["points"])
        _check_per_cent(points.ravel().tolist())
        return polygon(points * scale)
    x, y = number_of(fields, "x"), number_of(fields, "y")
    rotation = number_of(fields, "rotation") if fields.get("rotation") else 0.0
    if kind == "ellipse":
        radii = number_of(fields, "radiusX"), number_of(fields, "radiusY")
        _check_per_cent([x, y, *radii])
        return ellipse(x * scale[0], y * scale[1], radii[0] * scale[0], radii[1] * scale[1], rotation)
    width, height = number_of(fields, "width"), number_of(fields, "height")
    if rotation:  # a side may be longer than the image is wide or high, but not than its diagonal
        sides = np.array([width, height]) * scale
        _check_per_cent((sides / math.hypot(*size) * 100).tolist())
    else:
        _check_per_cent([x, y, x + width, y + height])
    return rectangle(x * scale[0], y * scale[1], width * scale[0], height * scale[1], rotation)


def _check_per_cent(values: Sequence[float]) -> None:
    wrong = [value for value in values if not -ROUNDING <= value <= 100 + ROUNDING]
    if wrong:
        raise EntryError(f"has {wrong[0]:g} per cent: expected 0 to 100 of the image's width or height. Draw it anew")


def _brush(values: Any, size: Size) -> ImageRuns:
    """The pixels that a brush marked: run lengths of the bytes of an image with four channels, packed into bits.

    The format is that of https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack; label-studio-sdk, whose
    decoder reads the bits as text, takes seconds for an image.
    """
    try:
        stream = _Bits(bytes(values))
        channels = _unpack(stream, 4 * size[0] * size[1])
    except (TypeError, ValueError) as error:
        raise EntryError(f"has a brush's run lengths that are damaged ({error}). Export it anew") from error
    return runs_of_pixels(channels.reshape(size[1], size[0], 4)[..., 3] > FOREGROUND)


class _Bits:
    """Reads numbers of some bits."""

    def __init__(self, content: bytes):
        self.content = content
        self.place = 0

    def read(self, count: int) -> int:
        first, last = self.place // 8, (self.place + count + 7) // 8
        if last > len(self.content):
            raise ValueError("they end too early")
        number = int.from_bytes(self.content[first:last], "big")
        self.place += count
        return (number >> (8 * last - self.place)) & ((1 << count) - 1)


def _unpack(stream: _Bits, wanted: int) -> np.ndarray:
    """`wanted` bytes, uint8."""
    length = stream.read(32)
    if length != wanted:
        raise ValueError(f"of {length} bytes, where an image of this size has {wanted}")
    word = stream.read(5) + 1
    if word != 8:
        raise ValueError(f"of numbers of {word} bits, expected 8")
    sizes = [stream.read(4) + 1 for _ in range(4)]
    out = np.zeros(length, dtype=np.uint8)
    place = 0
    while place < length:
        is_run = stream.read(1)
        end = place + 1 + stream.read(sizes[stream.read(2)])
        if end > length:
            raise ValueError("they are longer than the image")
        if is_run:
            out[place:end] = stream.read(word)
        else:
            out[place:end] = [stream.read(word) for _ in range(end - place)]
        place = end
    return out
