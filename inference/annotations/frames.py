"""The images and their marked regions that the formats write, read from the masks of an output folder.

for frame in annotated_frames(Path("outputs/predictions"), with_polygons=True):
    frame.name, frame.regions
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ...common.errors import UserError
from ...common.files import image_from_bytes, read_file
from ..inputs import MASKS
from ..lesions import EIGHT_NEIGHBOURS
from ..output_folder import read_inputs, records
from .polygons import Polygon, find_polygons


@dataclass(frozen=True)
class Region:
    """A lesion of `predictions.csv`: pixels that touch at a side or a corner.

    Attributes:
        left, top: Its first column and row.
        inside: (h, w) bool, its pixels in its box.
        pixels: How many they are.
        score: Their mean probability; None if the mask was changed since it was predicted.
        polygons: Its outlines, one for each part that touches others only at corners; empty if none were asked for.
    """

    left: int
    top: int
    inside: np.ndarray
    pixels: int
    score: float | None
    polygons: Sequence[Polygon] = ()

    @property
    def width(self) -> int:
        return self.inside.shape[1]

    @property
    def height(self) -> int:
        return self.inside.shape[0]

    @property
    def holes(self) -> int:
        """Number of holes in its polygons."""
        return sum(len(polygon.holes) for polygon in self.polygons)


@dataclass(frozen=True)
class AnnotatedFrame:
    """An image with its regions.

    Attributes:
        name: Its path below the input folder, with "/".
        mask: Path of its mask below the folder of masks.
        path: Absolute path of the image when it was predicted; None if nothing tells.
        width, height: Its size, upright.
        presence: The probability that it shows a polyp at all; None if an earlier version predicted it.
        regions: The largest first.
    """

    name: str
    mask: Path
    path: str | None
    width: int
    height: int
    presence: float | None
    regions: Sequence[Region]


def annotated_frames(output: Path, *, with_polygons: bool) -> Iterator[AnnotatedFrame]:
    """All images of an output folder, one after the other, those without polyp included.

    Args:
        output: The folder.
        with_polygons: Whether the regions get polygons.

    Raises:
        UserError: If a mask is damaged.
    """
    paths = read_inputs(output)
    for file, record in records(output / MASKS):
        mask = _read_mask(file)
        yield AnnotatedFrame(
            name=record["image"],
            mask=file.relative_to(output / MASKS),
            path=paths.get(record["image"]),
            width=mask.shape[1],
            height=mask.shape[0],
            presence=record.get("presence"),
            regions=find_regions(mask, record["lesions"], with_polygons=with_polygons),
        )


def _read_mask(file: Path) -> np.ndarray:
    try:
        return np.asarray(image_from_bytes(read_file(file)).convert("L")) > 127
    except (OSError, ValueError) as error:
        raise UserError(
            f"The mask {file} cannot be read ({error}). Remove it, and run the same command again: it is made anew."
        ) from error


def find_regions(mask: np.ndarray, lesions: Sequence[Sequence[Any]] = (), *, with_polygons: bool) -> list[Region]:
    """The regions of a mask, the largest first.

    Args:
        mask: (H, W) bool.
        lesions: As `lesion_numbers` gives them; each tells the score of the region with its box and area.
        with_polygons: Whether the regions get polygons.
    """
    labels, _ = ndimage.label(mask, EIGHT_NEIGHBOURS)
    polygons: dict[int, list[Polygon]] = {}
    for row, column, polygon in find_polygons(mask) if with_polygons else ():
        polygons.setdefault(int(labels[row, column]), []).append(polygon)
    scores = {(*lesion[:4], lesion[6]): round(float(lesion[-1]), 6) for lesion in lesions}
    regions = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[rows, columns] == label
        pixels = int(inside.sum())
        score = scores.get((columns.start, rows.start, columns.stop, rows.stop, pixels))
        regions.append(Region(columns.start, rows.start, inside, pixels, score, polygons.get(label, ())))
    return sorted(regions, key=lambda region: -region.pixels)
