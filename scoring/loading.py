"""The data of an evaluation: its splits, and which of them is scored."""

import sys

from datasets import Dataset

from ..common.processes import Processes, ending_alike
from ..data.check import check_at_start
from ..data.dataset import load_splits
from .arguments import EvaluationArguments, with_split


def load_data(arguments: EvaluationArguments, processes: Processes) -> tuple[EvaluationArguments, dict[str, Dataset]]:
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
