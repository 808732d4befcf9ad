"""Negatives: frames that are known to show no polyp, from a folder or a data set of images alone.

negatives = load_negatives("path/to/normal-mucosa")  # the columns of `load_splits`; the masks are empty cells
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from PIL import Image as PILImage

from ..common.errors import some
from ..common.local_paths import is_hub_id, near_paths
from ..common.mask_rules import USUAL_MASKS, MaskRules
from .columns import PAIR_FEATURES, choose_column, image_like_columns, with_pair_columns
from .data_files import refuse_special_files
from .dataset import hub_splits, library_splits
from .layouts import entries, is_image, layouts_here
from .samples import DatasetError, decode_image, is_empty, load_sample, sample_name

# Mean difference of two frames' thumbnails in grey levels, up to which they are one frame. Of the 900 frames of
# Kvasir-SEG, a copy in JPEG of quality 30 to 90, or of half or double size, differs by 1.2 at most; unrelated frames
# differ by 8.9 or more, three pairs taken within a second by 0.2 to 0.3, and one by 3.4.
SAME_FRAME = 2.0
CONFIG_FLAG = "--negatives_config"


def load_negatives(
    name: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    mask_rules: MaskRules = USUAL_MASKS,
) -> Dataset:
    """Load frames without polyp.

    Args:
        name: A folder with images, in folders or not; another local data set; or an id on the Hub. All splits of a
            data set are taken. Masks are not needed; where there are any, they must be black.
        config: The configuration of a data set that has several.
        revision: Branch, tag or commit of the data set on the Hub.
        image_column: Its column of images; found by name if not given.
        mask_rules: How masks are read.

    Returns:
        Columns `image`, `mask` and `index` as those of `load_splits`; `mask` is empty where the frame has none.

    Raises:
        DatasetError: If there are no images, or a mask shows a polyp; the message names the frames.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        # Beside a data set's own files, images are those of its README.
        is_table = config is not None or any(path.rglob("*.parquet")) or any(path.rglob("*.arrow"))
        cells = [] if is_table else _folder_cells(path)
        found = {"all": Dataset.from_list(cells, features=PAIR_FEATURES)} if cells else _data_set_of(path, config)
    elif is_hub_id(name, "dataset"):
        remedy = "If it is to be a local folder of images, check the path."
        found = hub_splits(name, False, revision, remedy, config, config_flag=CONFIG_FLAG)
    else:
        raise DatasetError(
            f"No negatives at {name}{near_paths(name)}: expected a folder of images, or the id of a data set on the "
            "Hub."
        )
    negatives = concatenate_datasets([_with_masks_or_none(rows, image_column) for rows in found.values()])
    if len(negatives) == 0:
        raise DatasetError(f"{name} holds no image: expected frames without polyp.")
    negatives = negatives.add_column("index", np.arange(len(negatives)))
    _refuse_polyps(name, negatives, mask_rules)
    return negatives


def refuse_shared_frames(negatives: Dataset, rows: Iterable[Mapping[str, Any]], split: str) -> None:
    """Check that no negative is a frame of a split with masks, whatever its file's name, format, size and compression.

    Args:
        negatives: As `load_negatives` gives them.
        rows: A split, as `load_splits` gives it, or a stream.
        split: Its name, for the message.

    Raises:
        DatasetError: If a negative is such a frame; the message names it.
    """
    known = [_thumbnail(row) for row in rows if not is_empty(row["mask"])]
    if not known:
        return
    thumbnails = np.stack(known)
    shared = [
        sample_name(row["image"], row["index"])
        for row in negatives
        if np.abs(thumbnails - _thumbnail(row)).mean(axis=(1, 2, 3)).min() <= SAME_FRAME
    ]
    if shared:
        raise DatasetError(
            f"Among the negatives are frames of the {split} split, which has masks of them: {some(shared)}. "
            "Negatives are other frames, without polyp. For parts of these frames without polyp there are windows "
            "(--negative_window_share in training, --negative_windows in evaluation)."
        )


def _thumbnail(row: Mapping[str, Any]) -> np.ndarray:
    """(16, 16, 3) float32 grey levels."""
    image = decode_image(row["image"], row["index"])
    return np.asarray(image.resize((16, 16), PILImage.Resampling.BOX), np.float32)


def _folder_cells(folder: Path, above: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """The images below a folder, with their masks where it has images/ and masks/; hidden files are left out.

    Args:
        folder: The folder.
        above: Real paths of the folders that it was reached through.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise DatasetError(f"{folder} is a link to a folder above it: remove the link.")
    cells: list[dict[str, Any]] = []
    for layout in layouts_here(folder):
        match = layout.match()
        match.check_complete()
        cells += [{"image": _cell(image), "mask": _cell(mask)} for image, mask in match.pairs.values()]
    if cells:
        return cells
    for entry in entries(folder):
        if entry.is_dir():
            cells += _folder_cells(entry, above | {real})
        elif is_image(entry):
            cells.append({"image": _cell(entry), "mask": None})
    return cells


def _data_set_of(folder: Path, config: str | None) -> dict[str, Dataset]:
    """Splits of a data set in a folder without image files."""
    refuse_special_files(folder)
    try:
        return library_splits(folder, streaming=False, revision=None, config=config, config_flag=CONFIG_FLAG)
    except DatasetError as error:
        raise DatasetError(f"{folder} holds no image file, as negatives are. {error}") from error


def _cell(file: Path) -> dict[str, Any]:
    return {"bytes": None, "path": str(file)}


def _with_masks_or_none(rows: Dataset, image_column: str | None) -> Dataset:
    """The columns `image` and `mask` of a data set; the masks are empty if it has none."""
    kinds = image_like_columns(rows)
    image_column = image_column or choose_column(kinds, "image")
    mask_column = choose_column({name: kind for name, kind in kinds.items() if name != image_column}, "mask")
    if mask_column is None and image_column in kinds:
        mask_column = "no mask"
        rows = rows.select_columns([image_column]).add_column(mask_column, [None] * len(rows))
    return with_pair_columns(rows, image_column, mask_column)


def _refuse_polyps(name: str, negatives: Dataset, mask_rules: MaskRules) -> None:
    with_polyp = [
        sample.name
        for row in negatives
        if not is_empty(row["mask"]) and (sample := load_sample(row, mask_rules)).ground_truth.any()
    ]
    if with_polyp:
        raise DatasetError(
            f"{name}: the masks of {len(with_polyp)} of {len(negatives)} negatives show a polyp: {some(with_polyp)}. "
            "Negatives are frames without polyp: remove these, or give them as --dataset_name."
        )
