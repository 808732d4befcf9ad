"""Train a U-Net for polyp segmentation, evaluate it after each epoch, and push it to the Hub.

    python train.py                                       # the model card's recipe on Kvasir-SEG, from the Hub
    python train.py recipes/demo.yaml                     # two minutes on synthetic frames
    python train.py --dataset_name path/to/folder         # your own images/ and masks/
    python train.py --push_to_hub --hub_model_id me/unet  # after `hf auth login`
    python train.py --push_finished outputs/mine --hub_model_id me/unet    # a run that has ended

A recipe is a YAML file whose keys are these flags; the fields of `UNetConfig` stand under `model:`. Flags on the
command line override it. To train with several processes:
`accelerate launch --num_processes 2 train.py ...` or `torchrun --nproc_per_node 2 train.py ...`.
"""

import contextlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_kvasir_seg.common.command_line import program_name
from unet_kvasir_seg.common.errors import user_errors
from unet_kvasir_seg.common.launcher import is_main_process

# Libraries are imported inside functions, so that --help and errors of the command line come quickly, and Ctrl-C is
# answered from the start.
if TYPE_CHECKING:
    from unet_kvasir_seg.data.transforms import TrainTransform
    from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
    from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
    from unet_kvasir_seg.training.arguments import DataArguments, ModelArguments, UNetTrainingArguments
    from unet_kvasir_seg.training.trainer import UNetTrainer

PROGRAM = program_name("train.py")
KEPT = "Complete checkpoints are kept: to go on from the last one, run the same with --resume_from_checkpoint."


def train(
    model_arguments: "ModelArguments", data_arguments: "DataArguments", training_arguments: "UNetTrainingArguments"
) -> dict[str, Any]:
    """Train, evaluate, save and, if asked to, push; returns what `results.json` holds.

    Raises:
        UserError: If arguments or data are invalid, another process writes into the output folder, or it cannot be
            written to. Existing runs are left untouched.
    """
    from unet_kvasir_seg.common.output_lock import output_lock
    from unet_kvasir_seg.training.failures import lost_processes_explained
    from unet_kvasir_seg.training.prediction_grid import GRID_FOLDER

    folder = Path(str(training_arguments.output_dir))
    is_main = training_arguments.process_index == 0
    if not is_main:
        logging.disable(logging.WARNING)
    # Of several processes the main one holds the folder, for all of them.
    lock = output_lock(folder, PROGRAM, ["figures", GRID_FOLDER]) if is_main else contextlib.nullcontext()
    with lock, lost_processes_explained(folder):
        return _train(model_arguments, data_arguments, training_arguments)


def _train(
    model_arguments: "ModelArguments", data_arguments: "DataArguments", training_arguments: "UNetTrainingArguments"
) -> dict[str, Any]:
    from transformers import set_seed
    from unet_kvasir_seg.common.device import keep_freed_memory, limit_threads
    from unet_kvasir_seg.data.dataset import choose_split
    from unet_kvasir_seg.data.transforms import TrainingStream
    from unet_kvasir_seg.training import building, outcome, resume
    from unet_kvasir_seg.training.batch_sizes import check_batches
    from unet_kvasir_seg.training.prediction_grid import PredictionGrid

    folder = Path(str(training_arguments.output_dir))
    is_main = training_arguments.process_index == 0

    # Where the run starts from.
    with_ema = training_arguments.ema_decay is not None
    checkpoint = resume.checkpoint_to_resume(training_arguments.resume_from_checkpoint, folder, with_ema)
    if is_main:
        resume.check_output_folder(folder, resuming=checkpoint is not None)
        print(f"Computing on {training_arguments.runtime} (to change it: --use_cpu, --bf16 False).")

    # Network and data.
    set_seed(training_arguments.seed)
    model, processor = building.build_model(model_arguments, resuming=checkpoint is not None)
    building.leave_out_large_sizes(data_arguments, processor.size["height"])
    with training_arguments.main_process_first(desc="loading the data"):
        splits = building.load_data(data_arguments, processor, is_main)
    train_set, validation_set, transform = building.build_datasets(
        splits, processor, data_arguments, training_arguments, model.config.minimum_size
    )
    is_stream = isinstance(train_set, TrainingStream)
    check_batches(model, transform, None if is_stream else len(train_set), training_arguments)
    if is_main and data_arguments.cache_megabytes and not is_stream:
        building.print_cache_size(transform, len(train_set), data_arguments.cache_megabytes)

    # Trainer.
    model.to(memory_format=training_arguments.runtime.memory_format)
    if training_arguments.runtime.device.type == "cpu":
        keep_freed_memory()
        limit_threads()
    results = outcome.describe_run(model, splits, processor, model_arguments, data_arguments, training_arguments)
    seconds_before = 0.0
    if checkpoint is not None:
        seconds_before = resume.check_same_run(checkpoint, results)
        resume.check_same_field_of_view(checkpoint, processor.field_of_view)
        results["training"] |= resume.start_of_run(checkpoint)
    if training_arguments.dataloader_num_workers and not data_arguments.streaming:
        # Each worker holds a cache of decoded samples, which is lost if the worker ends with the epoch.
        training_arguments.dataloader_persistent_workers = True
    start = outcome.describe_start(model_arguments, checkpoint)
    trainer = build_trainer(
        model, processor, train_set, validation_set, transform, training_arguments, results, checkpoint, start
    )
    trainer.started -= seconds_before
    if training_arguments.prediction_grid is not None:
        grid = (choose_split(splits, "validation"), processor, data_arguments.mask_rules)
        trainer.add_callback(PredictionGrid(*grid, training_arguments.prediction_grid, folder))

    # Training, and its outcome.
    trainer.train(resume_from_checkpoint=checkpoint)
    outcome.conclude(trainer, splits)
    return trainer.results


def build_trainer(
    model: "UNetForSemanticSegmentation",
    processor: "UNetImageProcessor",
    train_set: Any,
    validation_set: Any,
    transform: "TrainTransform",
    training_arguments: "UNetTrainingArguments",
    results: dict[str, Any],
    checkpoint: str | None,
    start: str,
) -> "UNetTrainer":
    """Build the trainer, which adds to `results` during the run, and begins by saying what it starts from."""
    from transformers import EarlyStoppingCallback
    from transformers.trainer_utils import has_length
    from unet_kvasir_seg.data.transforms import TrainingStream
    from unet_kvasir_seg.data_collator import SegmentationCollator
    from unet_kvasir_seg.training.ema import ExponentialMovingAverage
    from unet_kvasir_seg.training.flag_checks import flags_explained
    from unet_kvasir_seg.training.history import WriteHistory
    from unet_kvasir_seg.training.outcome import Announcement
    from unet_kvasir_seg.training.trainer import EpochScores, FindBestCheckpoint, SetEpoch, UNetTrainer

    folder = Path(str(training_arguments.output_dir))
    places = [folder] if checkpoint is None else [folder, Path(checkpoint).parent]
    samples = (len(train_set) if has_length(train_set) else None, len(validation_set))
    announcement = Announcement(start, results["model"]["image_size"], samples)
    callbacks: list[Any] = [FindBestCheckpoint(places, results), announcement, WriteHistory(folder)]
    if not isinstance(train_set, TrainingStream):
        # A stream gets its epoch from the data loader instead: it may have more epochs than Trainer counts.
        callbacks.append(SetEpoch(transform))
    if training_arguments.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(training_arguments.early_stopping_patience))
    decay = training_arguments.ema_decay
    scores = EpochScores()
    with flags_explained("These flags"):
        return UNetTrainer(
            model=model,
            args=training_arguments,
            data_collator=SegmentationCollator(),
            train_dataset=train_set,
            eval_dataset=validation_set,
            processing_class=processor,
            compute_metrics=scores,
            preprocess_logits_for_metrics=scores.count,
            callbacks=callbacks,
            ema=None if decay is None else ExponentialMovingAverage(decay, checkpoint),
            transform=transform,
            results=results,
        )


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM, kept=KEPT):
        from unet_kvasir_seg.training.arguments import parse_arguments, push_flags

        words = sys.argv[1:] if argv is None else argv
        flags = push_flags(words, description=__doc__)
        if flags is not None:
            from unet_kvasir_seg.training.push import push_finished

            if is_main_process():
                push_finished(flags)
            return
        model, data, training = parse_arguments(words, description=__doc__)
        if data.check_data:
            from unet_kvasir_seg.data.check import check_data

            sys.exit(check_data(data, Path(str(training.output_dir)), model.field_of_view))
        train(model, data, training)


if __name__ == "__main__":
    main()
