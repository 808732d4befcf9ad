"""What an evaluation scores: a split, images without polyp beside it, its videos, and the data sets of a folder.

arguments, inputs = load_inputs(arguments, processes)
outcome = inputs.score(arguments, source, None, work)
outcome.sections  # "metrics", "evaluation" and "test_sets" of `results.json`, as far as they were measured
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..common.errors import UserError
from ..common.processes import Processes, ending_alike
from ..data.check import check_at_start, check_rectangle
from ..data.dataset import describe_data, load_splits
from . import robustness
from .arguments import EvaluationArguments, with_split
from .negatives import Negatives
from .run import Protocol, ScoredSplit, Tuning, Work, score_split
from .sections import score_videos, summarise_split, summarise_videos
from .sequence_frames import Sequences, find_sequences
from .sequences import SequenceScores
from .sources import Source
from .test_sets import TestSets, load_sets
from .wrong_pixels import judge_uncertainty, summarise_uncertainty

# Why a fixed rectangle would show another part of the picture.
NO_RECTANGLE = {
    "robustness": "one of the changes draws a border round the frames, where this rectangle would show another part "
    "of the picture. Take --field_of_view auto, or none.",
    "negative_windows": "they are parts of the frames, where this rectangle would lie elsewhere. Take --field_of_view "
    "auto or none, or whole frames by --negatives.",
}


@dataclass(frozen=True)
class Outcome:
    """The scores of a run.

    Attributes:
        sections: Of `results.json`, as far as they were measured; in the main process alone those of a split.
        split: The scores of the split, if one was scored.
        videos: The scores of each video, by its name.
    """

    sections: dict[str, Any]
    split: ScoredSplit | None
    videos: dict[str, SequenceScores]


@dataclass(frozen=True)
class Inputs:
    """What is scored.

    Attributes:
        splits: Of the data set; empty if only the data sets of a folder are scored.
        sequences: The frames of each video of the scored split; empty if they are no videos.
        negatives: Frames without polyp that were named, or None.
        sets: The data sets of a folder, or None.
    """

    splits: dict[str, Dataset]
    sequences: Sequences
    negatives: Negatives | None
    sets: TestSets | None

    def describe(self, arguments: EvaluationArguments) -> dict[str, Any]:
        """The section "data" of `results.json`."""
        split = arguments.split
        if split is not None:
            return describe_data(**arguments.described, rows={split: self.splits[split]}, split=split)
        assert self.sets is not None
        return self.sets.describe(**arguments.described)

    def check_fields_of_view(self, arguments: EvaluationArguments, sources: Sequence[Source]) -> None:
        """Check that the fields of view lie within the images, and go with what is scored, before any of it is.

        Args:
            arguments: With the split that is scored.
            sources: All that are scored.

        Raises:
            UserError: If one does not.
        """
        names = [arguments.split, arguments.tune_threshold_on, arguments.tune_peak_on]
        used: dict[str, Dataset] = {name: self.splits[name] for name in names if name is not None}
        if self.negatives is not None:
            used["negatives"] = self.negatives.rows
        for setting in dict.fromkeys(source.field_of_view for source in sources):
            if setting in (None, "none", "auto"):
                continue
            for name in ("robustness", "negative_windows"):
                if getattr(arguments, name):
                    raise UserError(f"--{name} does not go with the field of view {setting}: {NO_RECTANGLE[name]}")
            check_rectangle(used, setting, arguments.mask_rules)

    def score(self, arguments: EvaluationArguments, source: Source, other: Source | None, work: Work) -> Outcome:
        """Score everything.

        Args:
            arguments: With the split that is scored.
            source: What is scored.
            other: What it is compared with, if anything.
            work: Who does it, and what is done.

        Raises:
            UserError: If a sample, or every set, cannot be scored; an `InvalidRunError` if the model gives NaN.
        """
        protocol = Protocol(**{one.name: getattr(arguments, one.name) for one in dataclasses.fields(Protocol)})
        tuning = Tuning(arguments.tune_threshold_on, arguments.tune_peak_on, arguments.sensitivity)
        scored, sections = None, dict[str, Any]()
        videos: dict[str, SequenceScores] = {}
        split = arguments.split
        if split is not None:
            beside: dict[str, Any] = {"other": other, "negatives": self.negatives, "tuning": tuning}
            scored = score_split(source, self.splits, split, protocol, work, **beside)
            changed = None
            if arguments.robustness:
                changed = robustness.score_changes(source, self.splits[split], scored, work)
            judged = judge_uncertainty(source, self.splits[split], scored, work) if arguments.uncertainty else None
            if work.processes.is_main:
                sections, videos = self._summarise(arguments, scored)
                if changed is not None:
                    sections["evaluation"]["robustness"] = changed
                if judged is not None:
                    sections["evaluation"]["uncertainty"] = summarise_uncertainty(judged, scored)
        if self.sets is not None:
            sections["test_sets"] = self.sets.score(source, other, protocol, work)
        return Outcome(sections, scored, videos)

    def _summarise(
        self, arguments: EvaluationArguments, scored: ScoredSplit
    ) -> tuple[dict[str, Any], dict[str, SequenceScores]]:
        """The sections of a split, and the scores of its videos."""
        timing = (arguments.frame_rate, arguments.alert_seconds)
        metrics, evaluation = summarise_split(scored, arguments.tta)
        videos = score_videos(self.sequences, scored, *timing)
        if videos:
            evaluation["videos"] = summarise_videos(videos, self.sequences, scored, *timing)
        return {"metrics": metrics, "evaluation": evaluation}, videos


def load_inputs(arguments: EvaluationArguments, processes: Processes) -> tuple[EvaluationArguments, Inputs]:
    """All that is scored, and the arguments with the split that is.

    Raises:
        UserError: If the data cannot be used, or there is no such split.
    """
    sets, negatives = None, None
    splits: dict[str, Dataset] = {}
    sequences: Sequences = {}
    if arguments.test_sets is not None:
        given = arguments.source
        how = {name: given[name] for name in ("image_column", "mask_column", "annotation_rules")}
        with processes.main_first():
            sets = load_sets(Path(arguments.test_sets), arguments.mask_rules, split_rules=arguments.group_rules, **how)
    if arguments.scores_split:
        arguments, splits = _load_data(arguments, processes)
        if arguments.scores_videos:
            timing = (arguments.frame_rate, arguments.alert_seconds)
            rows = splits[str(arguments.split)]
            sequences = find_sequences(rows, arguments.sequence_pattern, arguments.dataset_name, *timing)
        if arguments.negatives is not None:
            negatives = Negatives.load(arguments.negatives, splits, arguments.mask_rules, arguments.negatives_config)
    return arguments, Inputs(splits, sequences, negatives, sets)


def _load_data(arguments: EvaluationArguments, processes: Processes) -> tuple[EvaluationArguments, dict[str, Dataset]]:
    """The splits, checked as far as that takes seconds, and the arguments with the split that is scored.

    Raises:
        UserError: If the data cannot be used, or there is no such split.
    """
    needed = [arguments.split, arguments.tune_threshold_on, arguments.tune_peak_on]
    with processes.main_first():
        splits = load_splits(**arguments.source, needed_splits=needed, further_columns=arguments.sequence_columns)
    chosen = with_split(arguments, splits)
    with ending_alike(processes):
        if processes.is_main:
            if chosen is not arguments and chosen.split != "test":
                print(f"The data set has no test split: the {chosen.split} split is scored.", file=sys.stderr)
            needed = [chosen.split, chosen.tune_threshold_on, chosen.tune_peak_on]
            used = splits if chosen.audit else {name: splits[name] for name in needed if name is not None}
            if partly := check_at_start(used, chosen.mask_rules):
                print(partly, file=sys.stderr)
    return chosen, splits
