"""Words for a training that has diverged: its loss or its weights are no longer finite."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .checkpoints import checkpoints_in, is_complete


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, if any."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    return next((name for name, tensor in floating.items() if not tensor.isfinite().all()), None)


def describe_divergence(what: str, step: int, epoch: float, learning_rate: float, is_half: bool, folder: Path) -> str:
    """Where a training diverged, what is left of it, and what to do.

    Args:
        what: What is not finite, as "The training loss is nan".
        step: The step of the optimiser, counted from 1.
        epoch: Epochs trained, with the fraction.
        learning_rate: Of this step.
        is_half: Whether the network computes in half precision.
        folder: Of the run.
    """
    checkpoint = next(filter(is_complete, checkpoints_in(folder)), None)
    left = "no checkpoint was written before"
    if checkpoint is not None:
        left = f"the last checkpoint before is {checkpoint}: to start from it, give it as --model_name_or_path"
    precision = ", or compute in float32 (--bf16 False)" if is_half else ""
    return (
        f"{what} at step {step} (epoch {epoch:.2f}, learning rate {learning_rate:.3g}): the training diverged and was "
        f"stopped. Lower --learning_rate, or raise --warmup_steps{precision}; {left}."
    )
