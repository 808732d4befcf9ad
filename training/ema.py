"""Exponential moving average (EMA) of the weights during a training with `transformers.Trainer`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

# The weights themselves, from which a resumed training continues; model.safetensors beside it holds their average.
TRAINING_WEIGHTS = "training_weights.safetensors"


class ExponentialMovingAverage(TrainerCallback):
    """Averages the weights over the steps. The average is evaluated and saved, and is in the model at the end.

    After each step average = d * average + (1 - d) * weights (Tarvainen and Valpola, 2017,
    https://arxiv.org/abs/1703.01780, equation 1), for batch norm's running statistics too. At step n, counted from 1,
    d is at most (1 + n) / (10 + n), so that the average soon forgets the initial weights (as TensorFlow's
    `ExponentialMovingAverage` with `num_updates`).

    Args:
        decay: d, at least 0 and below 1.
        checkpoint: The checkpoint to resume from, if any. `Trainer` loads the average from it into the model;
            `on_train_begin` then puts the weights themselves in place.

    Raises:
        ValueError: If `decay` is out of range.
    """

    def __init__(self, decay: float, checkpoint: str | None = None):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"`decay` must be at least 0 and below 1, got {decay}.")
        self.decay = decay
        self.checkpoint = checkpoint
        # `torch.optim.swa_utils.AveragedModel` would take more code than this dict: it replaces the average at its
        # first update, averages integer buffers too, and a resumed run would have to set its count of updates.
        self.average: dict[str, Tensor] = {}  # empty before and after the training

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        model = kwargs["model"]
        self.average = {name: tensor.clone() for name, tensor in _averaged_tensors(model).items()}
        if self.checkpoint is not None:
            weights = load_file(Path(self.checkpoint) / TRAINING_WEIGHTS)
            for name, tensor in _averaged_tensors(model).items():
                tensor.copy_(weights[name])

    def on_step_end(self, args, state, control, **kwargs) -> None:
        model = kwargs["model"]
        step = state.global_step
        decay = min(self.decay, (1 + step) / (10 + step))
        tensors = _averaged_tensors(model)
        torch._foreach_lerp_(list(self.average.values()), [tensors[name] for name in self.average], 1 - decay)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        model = kwargs["model"]
        # If the best checkpoint was loaded, the model holds its average already.
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            for name, tensor in _averaged_tensors(model).items():
                tensor.copy_(self.average[name])
        self.average = {}

    @contextlib.contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Let the model hold the average inside this context. Outside of a training this changes nothing."""
        tensors = _averaged_tensors(model) if self.average else {}
        weights = {name: tensor.clone() for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            tensor.copy_(self.average[name])
        try:
            yield
        finally:
            for name, tensor in tensors.items():
                tensor.copy_(weights[name])

    def save_training_weights(self, model: nn.Module, folder: Path) -> None:
        """Save the weights that resuming continues from, during a training."""
        if self.average:
            tensors = {name: tensor.contiguous() for name, tensor in _averaged_tensors(model).items()}
            save_file(tensors, folder / TRAINING_WEIGHTS, metadata={"format": "pt"})


def _averaged_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Floating-point parameters and buffers, detached but not copied: writing into them changes the model."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
