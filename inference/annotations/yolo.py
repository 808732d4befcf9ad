"""YOLO's segmentation data sets: data.yaml, a list of images, and for each image a text file with a polygon a line.

Coordinates are shares of width and height. Neither holes nor scores can be stated. An image without polyp has an empty
file, which YOLO takes for background.
"""

from collections.abc import Iterable, Iterator
from pathlib import PurePath

import yaml

from .frames import AnnotatedFrame
from .options import Options, text_name

FOLDER, LIST = "yolo", "images.txt"


def files(frames: Iterable[AnnotatedFrame], options: Options) -> Iterator[tuple[str, Iterable[str]]]:
    names: list[str] = []
    for frame in frames:
        # YOLO finds the labels of images/NAME.jpg in labels/NAME.txt; "./" is the folder of the list.
        names.append(f"./images/{text_name(frame, 'a list of YOLO')}\n")
        yield PurePath(FOLDER, "labels", frame.mask.with_suffix(".txt")).as_posix(), _lines(frame, options)
    yield f"{FOLDER}/{LIST}", names
    # No "val": it would have to be other images, and which are for validation is decided when they are corrected.
    description = {"train": LIST, "names": {0: options.label}}
    yield f"{FOLDER}/data.yaml", [yaml.safe_dump(description, allow_unicode=True, sort_keys=False)]


def _lines(frame: AnnotatedFrame, options: Options) -> Iterator[str]:
    for region in frame.regions:
        options.filled += region.holes
        for polygon in region.polygons:
            shares = polygon.exterior / (frame.width, frame.height)
            yield f"0 {' '.join(f'{share:.6f}' for share in shares.ravel())}\n"
