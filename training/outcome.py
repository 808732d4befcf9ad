"""Describes a training and its outcome, for `results.json` and for the user."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from datasets import IterableDataset
from transformers import SchedulerType, TrainerCallback

from ..common.errors import counted, describe_error
from ..data.columns import Split
from ..data.dataset import describe_data
from ..data.samples import is_empty
from ..image_processing_unet import UNetImageProcessor
from ..inference.checkpoint import describe_model, fingerprint
from ..inference.predictor import Predictor
from ..modeling_unet import UNetForSemanticSegmentation
from ..reporting.results import RESULTS_SCHEMA, describe_environment
from ..scoring.training_frames import measure_training
from .arguments import DataArguments, ModelArguments, UNetTrainingArguments
from .encoder_weights import IMAGENET, NONE, describe_weights
from .flag_checks import SCORE_NAMES
from .history import history_rows, validation_curve
from .trainer import UNetTrainer


def describe_run(
    model: UNetForSemanticSegmentation,
    splits: Mapping[str, Split],
    processor: UNetImageProcessor,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: UNetTrainingArguments,
) -> dict[str, Any]:
    """What is known of a run at its start, without paths or names of users and hosts.

    `record_outcome` and the trainer complete it to the `Results` of `results.json`.
    """
    name = training_arguments.hub_model_id or Path(str(training_arguments.output_dir)).resolve().name
    data = describe_data(**data_arguments.described, rows=splits)
    environment = describe_environment(training_arguments.runtime, training_arguments.world_size)
    return {
        "schema_version": RESULTS_SCHEMA,
        "model": describe_model(model, processor, name.split("/")[-1], training_arguments.hub_model_id),
        "data": data,
        "environment": environment,
        # Recorded here too, since an evaluation overwrites the two above.
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
            "negative_window_share": data_arguments.negative_window_share,
            "negatives": count_negatives(splits["train"]),
            "progressive_sizes": data_arguments.progressive_sizes,
            "progressive_epochs": data_arguments.progressive_epochs,
            "early_stopping_patience": training_arguments.early_stopping_patience,
            "seed": training_arguments.seed,
            "fine_tuned": model.name_or_path != "",
            "base_model": base_model_of(model_arguments.model_name_or_path),
            "encoder_weights": describe_weights(model_arguments.encoder_weights) if model.config.encoder else None,
            "encoder_learning_rate_scale": (
                training_arguments.encoder_learning_rate_scale if model.config.encoder else None
            ),
        },
        "metrics": {},
        "evaluation": None,
    }


def base_model_of(name: str | None) -> str | None:
    """The id on the Hub of the checkpoint that a training starts from; None of a local one, whose path is private."""
    return None if name is None or Path(name).exists() else name


class Announcement(TrainerCallback):
    """Says at the start of a training what is trained, on what, and for how long.

    Args:
        start: What the weights start from: "random weights", "fine-tuning me/unet", ...
        image_size: Height and width of the images that the network sees.
        samples: Numbers of training and validation samples; of a stream the former may be None, for unknown.
    """

    def __init__(self, start: str, image_size: tuple[int, int], samples: tuple[int | None, int]):
        self.start = start
        self.image_size = image_size
        self.samples = samples

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if not state.is_world_process_zero:
            return
        height, width = self.image_size
        training, validation = self.samples
        known = "an unknown number of training samples" if training is None else counted(training, "training sample")
        processes = "1 process" if args.world_size == 1 else f"{args.world_size} processes"
        batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        print(f"Network: {kwargs['model'].num_parameters():,} parameters, images of {width}x{height}; {self.start}.")
        print(f"Data: {known}, {counted(validation, 'validation sample')}.")
        steps = counted(state.max_steps, "step") + (
            f", of which {state.global_step:,} are done" if state.global_step else ""
        )
        epochs = f"{args.num_train_epochs:g} epoch{'' if args.num_train_epochs == 1 else 's'}"
        print(f"Training: {epochs}, {steps}; {counted(batch, 'sample')} a step, in {processes}.")


def describe_start(arguments: ModelArguments, checkpoint: str | None) -> str:
    """What a training starts from, for `Announcement`.

    Args:
        arguments: The network.
        checkpoint: That the run is resumed from, if it is.
    """
    if checkpoint is not None:
        return f"resuming from {checkpoint}"
    if arguments.model_name_or_path is not None:
        return f"fine-tuning {arguments.model_name_or_path}"
    encoder = arguments.config_fields.get("encoder")
    if encoder is None or arguments.encoder_weights == NONE:
        return "random weights"
    return f"the encoder's weights are {arguments.encoder_weights or IMAGENET}, the others random"


def count_negatives(rows: Split) -> int:
    """The samples without a mask; 0 of a stream, which is not read for this."""
    if isinstance(rows, IterableDataset):
        return 0
    return sum(is_empty(mask) for mask in rows["mask"])


def record_curves(results: dict[str, Any], log_history: Sequence[Mapping[str, Any]]) -> None:
    """Add the curves of training and validation to the description of a run, when its training has ended."""
    results["training"] |= {
        "loss": [[log["epoch"], log["loss"]] for log in log_history if "loss" in log],
        "validation_curve": validation_curve(history_rows(log_history)),
    }


def record_outcome(results: dict[str, Any], trainer: UNetTrainer, scores: Mapping[str, float]) -> None:
    """Add the validation scores of the weights that are kept to the description of a finished run."""
    validation = {name.removeprefix("eval_"): value for name, value in scores.items()}
    results["model"]["fingerprint"] = fingerprint(trainer.model)
    results["training"] |= {
        "best_step": trainer.kept_step,
        "steps": trainer.state.global_step,
        "validation": {name: validation[name] for name in ("loss", *SCORE_NAMES) if name in validation},
    }


def record_frame_statistics(trainer: UNetTrainer, splits: Mapping[str, Split]) -> None:
    """Give the image processor the statistics of the frames, by which `predict.py` tells others that are far off.

    An error here would cost the outcome of a whole training: it is told, and the model goes without them.
    """
    runtime = replace(cast("UNetTrainingArguments", trainer.args).runtime, compiles=False)
    trained = cast("UNetForSemanticSegmentation", trainer.model)
    processor = cast("UNetImageProcessor", trainer.processing_class)
    try:
        # A network of its own: `Trainer` may have wrapped the computation of the trained one.
        network = UNetForSemanticSegmentation(trained.config)
        network.load_state_dict({name: tensor.cpu() for name, tensor in trained.state_dict().items()})
        predictor = Predictor(network, processor, runtime)
        statistics = measure_training(predictor, splits["train"], splits["validation"])
    except Exception as error:
        print(f"The statistics of the frames could not be made ({describe_error(error)}): the model has none.")
        return
    processor.frame_statistics = None if statistics is None else statistics.to_dict()


def print_scores(results: Mapping[str, Any]) -> None:
    """Print the validation scores."""
    height, width = results["model"]["image_size"]
    best_step = results["training"]["best_step"]
    weights = f"the best checkpoint (step {best_step})" if best_step else "the last step"
    print(f"\nValidation split at {height}x{width}, {weights}:")
    for score in SCORE_NAMES:
        print(f"  {score:<15} {results['training']['validation'][score]:.4f}")


def print_usage(results: Mapping[str, Any], output_dir: str, url: str | None) -> None:
    """Print where the model is and how to use it."""
    name = results["model"]["repository"] if url else output_dir
    print(f"\nThe model is in {output_dir}" + (f" and at {url}" if url else "") + ". To use it:")
    print("  from transformers import pipeline")
    print(f'  segment = pipeline("image-segmentation", model="{name}", trust_remote_code=True)')
    print('  segment("frame.jpg")')
