"""Several data sets at once, as the field compares polyp segmentation: PraNet's `TestDataset/`, a folder for each set.

    sets = load_sets(Path("TestDataset"), flags)
    section = sets.score(source, None, Protocol(), work)  # "test_sets" of `results.json`

All samples of each set are scored. As in PraNet's own script, an image of another size than its mask is resized to it.
A set that cannot be read or scored is listed with the reason, and the others are scored all the same.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..common.csv_tables import open_table, write_row
from ..common.errors import UserError, first_line
from ..common.mask_rules import MaskRules
from ..data.dataset import describe_data, load_splits
from ..data.division import ALL, groups_in
from ..data.layouts import describe_folder, subfolders
from ..data.mask_values import check_mask_rules
from ..data.problems import noting
from ..data.samples import load_sample
from .image_scores import ImageScores
from .intervals import resampled_sums, with_interval
from .overlap import dice
from .run import Protocol, Work, peak_threshold_of, score_samples, value_errors_explained
from .sources import InvalidRunError, Source
from .summary import compare, per_image_dice, per_image_iou

# PraNet's, which may be named in public: the name of another folder may be private.
PUBLIC_SETS = ("CVC-300", "CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB", "Kvasir")
COMPARED = "dice_per_image_native"


@dataclass
class TestSets:
    """The data sets of a folder.

    Attributes:
        folder: That holds them.
        rows: The samples of each that can be read, by its name.
        failures: Why a set was not scored, by its name.
        names: The names of the scored ones, in the order of the section that `score` returns.
    """

    __test__ = False  # pytest: no tests

    folder: Path
    rows: Mapping[str, Dataset]
    failures: dict[str, str]
    names: list[str] = field(default_factory=list)

    def describe(self, **how: Any) -> dict[str, Any]:
        """The section "data" of `results.json`, where nothing else is scored.

        Args:
            how: Further arguments of `describe_data`.
        """
        public = public_names(list(self.rows))
        rows = {public[name]: rows for name, rows in self.rows.items()}
        return describe_data(**{**how, "name": str(self.folder), "revision": None, "config": None}, rows=rows)

    def score(self, source: Source, other: Source | None, protocol: Protocol, work: Work) -> dict[str, Any]:
        """Score each set.

        Args:
            source: What is scored.
            other: What it is compared with, if anything.
            protocol: How to score.
            work: Who does it, and what is done.

        Returns:
            The section "test_sets" of `results.json`, in each process.

        Raises:
            UserError: If no set can be scored; an `InvalidRunError` if the model gives NaN.
        """
        peaks = [peak_threshold_of(one, protocol) for one in (source, other) if one is not None]
        public = public_names(sorted([*self.rows, *self.failures]))
        entries, resampled = [], []
        for name, rows in self.rows.items():
            try:
                entry, scores = _score_set(name, rows, [source, *([other] if other else [])], peaks, protocol, work)
            except InvalidRunError:
                raise
            except UserError as error:
                self.failures[name] = _reason(error)
                continue
            self.names.append(name)
            entries.append({"name": public[name], **entry})
            resampled.append(scores)
        if not entries:
            raise _nothing_scored(self.folder, self.failures)
        means = {score: np.mean([scores[score] for scores in resampled], axis=0) for score in resampled[0]}
        return {
            "sets": entries,
            "failed": [public[name] for name in self.failures],
            "mean": {score: with_interval(values) for score, values in means.items()},
            "other": other.public_name if other else None,
            "threshold": protocol.threshold,
            "peak_threshold": peaks[0],
            **protocol.resampling,
        }


def load_sets(folder: Path, mask_rules: MaskRules, **how: Any) -> TestSets:
    """Open every data set in a folder.

    Args:
        folder: Holds a folder for each.
        mask_rules: How masks are read.
        how: Further arguments of `load_splits`.

    Raises:
        UserError: If the folder is missing, is a data set itself, or holds none that can be read.
    """
    if not folder.is_dir():
        raise UserError(
            f"--test_sets {folder}: there is no such folder. Expected one that holds a folder for each set."
        )
    with noting() as broken_links:
        candidates = subfolders(folder)
    failures = {Path(problem.file).name: problem.text for problem in broken_links}
    if {"images", "masks"} <= {path.name.lower() for path in candidates}:
        raise UserError(
            f"--test_sets {folder} is a data set itself: name the folder that holds it, or score it alone with "
            f"--dataset_name {folder} --split all."
        )
    if not candidates:
        raise UserError(
            f"--test_sets {folder} holds no folder: expected one for each data set, with images/ and masks/ in it. "
            f"It holds {describe_folder(folder)}."
        )
    rows: dict[str, Dataset] = {}
    for path in candidates:
        try:
            found = load_splits(str(path), needed_splits=[ALL], **how)[ALL]
            check_mask_rules({path.name: found}, mask_rules)
            rows[path.name] = found
        except UserError as error:
            failures[path.name] = _reason(error)
    if not rows:
        raise _nothing_scored(folder, failures)
    return TestSets(folder, rows, failures)


def _reason(error: UserError) -> str:
    """Why a set is not scored, in a line; what follows a colon at its end is left out."""
    return f"{first_line(error).rstrip(':')}."


def public_names(names: Sequence[str]) -> dict[str, str]:
    """What results call each set: PraNet's by their names, any other "another set", numbered if there are several."""
    others = [name for name in names if name not in PUBLIC_SETS]
    numbered = {name: f"another set {number}" for number, name in enumerate(others, start=1)}
    if len(others) == 1:
        numbered = {others[0]: "another set"}
    return {name: numbered.get(name, name) for name in names}


def write_test_sets_csv(sets: TestSets, section: Mapping[str, Any], path: Path) -> None:
    """Write a table with a row for each set, by the name of its folder, and for each that failed, with the reason."""
    scores = list(section["mean"])
    with open_table(path) as table:
        write_row(table, ["set", "images", *scores, "not scored because"], line_end="\n")
        for name, entry in zip(sets.names, section["sets"], strict=True):
            values = [entry["scores"][score]["value"] for score in scores]
            write_row(table, [name, entry["images"], *values, ""], line_end="\n")
        for name, reason in sets.failures.items():
            write_row(table, [name, *[""] * (1 + len(scores)), reason], line_end="\n")


def _score_set(
    name: str,
    rows: Dataset,
    sources: Sequence[Source],
    peaks: Sequence[float | None],
    protocol: Protocol,
    work: Work,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Score a set with one source, or with two to compare them.

    Returns:
        Its entry in the results, without its name; and each score of the first source's masks, of the images and of
        each resample, (1 + resamples,). Sets are resampled independently.
    """
    load = partial(load_sample, fit_image=True)
    images = [
        score_samples(source, rows, protocol, work, peak, load=load)
        for source, peak in zip(sources, peaks, strict=True)
    ]
    resampling = {"resamples": protocol.resamples, "seed": protocol.seed + zlib.crc32(name.encode())}
    groups = groups_in(rows)
    with value_errors_explained():
        scores = _resampled_scores(images[0], **resampling, groups=groups)
        differences = compare(images[0], images[1], **resampling, groups=groups) if len(images) == 2 else {}
    entry = {
        "images": len(rows),
        "fingerprint": describe_data("a set", None, {"a set": rows})["fingerprint"],
        "scores": {score: with_interval(values) for score, values in scores.items()},
        "difference": differences.get(COMPARED),
    }
    return entry, scores


def _resampled_scores(images: Sequence[ImageScores], **resampling: Any) -> dict[str, np.ndarray]:
    """The scores that the field states of a set, of the images and of each resample of them, (1 + resamples,) each."""
    counts = np.array([image.counts for image in images], dtype=np.float64)
    of_images = {
        "dice_per_image_native": per_image_dice(images),
        "iou_per_image_native": per_image_iou(images),
        "dice_256_thresholds_minmax_native": np.array([image.minmax_dice for image in images]),
    }
    columns = np.stack([*of_images.values(), np.ones(len(images)), *counts.T], axis=1)
    *sums, total, tp, fp, fn = resampled_sums(columns, **resampling).T
    scores = {name: values / total for name, values in zip(of_images, sums, strict=True)}
    pooled = {"dice_pooled_native": dice(tp, fp, fn)}
    return {"dice_per_image_native": scores.pop("dice_per_image_native"), **pooled, **scores}


def _nothing_scored(folder: Path, failures: Mapping[str, str]) -> UserError:
    return UserError(
        f"--test_sets {folder} holds no data set that can be scored: expected a folder for each, with images/ and "
        "masks/ in it.",
        [f"{name}: {reason}" for name, reason in failures.items()],
    )
