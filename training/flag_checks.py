"""The flags of `transformers.TrainingArguments` that are refused, and why: before any work, not in the middle."""

import argparse
import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import HubStrategy

from ..common.command_line import unknown
from ..common.errors import UserError, describe_error, require_extra

SCORE_NAMES = ("dice_per_image", "iou_per_image", "dice_pooled", "precision", "recall")  # of the validation split

SHARDING = "the network fits into one device, and sharded weights are not saved here"
TEXT = "it is for language models"
ONE_SIZE = "the images of a batch have one size, so that there is nothing to sort them by"
ALWAYS = "train.py trains, evaluates and saves; to score a trained network alone, use evaluation.py"
SAFETENSORS = "weights are saved as safetensors only"
TPU = "TPUs are not supported"
HALF = "the weights would be converted and then saved in half precision; --bf16 evaluates in it as well"
AUTOCAST = "the precision is chosen by --bf16 or --fp16, which use torch's autocast"

# Flag -> the reason why a value other than its default is refused. Some exist in one version of transformers only.
REFUSED = {
    "auto_find_batch_size": "results.json would state another batch size than that of the training; lower "
    "--per_device_train_batch_size",
    "batch_eval_metrics": "the scores are computed batch by batch, so that memory does not grow",
    "bf16_full_eval": HALF,
    "deepspeed": SHARDING,
    "do_eval": ALWAYS,
    "do_predict": ALWAYS,
    "do_train": ALWAYS,
    "fp16_backend": AUTOCAST,
    "fp16_full_eval": HALF,
    "fp16_opt_level": AUTOCAST,
    "fsdp": SHARDING,
    "fsdp_config": SHARDING,
    "fsdp_min_num_params": SHARDING,
    "fsdp_transformer_layer_cls_to_wrap": SHARDING,
    "group_by_length": ONE_SIZE,
    "half_precision_backend": AUTOCAST,
    "hub_always_push": "there is one push, at the end",
    "hub_token": "it would be written into files of the run, and stays in your shell's history. Run `hf auth login`, "
    "or set the environment variable HF_TOKEN",
    "include_for_metrics": "the scores need only predictions and masks",
    "include_inputs_for_metrics": "the scores need only predictions and masks",
    "include_num_input_tokens_seen": TEXT,
    "include_tokens_per_second": TEXT,
    "jit_mode_eval": "the network is traced by export.py",
    "label_names": "the masks are always called labels",
    "label_smoothing_factor": "it is for losses of classes; the losses here take masks of 0 and 1",
    "length_column_name": ONE_SIZE,
    "liger_kernel_config": TEXT,
    "mp_parameters": SHARDING,
    "neftune_noise_alpha": TEXT,
    "no_cuda": "it is now called --use_cpu",
    "overwrite_output_dir": "a run is never overwritten; choose another --output_dir, or remove the folder",
    "parallelism_config": SHARDING,
    "past_index": TEXT,
    "per_gpu_eval_batch_size": "it is now called --per_device_eval_batch_size",
    "per_gpu_train_batch_size": "it is now called --per_device_train_batch_size",
    "prediction_loss_only": "the validation scores need the predictions",
    "push_to_hub_model_id": "it is now called --hub_model_id",
    "push_to_hub_organization": "give it in --hub_model_id, as organization/name",
    "push_to_hub_token": "it would be written into files of the run, and stays in your shell's history. Run "
    "`hf auth login`, or set the environment variable HF_TOKEN",
    "ray_scope": "there is no search for hyperparameters",
    "remove_unused_columns": "the columns are read by the augmentation",
    "save_safetensors": SAFETENSORS,
    "torchdynamo": "it is now called --torch_compile_backend",
    "tpu_metrics_debug": TPU,
    "tpu_num_cores": TPU,
    "use_cache": TEXT,
    "use_legacy_prediction_loop": "it does not compute the scores batch by batch",
    "use_liger_kernel": TEXT,
    "use_mps_device": "an MPS device is used where there is one",
}
POSITIVE = (
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("eval_accumulation_steps", "eval_steps", "logging_steps", "save_steps", "save_total_limit"),
    *("dataloader_prefetch_factor", "torch_empty_cache_steps", "ddp_timeout", "ddp_bucket_cap_mb"),
    "early_stopping_patience",
    "prediction_grid",
)
NOT_NEGATIVE = (
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("warmup_steps", "warmup_ratio", "eval_delay", "dataloader_num_workers", "cache_megabytes"),
    *("encoder_learning_rate_scale", "ema_decay"),
)
BELOW_ONE = ("adam_beta1", "adam_beta2", "warmup_ratio", "ema_decay")
# Optimisers that `Trainer` gives no further arguments.
PLAIN_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
CHECKPOINTING_OPTIONS = ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "early_stop")


def check_values(values: argparse.Namespace, defaults: Mapping[str, Any]) -> None:
    """Check parsed flags before `TrainingArguments` takes them.

    Args:
        values: The flags.
        defaults: Those of `TrainingArguments`.

    Raises:
        UserError: If one is refused or out of its range.
    """
    for name, reason in REFUSED.items():
        value, default = getattr(values, name, None), defaults.get(name)
        is_off = value is None or value == default or (value is False and default is not True)
        if not is_off:
            shown = "" if name.endswith("token") else f" {value}"
            raise UserError(f"--{name}{shown} is refused: {reason}.")
    if getattr(values, "train_sampling_strategy", "random") not in ("random", "sequential"):
        raise UserError(f"--train_sampling_strategy {values.train_sampling_strategy} is refused: {ONE_SIZE}.")
    if "tpu_metrics_debug" in str(values.debug):
        raise UserError(f"--debug tpu_metrics_debug is refused: {TPU}.")
    _check_ranges(vars(values))
    for name in ("ddp_backend", "local_rank"):
        value = getattr(values, name, None)
        if value not in (None, -1) and "LOCAL_RANK" not in os.environ:
            raise UserError(f"--{name} {value} needs several processes: start them with torchrun, or leave it out.")
    if not str(values.output_dir).strip():
        raise UserError("--output_dir is empty: name the folder of the run.")
    if values.early_stopping_patience is not None and not values.load_best_model_at_end:
        raise UserError(
            f"--early_stopping_patience {values.early_stopping_patience} needs --load_best_model_at_end: the weights "
            "that are kept are to be the best ones."
        )
    if values.prediction_grid is not None and str(values.eval_strategy).lower() == "no":
        raise UserError(
            f"--prediction_grid {values.prediction_grid} has no effect with --eval_strategy no: give epoch or steps."
        )
    evaluates, saves = (str(getattr(values, f"{when}_strategy")).lower() for when in ("eval", "save"))
    if values.load_best_model_at_end and evaluates != saves and saves != "best":
        raise UserError(
            f"The best checkpoint cannot be chosen with --eval_strategy {evaluates} and --save_strategy {saves}: make "
            "them equal, or give --load_best_model_at_end False."
        )


def _check_ranges(values: Mapping[str, Any]) -> None:
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise UserError(f"--{name} must be a finite number, got {value}.")
        if name in POSITIVE and value <= 0:
            raise UserError(f"--{name} must be above 0, got {value}.")
        if name in NOT_NEGATIVE and value < 0:
            raise UserError(f"--{name} must be at least 0, got {value}.")
        if name in BELOW_ONE and value >= 1:
            raise UserError(f"--{name} must be below 1, got {value}.")
    if values["max_steps"] != -1 and values["max_steps"] < 1:
        raise UserError(
            f"--max_steps must be at least 1, or -1 to train --num_train_epochs, got {values['max_steps']}."
        )
    if values["max_steps"] == -1 and values["num_train_epochs"] <= 0:
        raise UserError(f"--num_train_epochs must be above 0, got {values['num_train_epochs']}.")
    for name in ("seed", "data_seed"):
        if values[name] is not None and not 0 <= values[name] < 2**32:
            raise UserError(f"--{name} must be from 0 to {2**32 - 1}, got {values[name]}.")


def check_arguments(arguments: TrainingArguments) -> None:
    """Check what depends on several flags, or on what transformers made of them.

    Raises:
        UserError: If they do not fit together.
    """
    if arguments.push_to_hub and arguments.hub_strategy != "end":
        raise UserError(
            f"--hub_strategy {HubStrategy(arguments.hub_strategy).value} is refused: pushes in the middle of a run "
            "leave out the model's code. Leave it at end."
        )
    _check_choice_of_checkpoint(arguments)
    _check_libraries(arguments)
    _check_processes(arguments)
    _check_optimizer(arguments)


def _check_choice_of_checkpoint(arguments: TrainingArguments) -> None:
    if arguments.metric_for_best_model is None:
        return
    score = arguments.metric_for_best_model.removeprefix("eval_")
    if score not in ("loss", *SCORE_NAMES):
        raise UserError(f"--metric_for_best_model: unknown score {score!r}; choose loss, {', '.join(SCORE_NAMES)}.")
    if arguments.greater_is_better is not None and arguments.greater_is_better != (score != "loss"):
        raise UserError(
            f"--greater_is_better {arguments.greater_is_better} with --metric_for_best_model {score} would keep the "
            "worst checkpoint: leave it out."
        )


def _check_libraries(arguments: TrainingArguments) -> None:
    for tracker in cast("list[str]", arguments.report_to):
        _check_tracker(tracker)
    if arguments.torch_compile:
        with flags_explained("--torch_compile"):
            torch.compile(torch.nn.Identity(), mode=arguments.torch_compile_mode)
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        given = set(getattr(arguments, name, None) or {})
        if not given <= set(CHECKPOINTING_OPTIONS):
            raise UserError(
                f"--{name}: unknown option {', '.join(sorted(given - set(CHECKPOINTING_OPTIONS)))}; there is "
                f"{', '.join(CHECKPOINTING_OPTIONS)}."
            )


def _check_tracker(name: str) -> None:
    if name not in INTEGRATION_TO_CALLBACK:
        raise UserError(f"--report_to: {unknown('tracker', name, [*INTEGRATION_TO_CALLBACK, 'none'])}")
    available = get_available_reporting_integrations()
    if name in available:
        return
    if name == "tensorboard":
        require_extra("tensorboard", "tensorboard")
    installed = f"installed: {', '.join(available)}" if available else "none is installed"
    raise UserError(f"--report_to {name}: that tracker is not installed ({installed}). Install it, or give none.")


def _check_processes(arguments: TrainingArguments) -> None:
    workers = arguments.dataloader_num_workers
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if getattr(arguments, name, None) and not workers:
            raise UserError(f"--{name} needs --dataloader_num_workers of at least 1.")
    config = cast(AcceleratorConfig, arguments.accelerator_config)
    if config.split_batches:
        raise UserError("--accelerator_config split_batches is refused: set --per_device_train_batch_size instead.")
    if not config.even_batches:
        raise UserError("--accelerator_config even_batches false is refused: processes would wait for each other.")
    if config.gradient_accumulation_kwargs and "num_steps" in config.gradient_accumulation_kwargs:
        raise UserError("--accelerator_config num_steps is refused: use --gradient_accumulation_steps.")


def _check_optimizer(arguments: TrainingArguments) -> None:
    optimizer = getattr(arguments.optim, "value", str(arguments.optim))
    for name in ("optim_args", "optim_target_modules"):
        if getattr(arguments, name) and optimizer in PLAIN_OPTIMIZERS:
            raise UserError(f"--{name} has no effect with --optim {optimizer}: leave it out.")
    malformed = [part for part in (arguments.optim_args or "").split(",") if part and "=" not in part]
    if malformed:
        raise UserError(f"--optim_args {malformed[0]!r} is no name=value; write them as name=value,name=value.")


@contextlib.contextmanager
def flags_explained(what: str) -> Iterator[None]:
    """Turn errors of any kind, in code that depends on the flags alone, into a `UserError`.

    Args:
        what: What cannot be used, as "--optim sgd".
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers, accelerate and the optimisers' packages raise errors of many kinds
        raise UserError(f"{what} cannot be used: {describe_error(error)}.") from error
