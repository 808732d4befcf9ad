"""Checks a data set before the work: some seconds of it at the start of a run, or all of it, with a report.

check_at_start(splits, mask_rules)                      # raises if it finds anything
check_rectangle(splits, (80, 0, 1360, 1024))            # raises if it does not lie within the images
status = check_data(flags, Path("outputs/mine"))  # 0 if all is well
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm

from ..common.command_line import DataFlags
from ..common.csv_tables import open_table, write_row
from ..common.errors import UserError, counted, printable, some
from ..common.launcher import is_main_process
from ..common.mask_rules import USUAL_MASKS, MaskRules
from ..common.prefetch import prefetch_map
from ..field_of_view_unet import Box, read_field_of_view
from .columns import Split
from .dataset import load_splits
from .groups import describe_groups
from .mask_values import check_mask_rules
from .negatives import load_negatives, refuse_shared_frames
from .problems import Problem, noting
from .samples import DatasetError, cell_name, find_faults, image_size, is_empty

START_SECONDS = 10.0  # that a check at the start of a run may take
LISTED = 20  # problems that are printed
REPORT = "data-check.csv"
THREADS = min(8, os.cpu_count() or 1)


def check_at_start(
    splits: Mapping[str, Split], mask_rules: MaskRules = USUAL_MASKS, seconds: float = START_SECONDS
) -> str | None:
    """Check the pairs of some splits as far as the time allows: first what their files say before the pixels, of all.

    Pairs are taken in a random order, so that those that were reached in time are a random sample. The samples of a
    stream are not looked at.

    Args:
        splits: As `load_splits` gives them.
        mask_rules: How masks are read.
        seconds: That it may take, a pair's own time aside.

    Returns:
        If the time was too short for all, how much was checked, in a line for the user; else None.

    Raises:
        DatasetError: If anything is wrong; the message names the files.
    """
    end = time.monotonic() + seconds
    rows = {split: part for split, part in splits.items() if not isinstance(part, IterableDataset)}
    places = [(split, index) for split, part in rows.items() for index in range(len(part))]
    order = np.random.default_rng(0).permutation(len(places))
    shuffled = [places[place] for place in order]
    checked = []
    for in_pixels in (False, True):
        counts, problems = _check_some(rows, shuffled, mask_rules, in_pixels, end)
        if problems:
            raise _refusal(problems)
        checked.append(counts)
    headers, pixels = checked
    if pixels == len(places):
        return None
    of_sizes = f"sizes of all {headers:,}" if headers == len(places) else f"sizes of {headers:,}"
    return (
        f"In {seconds:g} seconds, {of_sizes} and pixels of {pixels:,} of {len(places):,} pairs were checked, a random "
        "sample: --check_data reads all of them."
    )


def check_rectangle(
    splits: Mapping[str, Split],
    field_of_view: Any,
    mask_rules: MaskRules = USUAL_MASKS,
    seconds: float = START_SECONDS,
) -> None:
    """Check that a fixed field of view lies within the images, by their sizes alone, as far as the time allows.

    The samples of a stream are not looked at, and images that cannot be read are left to `check_at_start`.

    Args:
        splits, mask_rules, seconds: As for `check_at_start`.
        field_of_view: The setting, as `read_field_of_view` takes it; any but a rectangle is right for every image.

    Raises:
        DatasetError: If it does not lie within some; the message names the first of them, with their sizes.
    """
    box = read_field_of_view(field_of_view)
    if box is None or isinstance(box, str):
        return
    right, bottom = box[2:]
    end = time.monotonic() + seconds

    def until_the_end() -> Iterator[tuple[str, dict[str, Any]]]:
        for split, part in splits.items():
            for row in [] if isinstance(part, IterableDataset) else part.select_columns(["image", "index"]):
                if time.monotonic() >= end:
                    return
                yield split, row

    def too_small(sample: tuple[str, dict[str, Any]]) -> str | None:
        split, row = sample
        with suppress(DatasetError):
            width, height = image_size(row, mask_rules)
            if width < right or height < bottom:
                name = cell_name(row["image"], row["index"])
                return f"{name} (number {row['index']} of {split}, {width}x{height} pixels)"
        return None

    found = [name for name in prefetch_map(too_small, until_the_end(), threads=THREADS, ahead=2 * THREADS) if name]
    if found:
        rectangle = ",".join(map(str, box))
        raise DatasetError(
            f"--field_of_view {rectangle} (left, top, right, bottom in pixels) does not lie within "
            f"{counted(len(found), 'image')}: {some(found)}. Name a rectangle that lies within every image, or take "
            "auto or none."
        )


def _check_some(
    rows: Mapping[str, Dataset],
    places: Iterable[tuple[str, int]],
    mask_rules: MaskRules,
    in_pixels: bool,
    end: float,
) -> tuple[int, list[Problem]]:
    """The number of pairs that were checked before a time, and their problems."""

    def until_the_end() -> Iterator[tuple[str, dict[str, Any]]]:
        for split, index in places:
            if time.monotonic() >= end:
                return
            yield split, rows[split][index]

    find = partial(_problems_of, mask_rules=mask_rules, in_pixels=in_pixels)
    found = list(prefetch_map(find, until_the_end(), threads=THREADS, ahead=2 * THREADS))
    return len(found), [problem for problems in found for problem in problems]


def _problems_of(
    sample: tuple[str, Mapping[str, Any]], mask_rules: MaskRules, in_pixels: bool, field_of_view: Box | None = None
) -> list[Problem]:
    split, row = sample
    return [
        Problem(cell_name(cell or {}, row["index"]), str(error), split)
        for cell, error in find_faults(row, mask_rules, in_pixels=in_pixels, field_of_view=field_of_view)
    ]


def _refusal(problems: list[Problem]) -> DatasetError:
    if len(problems) == 1:
        return DatasetError(problems[0].text)
    more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    return DatasetError(
        f"{len(problems)} problems of the data were found before the work{more and ', the first of them'}; "
        "--check_data lists all that there are:",
        [problem.text for problem in problems[:LISTED]],
    )


def check_data(flags: DataFlags, folder: Path, field_of_view: str | None = None) -> int:
    """Read every image and mask of a data set, print what is wrong, and write it to `data-check.csv`.

    Of several processes, the main one does so.

    Args:
        flags: Of the data set, its masks and, if there are any, its negatives.
        folder: Of the report, which is written if anything is wrong; an older one is removed otherwise.
        field_of_view: --field_of_view, if it was given: a rectangle has to lie within each image.

    Returns:
        The exit status: 0 if all is well, 1 if anything is wrong.

    Raises:
        UserError: If there is no such data set, it cannot be loaded, the report cannot be written, or the field of
            view is none.
    """
    try:
        seen = read_field_of_view(field_of_view)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not is_main_process():
        return 0
    started = time.monotonic()
    with noting() as noted:
        splits = _load(flags, noted)
    problems = list(noted)
    samples = ((split, row) for split, rows in splits.items() for row in rows)
    box = seen if isinstance(seen, tuple) else None
    find = partial(_problems_of, mask_rules=flags.mask_rules, in_pixels=True, field_of_view=box)
    with tqdm(total=sum(map(len, splits.values())), desc="checking", unit="pair", disable=None) as bar:
        for found in prefetch_map(find, samples, threads=THREADS, ahead=4 * THREADS):
            problems += found
            bar.update()
    if splits and not problems:
        problems += _of_all_together(splits, flags.mask_rules)
    print(_describe(splits, time.monotonic() - started))
    _report(problems, folder / REPORT)
    return 1 if problems else 0


def _load(flags: DataFlags, noted: dict[Problem, None]) -> dict[str, Dataset]:
    """The splits that can be loaded, without streaming; what cannot is noted.

    Raises:
        DatasetError: If nothing can be loaded, for a reason that is the only problem.
    """
    splits: dict[str, Any] = {}
    try:
        splits |= load_splits(**flags.source, every_split=True)
    except DatasetError as error:
        if not noted:
            raise
        noted[Problem(flags.dataset_name, str(error))] = None
    if flags.negatives is not None:
        try:
            frames = load_negatives(flags.negatives, config=flags.negatives_config, mask_rules=flags.mask_rules)
            for split, rows in splits.items():
                refuse_shared_frames(frames, rows, split)
            splits["negatives"] = frames
        except DatasetError as error:
            noted[Problem(flags.negatives, str(error), "negatives")] = None
    return splits


def _of_all_together(splits: Mapping[str, Dataset], mask_rules: MaskRules) -> list[Problem]:
    """What is wrong though each pair can be used."""
    try:
        check_mask_rules(splits, mask_rules)
    except DatasetError as error:
        return [Problem("all masks", str(error))]
    return []


def _describe(splits: Mapping[str, Dataset], seconds: float) -> str:
    lines = [f"Checked {sum(map(len, splits.values())):,} pairs of image and mask in {seconds:.1f} s:"]
    groups = describe_groups(splits)["groups"] or {}
    for split, rows in splits.items():
        empty = sum(map(is_empty, rows.select_columns(["mask"])["mask"]))
        without_mask = f", {empty:,} of them without a mask" if empty else ""
        in_groups = f", in {groups[split]:,} groups" if split in groups else ""
        lines.append(f"  {split}: {len(rows):,}{without_mask}{in_groups}")
    return "\n".join(lines)


def _report(problems: Sequence[Problem], file: Path) -> None:
    """Print the first problems, and write all of them to a CSV file, or remove that of an earlier check."""
    print("Nothing is wrong." if not problems else _first_of(problems), flush=True)
    try:
        if not problems:
            file.unlink(missing_ok=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with open_table(file) as table:
            write_row(table, ["split", "file", "problem"])
            for problem in problems:
                write_row(table, [problem.split, printable(problem.file), printable(problem.text)])
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}. Choose another --output_dir.") from error
    print(f"All of them are in {file}.")


def _first_of(problems: Sequence[Problem]) -> str:
    noun = "problem" if len(problems) == 1 else "problems"
    lines = [f"{len(problems):,} {noun}:"]
    for problem in problems[:LISTED]:
        named = "" if problem.file in problem.text else problem.file
        lines.append(printable(f"  {': '.join(filter(None, (problem.split, named, problem.text)))}"))
    if len(problems) > LISTED:
        lines.append(f"  and {len(problems) - LISTED:,} more")
    return "\n".join(lines)
