"""`transformers.Trainer` for this project: what it evaluates, saves and pushes, and its callbacks."""

import contextlib
import importlib.util
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer, TrainerCallback

from ..common.errors import UserError
from ..common.files import give_usual_permissions, write_atomic
from ..common.hub import make_repo, push_files
from ..common.launcher import is_main_process
from ..data.transforms import TrainTransform
from ..reporting.model_card import fill_card
from ..reporting.results import write_results
from ..scoring.metrics import PolypSegmentation
from ..scoring.overlap import pixel_counts
from .checkpoints import begin_checkpoint, checkpoint_of_step, complete_checkpoint, remove_older
from .divergence import describe_divergence, first_not_finite
from .ema import ExponentialMovingAverage
from .failures import write_errors_explained
from .flag_checks import flags_explained
from .resume import fault_of_weights
from .saving import check_saved, replacing_files

if TYPE_CHECKING:
    from ..reporting.results import Results
    from .arguments import UNetTrainingArguments

# What a push uploads. Training arguments, logs and checkpoints are not pushed: they hold paths and host names.
PUSHED_FILES = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "configuration_unet.py",
    "encoder_unet.py",
    "field_of_view_unet.py",
    "losses_unet.py",
    "modeling_unet.py",
    "image_processing_unet.py",
    "regions_unet.py",
    "pipeline_unet.py",
    "README.md",
    "results.json",
    "figures/loss_curve.png",
)


class UNetTrainer(Trainer):
    """`Trainer` that writes the project's model card, and pushes one commit with nothing private in it.

    Args:
        transform: Augments, on the training device, batches that the data loader did not augment.
        results: The description of the run, from `describe_run`; completed during the run.
        ema: If given, the average of the weights is evaluated and saved in place of the weights.
        args, kwargs: Passed to `Trainer`.
    """

    def __init__(
        self,
        *args,
        transform: TrainTransform,
        results: dict[str, Any],
        ema: ExponentialMovingAverage | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.transform = transform
        self.results = results
        self.started = time.perf_counter()
        self.step_rate = 0.0  # learning rate of the last step
        self.kept_step: int | None = None  # of the best checkpoint, once its weights are in the model at the end
        self.ema = ema
        if ema is not None:
            self.add_callback(ema)
        if self.hub_model_id is not None:
            # Trainer has added the user's name to the repository's id.
            self.results["model"]["repository"] = self.hub_model_id

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(str(self.args.output_dir))

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Only weights of convolutions decay ("no bias decay": He et al., 2019, arXiv 1812.01187, section 3.1)."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """The optimiser of `Trainer`; a pretrained encoder gets its own learning rate.

        Raises:
            UserError: If the network has no such encoder, or --optim cannot be used.
        """
        with flags_explained(f"--optim {_name(self.args.optim)}"):
            optimizer = super().create_optimizer(*args, **kwargs)
        scale = cast("UNetTrainingArguments", self.args).encoder_learning_rate_scale
        if scale == 1:
            return optimizer
        model = cast("torch.nn.Module", self.model)
        of_encoder = {id(parameter) for name, parameter in model.named_parameters() if name.startswith("backbone.")}
        if not of_encoder:
            raise UserError(
                f"--encoder_learning_rate_scale {scale} has no effect: the network has no --encoder. Remove it."
            )
        for group in list(optimizer.param_groups):
            encoders = [parameter for parameter in group["params"] if id(parameter) in of_encoder]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in of_encoder]
            optimizer.add_param_group({**group, "params": encoders, "lr": group["lr"] * scale})
        return optimizer

    def create_scheduler(self, *args, **kwargs) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule of `Trainer`.

        Raises:
            UserError: If --lr_scheduler_kwargs do not fit it.
        """
        with flags_explained(f"--lr_scheduler_type {_name(self.args.lr_scheduler_type)} with these kwargs"):
            return super().create_scheduler(*args, **kwargs)

    def get_eval_dataloader(self, *args, **kwargs) -> DataLoader:
        """All validation samples: --dataloader_drop_last is for the training."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args, **kwargs) -> Tensor:
        """One step, on a batch that is on the device already.

        Raises:
            UserError: In every process, if the loss is not finite; `Trainer` would log the mean of earlier ones.
        """
        if "augmentation_parameters" in inputs:
            inputs = self.transform.augment(**inputs)
        self.step_rate = self._get_learning_rate()
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._check_loss(loss, "training", step=self.state.global_step + 1)
        return loss

    def prediction_step(self, *args, **kwargs) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, pixel counts and labels of a batch of an evaluation.

        Raises:
            UserError: In every process, if the loss is not finite: a pixel of NaN would be scored as background.
        """
        loss, counts, labels = super().prediction_step(*args, **kwargs)
        assert loss is not None  # every sample has a mask
        self._check_loss(loss, "validation", step=self.state.global_step)
        return loss, counts, labels

    def _check_loss(self, loss: Tensor, kind: str, step: int) -> None:
        # Every process stops at the same step: one that went on could save a checkpoint of broken weights.
        losses = self.accelerator.gather(loss.detach().reshape(1))
        broken = losses[~losses.isfinite()]
        if len(broken):
            raise self._divergence(f"The {kind} loss is {broken[0].item()}", step)

    def _check_weights(self) -> None:
        name = first_not_finite(cast("torch.nn.Module", self.model).state_dict())
        if name is not None:
            raise self._divergence(f"{name} holds numbers that are not finite", self.state.global_step)

    def _divergence(self, what: str, step: int) -> UserError:
        is_half = self.args.bf16 or self.args.fp16
        epoch = self.state.epoch or 0.0
        return UserError(describe_divergence(what, step, epoch, self.step_rate, is_half, self.folder))

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Evaluate the model; during a training with EMA, its averaged weights."""
        with self._ema_in_place():
            return super().evaluate(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, with EMA its averaged weights. A checkpoint also gets the weights that resuming needs.

        Raises:
            UserError: If weights are not finite. Earlier checkpoints are left as they are.
        """
        with self._ema_in_place():
            self._check_weights()
            super().save_model(output_dir, _internal_call)
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        if self.ema is not None:
            self.ema.save_training_weights(cast("torch.nn.Module", self.model), folder)
        give_usual_permissions(folder.glob("*.safetensors"))

    def _save_checkpoint(self, *args, **kwargs) -> None:
        """Save a checkpoint, then remove older ones.

        Raises:
            UserError: If it cannot be written; nothing is left of it.
        """
        checkpoint = checkpoint_of_step(self.folder, self.state.global_step)
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # the new one is not yet complete
        try:
            with write_errors_explained(checkpoint, self.folder):
                if self.args.should_save:
                    begin_checkpoint(checkpoint)
                super()._save_checkpoint(*args, **kwargs)
                self.accelerator.wait_for_everyone()  # each process has written its random state
                if self.args.should_save:
                    self.record_seconds()
                    complete_checkpoint(checkpoint, self.results)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(checkpoint, ignore_errors=True)
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            remove_older(checkpoint, self.state.best_model_checkpoint, limit)

    def _load_best_model(self) -> None:
        """Load the weights of the best checkpoint; if it is gone, damaged or replaced, keep those of the last step."""
        best = Path(str(self.state.best_model_checkpoint))
        faults = gather_object([fault_of_weights(best, self.results)])  # all processes keep the same weights
        if fault := next(filter(None, faults), None):
            if is_main_process():
                print(f"{best}, the best checkpoint, {fault}: the weights of the last step are kept instead.")
            self.state.best_model_checkpoint = None
            return
        super()._load_best_model()
        self.kept_step = self.state.best_global_step

    def save_outcome(self) -> None:
        """Write the trained model with its code, `results.json` and the model card into the output folder.

        Raises:
            UserError: If they cannot be written, or are not there afterwards.
        """
        self.record_seconds()
        if not self.args.should_save:
            return
        with write_errors_explained(self.folder, self.folder):
            with replacing_files(self.folder) as unfinished:
                self.save_model(str(unfinished), _internal_call=True)
                # It holds paths, and a user may upload the folder. Checkpoints keep copies of their own.
                (unfinished / "training_args.bin").unlink()
            self.create_model_card()
        if self.is_world_process_zero():
            check_saved(self.folder, self.results["model"]["fingerprint"])

    def record_seconds(self) -> None:
        """Add the training's duration to the results, including the time before it was resumed."""
        self.results["training"]["seconds"] = round(time.perf_counter() - self.started, 1)

    def _ema_in_place(self) -> contextlib.AbstractContextManager[None]:
        if self.ema is None:
            return contextlib.nullcontext()
        return self.ema.in_place(cast("torch.nn.Module", self.model))

    def init_hf_repo(self, *args, **kwargs) -> None:
        """Create the repository before the training, so that a missing permission is known at once."""
        if self.is_world_process_zero():
            name = self.args.hub_model_id or self.folder.resolve().name
            self.hub_model_id = make_repo(name, self.args.hub_private_repo)
            self.push_in_progress = None  # as `Trainer` does

    def create_model_card(self, *args, **kwargs) -> None:
        """Write `results.json`, and `README.md` from it, into the output folder."""
        if self.is_world_process_zero():
            self.results["training"]["figures"] = draw_loss_curve(self.results, self.folder / "figures")
            write_results(self.folder / "results.json", self.results)
            write_atomic(self.folder / "README.md", fill_card(cast("Results", self.results)).encode())

    def push_to_hub(self, commit_message: str | None = "Train the model", **kwargs) -> str | None:  # type: ignore[override]
        """Upload weights, code, processor and card in one commit; returns its URL on the main process."""
        if not self.is_world_process_zero():
            return None
        message = commit_message or "Train the model"
        return push_files(
            str(self.hub_model_id), self.folder, files_to_push(self.folder), message, self.args.hub_revision
        )


def files_to_push(folder: Path) -> list[Path]:
    """The files in the folder of a finished run that a push uploads."""
    return [file for pattern in PUSHED_FILES for file in folder.glob(pattern)]


def draw_loss_curve(results: dict[str, Any], folder: Path) -> list[str]:
    """Draw losses and scores by epoch if the extra [evaluation] is installed; returns the names of the pictures."""
    losses = results["training"]["loss"]
    if not losses or importlib.util.find_spec("matplotlib") is None:
        return []
    from ..reporting.figures import loss_curve

    folder.mkdir(exist_ok=True)
    validation = results["training"]["validation_curve"]
    loss_curve(losses, folder / "loss_curve.png", results["model"]["loss"], validation)
    return ["loss_curve.png"]


def _name(choice: Any) -> str:
    """A choice of transformers, an enumeration's or plain, as the command line gives it."""
    return str(getattr(choice, "value", choice))


class SetEpoch(TrainerCallback):
    """Tells the training transform which epoch it is."""

    def __init__(self, transform: TrainTransform):
        self.transform = transform

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.transform.set_epoch(int(state.epoch or 0))


class FindBestCheckpoint(TrainerCallback):
    """Finds the best checkpoint of a resumed run, which may have been moved, or may be gone.

    Args:
        folders: Where it may lie.
        results: What `describe_run` says of the run.
    """

    def __init__(self, folders: Sequence[Path], results: dict[str, Any]):
        self.folders = folders
        self.results = results

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if not state.best_global_step:
            return
        places = [checkpoint_of_step(folder, state.best_global_step) for folder in self.folders]
        found = next((place for place in places if fault_of_weights(place, self.results) is None), None)
        state.best_model_checkpoint = None if found is None else str(found)
        if found is None:
            if is_main_process():
                print(f"{places[0]}, the best checkpoint so far, is gone or damaged: the best of the next is kept.")
            state.best_metric = state.best_global_step = None  # else none of the next might count as better


class EpochScores:
    """Validation scores from pixel counts, so that memory does not grow with the number of images."""

    def __init__(self):
        self.metric = PolypSegmentation()

    @staticmethod
    def count(logits: Tensor, labels: Tensor) -> Tensor:
        """tp, fp and fn (B, 3) of a batch, counted in each process before the results are gathered."""
        return pixel_counts(logits[:, 0] > 0, labels)

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self.metric.add_counts(prediction.predictions)
        return self.metric.compute() if compute_result else {}
