"""Label Studio: tasks with predictions, as polygons in per cent (without holes) or brush masks, and the interface.

Images are local files of Label Studio: their paths begin with the folder that was predicted, and lie below its
LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from .frames import AnnotatedFrame, Region
from .options import Options, rounded, separated, to_json
from .run_lengths import run_lengths

LOCAL_FILES = "/data/local-files/?d="
CHANNELS = 4  # of the picture that a brush paints: red, green, blue, alpha, all with the same value
VALUE_BITS = 8
# Bits in which a run's length is written: the shortest that holds it.
LENGTH_BITS = (3, 4, 8, 16)
LONGEST_RUN = 2 ** LENGTH_BITS[-1]


def files(frames: Iterable[AnnotatedFrame], options: Options) -> Iterator[tuple[str, Iterable[str]]]:
    yield "label-studio.json", _content(frames, options)
    yield "label-studio-interface.xml", _interface(options)


def _interface(options: Options) -> list[str]:
    """What "Labeling Interface, Code" of the project takes."""
    tag = "BrushLabels" if options.masks else "PolygonLabels"
    return [
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n',
        f'  <{tag} name="label" toName="image">\n    <Label value={quoteattr(options.label)}/>\n  </{tag}>\n</View>\n',
    ]


def _content(frames: Iterable[AnnotatedFrame], options: Options) -> Iterator[str]:
    yield "[\n"
    yield from separated(to_json(_task(frame, options)) for frame in frames)
    yield "\n]\n"


def _task(frame: AnnotatedFrame, options: Options) -> dict[str, Any]:
    results = list(_results(frame, options))
    prediction: dict[str, Any] = {"model_version": options.model, "result": results}
    if frame.presence is not None:
        prediction["score"] = round(frame.presence, 6)
    return {"data": {"image": LOCAL_FILES + quote(os.fsencode(_below_root(frame)))}, "predictions": [prediction]}


def _below_root(frame: AnnotatedFrame) -> str:
    """An image's path, with the name of the folder that was predicted in front if that is known."""
    path = PurePath(frame.path).as_posix() if frame.path else ""
    folder = path.removesuffix(f"/{frame.name}")
    return frame.name if folder in (path, "") else f"{PurePath(folder).name}/{frame.name}"


def _results(frame: AnnotatedFrame, options: Options) -> Iterator[dict[str, Any]]:
    for number, region in enumerate(frame.regions, start=1):
        for part, value in enumerate(_values(region, frame, options), start=1):
            result: dict[str, Any] = {
                "id": f"{number}-{part}",
                "type": "brushlabels" if options.masks else "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": frame.width,
                "original_height": frame.height,
                "image_rotation": 0,
                "value": value,
            }
            yield result if region.score is None else result | {"score": region.score}


def _values(region: Region, frame: AnnotatedFrame, options: Options) -> Iterator[dict[str, Any]]:
    if options.masks:
        yield {"format": "rle", "rle": encode_brush(region, frame.width, frame.height), "brushlabels": [options.label]}
        return
    options.filled += region.holes
    per_cent = np.array([100 / frame.width, 100 / frame.height])
    for polygon in region.polygons:
        points = rounded(polygon.exterior * per_cent, 5)
        yield {"points": points, "closed": True, "polygonlabels": [options.label]}


def encode_brush(region: Region, width: int, height: int) -> list[int]:
    """A region as bytes of the package @thi.ng/rle-pack, which Label Studio's brush reads.

    Bits: 32 for the number of values, 5 for their bits less 1, four times 4 for `LENGTH_BITS` less 1; then for each
    run a 1, two for which of the `LENGTH_BITS` follows, the length less 1, and the value. Written here because Label
    Studio's own converter goes through all values of the complete image in Python, for each region.
    """
    total = width * height
    bits = [f"{CHANNELS * total:032b}{VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in LENGTH_BITS)]
    for number, pixels in enumerate(run_lengths(region.inside, region.top, region.left, width, total)):
        value, length = 255 * (number % 2), CHANNELS * pixels
        while length:
            part = min(length, LONGEST_RUN)
            choice = next(index for index, size in enumerate(LENGTH_BITS) if part <= 2**size)
            bits.append(f"1{choice:02b}{part - 1:0{LENGTH_BITS[choice]}b}{value:0{VALUE_BITS}b}")
            length -= part
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
