"""The lesions of a mask: its connected regions, and the table that `predict.py` and the web page write of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

COLUMNS = (
    *("image", "lesion", "left", "top", "right", "bottom", "centroid_x", "centroid_y"),
    *("area_pixels", "area_percent", "mean_probability"),
)
EIGHT_NEIGHBOURS = np.ones((3, 3))


@dataclass(frozen=True)
class Lesion:
    """One connected region of a mask; pixels that touch at a corner are connected.

    Attributes:
        box: First column, first row, and column and row after the last, in pixels.
        centroid: Mean column and row of its pixels.
        pixels: Its area.
        share: Its area as a share of the image's.
        probability: Mean probability of its pixels.
    """

    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    pixels: int
    share: float
    probability: float


def find_lesions(mask: np.ndarray, probability: np.ndarray) -> list[Lesion]:
    """The connected regions of a mask, the largest first.

    Args:
        mask: (H, W) bool.
        probability: (H, W) float, the probability of polyp.
    """
    box = bounding_box(mask)
    if box is None:
        return []
    # Only the part that holds lesions is labelled, and each lesion is measured in its own box: ndimage's sum_labels,
    # mean and center_of_mass pass over the whole image, and took 5.4 ms in place of 0.8 at 384x288 pixels.
    labels, _ = ndimage.label(mask[box], EIGHT_NEIGHBOURS)
    top, left = box[0].start, box[1].start
    lesions = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[rows, columns] == label
        rows = slice(top + rows.start, top + rows.stop)
        columns = slice(left + columns.start, left + columns.stop)
        lesions.append(_measure(inside, rows, columns, probability))
    return sorted(lesions, key=lambda lesion: -lesion.pixels)


def bounding_box(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns of a mask (H, W) bool that hold all of its True pixels; None if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _measure(inside: np.ndarray, rows: slice, columns: slice, probability: np.ndarray) -> Lesion:
    """The lesion whose pixels are `inside` its box, which is at these rows and columns of the image."""
    in_row, in_column = inside.sum(axis=1), inside.sum(axis=0)  # pixels
    pixels = int(in_row.sum())
    return Lesion(
        box=(columns.start, rows.start, columns.stop, rows.stop),
        centroid=(
            float(in_column @ np.arange(columns.start, columns.stop) / pixels),
            float(in_row @ np.arange(rows.start, rows.stop) / pixels),
        ),
        pixels=pixels,
        share=pixels / probability.size,
        probability=float(probability[rows, columns][inside].mean(dtype=np.float64)),
    )


def lesion_numbers(lesion: Lesion) -> list[float]:
    """The columns of the table from `left` on, unrounded."""
    return [*lesion.box, *lesion.centroid, lesion.pixels, 100 * lesion.share, lesion.probability]


def lesion_row(image: str, number: int, numbers: Sequence[float]) -> list[str]:
    """A row of the table.

    Args:
        image: Name of the image.
        number: Of the lesion; 1 is the image's largest.
        numbers: As `lesion_numbers` gives them.
    """
    *box, column, row, pixels, percent, probability = numbers
    centroid = (f"{place:.2f}" for place in (column, row))
    return [image, str(number), *map(str, box), *centroid, str(pixels), f"{percent:.4f}", f"{probability:.6f}"]
