"""The table of lesions that `predict.py` and the web page write: its columns, and a lesion's row."""

from collections.abc import Sequence

from .predictor import Lesion

COLUMNS = (
    *("image", "lesion", "left", "top", "right", "bottom", "centroid_x", "centroid_y"),
    *("area_pixels", "area_percent", "mean_probability"),
)


def lesion_numbers(lesion: Lesion) -> list[float]:
    """The columns from `left` on, unrounded."""
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
