"""The EMA of the weights: by hand, put into the model and taken out again, and in `train.py` with a restart."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.transforms import EvalTransform
from unet_kvasir_seg.data_collator import SegmentationCollator
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
from unet_kvasir_seg.training.checkpoints import is_complete
from unet_kvasir_seg.training.ema import TRAINING_WEIGHTS, ExponentialMovingAverage

# A network with batch norm that changes size, on few steps: an epoch has four.
RUN = (
    *("--dataset_name", "synthetic", "--synthetic_rows", 8, "--image_size", 32, "--depth", 1, "--channels", 4, 8),
    *("--block", "residual", "--norm", "batch", "--stem_stride", 2, "--decoder_convs", 1, "--upsampling", "bilinear"),
    *(
        "--augmentation",
        "strong",
        "--progressive_sizes",
        16,
        "--progressive_epochs",
        1,
        "--per_device_train_batch_size",
        2,
    ),
    *("--learning_rate", "1e-2", "--num_train_epochs", 3, "--use_cpu", "--bf16", "False", "--save_total_limit", 9),
    *("--save_strategy", "steps", "--save_steps", 5, "--eval_strategy", "steps", "--eval_steps", 5),
)


def step(average: ExponentialMovingAverage, model: nn.Module, number: int, value: float) -> None:
    """A step of the optimizer that leaves all weights and statistics at `value`."""
    for tensor in model.state_dict().values():
        tensor.fill_(int(value) if tensor.dtype == torch.int64 else value)
    average.on_step_end(None, SimpleNamespace(global_step=number), None, model=model)


def filled(value: float) -> nn.Module:
    model = nn.BatchNorm2d(2)
    for tensor in model.state_dict().values():
        tensor.fill_(int(value) if tensor.dtype == torch.int64 else value)
    return model


def test_three_steps_by_hand():
    """d is 2/11, 3/12 and then 0.3, which is below 4/13."""
    model, average = filled(1.0), ExponentialMovingAverage(0.3)
    average.on_train_begin(None, None, None, model=model)
    expected = 1.0
    for number, (value, decay) in enumerate([(2.0, 2 / 11), (4.0, 3 / 12), (8.0, 0.3)], start=1):
        step(average, model, number, value)
        expected = decay * expected + (1 - decay) * value
        for name in ("weight", "bias", "running_mean", "running_var"):
            torch.testing.assert_close(average.average[name], torch.full((2,), expected))
    assert expected == pytest.approx(0.3 * (0.25 * (2 / 11 + 2 * 9 / 11) + 0.75 * 4) + 0.7 * 8)
    assert "num_batches_tracked" not in average.average

    parameter = model.weight
    with average.in_place(model):
        torch.testing.assert_close(model.weight.data, torch.full((2,), expected))
        assert model.num_batches_tracked == 8
    assert model.weight is parameter
    assert (model.weight == 8).all()
    average.on_train_end(SimpleNamespace(load_best_model_at_end=False), None, None, model=model)
    torch.testing.assert_close(model.running_var, torch.full((2,), expected))
    # After the training the model is left alone.
    with average.in_place(model):
        torch.testing.assert_close(model.weight.data, torch.full((2,), expected))


def test_the_best_checkpoints_weights_are_kept():
    model, average = filled(1.0), ExponentialMovingAverage(0.3)
    average.on_train_begin(None, None, None, model=model)
    step(average, model, 1, 5.0)
    state = SimpleNamespace(best_model_checkpoint="checkpoint-1")
    average.on_train_end(SimpleNamespace(load_best_model_at_end=True), state, None, model=model)
    assert (model.weight == 5).all()


def test_an_error_puts_the_weights_back():
    model, average = filled(1.0), ExponentialMovingAverage(0.5)
    average.on_train_begin(None, None, None, model=model)
    step(average, model, 1, 3.0)
    with pytest.raises(RuntimeError), average.in_place(model):
        raise RuntimeError
    assert (model.weight == 3).all()


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decays_refused(decay):
    with pytest.raises(ValueError, match=r"`decay` must be at least 0 and below 1"):
        ExponentialMovingAverage(decay)


def test_the_average_is_evaluated_and_saved_and_resuming_changes_nothing(run_train, tmp_path):
    last = ("--load_best_model_at_end", "False")
    run_train(*RUN, *last, "--ema_decay", 0.5, "--output_dir", "uninterrupted")
    uninterrupted = tmp_path / "uninterrupted"
    checkpoint = uninterrupted / "checkpoint-10"
    averaged, weights = load_file(checkpoint / "model.safetensors"), load_file(checkpoint / TRAINING_WEIGHTS)
    assert set(weights) == {name for name in averaged if not name.endswith("num_batches_tracked")}
    assert max((averaged[name] - weights[name]).abs().max() for name in weights) > 1e-4

    # The average does not steer the training.
    run_train(*RUN, *last, "--output_dir", "plain")
    plain = load_file(tmp_path / "plain" / "checkpoint-10" / "model.safetensors")
    assert all(torch.equal(weights[name], plain[name]) for name in weights)

    # The loss that was logged is that of the saved average, computed here.
    rows = load_splits("synthetic", synthetic_rows=8, synthetic_size=32, seed=42)["validation"]
    examples = rows.with_transform(EvalTransform(UNetImageProcessor.from_pretrained(checkpoint)))
    batch = SegmentationCollator()([examples[i] for i in range(len(examples))])
    with torch.no_grad():
        expected = UNetForSemanticSegmentation.from_pretrained(checkpoint)(**batch).loss
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    logged = next(log["eval_loss"] for log in history if log["step"] == 10 and "eval_loss" in log)
    assert logged == pytest.approx(expected.item(), rel=1e-5)

    resumed = tmp_path / "resumed"
    shutil.copytree(uninterrupted / "checkpoint-5", resumed / "checkpoint-5")
    run_train(*RUN, *last, "--ema_decay", 0.5, "--output_dir", "resumed", "--resume_from_checkpoint")
    for file in ("model.safetensors", "checkpoint-12/model.safetensors", f"checkpoint-12/{TRAINING_WEIGHTS}"):
        expected, got = load_file(uninterrupted / file), load_file(resumed / file)
        assert all(torch.equal(got[name], expected[name]) for name in expected), file
    # The final model is the last average.
    final, end = (
        load_file(uninterrupted / "model.safetensors"),
        load_file(uninterrupted / "checkpoint-12" / "model.safetensors"),
    )
    assert all(torch.equal(final[name], end[name]) for name in final)

    refused = run_train(*RUN, "--output_dir", "resumed", "--resume_from_checkpoint", check=False)
    assert refused.returncode == 2
    assert "was trained with --ema_decay: give it to go on" in refused.stderr


def test_the_best_checkpoints_average_is_left_at_the_end(run_train, tmp_path):
    run_train(*RUN, "--ema_decay", 0.5, "--output_dir", "run")
    best = json.loads((tmp_path / "run" / "results.json").read_text())["training"]["best_step"]
    final = load_file(tmp_path / "run" / "model.safetensors")
    expected = load_file(tmp_path / "run" / f"checkpoint-{best}" / "model.safetensors")
    assert all(torch.equal(final[name], expected[name]) for name in final)


def test_an_incomplete_file_of_training_weights_is_noticed(run_train, tmp_path):
    run_train(*RUN, "--ema_decay", 0.5, "--output_dir", "run")
    checkpoint = tmp_path / "run" / "checkpoint-5"
    assert is_complete(checkpoint)
    content = (checkpoint / TRAINING_WEIGHTS).read_bytes()
    (checkpoint / TRAINING_WEIGHTS).write_bytes(content[: len(content) // 2])
    assert not is_complete(checkpoint)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ema_decay", "1"], "--ema_decay must be below 1, got 1.0"),
        (["--progressive_epochs", "1", "2"], "--progressive_sizes [16] and --progressive_epochs [1, 2] do not fit"),
        (["--progressive_sizes", "2"], "--progressive_sizes 2 is too small for the network, which needs at least 4"),
        (
            ["--augmentation", "weak"],
            "`augmentation` must be one of card, none, strong, strong_colour, robust, got 'weak'",
        ),
        (["--channels", "4", "8", "16"], "`channels` must have 2 entries, one for each of the levels of depth=1"),
    ],
)
def test_flags_that_do_not_fit(run_train, tmp_path, flags, message):
    done = run_train(*RUN, *flags, "--output_dir", "run", check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.glob("run/[!.]*"))
