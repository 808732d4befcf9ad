"""What is scored on a split, apart from the scores; tests/test_evaluation.py holds the scores."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from unet_kvasir_seg.common.errors import UserError

pytest.importorskip("monai", reason='the scores need pip install -e ".[evaluation]"')

from unet_kvasir_seg.scoring.kept_scores import KeptScores
from unet_kvasir_seg.scoring.run import Work, choose_examples, in_shares
from unet_kvasir_seg.scoring.sections import describe_sizes


def test_sizes_are_described_by_area():
    assert describe_sizes([(384, 288), (384, 288)]) == "384x288"
    assert describe_sizes([(1920, 1072), (332, 487), (640, 480)]) == "from 332x487 to 1920x1072"


def test_examples_are_the_best_the_median_and_the_worst():
    dice = np.array([0.5, 0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.0, 0.6, 0.4, 1.0])
    assert choose_examples(dice) == {
        **{10: "best", 2: "best", 4: "best"},
        **{8: "median", 0: "median", 9: "median"},
        **{5: "worst", 1: "worst", 7: "worst"},
    }
    assert list(choose_examples(dice)) == [10, 2, 4, 8, 0, 9, 5, 1, 7]


def test_few_images_are_shown_once():
    assert choose_examples(np.array([0.2, 0.9])) == {1: "best", 0: "best"}
    assert choose_examples(np.array([0.9, 0.2, 0.5, 0.1])) == {0: "best", 2: "best", 1: "best", 3: "worst"}


class FirstOfTwo:
    """The first of two processes, of which the other has got so far."""

    index, count, is_main = 0, 2, True

    def __init__(self, other: Any):
        self.other = other

    def gather(self, item: Any) -> list[Any]:
        return [item, self.other]


def test_processes_get_the_scores_of_all_images_in_order_or_the_error_of_any(tmp_path):
    def scores(other: Any, folder: Path) -> list[str]:
        work = Work(FirstOfTwo(other), KeptScores(folder))
        source = SimpleNamespace(name="model", identity="weights", seconds=0.0)
        return in_shares(lambda indices: [f"score {index}" for index in indices], 5, source, 2, work, "protocol")

    complete = [(1, "score 1"), (3, "score 3")]
    assert scores((complete, None), tmp_path / "complete") == [f"score {index}" for index in range(5)]
    with pytest.raises(UserError, match=r"3\.png cannot be read"):
        scores((complete[:1], UserError("3.png cannot be read")), tmp_path / "broken")
