"""What is scored on a split, apart from the scores; tests/test_evaluation.py holds the scores."""

import numpy as np
import pytest

pytest.importorskip("monai", reason='the scores need pip install -e ".[evaluation]"')

from unet_kvasir_seg.scoring.run import choose_examples
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
