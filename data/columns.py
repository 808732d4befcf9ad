"""Columns of a data set's table: which holds the images, and which their masks."""

from collections.abc import Sequence
from typing import TypeAlias

from datasets import Dataset, Features, Image, IterableDataset, Value

from .samples import DatasetError

IMAGE_COLUMNS = ("image", "images", "img", "frame", "picture", "pixel_values")
MASK_COLUMNS = (
    "mask",
    "masks",
    "label",
    "labels",
    "annotation",
    "annotations",
    "segmentation",
    "segmentation_mask",
    "segmentation_map",
    "ground_truth",
    "gt",
    "target",
)

# Cells stay encoded until a transform decodes them, so that an unreadable file can be named.
ENCODED = Image(decode=False)
PAIR_FEATURES = Features({"image": ENCODED, "mask": ENCODED})

Split: TypeAlias = Dataset | IterableDataset


def with_pair_columns(rows: Split, image_column: str | None, mask_column: str | None) -> Split:
    columns = image_like_columns(rows)
    image_column = image_column or find_column(columns, IMAGE_COLUMNS)
    mask_column = mask_column or find_column([c for c in columns if c != image_column], MASK_COLUMNS)
    for kind, flag, column in (
        ("image", "--image_column", image_column),
        ("mask", "--mask_column", mask_column),
    ):
        if column not in columns:
            wanted = f"no column {column!r}" if column else f"no {kind} column with one of the usual names"
            raise DatasetError(
                f"The data set has {wanted}; its columns that can hold images are "
                f"{', '.join(columns) or 'none'}. Name the right one with {flag}."
            )
    pair = rows.select_columns([image_column, mask_column])
    renamed = {old: new for old, new in ((image_column, "image"), (mask_column, "mask")) if old != new}
    return (pair.rename_columns(renamed) if renamed else pair).cast(PAIR_FEATURES)


def image_like_columns(rows: Split) -> list[str]:
    """Columns of images, or of bytes or strings, which may be encoded images or their paths."""
    if rows.features is None:
        return list(next(iter(rows)))
    encoded = [Value(kind) for kind in ("binary", "large_binary", "string", "large_string")]
    encoded.append(Value("null"))  # all cells are empty, as masks of frames without polyp may be
    return [name for name, kind in rows.features.items() if isinstance(kind, Image) or kind in encoded]


def find_column(columns: Sequence[str], candidates: Sequence[str]) -> str | None:
    by_name = {column.lower(): column for column in columns}
    return next((by_name[name] for name in candidates if name in by_name), None)
