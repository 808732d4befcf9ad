"""Train a U-Net for polyp segmentation, evaluate it after each epoch, and push it to the Hub.

    python train.py                                       # the model card's recipe on Kvasir-SEG, from the Hub
    python train.py recipes/demo.yaml                     # two minutes on synthetic frames
    python train.py --dataset_name path/to/folder         # your own images/ and masks/
    python train.py --push_to_hub --hub_model_id me/unet  # after `hf auth login`

A recipe is a YAML file of the same flags; flags on the command line override it. Several processes:
`accelerate launch --num_processes 2 train.py ...` or `torchrun --nproc_per_node 2 train.py ...`.
"""

import contextlib
import importlib.util
import json
import logging
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
import yaml
from torch import Tensor
from transformers import (
    EvalPrediction,
    SchedulerType,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length
from unet_kvasir_seg.common.command_line import FlagParser, unknown
from unet_kvasir_seg.common.device import Runtime, choose_runtime, keep_freed_memory
from unet_kvasir_seg.common.errors import UserError, first_line, user_errors
from unet_kvasir_seg.common.hub import push_files
from unet_kvasir_seg.common.paths import PACKAGE, RECIPES
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.data.dataset import Split, choose_split, describe_data, load_splits
from unet_kvasir_seg.data.transforms import EvalTransform, TrainingStream, TrainTransform
from unet_kvasir_seg.data_collator import SegmentationCollator
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.checkpoint import describe_model, fingerprint, load_checkpoint
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
from unet_kvasir_seg.reporting.model_card import fill_card
from unet_kvasir_seg.reporting.results import RESULTS_SCHEMA, describe_environment, write_results
from unet_kvasir_seg.scoring.metrics import PolypSegmentation, pixel_counts
from unet_kvasir_seg.training.ema import TRAINING_WEIGHTS, ExponentialMovingAverage

# What a push uploads. Training arguments, logs and states stay here: they hold paths and host names.
PUSHED_FILES = (
    "config.json",
    "preprocessor_config.json",
    "model*.safetensors*",
    "configuration_unet.py",
    "modeling_unet.py",
    "image_processing_unet.py",
    "pipeline_unet.py",
    "README.md",
    "results.json",
    "figures/loss_curve.png",
)
# In each checkpoint: the network and the data that it is of, so that no other run goes on from it.
RUN_FILE = "run.json"
SCORE_NAMES = ("dice_per_image", "iou_per_image", "dice_pooled", "precision", "recall")
ARCHITECTURE_FLAGS = (
    "base_channels",
    "depth",
    "norm",
    "upsampling",
    "dropout",
    "channels",
    "block",
    "encoder_blocks",
    "stem_stride",
    "decoder_channels",
    "decoder_convs",
)


@dataclass
class ModelArguments:
    """The network. What is not given is the card's, or, with `--model_name_or_path`, the checkpoint's."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Fine-tune this checkpoint: a folder or an id on the Hub."}
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of --model_name_or_path on the Hub."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side in pixels that images are resized to; None: 256, or the checkpoint's."}
    )
    image_size_is_the_recipes: bool = field(default=False, init=False)  # and not the command line's; no flag
    base_channels: int | None = field(
        default=None,
        metadata={"help": "Channels of the first level; each pooling doubles them; None: 64, or the checkpoint's."},
    )
    depth: int | None = field(default=None, metadata={"help": "Number of poolings; None: 4, or the checkpoint's."})
    norm: str | None = field(
        default=None,
        metadata={"help": "none, batch, group or instance normalisation; None: none, or the checkpoint's."},
    )
    upsampling: str | None = field(
        default=None, metadata={"help": "transpose or bilinear; None: transpose, or the checkpoint's."}
    )
    dropout: float | None = field(
        default=None, metadata={"help": "Dropout after the bottleneck; None: 0, or the checkpoint's."}
    )
    channels: list[int] | None = field(
        default=None,
        metadata={"help": "Channels of each level, where --base_channels is not doubled by each pooling."},
    )
    block: str | None = field(
        default=None, metadata={"help": "plain or residual encoder; None: plain, or the checkpoint's."}
    )
    encoder_blocks: list[int] | None = field(
        default=None, metadata={"help": "Residual blocks of each level; None: one, or the checkpoint's."}
    )
    stem_stride: int | None = field(
        default=None,
        metadata={"help": "2: a first convolution halves the image; None: 1, or the checkpoint's."},
    )
    decoder_channels: list[int] | None = field(
        default=None,
        metadata={"help": "Channels of each decoder stage, highest resolution first; None: the encoder's."},
    )
    decoder_convs: int | None = field(
        default=None, metadata={"help": "Convolutions of a decoder stage; None: 2, or the checkpoint's."}
    )
    loss: str | None = field(
        default=None,
        metadata={"help": "bce_dice or structure; None: bce_dice, or what the checkpoint was trained by."},
    )


@dataclass
class DataArguments:
    """The images and masks."""

    dataset_name: str = field(
        default="Angelou0516/kvasir-seg",
        metadata={"help": 'An id on the Hub, a local data set, a folder with images/ and masks/, or "synthetic".'},
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the data set on the Hub."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of images; found if not given."})
    mask_column: str | None = field(default=None, metadata={"help": "Column of masks; found if not given."})
    foreground_values: list[int] | None = field(
        default=None, metadata={"help": "Mask values that mean polyp, where they are not the usual ones."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Stream the training rows of a Hub data set instead of copying it."}
    )
    cache_megabytes: int = field(
        default=1024, metadata={"help": "Memory in each process for resized training frames; 0 keeps none."}
    )
    augmentation: str = field(
        default="card", metadata={"help": "card (flips, 30 degrees, brightness) or strong (for long trainings)."}
    )
    progressive_sizes: list[int] | None = field(
        default=None,
        metadata={"help": "Progressive resizing: sides in pixels to begin with, as 128 192."},
    )
    progressive_epochs: list[int] | None = field(
        default=None, metadata={"help": "Epoch until which each of --progressive_sizes lasts, as 100 200."}
    )
    augment_in_batches: bool | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": True,
            "help": "Augment whole batches on the device that trains, in place of row by row in the data loader; by "
            "default where that is a CUDA GPU.",
        },
    )
    synthetic_rows: int = field(
        default=400, metadata={"help": "Training rows of the synthetic data; a quarter as many to evaluate."}
    )


@dataclass
class UNetTrainingArguments(TrainingArguments):
    """All flags of `transformers.TrainingArguments`, with the card's values as defaults."""

    output_dir: str = field(default="outputs/unet-kvasir-seg", metadata={"help": "Folder of the run."})
    num_train_epochs: float = field(default=50, metadata={"help": "Epochs to train."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Training batch per device."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Initial learning rate of AdamW."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: epoch, steps or no."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log the training loss."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "End with the checkpoint of the best validation Dice."}
    )
    metric_for_best_model: str | None = field(
        default="dice_per_image", metadata={"help": "Validation score that chooses the checkpoint."}
    )
    report_to: str = field(default="none", metadata={"help": "Tracker: tensorboard, trackio, ... or none."})
    hub_strategy: str = field(default="end", metadata={"help": "When to push: only at the end."})
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"nargs": "?", "const": True, "help": "bfloat16 autocast; by default where the hardware has it."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Evaluate and save a moving average of the weights with this decay, such as 0.998."},
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": "auto",
            "help": "Go on from this checkpoint, or without a value from the last whole one of --output_dir.",
        },
    )

    def __post_init__(self):
        dtype = "float16" if self.fp16 else {None: "auto", True: "bfloat16", False: "float32"}[self.bf16]
        runtime = choose_runtime("cpu" if self.use_cpu else "auto", dtype)
        self.use_cpu = runtime.device.type == "cpu"
        self.bf16 = runtime.dtype == torch.bfloat16
        # The transforms need the columns that the model does not take.
        self.remove_unused_columns = False
        super().__post_init__()
        assert isinstance(self.accelerator_config, AcceleratorConfig)  # by now
        if self.accelerator_config.dispatch_batches is None:
            # A stream's rows are split among the processes, not read by the first and sent to the others.
            self.accelerator_config.dispatch_batches = False

    @property
    def dispatches_batches(self) -> bool:
        """Whether the first process reads a stream and sends the others their batches: tensors, and nothing else."""
        return bool(getattr(self.accelerator_config, "dispatch_batches", False))

    @property
    def runtime(self) -> Runtime:
        """Where and in which precision this run computes."""
        dtype = "bfloat16" if self.bf16 else "float16" if self.fp16 else "float32"
        return choose_runtime(self.device.type, dtype)


class UNetTrainer(Trainer):
    """`Trainer` that writes the project's model card, and pushes one commit with nothing private in it.

    With an average of the weights, that is what it evaluates and saves. Batches whose augmentation is still to come
    get it from `transform`.
    """

    def __init__(
        self,
        *args,
        transform: TrainTransform,
        results: dict[str, Any],
        average: ExponentialMovingAverage | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.transform = transform
        self.results = results
        self.started = time.perf_counter()
        self.average = average
        if average is not None:
            self.add_callback(average)
        if self.hub_model_id is not None:
            # Now with the namespace, or the whole name, that was not given.
            self.results["model"]["repository"] = self.hub_model_id

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Weights of convolutions alone decay ("no bias decay": He et al., 2019, arXiv 1812.01187, section 3.1)."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args, **kwargs) -> Tensor:
        """One step; the batch is on the device by now."""
        if "draws" in inputs:
            inputs = self.transform.augment(**inputs)
        return super().training_step(model, inputs, *args, **kwargs)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Score the average of the weights while training, if there is one, then the model."""
        with self._averaged():
            return super().evaluate(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the average of the weights, if there is one, and beside it what the training goes on from."""
        with self._averaged():
            super().save_model(output_dir, _internal_call)
        folder = Path(output_dir or str(self.args.output_dir))
        if self.average is not None and self.args.should_save:
            self.average.save_training_weights(self.model, folder)
        if self.args.should_save and folder != Path(str(self.args.output_dir)):
            self.record_seconds()
            write_results(folder / RUN_FILE, self.results)

    def record_seconds(self) -> None:
        """Write down how long the training has taken, with what it took before it was stopped."""
        self.results["training"]["seconds"] = round(time.perf_counter() - self.started, 1)

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.average is None else self.average.in_place(self.model)

    def init_hf_repo(self, *args, **kwargs) -> None:
        """Create the repository before the training, so that a missing permission is known at once."""
        try:
            super().init_hf_repo(*args, **kwargs)
        except Exception as error:  # whatever the HTTP client and the Hub raise
            raise UserError(
                f"The repository {self.args.hub_model_id or Path(str(self.args.output_dir)).name} cannot be made on "
                f"the Hub: {first_line(error)}. Run `hf auth login` or set HF_TOKEN, check the name, "
                "or leave out --push_to_hub."
            ) from error

    def create_model_card(self, *args, **kwargs) -> None:
        """Write `results.json` and, filled from it, `README.md` into the output folder."""
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            self.results["training"]["figures"] = draw_loss_curve(self.results, folder / "figures")
            write_results(folder / "results.json", self.results)
            (folder / "README.md").write_text(fill_card(self.results), encoding="utf-8")

    def push_to_hub(self, commit_message: str | None = "Train the model", **kwargs) -> str | None:  # type: ignore[override]
        """Upload weights, code, processor and card in one commit; returns its URL on the main process."""
        if not self.is_world_process_zero():
            return None
        folder = Path(str(self.args.output_dir))
        files = [file for pattern in PUSHED_FILES for file in folder.glob(pattern)]
        return push_files(
            str(self.hub_model_id), folder, files, commit_message or "Train the model", self.args.hub_revision
        )


def draw_loss_curve(results: dict[str, Any], folder: Path) -> list[str]:
    """Draw the training loss where the extra [evaluation] is installed; returns the names of the pictures."""
    losses = results["training"]["loss"]
    if not losses or importlib.util.find_spec("matplotlib") is None:
        return []
    from unet_kvasir_seg.reporting.figures import loss_curve

    folder.mkdir(exist_ok=True)
    loss_curve(losses, folder / "loss_curve.png", results["model"]["loss"])
    return ["loss_curve.png"]


class SetEpoch(TrainerCallback):
    """Tells the training transform which epoch's draws to make."""

    def __init__(self, transform: TrainTransform):
        self.transform = transform

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.transform.set_epoch(int(state.epoch or 0))


class EpochScores:
    """Validation scores from pixel counts, so that memory does not grow with the number of images."""

    def __init__(self):
        self.metric = PolypSegmentation()

    @staticmethod
    def count(logits: Tensor, labels: Tensor) -> Tensor:
        """Counts (B, 3) of a batch, taken before the processes are gathered."""
        return pixel_counts(logits[:, 0] > 0, labels)

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self.metric.add_counts(prediction.predictions)
        return self.metric.compute() if compute_result else {}


def flag_parser() -> FlagParser:
    """All flags, which are the keys of a recipe too."""
    return FlagParser(
        [ModelArguments, DataArguments, UNetTrainingArguments],
        program="train.py",
        description=__doc__,
        usage="%(prog)s [recipe.yaml] [flags]",
    )


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, UNetTrainingArguments]:
    """Read the flags, and the recipe before them if the first argument is a YAML file.

    Raises:
        UserError: For unknown flags or keys and for values that do not fit.
    """
    parser = flag_parser()
    given = argv
    if argv and argv[0].endswith((".yaml", ".yml")):
        given = argv[1:]
        argv = recipe_flags(Path(argv[0]), parser.names) + given
    # Trainer stores the token in training_args.bin, in plain text.
    if any(word.split("=")[0].replace("-", "_") in ("__hub_token", "__push_to_hub_token") for word in argv):
        raise UserError(
            "--hub_token is refused: it would be written into files of the run, and stays in your shell's "
            "history. Run `hf auth login`, or set the environment variable HF_TOKEN."
        )
    model_arguments, data_arguments, training_arguments = parser.parse(argv)
    model_arguments.image_size_is_the_recipes = model_arguments.image_size is not None and not any(
        word.split("=")[0].replace("-", "_") == "__image_size" for word in given
    )
    if training_arguments.push_to_hub and training_arguments.hub_strategy != "end":
        raise UserError(
            f"--hub_strategy {training_arguments.hub_strategy.value} is refused: pushes in the middle of a run "
            "leave out the model's code. Leave it at end."
        )
    decay = training_arguments.ema_decay
    if decay is not None and not 0.0 <= decay < 1.0:
        raise UserError(f"--ema_decay must be at least 0 and below 1, got {decay}.")
    return model_arguments, data_arguments, training_arguments


def recipe_flags(path: Path, known: set[str]) -> list[str]:
    """The flags that a recipe stands for. A recipe is looked for here, then among the project's own."""
    file = next((place for place in (path, PACKAGE / path) if place.is_file()), None)
    if file is None:
        shipped = ", ".join(f"recipes/{recipe.name}" for recipe in sorted(RECIPES.glob("*.yaml")))
        raise UserError(f"There is no recipe {path}; the project has {shipped}.")
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise UserError(f"{path} must hold lines of `flag: value`, got {type(recipe).__name__}.")
    flags = []
    for name, value in recipe.items():
        if name not in known:
            raise UserError(f"{path}: " + unknown("key", str(name), known))
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        flags += [f"--{name}", *(str(item) for item in values)] if value is not None else []
    return flags


def check_output_folder(output_dir: str, resuming: bool) -> None:
    """Refuse to write into another run's folder.

    Raises:
        UserError: If the folder holds a run that is not resumed, or cannot be written.
    """
    folder = Path(output_dir)
    marks = [
        *folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"),
        *folder.glob("*.safetensors"),
        *folder.glob("results.json"),
    ]
    if marks and not resuming:
        raise UserError(
            f"{output_dir} holds another run ({', '.join(sorted(mark.name for mark in marks)[:3])}). Choose another "
            "--output_dir, go on with --resume_from_checkpoint, or remove the folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {output_dir} cannot be made: {error}.") from error


def checkpoint_to_resume(training_arguments: UNetTrainingArguments) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` names, or the last whole one of the output folder.

    Raises:
        UserError: If there is none, or the named one is not whole.
    """
    wanted = training_arguments.resume_from_checkpoint
    if wanted is None:
        return None
    if wanted.lower() not in ("auto", "true"):
        if not is_complete(Path(wanted)):
            raise UserError(f"{wanted} is no checkpoint, or was not written to its end.")
        return _same_averaging(wanted, training_arguments)
    folder = Path(training_arguments.output_dir)
    checkpoints = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]
    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        if is_complete(checkpoint):
            return _same_averaging(str(checkpoint), training_arguments)
        print(f"{checkpoint} was not written to its end: skipped.")
    raise UserError(f"{folder} holds no whole checkpoint to go on from. Start without --resume_from_checkpoint.")


def _same_averaging(checkpoint: str, training_arguments: UNetTrainingArguments) -> str:
    was_averaged = (Path(checkpoint) / TRAINING_WEIGHTS).is_file()
    if was_averaged != (training_arguments.ema_decay is not None):
        raise UserError(
            f"{checkpoint} was trained {'with' if was_averaged else 'without'} --ema_decay: "
            f"{'give' if was_averaged else 'remove'} it to go on."
        )
    return checkpoint


def check_same_run(checkpoint: str, results: dict[str, Any]) -> float:
    """Refuse to go on with another network or other data than a checkpoint was trained with.

    Args:
        checkpoint: Its folder.
        results: The description of the run that is to go on, of `describe_run`.

    Returns:
        The seconds that the run had taken when the checkpoint was written.

    Raises:
        UserError: If architecture, image size or rows differ. Where the rows lie is no matter; of a stream, name and
            revision are compared.
    """
    try:
        before = json.loads((Path(checkpoint) / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{checkpoint} has no {RUN_FILE}, which says of which network and data it is: another program or an "
            "earlier version of this one wrote it. Fine-tune from it with --model_name_or_path."
        ) from None
    names = {"name", "repository"}
    network = {"loss": "bce_dice"} | before["model"]  # earlier versions had no other
    misfits = [
        f"{field} {network.get(field)} there, {value} here"
        for field, value in results["model"].items()
        if field not in names and network.get(field) != value
    ]
    if misfits:
        raise UserError(
            f"{checkpoint} is of another network ({'; '.join(misfits)}). Give the flags or the recipe that it was "
            "started with, or choose another --output_dir to start anew."
        )
    there, here = before["data"], results["data"]
    streamed = None in (there["fingerprint"], here["fingerprint"])
    compared = ("name", "revision") if streamed else ("fingerprint",)
    if any(there[field] != here[field] for field in compared):
        rows = [", ".join(f"{count} {split}" for split, count in data["rows"].items()) for data in (there, here)]
        raise UserError(
            f"{checkpoint} was trained on other data ({rows[0]} rows there, {rows[1]} here). Give the --dataset_name, "
            "and what else says which rows, columns and splits there are, that it was started with; or fine-tune on "
            "these with --model_name_or_path."
        )
    return before["training"]["seconds"]


def is_complete(checkpoint: Path) -> bool:
    """Whether everything that a checkpoint consists of is there and was written to its end."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for file in {checkpoint / "model.safetensors", *checkpoint.glob("*.safetensors")}:
            with safetensors.safe_open(file, "pt"):
                pass
        return all(zipfile.is_zipfile(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt"))
    except (OSError, ValueError, safetensors.SafetensorError):
        return False


def build_model(arguments: ModelArguments) -> tuple[UNetForSemanticSegmentation, UNetImageProcessor]:
    """A new network of the given architecture, or a checkpoint to fine-tune, with its image processor.

    Raises:
        UserError: If the architecture cannot work or the checkpoint cannot be loaded.
    """
    architecture = {
        name: getattr(arguments, name) for name in ARCHITECTURE_FLAGS if getattr(arguments, name) is not None
    }
    if arguments.model_name_or_path is None:
        try:
            config = UNetConfig(**architecture)
        except ValueError as error:
            raise UserError(str(error)) from error
        model, processor = UNetForSemanticSegmentation(config), UNetImageProcessor()
    else:
        model, processor = _load_checkpoint(arguments, architecture)
    if arguments.loss is not None:
        model.config.loss = arguments.loss  # no part of the architecture: a fine-tuning may change it
        try:
            model.config.check()
        except ValueError as error:
            raise UserError(str(error)) from error
    if arguments.image_size is not None:
        processor.size = {"height": arguments.image_size, "width": arguments.image_size}
    smallest = model.config.minimum_size
    if min(processor.size["height"], processor.size["width"]) < smallest:
        raise UserError(
            f"--image_size {arguments.image_size} is too small: depth={model.config.depth} with "
            f"norm={model.config.norm} needs at least {smallest}. Raise it or lower --depth."
        )
    return model, processor


def _load_checkpoint(
    arguments: ModelArguments, architecture: dict[str, Any]
) -> tuple[UNetForSemanticSegmentation, UNetImageProcessor]:
    name = arguments.model_name_or_path
    if architecture:
        flags = ", ".join(f"--{flag}" for flag in architecture)
        raise UserError(
            f"The checkpoint {name} brings its architecture: remove {flags}, "
            "or train from scratch without --model_name_or_path."
        )
    model, processor = load_checkpoint(str(name), arguments.model_revision)
    height, width = processor.size["height"], processor.size["width"]
    size = arguments.image_size
    if arguments.image_size_is_the_recipes and (size, size) != (height, width):
        raise UserError(
            f"The recipe is written for images of {size}x{size} pixels, the checkpoint {name} for {height}x{width}: "
            f"give --image_size {size} to go over to the recipe's size, or remove it from the recipe."
        )
    return model, processor


def progressive_sizes(arguments: DataArguments, smallest: int) -> list[tuple[int, int]]:
    """The sizes that a training begins with, each with the epoch until which it lasts.

    Progressive resizing, as of EfficientNetV2 (Tan and Le, 2021, https://arxiv.org/abs/2104.00298, section 4), with
    the augmentation the same throughout.

    Raises:
        UserError: If the two flags do not fit together, or a size is below the network's smallest.
    """
    sizes, epochs = arguments.progressive_sizes or [], arguments.progressive_epochs or []
    if len(sizes) != len(epochs) or epochs != sorted(set(epochs)):
        raise UserError(
            f"--progressive_sizes {sizes} and --progressive_epochs {epochs} do not fit: give as many "
            "epochs as sizes, rising."
        )
    if sizes and min(sizes) < smallest:
        raise UserError(
            f"--progressive_sizes {min(sizes)} is too small for the network, which needs at least {smallest}."
        )
    return list(zip(sizes, epochs, strict=True))


def build_datasets(
    splits: dict[str, Split],
    processor: UNetImageProcessor,
    data_arguments: DataArguments,
    training_arguments: UNetTrainingArguments,
    minimum_size: int,
) -> tuple[Any, Any, TrainTransform]:
    """The training set with augmentation, the validation set without, and the augmentation."""
    train_rows = choose_split(splits, "train")
    is_stream = isinstance(train_rows, torch.utils.data.IterableDataset)
    in_batches = data_arguments.augment_in_batches
    if in_batches is None:
        in_batches = training_arguments.device.type == "cuda" and not training_arguments.dispatches_batches
    try:
        transform = TrainTransform(
            processor,
            data_arguments.foreground_values,
            seed=training_arguments.seed,
            cache_bytes=0 if is_stream else data_arguments.cache_megabytes * 2**20,
            augmentation=data_arguments.augmentation,
            progressive_sizes=progressive_sizes(data_arguments, smallest=minimum_size),
            in_batches=in_batches,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if is_stream:
        train_set = TrainingStream(train_rows, transform, training_arguments.seed)
        if training_arguments.max_steps <= 0 and not has_length(train_set):
            raise UserError(
                f"{data_arguments.dataset_name} does not say how many rows its training split has, so the epochs of "
                "a stream are not known: give --max_steps, or run without --streaming."
            )
    else:
        train_set = train_rows.with_transform(transform)
    evaluation_transform = EvalTransform(processor, data_arguments.foreground_values)
    return train_set, choose_split(splits, "validation").with_transform(evaluation_transform), transform


def say_what_is_not_held(transform: TrainTransform, rows: int, megabytes: int) -> None:
    """Say so where resized frames do not all fit into the memory that is set aside for them."""
    fit = transform.rows_that_fit
    if fit is not None and fit < rows:
        print(
            f"Of {rows:,} training rows {fit:,} are held in memory once they are resized, in {megabytes} MB a "
            "process; the others are decoded again in each epoch (--cache_megabytes)."
        )


def describe_run(
    model: UNetForSemanticSegmentation,
    splits: dict[str, Split],
    processor: UNetImageProcessor,
    data_arguments: DataArguments,
    training_arguments: UNetTrainingArguments,
) -> dict[str, Any]:
    """What the model card needs to know of a run, without paths or names of users and hosts."""
    name = training_arguments.hub_model_id or Path(str(training_arguments.output_dir)).resolve().name
    data = describe_data(data_arguments.dataset_name, data_arguments.dataset_revision, splits)
    environment = describe_environment(training_arguments.runtime, training_arguments.world_size)
    return {
        "schema_version": RESULTS_SCHEMA,
        "model": describe_model(model, processor, name.split("/")[-1], training_arguments.hub_model_id),
        "data": data,
        "environment": environment,
        # An evaluation replaces the two above by its own.
        "training": {
            "data": data,
            "environment": environment,
            "epochs": training_arguments.num_train_epochs,
            "batch_size": training_arguments.train_batch_size
            * training_arguments.world_size
            * training_arguments.gradient_accumulation_steps,
            "learning_rate": training_arguments.learning_rate,
            "schedule": SchedulerType(training_arguments.lr_scheduler_type).value,
            "warmup_steps": training_arguments.warmup_steps,
            "weight_decay": training_arguments.weight_decay,
            "ema_decay": training_arguments.ema_decay,
            "augmentation": data_arguments.augmentation,
            "progressive_sizes": data_arguments.progressive_sizes,
            "progressive_epochs": data_arguments.progressive_epochs,
            "seed": training_arguments.seed,
            "fine_tuned": model.name_or_path != "",
        },
        "metrics": {},
        "evaluation": None,
    }


def record_outcome(results: dict[str, Any], trainer: Trainer, scores: dict[str, float]) -> None:
    """Add the loss curve and the validation scores of a finished run to its description."""
    results["model"]["fingerprint"] = fingerprint(trainer.model)
    results["training"] |= {
        "loss": [[log["epoch"], log["loss"]] for log in trainer.state.log_history if "loss" in log],
        # Known also where the last weights are kept.
        "best_step": trainer.state.best_global_step if trainer.args.load_best_model_at_end else None,
        "steps": trainer.state.global_step,
        "validation": {
            name.removeprefix("eval_"): value
            for name, value in scores.items()
            if name.removeprefix("eval_") in ("loss", *SCORE_NAMES)
        },
    }


@contextlib.contextmanager
def disk_full_is_explained(output_dir: str) -> Iterator[None]:
    """Turn the errors of a write that did not fit into one that says what is left and what to do."""
    try:
        yield
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        # safetensors and the operating system say the first, torch's zip writer one of the others.
        signs = ("No space left", "PytorchStreamWriter", "inline_container", "iostream error")
        if not any(sign in str(error) for sign in signs):
            raise
        raise UserError(
            f"The disk is full: {output_dir} could not be written. Earlier checkpoints there are whole. Make room, "
            "then go on with --resume_from_checkpoint."
        ) from error


def print_scores(results: dict[str, Any]) -> None:
    """Say how good the model is."""
    height, width = results["model"]["image_size"]
    best_step = results["training"]["best_step"]
    chosen = f"the best checkpoint (step {best_step})" if best_step else "the last step"
    print(f"\nValidation split at {height}x{width}, {chosen}:")
    for score in SCORE_NAMES:
        print(f"  {score:<15} {results['training']['validation'][score]:.4f}")


def print_usage(results: dict[str, Any], output_dir: str, url: str | None) -> None:
    """Say where the model is and how to use it."""
    name = results["model"]["repository"] if url else output_dir
    print(f"\nThe model is in {output_dir}" + (f" and at {url}" if url else "") + ". To use it:")
    print("  from transformers import pipeline")
    print(f'  segment = pipeline("image-segmentation", model="{name}", trust_remote_code=True)')
    print('  segment("frame.jpg")')


def train(
    model_arguments: ModelArguments, data_arguments: DataArguments, training_arguments: UNetTrainingArguments
) -> dict[str, Any]:
    """Train, evaluate, save and, if asked to, push; returns what `results.json` holds.

    Raises:
        UserError, DatasetError: For what a user can mend; nothing of an earlier run is touched.
    """
    is_main = training_arguments.process_index == 0
    if not is_main:
        logging.disable(logging.WARNING)
    checkpoint = checkpoint_to_resume(training_arguments)
    if is_main:
        check_output_folder(training_arguments.output_dir, resuming=checkpoint is not None)
        print(f"Computing on {training_arguments.runtime} (to change it: --use_cpu, --bf16 False).")

    set_seed(training_arguments.seed)
    model, processor = build_model(model_arguments)
    with training_arguments.main_process_first(desc="loading the data"):
        splits = load_splits(
            data_arguments.dataset_name,
            revision=data_arguments.dataset_revision,
            image_column=data_arguments.image_column,
            mask_column=data_arguments.mask_column,
            streaming=data_arguments.streaming,
            synthetic_rows=data_arguments.synthetic_rows,
            synthetic_size=processor.size["height"],
        )
    train_set, validation_set, transform = build_datasets(
        splits, processor, data_arguments, training_arguments, model.config.minimum_size
    )
    if is_main and data_arguments.cache_megabytes and not isinstance(train_set, TrainingStream):
        say_what_is_not_held(transform, len(train_set), data_arguments.cache_megabytes)
    if training_arguments.dataloader_num_workers and not data_arguments.streaming:
        # Each worker holds the rows that it decoded, which would be lost with it at the end of the epoch.
        training_arguments.dataloader_persistent_workers = True

    model.to(memory_format=training_arguments.runtime.memory_format)
    if training_arguments.runtime.device.type == "cpu":
        keep_freed_memory()
    results = describe_run(model, splits, processor, data_arguments, training_arguments)
    seconds_before = 0.0 if checkpoint is None else check_same_run(checkpoint, results)
    decay = training_arguments.ema_decay
    scores = EpochScores()
    training_arguments.batch_eval_metrics = True
    trainer = UNetTrainer(
        model=model,
        args=training_arguments,
        data_collator=SegmentationCollator(),
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=processor,
        compute_metrics=scores,
        preprocess_logits_for_metrics=scores.count,
        # A stream is told its epochs by the data loader, and may have more of them than Trainer counts.
        callbacks=[] if isinstance(train_set, TrainingStream) else [SetEpoch(transform)],
        average=None if decay is None else ExponentialMovingAverage(decay, checkpoint),
        transform=transform,
        results=results,
    )
    trainer.started -= seconds_before
    with disk_full_is_explained(training_arguments.output_dir):
        trainer.train(resume_from_checkpoint=checkpoint)
        record_outcome(trainer.results, trainer, trainer.evaluate())
        trainer.record_seconds()
        trainer.save_model(_internal_call=True)
        trainer.create_model_card()
    if is_main:
        # It holds paths, and the folder may be uploaded as it is; the checkpoints have their own.
        (Path(str(training_arguments.output_dir)) / "training_args.bin").unlink(missing_ok=True)
        print_scores(trainer.results)
    url = trainer.push_to_hub() if training_arguments.push_to_hub else None
    if is_main:
        print_usage(trainer.results, str(training_arguments.output_dir), url)
    return trainer.results


def main(argv: list[str] | None = None) -> None:
    with user_errors("train.py"):
        train(*parse_arguments(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
