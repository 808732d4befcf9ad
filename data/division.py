"""Divides samples into splits by a seed: a share that is held out, or the folds of a cross-validation.

hold_out(100, [0.1, 0.1], seed=42)             # places of 10, of 10 and of the other 80 samples
hold_out(100, [0.1], seed=42, groups=patients)  # the same for whole groups
fold_of(names, folds=5, seed=42, groups=None)   # the fold of each sample
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets

from ..common.errors import counted
from ..common.split_rules import SplitRules
from .columns import Split
from .groups import GROUP, with_groups
from .locations import names_below
from .problems import refuse
from .samples import Cell, DatasetError, encoded_bytes, is_empty

logger = logging.getLogger(__name__)

ALL = "all"  # name that stands for the samples of all splits
HELD_OUT_SHARE = 0.1


def divide_folder(rows: Dataset, rules: SplitRules, seed: int, name: str) -> dict[str, Split]:
    """The splits of a folder that has none: train, validation and test; for folds, all samples are train.

    Args:
        rows: All of its samples, in order of their names.
        rules: How they are divided.
        seed: Of the random order.
        name: Of the folder.

    Raises:
        DatasetError: If there are too few samples or groups.
    """
    if rules.folds is not None:
        return {"train": rows}
    groups = groups_in(with_groups(rows, rows, rules, name)) if rules.has_groups else None
    shares = (rules.validation_fraction or HELD_OUT_SHARE, HELD_OUT_SHARE)
    try:
        validation, test, train = hold_out(len(rows), shares, seed, groups)
    except DatasetError as error:
        text = f"{name}: {error} To score all of them: evaluation.py --split all."
        refuse(DatasetError(text), name)
        return {"train": rows}
    logger.warning(
        "Split by seed %d: %d train, %d validation, %d test pairs%s.",
        *(seed, len(train), len(validation), len(test), " in whole groups" if groups else ""),
    )
    return {"train": rows.select(train), "validation": rows.select(validation), "test": rows.select(test)}


def divide_anew(
    splits: Mapping[str, Split], rules: SplitRules, seed: int, name: str, of_train_alone: bool
) -> dict[str, Split]:
    """Divide training and validation samples by a fraction or by folds; other splits stay as they are.

    Args:
        splits: With columns `image`, `mask` and, if groups are known, `group`.
        rules: How they are divided.
        seed: Of the random order.
        name: Of the data set.
        of_train_alone: Divide the training samples alone: there is another validation split, which is not wanted.

    Raises:
        DatasetError: If there are no training and validation samples, or too few samples or groups.
    """
    names = ["train"] if of_train_alone else ["train", "validation"]
    parts = [splits[split] for split in names if split in splits]
    if not parts:
        raise DatasetError(
            f"There are no training samples to divide; the data set has {', '.join(splits) or 'no known split'}. Name "
            "the split with --train_split."
        )
    rows = concatenate_datasets(parts)
    groups = groups_in(rows)
    if rules.folds is None:
        share = rules.validation_fraction or HELD_OUT_SHARE
        validation, train = hold_out(len(rows), [share], seed, groups)
        how = f"Divided anew by seed {seed}"
    else:
        fold = fold_of(names_of(rows, name), rules.folds, seed, groups)
        validation, train = np.flatnonzero(fold == rules.fold), np.flatnonzero(fold != rules.fold)
        how = f"Fold {rules.fold} of {rules.folds} (from 0) by seed {seed}"
    in_groups = " in whole groups" if groups else ""
    logger.warning("%s: %d train, %d validation samples%s.", how, len(train), len(validation), in_groups)
    others = {split: part for split, part in splits.items() if split not in ("train", "validation")}
    return {"train": rows.select(train), "validation": rows.select(validation), **others}


def hold_out_validation(train: Split, seed: int, needed: Sequence[str | None], unused: str | None) -> dict[str, Split]:
    """The training samples without those that are held out for validation, and these.

    Where nobody needs a validation split, what cannot be divided stays whole.

    Args:
        train: The training samples.
        seed: Of the random order.
        needed: The splits that there have to be.
        unused: The splits of the data set that are not used, for a message; None: there are none.

    Raises:
        DatasetError: If a validation split is needed, and there are too few samples or groups, or a stream.
    """
    if isinstance(train, IterableDataset):
        raise DatasetError(
            "The data set has no validation split, and a stream cannot be cut by a seed. Run without --streaming."
        )
    groups = groups_in(train)
    if len(set(groups or range(len(train)))) < 2 and "validation" not in needed:
        return {"train": train}
    if groups is None:
        if len(train) < 2:
            raise DatasetError(f"{len(train)} training rows cannot be split into train and validation.")
        cut = train.train_test_split(test_size=max(round(len(train) * HELD_OUT_SHARE), 1), seed=seed)
        held_out = {"train": cut["train"], "validation": cut["test"]}
    else:
        validation, rest = hold_out(len(train), [HELD_OUT_SHARE], seed, groups)
        held_out = {"train": train.select(rest), "validation": train.select(validation)}
    if {"train", "validation"} & {*needed} or not any(needed):  # else they are not used, or only looked at
        logger.warning(
            "No validation split%s: %d of %d training rows are held out by seed %d%s.",
            f" among {unused} (to take one: --validation_split)" if unused else "",
            *(len(held_out["validation"]), len(train), seed, " in whole groups" if groups else ""),
        )
    return held_out


def hold_out(count: int, shares: Sequence[float], seed: int, groups: Sequence[str] | None = None) -> list[np.ndarray]:
    """Places of samples, in rising order: of each share, at least one sample, and last of the rest.

    Args:
        count: Number of samples.
        shares: Of the samples.
        seed: Of the random order.
        groups: The group of each sample; shares then are of whole groups, as near in size as these allow, and do not
            depend on the order of the samples. None: there are no groups.

    Raises:
        DatasetError: If there are too few samples or groups for each part to have one.
    """
    parts = len(shares) + 1
    if groups is not None:
        return _hold_out_groups(groups, shares, seed)
    if count < parts:
        samples = counted(count, "sample")
        raise DatasetError(f"{samples} cannot be divided into {parts} splits: at least {parts} needed.")
    order = np.random.default_rng(seed).permutation(count)
    held_out: list[np.ndarray] = []
    for place, share in enumerate(shares):
        most = len(order) - (len(shares) - place)  # each later part gets one
        size = min(max(round(count * share), 1), most)
        held_out.append(np.sort(order[:size]))
        order = order[size:]
    return [*held_out, np.sort(order)]


def _hold_out_groups(groups: Sequence[str], shares: Sequence[float], seed: int) -> list[np.ndarray]:
    sizes = Counter(groups)
    parts = len(shares) + 1
    if len(sizes) < parts:
        raise DatasetError(
            f"{counted(len(groups), 'sample')} of {counted(len(sizes), 'group')} cannot be divided into {parts} "
            f"splits that share no group: at least {parts} groups needed."
        )
    left = _shuffled(sizes, seed)
    held_out: list[set[str]] = []
    for place, share in enumerate(shares):
        most = len(left) - (len(shares) - place)
        chosen = _groups_of_about(round(len(groups) * share), left, sizes)[:most]
        left = [group for group in left if group not in chosen]
        held_out.append(set(chosen))
    return [
        np.array([place for place, group in enumerate(groups) if group in part], dtype=np.int64)
        for part in (*held_out, set(left))
    ]


def _groups_of_about(size: int, groups: Sequence[str], sizes: Counter[str]) -> list[str]:
    """The first of the groups that bring the number of samples nearer to a size; at least one group."""
    chosen, count = [], 0
    for group in groups:
        if abs(count + sizes[group] - size) < abs(count - size):
            chosen.append(group)
            count += sizes[group]
    return chosen or [min(groups, key=lambda group: sizes[group])]


def _shuffled(groups: Counter[str], seed: int) -> list[str]:
    names = sorted(groups)
    return [names[place] for place in np.random.default_rng(seed).permutation(len(names))]


def fold_of(names: Sequence[str], folds: int, seed: int, groups: Sequence[str] | None = None) -> np.ndarray:
    """The fold, from 0, of each sample: folds are as equal in size as whole groups allow.

    Args:
        names: Of the samples: what they are assigned by, so that their order makes no difference.
        folds: Number of folds.
        seed: Of the random assignment.
        groups: The group of each sample, which falls into one fold; None: each sample is one.

    Returns:
        (samples,) integers.

    Raises:
        DatasetError: If there are fewer samples, or groups, than folds.
    """
    kind = "samples" if groups is None else "groups"
    groups = names if groups is None else groups
    sizes = Counter(groups)
    if len(sizes) < folds:
        raise DatasetError(
            f"{len(sizes)} {kind} cannot be divided into {folds} folds: give --folds {len(sizes)} or less."
            if len(sizes) > 1
            else f"{len(sizes)} {kind} cannot be divided into folds: at least 2 needed."
        )
    # The largest groups first, each into the fold that is smallest by then.
    in_order = sorted(_shuffled(sizes, seed), key=lambda group: -sizes[group])
    filled = [0] * folds
    fold: dict[str, int] = {}
    for group in in_order:
        fold[group] = filled.index(min(filled))
        filled[fold[group]] += sizes[group]
    return np.array([fold[group] for group in groups])


def division_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In which ways two sections "data" of `results.json` were divided differently: "--fold 0 there, 1 here".

    Earlier versions could not divide anew, and did not record their seed, which counts as equal.
    """
    before, now = (data.get("splitting", {}) for data in (there, here))
    flags = {"seed": "--split_seed"} | {name: f"--{name}" for name in now if name != "seed"}
    before = {name: now.get(name) if name == "seed" else None for name in flags} | before
    names = [name for name in flags if before[name] != now.get(name)]
    return [
        f"{flags[name]} {'differs' if name == 'group_pattern' else f'{before[name]} there, {now[name]} here'}"
        for name in names
    ]


def warn_of_other_division(trained: Mapping[str, Any] | None, data: Mapping[str, Any]) -> None:
    """Say if the model's training divided a data set of the same name otherwise than its evaluation.

    Args:
        trained: The section "training" of the model's `results.json`; None: there is none.
        data: The section "data" of the evaluation.
    """
    there = (trained or {}).get("data")
    if there is None or there["name"] != data["name"]:
        return
    if data["rows"].keys() == {ALL}:
        if _may_be_all_of(trained or {}, data):
            logger.warning(
                "The model was trained on %s with as many samples. If it is this one, training samples are scored: "
                "score the validation or the test split, with the flags of the training.",
                there["name"],
            )
        return
    if found := division_differences(there, data):
        logger.warning(
            "The model was trained with other splits (%s; None: not given). If these are the data that it was trained "
            "on, the %s split may hold training samples: give the flags of the training.",
            *("; ".join(found), data["split"]),
        )


def _may_be_all_of(trained: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether all samples of a data set can be those of a training, as their numbers tell."""
    counts = list(trained["data"]["rows"].values())
    if None in counts:  # a stream's is not known
        return True
    negatives = trained.get("negatives") or 0  # may be those of another data set
    return bool(sum(counts) - negatives <= data["rows"][ALL] <= sum(counts))


def names_of(rows: Dataset, name: str) -> list[str]:
    """A name for each sample that does not depend on the order of the samples, nor on where the data set lies.

    It is the path of its image below the data set or, where it has none, the hash of the image; of several samples of
    one name, the later ones are numbered.

    Args:
        rows: Columns `image` and `mask`.
        name: Of the data set: its folder, or its id.
    """
    seen: Counter[str] = Counter()
    names = []
    cells = rows.select_columns(["image"])["image"]
    for place, (cell, below) in enumerate(zip(cells, names_below(cells, name), strict=True)):
        base = f"row {place}" if is_empty(cell) else below or _digest(cell, place)
        names.append(f"{base}\n{seen[base]}" if seen[base] else base)
        seen[base] += 1
    return names


def _digest(cell: Cell, place: int) -> str:
    try:
        return hashlib.sha256(encoded_bytes(cell)).hexdigest()
    except (OSError, ValueError):  # it is named when it is decoded
        return f"row {place}"


def groups_in(rows: Dataset) -> list[str] | None:
    """The group of each sample, if groups are known."""
    return list(rows[GROUP]) if GROUP in rows.column_names else None
