"""Building the network and the data sets of a training."""

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import TINY
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.common.split_rules import SplitRules
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.groups import describe_groups
from unet_kvasir_seg.data.samples import load_sample
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.training.arguments import DataArguments, parse_arguments
from unet_kvasir_seg.training.building import build_datasets, build_model, leave_out_large_sizes, with_negatives
from unet_kvasir_seg.training.outcome import count_negatives


def test_batches_are_augmented_on_a_gpu_by_default():
    """Decided by the device that the arguments report, since tests have no GPU."""
    splits = load_splits("synthetic", synthetic_rows=4, synthetic_size=32)
    model, data, training = parse_arguments([*TINY, "--use_cpu"])
    _, processor = build_model(model)

    class OnCuda:
        device = torch.device("cuda")
        dispatches_batches = False
        seed = 0

    for arguments, flag, expected in [(training, None, False), (OnCuda, None, True), (OnCuda, False, False)]:
        data.augment_in_batches = flag
        *_, transform = build_datasets(splits, processor, data, arguments, minimum_size=16)
        assert transform.in_batches is expected


def test_a_recipe_of_the_checkpoints_architecture_fine_tunes_it(tmp_path):
    first, processor = build_model(parse_arguments(["--base_channels", "4", "--norm", "batch"])[0])
    first.save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    recipe = tmp_path / "mine.yaml"
    start = [str(recipe), "--model_name_or_path", str(tmp_path / "first")]
    recipe.write_text(
        "model:\n  base_channels: 4\n  norm: batch\n  depth: 4\n  loss: structure\nencoder_weights: none\n"
    )
    model, _ = build_model(parse_arguments(start)[0])
    assert model.config.loss == "structure"
    for name, tensor in first.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)

    recipe.write_text("model:\n  base_channels: 8\n  norm: batch\n")
    with pytest.raises(UserError, match=r"remove --base_channels 8 \(has 4\), or train from scratch"):
        build_model(parse_arguments(start)[0])
    recipe.write_text("encoder_weights: imagenet\n")
    with pytest.raises(UserError, match="remove --encoder_weights imagenet or, where a recipe has it, add --encod"):
        build_model(parse_arguments(start)[0])


@pytest.mark.parametrize(
    ("final", "kept"),
    [(256, ([128, 192], [150, 310])), (192, ([128], [150])), (128, (None, None)), (96, (None, None))],
)
def test_progressive_sizes_that_are_not_below_the_final_one_are_left_out(final, kept, capsys):
    _, data, _ = parse_arguments(["--progressive_sizes", "128", "192", "--progressive_epochs", "150", "310"])
    leave_out_large_sizes(data, final)
    assert (data.progressive_sizes, data.progressive_epochs) == kept
    assert ("left out" in capsys.readouterr().out) == (final < 256)


def test_values_that_occur_in_no_mask_are_refused_before_the_training():
    splits = load_splits("synthetic", synthetic_rows=4, synthetic_size=32)
    for flags, message in (
        (["--foreground_values", "1"], "--foreground_values 1: none of the 5 masks .* they hold 0, 255"),
        (["--mask_threshold", "254"], None),
    ):
        model, data, training = parse_arguments([*TINY, "--use_cpu", *flags])
        _, processor = build_model(model)
        if message is None:
            build_datasets(splits, processor, data, training, minimum_size=16)
        else:
            with pytest.raises(UserError, match=message):
                build_datasets(splits, processor, data, training, minimum_size=16)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mask_threshold", "127", "--foreground_values", "1"], "exclude each other"),
        (["--mask_threshold", "0.5"], "--mask_threshold 0.5 is no grey level"),
    ],
)
def test_flags_of_masks_that_cannot_be_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        parse_arguments([*TINY, *flags])


def test_negatives_join_the_training_samples(tmp_path):
    splits = load_splits("synthetic", synthetic_rows=8, synthetic_size=32)
    for level in (90, 91):
        Image.new("RGB", (40, 30), (level,) * 3).save(tmp_path / f"{level}.png")
    _, data, _ = parse_arguments([*TINY, "--negatives", str(tmp_path)])
    joined = with_negatives(splits, data)
    assert {name: len(rows) for name, rows in joined.items()} == {"train": 10, "validation": 2, "test": 2}
    train = joined["train"]
    assert train["index"] == list(range(10))
    assert [load_sample(row).name for row in train.select([8, 9])] == ["90", "91"]
    assert load_sample(train[8]).image.size == (40, 30)
    assert not load_sample(train[9]).ground_truth.any()
    assert np.array_equal(load_sample(train[3]).ground_truth, load_sample(splits["train"][3]).ground_truth)
    assert count_negatives(train) == 2
    data.negatives = None
    assert with_negatives(splits, data)["train"] is splits["train"]


def test_negatives_that_are_frames_of_the_splits_or_for_a_stream_are_refused(tmp_path):
    splits = load_splits("synthetic", synthetic_rows=8, synthetic_size=32)
    sample = load_sample(splits["validation"][1])
    sample.image.save(tmp_path / "known.png")
    _, data, _ = parse_arguments([*TINY, "--negatives", str(tmp_path)])
    with pytest.raises(UserError, match=r"Among the negatives are frames of the validation split.*: known\."):
        with_negatives(splits, data)
    stream = {**splits, "train": splits["train"].to_iterable_dataset()}
    with pytest.raises(UserError, match="--negatives cannot be mixed into a stream: remove --streaming"):
        with_negatives(stream, data)


def test_fine_tuning_leaves_the_peak_of_the_earlier_weights_behind(tmp_path):
    """It was chosen for those weights; the new ones have other probabilities."""
    model, processor = build_model(parse_arguments([*TINY])[0])
    model.save_pretrained(tmp_path)
    settings = {"peak_threshold": 0.9, "presence_calibration": [1.0, -2.0]}
    UNetImageProcessor(**{**processor.to_dict(), **settings}).save_pretrained(tmp_path)
    _, tuned = build_model(parse_arguments(["--model_name_or_path", str(tmp_path)])[0])
    assert tuned.size == {"height": 32, "width": 32}
    assert tuned.peak_threshold is None
    assert tuned.presence_calibration is None


def test_negatives_belong_to_no_group(tmp_path):
    """They are counted among the training samples, but not among the groups, of which nobody knows theirs."""
    Image.new("RGB", (32, 32), (9, 200, 30)).save(tmp_path / "normal.png")
    rules = SplitRules(group_column="sequence")
    splits = load_splits("synthetic-clips", synthetic_rows=4, synthetic_size=36, split_rules=rules)
    arguments = DataArguments(dataset_name="synthetic-clips", negatives=str(tmp_path), group_column="sequence")
    joined = with_negatives(splits, arguments)
    assert len(joined["train"]) == len(splits["train"]) + 1
    assert joined["train"]["group"][-1] is None
    assert describe_groups(joined)["groups"]["train"] == 1
