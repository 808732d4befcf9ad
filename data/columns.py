"""Columns of a data set's table: which holds the images, and which their masks."""

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as parquet
from datasets import Dataset, Features, Image, IterableDataset, Value
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from ..common.errors import some
from ..common.files import IMAGE_SUFFIXES
from .locations import Locator
from .samples import Cell, DatasetError
from .split_names import plain

# Usual names, as `plain` gives them.
IMAGE_COLUMNS = ("image", "images", "img", "frame", "picture", "pixelvalues", "imagepath", "filename")
MASK_COLUMNS = (
    *("mask", "masks", "polypmask", "maskimage", "imagemask", "maskpath", "label", "labels", "labelimage"),
    *("annotation", "annotations", "segmentation", "segmentations", "seg", "segmentationmask", "segmentationmap"),
    *("groundtruth", "groundtruthmask", "gt", "gtmask", "target", "targets"),
)

# Cells stay encoded until a transform decodes them, so that an unreadable file can be named.
ENCODED = Image(decode=False)
PAIR_FEATURES = Features({"image": ENCODED, "mask": ENCODED})
OBJECT_FIELDS = {"bbox", "bboxes", "segmentation", "segmentations", "polygon", "polygons"}
PEEKED_ROWS = 20  # of which at least one tells whether a column of strings holds paths of images

Split: TypeAlias = Dataset | IterableDataset


class NoPairsError(DatasetError):
    """A table has not two columns that could hold images and their masks."""


def with_pair_columns(
    rows: Split,
    image_column: str | None,
    mask_column: str | None,
    locator: Callable[[], Locator] | None = None,
    further: Mapping[str, str] | None = None,
) -> Split:
    """The columns of images and masks, encoded, as `image` and `mask`.

    Args:
        rows: A split of a data set.
        image_column, mask_column: Their names; found if not given.
        locator: Makes what finds the files that paths name; None: paths are used as they are.
        further: Columns to keep as they are, not of a stream, by the names that they get.

    Raises:
        NoPairsError: If there are not two columns that could hold images and masks.
        DatasetError: If there are no such columns, or several.
    """
    kinds = image_like_columns(rows)
    mask = mask_column
    image = image_column or choose_column({c: k for c, k in kinds.items() if c != mask}, "image")
    mask = mask or choose_column({c: k for c, k in kinds.items() if c != image}, "mask")
    for kind, column in (("image", image), ("mask", mask)):
        if column not in kinds:
            wanted = f"no column {column!r}" if column else f"no {kind} column with one of the usual names"
            if column in (rows.column_names or ()):
                wanted = f"no images in its column {column!r}"
            _refuse_objects(rows)
            kind_of_error = NoPairsError if column is None and len(kinds) < 2 else DatasetError
            raise kind_of_error(
                f"The data set has {wanted}; its columns that can hold images are {', '.join(kinds) or 'none'}. Name "
                f"the right one with --{kind}_column. It has the columns {', '.join(rows.column_names or kinds)}."
            )
    assert image is not None  # found, or refused above
    assert mask is not None
    if image == mask:
        raise DatasetError(f"--image_column and --mask_column both name {image}: name two columns.")
    if isinstance(rows, IterableDataset) and rows.features:
        rows = rows.decode(False)  # before the columns are selected: later, the images of remote files stay decoded
    kept = _kept_columns(rows, image, mask, further or {})
    pair = rows.select_columns([image, mask, *kept])
    renamed = {old: new for old, new in ((image, "image"), (mask, "mask"), *kept.items()) if old != new}
    pair = pair.rename_columns(renamed) if renamed else pair
    if isinstance(pair, IterableDataset):  # whose cast changes only what its columns are said to be
        encoded: Split = pair.map(_encoded_row, features=PAIR_FEATURES)
    else:
        with no_progress_bars():
            encoded = pair.cast(Features({**pair.features, **PAIR_FEATURES}))
    of_paths = [new for old, new in ((image, "image"), (mask, "mask")) if kinds[old] in (PATH, EMPTY)]
    return locator().locate(encoded, of_paths) if locator and of_paths else encoded


def _refuse_objects(rows: Split) -> None:
    """Say what is to be done with tables whose rows hold what was drawn on an image, as the Hub's for detection do.

    Raises:
        DatasetError: If there is such a column.
    """
    for name, feature in (rows.features or {}).items():
        inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
        found = sorted(OBJECT_FIELDS & inner.keys()) if isinstance(inner, Mapping) else []
        if found:
            raise DatasetError(
                f"The column {name} of the data set holds annotations ({some(found)}), which are not read from "
                "tables: write them as a COCO file beside the images, and give that (docs/annotate.md), or draw them "
                "as a column of masks."
            )


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Without the bars of the `datasets` library, for what takes moments."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _kept_columns(rows: Split, image: str, mask: str, further: Mapping[str, str]) -> dict[str, str]:
    """The new names of further columns, by those that they have.

    Raises:
        DatasetError: If there is no such column, or it has two jobs.
    """
    names = list(rows.column_names or rows.features or ())
    if absent := [column for column in further.values() if column not in names]:
        raise DatasetError(f"The data set has no column {some(absent)}; it has the columns {some(names, most=12)}.")
    kept = {column: name for name, column in further.items()}
    if len(kept) < len(further) or kept.keys() & {image, mask}:
        raise DatasetError(f"One column cannot be two of image, mask, {', '.join(further)}: name one for each.")
    return kept


def _encoded_row(row: Mapping[str, Any]) -> dict[str, Cell | None]:
    return {kind: _encoded_cell(row[kind]) for kind in ("image", "mask")}


def _encoded_cell(cell: Any) -> Cell | None:
    """An encoded image as bytes and path, from either alone or a struct of them."""
    if isinstance(cell, Mapping):
        return {"bytes": cell.get("bytes"), "path": cell.get("path")}
    if cell is None:
        return None
    return {"bytes": cell, "path": None} if isinstance(cell, bytes) else {"bytes": None, "path": cell}


# How sure it is that a column holds images, the surest first: as images, bytes, structs of bytes and path, or paths.
# Where all cells are empty, they may be the masks of frames without polyp.
IMAGE, BYTES, PATH, EMPTY = range(4)


def image_like_columns(rows: Split) -> dict[str, int]:
    """The columns that can hold images, and how sure that is."""
    kinds: dict[str, int] = {}
    unsure = []
    for name, feature in (rows.features or dict.fromkeys(rows.column_names or next(iter(rows)))).items():
        kind = _kind_of_feature(feature)
        if kind is not None:
            kinds[name] = kind
        elif feature is None or feature in (Value("string"), Value("large_string")):
            unsure.append(name)
    if unsure:
        first = list(islice(rows.select_columns(unsure), PEEKED_ROWS))
        found = {name: _kind_of_cells([row[name] for row in first]) for name in unsure}
        kinds |= {name: kind for name, kind in found.items() if kind is not None}
    return {name: kinds[name] for name in (rows.column_names or kinds) if name in kinds}


def _kind_of_feature(feature: Any) -> int | None:
    if isinstance(feature, Image):
        return IMAGE
    if isinstance(feature, Mapping):  # pandas writes an image's struct without its type
        return BYTES if feature.keys() & {"bytes", "path"} and feature.keys() <= {"bytes", "path"} else None
    if feature in (Value("binary"), Value("large_binary")):
        return BYTES
    return EMPTY if feature == Value("null") else None


def _kind_of_cells(cells: Sequence[Any]) -> int | None:
    """That of cells whose type does not tell it."""
    there = [cell for cell in cells if cell is not None and cell != ""]
    if not there:
        return EMPTY
    if all(isinstance(cell, bytes | Mapping) for cell in there):
        return BYTES
    are_paths = all(isinstance(cell, str) and cell.lower().endswith(IMAGE_SUFFIXES) for cell in there)
    return PATH if are_paths else None


def choose_column(kinds: Mapping[str, int], kind: str) -> str | None:
    """The column of a usual name that most surely holds images; None if there is none.

    Args:
        kinds: As `image_like_columns` gives them.
        kind: "image" or "mask".

    Raises:
        DatasetError: If there are several.
    """
    usual = IMAGE_COLUMNS if kind == "image" else MASK_COLUMNS
    named = [column for column in kinds if plain(column) in usual]
    surest = [column for column in named if kinds[column] == min(kinds[column] for column in named)]
    if len(surest) > 1:
        raise DatasetError(
            f"The columns {some(surest)} could each hold the {kind}s: name the right one with --{kind}_column."
        )
    return surest[0] if surest else None


def names_masks(file: Path, mask_column: str | None) -> bool:
    """Whether a metadata file, as the `datasets` library reads it beside images, names their masks too.

    Args:
        file: The metadata file.
        mask_column: Of the masks, as the user names it; None: it has one of the usual names.
    """
    if not file.is_file():  # a pipe would be waited for
        return False
    try:
        if file.suffix == ".parquet":
            columns = list(parquet.read_schema(file).names)
        else:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                columns = list(json.loads(next(lines, ""))) if file.suffix == ".jsonl" else next(csv.reader(lines), [])
    except (OSError, ValueError, TypeError):
        return False
    named = [name.removesuffix("_file_name") for name in columns]
    is_there = any(plain(name) in MASK_COLUMNS for name in named) if mask_column is None else mask_column in named
    return "file_name" in columns and is_there
