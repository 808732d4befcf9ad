"""How much other frames cost: a split, scored under every change of `changes.py`, against the split as it is.

    section = score_changes(source, rows, scored, work)  # "robustness" of `results.json`

Masks are those of the plain scores: the same threshold, and the same peak threshold for each image. Images without
polyp that were scored beside the split are changed and scored too.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..common.errors import counted
from ..data.samples import Sample, load_sample
from .changes import CHANGES, STRENGTHS, Change
from .intervals import mean_and_interval
from .presence import ScoredImages
from .regions import Regions
from .run import ScoredSplit, Work, identity_of, score_regions
from .sources import Source


@dataclass(frozen=True)
class _Outcome:
    """What is kept of a pass over all images, or of the mean of several passes.

    Attributes:
        dice: (images,) of each image of the split.
        alarms: (negatives,) whether each image without polyp is marked; of several passes, in how many of them.
    """

    dice: np.ndarray
    alarms: np.ndarray

    @classmethod
    def of(cls, scored: ScoredSplit, images: ScoredImages) -> "_Outcome":
        pairs = list(zip(images.regions, scored.peaks, strict=True))
        dice = np.array([one.dice(peak) for one, peak in pairs])
        alarms = np.array([one.kept(peak).any() for one, peak in pairs], dtype=np.float64)
        return cls(dice[images.in_split], alarms[images.is_negative])

    @classmethod
    def mean(cls, outcomes: Sequence["_Outcome"]) -> "_Outcome":
        """Of each image, over some passes."""
        dice = np.mean([one.dice for one in outcomes], axis=0)
        return cls(dice, np.mean([one.alarms for one in outcomes], axis=0))


def score_changes(source: Source, rows: Dataset, scored: ScoredSplit, work: Work) -> dict[str, Any]:
    """Score a split, and the images without polyp beside it, under each change at each strength.

    Args:
        source: What was scored.
        rows: The split.
        scored: Its plain scores.
        work: Who scores, and what is done.

    Returns:
        The section "robustness" of `results.json`, in each process. The mean over changes weighs each alike.

    Raises:
        UserError: As of `score_split`.
    """
    started = time.perf_counter()
    passes = [(change, strength) for change in CHANGES.values() for strength in range(1, STRENGTHS + 1)]
    _announce(len(passes), len(rows), scored, work)
    as_they_are = scored.beside([image.regions for image in scored.images])
    describe = _Describer(scored, as_they_are)
    outcomes = []
    for number, (change, strength) in enumerate(passes, start=1):
        title = f"{number}/{len(passes)} {change.name} {strength}"
        images = _score_pass(source, rows, scored, work, change, strength, title)
        outcomes.append(_Outcome.of(scored, images))  # numbers alone, so that memory stays as it is
    changes = []
    for place, change in enumerate(CHANGES.values()):
        of_change = outcomes[STRENGTHS * place : STRENGTHS * (place + 1)]
        levels = [change.describe(strength) for strength in range(1, STRENGTHS + 1)]
        strengths = [{"level": level, **describe(outcome)} for level, outcome in zip(levels, of_change, strict=True)]
        changes.append({"name": change.name, "strengths": strengths, "mean": describe(_Outcome.mean(of_change))})
    return {
        "seed": scored.protocol.seed,
        "plain": describe(describe.plain),
        "changes": changes,
        "mean": describe(_Outcome.mean(outcomes)),
        "seconds": round(time.perf_counter() - started, 1),
    }


class _Describer:
    """Turns outcomes into the entries of the results.

    Args:
        scored: The plain scores.
        images: Their images, with those without polyp.
    """

    def __init__(self, scored: ScoredSplit, images: ScoredImages):
        self.plain = _Outcome.of(scored, images)
        self._of_split = scored.resampling
        self._of_negatives = {**scored.protocol.resampling, "groups": images.groups[images.is_negative]}

    def __call__(self, outcome: _Outcome) -> dict[str, Any]:
        before, after = self.plain.dice.mean(), outcome.dice.mean()
        return {
            "dice_per_image_native": mean_and_interval(outcome.dice, **self._of_split),
            "relative_loss": float(1 - after / before) if before > 0 else None,
            "alarm_share": mean_and_interval(outcome.alarms, **self._of_negatives) if len(outcome.alarms) else None,
        }


def _announce(passes: int, images: int, scored: ScoredSplit, work: Work) -> None:
    """Say how much there is to do."""
    if work.processes.is_main:
        beside = scored.negatives.negatives
        further = f" and {counted(len(beside), 'image')} without polyp" if beside else ""
        tqdm.write(f"Robustness: {passes} passes over {counted(images, 'image')}{further}.", file=sys.stderr)


def _score_pass(
    source: Source, rows: Dataset, scored: ScoredSplit, work: Work, change: Change, strength: int, title: str
) -> ScoredImages:
    """The split, and the images without polyp beside it, under a change."""
    protocol, beside = scored.protocol, scored.negatives.negatives

    def changed(load: Callable[[int], Sample]) -> Callable[[int], Sample]:
        return lambda index: change.apply(load(index), strength, protocol.seed)

    def regions_of(load: Callable[[int], Sample], count: int, which: Sequence[Any]) -> list[Regions]:
        images = [*which, change.name, strength]
        return score_regions(source, changed(load), count, protocol, work, images, title)

    split = regions_of(lambda index: load_sample(rows[index], protocol.mask_rules), len(rows), identity_of(rows))
    negatives: list[Regions] = []
    if beside is not None:
        negatives = regions_of(beside.sample, len(beside), [*identity_of(beside.rows), beside.windows])
    return scored.beside(split, negatives)
