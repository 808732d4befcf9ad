"""A training whose loss or weights are no longer finite stops, gets no score, and leaves earlier checkpoints."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_runs import FP32, TINY, error_of, weights
from unet_kvasir_seg.training.checkpoints import is_complete
from unet_kvasir_seg.training.divergence import first_not_finite

EACH_STEP = ("--save_strategy", "steps", "--save_steps", 1, "--eval_strategy", "steps", "--eval_steps", 1)
NO_SCORES = ("--eval_strategy", "no", "--load_best_model_at_end", False)
RUN = (*TINY, *FP32, "--depth", 1, "--num_train_epochs", 3, "--output_dir", "run")


def test_names_of_tensors_that_are_not_finite():
    tensors = {"count": torch.tensor(3), "good": torch.ones(2), "bad": torch.tensor([1.0, float("inf")])}
    assert first_not_finite(tensors) == "bad"
    tensors["bad"] = torch.tensor([float("nan"), 0.0])
    assert first_not_finite(tensors) == "bad"
    del tensors["bad"]
    assert first_not_finite(tensors) is None


@pytest.mark.parametrize(
    "flags",
    [(), ("--logging_nan_inf_filter", False), ("--ema_decay", 0.9), ("--bf16",)],
    ids=str,
)
def test_the_first_training_loss_that_is_not_finite_stops_the_run(run_train, tmp_path, flags):
    """Adam's first step of this rate leaves weights near 1e18: three layers of them overflow float32 at the second."""
    message = error_of(run_train(*RUN, "--learning_rate", "1e18", *flags, check=False))
    assert "The training loss is nan at step 2 (epoch 0.50, learning rate 8.33e+17)" in message
    assert ("--bf16 False" in message) == ("--bf16" in flags)
    assert message.endswith("no checkpoint was written before.")
    assert not list(tmp_path.glob("run/[!.]*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        # Two batches are one step, and one epoch, here.
        (
            ("--gradient_accumulation_steps", 2),
            "The validation loss is nan at step 2 (epoch 2.00, ",
        ),
        (EACH_STEP, "The validation loss is nan at step 2 (epoch 1.00, learning rate 1e+18)"),
        (
            (*EACH_STEP, *NO_SCORES, "--learning_rate", "1e300"),
            " holds numbers that are not finite at step 2 (",
        ),
        ((*EACH_STEP, "--ema_decay", 0.5, "--save_total_limit", 1), "The validation loss is nan at step 2"),
    ],
    ids=str,
)
def test_the_checkpoint_before_is_left(run_train, tmp_path, flags, message):
    """The first step, of rate 0, leaves good weights; those of the second are useless, whoever notices first."""
    found = error_of(run_train(*RUN, "--learning_rate", "1e18", "--warmup_steps", 1, *flags, check=False))
    assert message in found
    assert "the last checkpoint before is run/checkpoint-1: to start from it" in found
    assert {path.name for path in tmp_path.glob("run/[!.]*")} - {"history.csv"} == {"checkpoint-1"}
    assert is_complete(tmp_path / "run" / "checkpoint-1")
    assert first_not_finite(weights(tmp_path / "run" / "checkpoint-1")) is None


def test_without_checkpoints_the_score_at_the_end_is_refused(run_train, tmp_path):
    once = ("--max_steps", 1, *NO_SCORES, "--save_strategy", "no")
    message = error_of(run_train(*RUN, "--learning_rate", "1e18", *once, check=False))
    assert "The validation loss is nan at step 1" in message
    assert {path.name for path in tmp_path.glob("run/[!.]*")} <= {"history.csv"}


def test_broken_weights_are_no_start(run_train, tmp_path):
    run_train(*RUN)
    file = tmp_path / "run" / "checkpoint-6" / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"].fill_(float("nan"))
    save_file(tensors, file, metadata={"format": "pt"})
    data = ("--dataset_name", "synthetic", "--synthetic_rows", 8, "--output_dir", "tuned")
    message = error_of(run_train(*data, "--model_name_or_path", "run/checkpoint-6", check=False))
    assert "run/checkpoint-6 is broken: classifier.bias holds NaN or infinity" in message
