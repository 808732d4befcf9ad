"""Groups of samples that belong together, as the frames of one patient: found by a column, or in names of images.

rows = with_groups(rows, raw_rows, SplitRules(group_pattern=r"^(case\\d+)_"), "path/to/data")
rows[GROUP]  # ["case1", "case1", "case7", ...]

Names of groups may be those of patients: they stay in this column and in messages, and never reach a file.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from math import isnan
from typing import Any

from datasets import ClassLabel, Dataset, IterableDataset, Value

from ..common.errors import some
from ..common.split_rules import SplitRules
from .columns import Split
from .locations import names_below
from .problems import refuse
from .samples import DatasetError, is_empty

logger = logging.getLogger(__name__)

GROUP = "group"  # the column of `load_splits`, if groups are known
KINDS = ("string", "large_string", "int", "uint", "float", "bool", "date", "timestamp")  # of a column's values


def with_groups(rows: Dataset, raw_rows: Dataset, rules: SplitRules, name: str, split: str = "") -> Dataset:
    """Rows with a column `group`, a string that samples of one group share.

    Args:
        rows: Columns `image` and `mask`.
        raw_rows: The same rows with all columns that the data set has.
        rules: Which column, or which pattern, tells the group.
        name: Of the data set: its folder, or its id.
        split: The name that the rows' split has there, for messages.

    Raises:
        DatasetError: If there is no such column, it holds no names, or the pattern does not fit all images.
    """
    if rules.group_column is not None:
        groups = _groups_by_column(raw_rows, rules.group_column, split)
    else:
        groups = _groups_by_name(rows, rules.group_pattern or "", name, split)
    return rows.add_column(GROUP, groups)


def describe_groups(splits: Mapping[str, Split]) -> dict[str, Any]:
    """Numbers of groups, for `results.json`: "groups" of each split, and "groups_in_several_splits".

    Both are None if groups are not known. Samples without a group, as those of `--negatives`, do not count.
    """
    groups = _groups_of(splits)
    if not groups:
        return {"groups": None, "groups_in_several_splits": None}
    counts = Counter(group for found in groups.values() for group in found)
    return {
        "groups": {split: len(found) for split, found in groups.items()},
        "groups_in_several_splits": sum(count > 1 for count in counts.values()),
    }


def warn_of_shared_groups(splits: Mapping[str, Split]) -> None:
    """Say which splits have groups in common, as those that a data set brings may."""
    groups = _groups_of(splits)
    for first, second in combinations(groups, 2):
        if shared := sorted(groups[first] & groups[second]):
            logger.warning(
                "%s and %s have %d %s in common: %s. Scores on one are then better than on new patients%s.",
                *(first, second, len(shared), "group" if len(shared) == 1 else "groups", some(shared, most=3)),
                " (to divide anew: --validation_fraction or --folds)" if "test" not in (first, second) else "",
            )


def _groups_of(splits: Mapping[str, Split]) -> dict[str, set[str]]:
    return {
        split: {group for group in rows[GROUP] if group is not None}
        for split, rows in splits.items()
        if not isinstance(rows, IterableDataset) and GROUP in rows.column_names
    }


def _groups_by_column(rows: Dataset, column: str, split: str) -> list[str]:
    if column not in rows.column_names:
        raise DatasetError(
            f"--group_column {column}: the data set has no such column; it has {some(rows.column_names, most=12)}. "
            "Name one of these, or find the groups in the names of the images with --group_pattern."
        )
    feature = rows.features[column]
    if not isinstance(feature, ClassLabel) and not (isinstance(feature, Value) and feature.dtype.startswith(KINDS)):
        raise DatasetError(
            f"--group_column {column} holds neither text nor numbers: name a column that says, for each image, which "
            "group it belongs to."
        )
    groups = [_group(cell) for cell in rows.select_columns([column])[column]]
    if empty := [f"row {index}" for index, group in enumerate(groups) if not group]:
        error = DatasetError(
            f"--group_column {column} is empty in {len(empty)} of {len(groups)} rows: {some(empty)}. Name the group "
            "of each; a sample that belongs to no other gets a name of its own."
        )
        refuse(
            error,
            *empty,
            each=f"It has no group: its cell in {column} (--group_column) is empty. Fill it.",
            split=split,
        )
    return [group or f"{split} row {index}" for index, group in enumerate(groups)]


def _group(cell: Any) -> str:
    """The name of a group; "" if the cell is empty. 7 and 7.0 are one: an empty cell makes floats of integers."""
    if cell is None or (isinstance(cell, float) and isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return unicodedata.normalize("NFC", str(cell).strip())


def _groups_by_name(rows: Dataset, pattern: str, folder: str, split: str) -> list[str]:
    cells = rows.select_columns(["image"])["image"]
    # An empty cell is refused when it is read.
    without_image = [index for index, cell in enumerate(cells) if is_empty(cell)]
    names = names_below(cells, folder)
    for index in without_image:
        names[index] = f"{split} row {index}"
    if None in names:
        raise DatasetError(
            "The images of this data set have no names, which --group_pattern could fit: give --group_column."
        )
    matches = [re.search(pattern, unicodedata.normalize("NFC", name or "")) for name in names]
    groups = ["" if match is None else _matched(match) for match in matches]
    for index in without_image:
        groups[index] = f"{split} row {index}"
    misfits = [name for name, group in zip(names, groups, strict=True) if not group]
    if misfits:
        error = DatasetError(
            f"--group_pattern {pattern} finds no group in {len(misfits)} of {len(names)} images: {some(misfits)}. "
            "Names are paths below the data set, without ending: write a pattern that fits all of them."
        )
        refuse(
            error,
            *misfits,
            each=f"It has no group: --group_pattern {pattern} finds none in its name. Write one that fits.",
        )
    return [group or str(name) for name, group in zip(names, groups, strict=True)]


def _matched(match: re.Match[str]) -> str:
    """What tells the group: all that the pattern's parentheses found, or else all that it fits."""
    parts: Iterable[str | None] = [match["group"]] if "group" in match.re.groupindex else match.groups()
    found = [part or "" for part in parts]
    return "\n".join(found).strip() if found else match[0]
