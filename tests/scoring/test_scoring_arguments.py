"""The flags of `evaluation.py` that need to know the splits."""

import pytest
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.scoring.arguments import EvaluationArguments, with_split


def test_near_duplicates_are_looked_for_in_other_splits_alone():
    arguments = EvaluationArguments(split="all", audit=True)
    with pytest.raises(UserError, match="in other splits, and there is none but all"):
        with_split(arguments, ["all"])
    other = EvaluationArguments(split="test", audit=True)
    assert with_split(other, ["train", "test"]) is other
