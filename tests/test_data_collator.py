"""Batches."""

import pytest
import torch
from unet_kvasir_seg.data_collator import SegmentationCollator


def test_examples_are_stacked_in_order():
    examples = [{"pixel_values": torch.full((3, 2, 4), float(i)), "labels": torch.full((2, 4), i)} for i in range(3)]
    batch = SegmentationCollator()(examples)
    assert batch["pixel_values"].shape == (3, 3, 2, 4)
    assert batch["labels"][:, 0, 0].tolist() == [0, 1, 2]


def test_labels_may_be_absent():
    assert list(SegmentationCollator()([{"pixel_values": torch.zeros(3, 2, 2)}])) == ["pixel_values"]


def test_augmentation_parameters_are_listed_beside_the_tensors():
    examples = [{"pixel_values": torch.zeros(3, 2, 2), "augmentation_parameters": name} for name in "ab"]
    assert SegmentationCollator()(examples)["augmentation_parameters"] == ["a", "b"]


def test_different_sizes_are_refused_with_both_named():
    examples = [{"pixel_values": torch.zeros(3, 2, 2)}, {"pixel_values": torch.zeros(3, 2, 4)}]
    with pytest.raises(ValueError, match=r"\(3, 2, 2\), \(3, 2, 4\).*do_resize=True"):
        SegmentationCollator()(examples)
