"""Arguments of a training: flags, recipes, and architecture flags made from `UNetConfig`.

Imports only what `TrainingArguments` needs from transformers, so that --help is quick.
"""

import argparse
import dataclasses
import inspect
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from ..common.command_line import DataFlags, FlagParser, flag, program_name, unknown
from ..common.device import Runtime, choose_runtime
from ..common.errors import UserError
from ..common.paths import PACKAGE, RECIPES
from ..configuration_unet import UNetConfig
from .flag_checks import REFUSED, check_arguments, check_values, flags_explained

PUSH_FINISHED = "--push_finished"
# Fields of UNetConfig that a training cannot choose: images are RGB, and there is one foreground class.
FIXED_FIELDS = ("num_channels", "id2label", "kwargs")
RENAMED_FLAGS = {
    "evaluation_strategy": "eval_strategy",
    "smaller_sizes": "progressive_sizes",
    "smaller_until": "progressive_epochs",
    "warmup_ratio": "warmup_steps",  # in transformers 5, which takes a value below 1 for a share of the steps
}


@dataclass
class StartFlags:
    """What the network starts from, and at which size it sees the images."""

    model_name_or_path: str | None = flag(None, "Fine-tune this checkpoint: a folder or an id on the Hub.")
    model_revision: str | None = flag(None, "Branch, tag or commit of --model_name_or_path on the Hub.")
    encoder_weights: str | None = flag(
        None,
        "Weights that --encoder starts from: imagenet (the default; timm downloads them), none, or a file.",
    )
    image_size: int | None = flag(None, "Side in pixels that images are resized to; None: 256, or the checkpoint's.")
    field_of_view: str | None = flag(
        None,
        "What the network sees of a frame, saved with it: none (all of it), auto (the picture, without a black border "
        "and its text), or left,top,right,bottom in pixels; None: all of it, or as the checkpoint.",
    )


@dataclass
class ModelArguments(StartFlags):
    """The network.

    Attributes:
        config_fields: The fields of `UNetConfig` that were given. Others are the defaults, or the checkpoint's.
        image_size_is_the_recipes: Whether `image_size` comes from the recipe, not from the command line.
    """

    config_fields: dict[str, Any] = dataclass_field(default_factory=dict)
    image_size_is_the_recipes: bool = False


@dataclass
class DataArguments(DataFlags):
    """The images and masks, and their augmentation."""

    streaming: bool = flag(False, "Stream the training samples of a Hub data set instead of downloading them first.")
    cache_megabytes: int = flag(1024, "Memory in each process for resized training samples; 0: none.")
    augmentation: str = flag(
        "card",
        "card, none, strong (for long trainings), strong_colour (for other endoscopes) or robust (bad recordings).",
    )
    negative_window_share: float = flag(
        0.0, "Share of the examples that are windows of their frames without polyp; from 0 (none) to below 1."
    )
    progressive_sizes: list[int] | None = flag(
        None, "Progressive resizing: image sides in pixels to begin with, as 128 192."
    )
    progressive_epochs: list[int] | None = flag(
        None, "Epoch until which each of --progressive_sizes is used, as 100 200."
    )
    augment_in_batches: bool | None = flag(
        None,
        "Augment whole batches on the training device, not single samples in the data loader; by default on a CUDA "
        "GPU.",
    )


@dataclass
class UNetTrainingArguments(TrainingArguments):
    """The flags of `transformers.TrainingArguments`, with the card's values as defaults; some are `REFUSED`."""

    output_dir: str = flag("outputs/unet-kvasir-seg", "Folder of the run.")
    num_train_epochs: float = flag(50, "Epochs to train.")
    per_device_train_batch_size: int = flag(4, "Training batch per device.")
    learning_rate: float = flag(1e-4, "Initial learning rate of AdamW.")
    eval_strategy: str = flag("epoch", "When to evaluate: epoch, steps or no.")
    save_strategy: str = flag("epoch", "When to save a checkpoint.")
    logging_strategy: str = flag("epoch", "When to log the training loss.")
    save_total_limit: int | None = flag(2, "Checkpoints to keep.")
    load_best_model_at_end: bool = flag(True, "End with the checkpoint of the best validation Dice.")
    metric_for_best_model: str | None = flag("dice_per_image", "Validation score that selects the best checkpoint.")
    report_to: str = flag("none", "Tracker: tensorboard, trackio, ... or none.")
    hub_strategy: str = flag("end", "When to push: only at the end.")
    bf16: bool | None = dataclass_field(  # type: ignore[assignment]
        default=None,
        metadata={"nargs": "?", "const": True, "help": "bfloat16 autocast; by default if the hardware supports it."},
    )
    # What a training does here anyway: other values are refused.
    do_train: bool = flag(True, "Always.")
    do_eval: bool = flag(True, "Always, at the end of the training.")
    batch_eval_metrics: bool = flag(True, "Always.")
    remove_unused_columns: bool = flag(False, "Never: the augmentation reads columns that the model does not.")
    ema_decay: float | None = flag(
        None,
        "Evaluate and save an exponential moving average (EMA) of the weights with this decay, such as 0.998.",
    )
    encoder_learning_rate_scale: float = flag(
        1.0, "Factor of the learning rate for --encoder: pretrained weights need smaller steps than new ones."
    )
    early_stopping_patience: int | None = flag(
        None, "Stop after so many evaluations in a row without a better score than the best."
    )
    prediction_grid: int | None = flag(
        None,
        "Draw the predictions of so many validation samples after each validation. The pictures show frames; they "
        "stay in the folder of the run.",
    )
    resume_from_checkpoint: str | None = dataclass_field(
        default=None,
        metadata={
            "nargs": "?",
            "const": "auto",
            "help": "Resume from this checkpoint or, without a value, from the last complete one of --output_dir.",
        },
    )

    def __post_init__(self):
        dtype = "float16" if self.fp16 else {None: "auto", True: "bfloat16", False: "float32"}[self.bf16]
        runtime = choose_runtime("cpu" if self.use_cpu else "auto", dtype)
        self.use_cpu = runtime.device.type == "cpu"
        self.bf16 = runtime.dtype == torch.bfloat16
        super().__post_init__()
        assert isinstance(self.accelerator_config, AcceleratorConfig)  # by now
        if self.accelerator_config.dispatch_batches is None:
            # Each process reads its own part of a stream, instead of the first process reading for all.
            self.accelerator_config.dispatch_batches = False

    @property
    def dispatches_batches(self) -> bool:
        """Whether the main process reads a stream and sends batches to the others; it can send tensors only."""
        return bool(getattr(self.accelerator_config, "dispatch_batches", False))

    @property
    def runtime(self) -> Runtime:
        """Device and precision of this run."""
        dtype = "bfloat16" if self.bf16 else "float16" if self.fp16 else "float32"
        return choose_runtime(self.device.type, dtype)


@dataclass
class PushFlags:
    """A finished run, and where it is pushed to."""

    push_finished: str = flag("", "Folder of the run.")
    hub_model_id: str | None = flag(
        None, "Repository on the Hub, as me/unet; by default the one that the run names, or of the folder's name."
    )
    hub_private_repo: bool | None = flag(None, "Whether the repository is private, if it has to be made.")
    hub_revision: str | None = flag(None, "Branch to push to; by default the main one.")


def default_values() -> dict[str, Any]:
    """The defaults of the flags of `UNetTrainingArguments`."""
    fields = {field.name: field for field in dataclasses.fields(UNetTrainingArguments)}
    return {
        name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for name, field in fields.items()
    }


def config_fields() -> dict[str, inspect.Parameter]:
    """The fields of `UNetConfig` that are flags, and keys of a recipe's `model:`."""
    fields = inspect.signature(UNetConfig).parameters
    return {name: field for name, field in fields.items() if name not in FIXED_FIELDS}


def described_arguments(docstring: str) -> dict[str, str]:
    """The section "Args" of a docstring: what it says of each argument, in one line."""
    arguments = inspect.cleandoc(docstring).split("\nArgs:\n")[1].split("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def flag_parser(description: str | None = None) -> FlagParser:
    """All flags of a training."""
    parser = FlagParser(
        [StartFlags, DataArguments, UNetTrainingArguments],
        program=program_name("train.py"),
        description=description,
        usage="%(prog)s [recipe.yaml] [flags]",
        # transformers knows how its own arguments become flags.
        parents=[HfArgumentParser(typing.cast(Any, UNetTrainingArguments), add_help=False)],
    )
    parser.add_flag("push_finished", str | None, None, "Push the finished run in this folder, and train nothing.")
    hints = typing.get_type_hints(UNetConfig.__init__)
    helps = described_arguments(UNetConfig.__doc__ or "")
    for name, field in config_fields().items():
        text = f"{helps[name]} (default: {field.default}, or the checkpoint's)".replace("%", "%%")
        # With SUPPRESS, fields that were not given are missing in the parsed namespace.
        parser.add_flag(name, hints[name], argparse.SUPPRESS, text)
    return parser


def parse_arguments(
    argv: Sequence[str], description: str | None = None
) -> tuple[ModelArguments, DataArguments, UNetTrainingArguments]:
    """Read the flags and, if the first argument is a YAML file, the recipe whose values they override.

    Raises:
        UserError: For unknown flags or keys, and for values that do not fit.
    """
    parser = flag_parser(description)
    flags = list(argv)
    recipe = flags.pop(0) if flags and flags[0].endswith((".yaml", ".yml")) else None
    _refuse_old_names([word.split("=")[0] for word in flags if word.startswith("--")], source="The command line")
    on_the_command_line, _ = parser.parse_known_args(flags)
    if recipe is not None:
        parser.set_values(read_recipe(Path(recipe)), source=recipe)
    values, _ = parser.parse_known_args(flags)
    check_values(values, default_values())
    if values.push_finished is not None:
        raise UserError(f"{recipe}: push_finished is no setting of a training; give it on the command line, alone.")

    with flags_explained("These flags"):
        start, data_arguments, training_arguments = parser.parse(flags)
    given = [name for name in config_fields() if hasattr(values, name)]
    model_arguments = ModelArguments(
        **vars(start),
        config_fields={name: getattr(values, name) for name in given},
        image_size_is_the_recipes=start.image_size is not None and on_the_command_line.image_size is None,
    )
    check_arguments(training_arguments)
    return model_arguments, data_arguments, training_arguments


def push_flags(argv: Sequence[str], description: str | None) -> PushFlags | None:
    """The flags of a push; None if the words of the command line ask for a training.

    Raises:
        UserError: If there are others.
    """
    if PUSH_FINISHED not in {word.split("=")[0].replace("-", "_").replace("__", "--", 1) for word in argv}:
        return None
    parser = FlagParser([PushFlags], program="train.py", description=description)
    _, rest = parser.parse_known_args(list(argv))
    if rest:
        raise UserError(
            f"{PUSH_FINISHED} uploads a run as it is and trains nothing: remove {rest[0].split('=')[0]}. Besides the "
            "folder it takes --hub_model_id, --hub_private_repo and --hub_revision."
        )
    (flags,) = parser.parse(argv)
    return flags


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe: its values by the names of their flags. The path is tried here, then in the project.

    Raises:
        UserError: If there is none, or it cannot be used.
    """
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
    return flag_values(recipe, str(path))


def flag_values(recipe: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Flatten a recipe: the fields under `model` stand beside its other keys, by the names of their flags.

    Args:
        recipe: `model` holds fields of `UNetConfig`; the other keys are flags.
        source: What to call it in an error, such as its path.

    Raises:
        UserError: If `model` is no mapping or has an unknown field, or a key is given twice or was renamed.
    """
    flags = {name: value for name, value in recipe.items() if name != "model"}
    model = {} if recipe.get("model") is None else recipe["model"]
    if not isinstance(model, dict):
        raise UserError(f"{source}: `model` must hold fields of the network, as `depth: 4`, got {model!r}.")
    known = config_fields()
    for name in model:
        if name not in known:
            raise UserError(f"{source}: `model` has an " + unknown("field", str(name), known))
        if name in flags:
            raise UserError(f"{source} gives {name} twice, in `model` and outside of it: remove one of them.")
    _refuse_old_names(flags, source)
    return flags | model


def _refuse_old_names(names: Iterable[str], source: str) -> None:
    """Refuse, with the reason, flags that other versions of this project or of transformers have."""
    known = default_values()
    for name in names:
        plain = str(name).removeprefix("--").replace("-", "_")
        if plain in known:
            continue
        if plain in RENAMED_FLAGS:
            raise UserError(f"{source} gives {name}, which is now called {RENAMED_FLAGS[plain]}: rename it.")
        if plain in REFUSED:
            raise UserError(f"{source} gives {name}, which is refused: {REFUSED[plain]}.")
