"""Builds what a training needs from its arguments: the network with its image processor, and the data sets."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import IterableDataset, concatenate_datasets
from transformers.trainer_utils import has_length

from ..common.errors import UserError
from ..common.launcher import is_main_process
from ..configuration_unet import UNetConfig
from ..data.check import check_at_start, check_rectangle
from ..data.columns import Split
from ..data.dataset import choose_split, load_splits
from ..data.mask_values import check_mask_rules
from ..data.negatives import load_negatives, refuse_shared_frames
from ..data.transforms import EvalTransform, TrainingStream, TrainTransform
from ..field_of_view_unet import read_field_of_view
from ..image_processing_unet import UNetImageProcessor
from ..inference.checkpoint import load_checkpoint
from ..modeling_unet import UNetForSemanticSegmentation
from .arguments import DataArguments, ModelArguments, UNetTrainingArguments
from .divergence import first_not_finite
from .encoder_weights import IMAGENET, NONE, load_encoder_weights, normalisation_of


def build_model(
    arguments: ModelArguments, resuming: bool = False
) -> tuple[UNetForSemanticSegmentation, UNetImageProcessor]:
    """A new network of the given architecture, or a checkpoint to fine-tune, with its image processor.

    Args:
        arguments: What it is.
        resuming: The weights come from a checkpoint of the run, so that those of an encoder need not be loaded.

    Raises:
        UserError: If the architecture cannot work, or a checkpoint or an encoder's weights cannot be loaded.
    """
    if arguments.model_name_or_path is None:
        model, processor = _build_new(arguments, resuming)
    else:
        model, processor = _load_to_fine_tune(arguments.model_name_or_path, arguments)
    if arguments.image_size is not None:
        processor.size = {"height": arguments.image_size, "width": arguments.image_size}
    if arguments.field_of_view is not None:
        processor.field_of_view = saved_field_of_view(arguments.field_of_view)
    smallest = model.config.minimum_size
    if min(processor.size["height"], processor.size["width"]) < smallest:
        raise UserError(
            f"--image_size {arguments.image_size} is too small: the network needs at least {smallest} pixels. Raise "
            "it, or lower the --depth of a U-Net without --encoder."
        )
    return model, processor


def saved_field_of_view(value: str) -> str | list[int] | None:
    """--field_of_view as preprocessor_config.json holds it.

    Raises:
        UserError: If it is no such setting.
    """
    try:
        setting = read_field_of_view(value)
    except ValueError as error:
        raise UserError(str(error)) from error
    return list(setting) if isinstance(setting, tuple) else setting


def _build_new(arguments: ModelArguments, resuming: bool) -> tuple[UNetForSemanticSegmentation, UNetImageProcessor]:
    encoder, weights = arguments.config_fields.get("encoder"), arguments.encoder_weights
    if encoder is None and weights is not None:
        raise UserError(f"--encoder_weights {weights} needs an --encoder that they are of.")
    try:
        model = UNetForSemanticSegmentation(UNetConfig(**arguments.config_fields))
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from error
    if encoder is None or weights == NONE:
        return model, UNetImageProcessor()
    if not resuming:
        load_encoder_weights(encoder, model.backbone, weights or IMAGENET)
    mean, deviation = normalisation_of(encoder)
    return model, UNetImageProcessor(do_normalize=True, image_mean=mean, image_std=deviation)


def _load_to_fine_tune(name: str, arguments: ModelArguments) -> tuple[UNetForSemanticSegmentation, UNetImageProcessor]:
    if arguments.encoder_weights not in (None, NONE):
        raise UserError(
            f"The checkpoint {name} brings all its weights: remove --encoder_weights {arguments.encoder_weights} or, "
            f"where a recipe has it, add --encoder_weights {NONE}."
        )
    model, processor = load_checkpoint(name, arguments.model_revision)
    _check_same_architecture(name, model.config, arguments.config_fields)
    broken = first_not_finite(model.state_dict())
    if broken is not None:
        raise UserError(f"The checkpoint {name} is broken: {broken} holds NaN or infinity. Start from another one.")
    size, checkpoint_size = arguments.image_size, (processor.size["height"], processor.size["width"])
    if arguments.image_size_is_the_recipes and (size, size) != checkpoint_size:
        raise UserError(
            f"The recipe is written for images of {size}x{size} pixels, the checkpoint {name} for "
            f"{checkpoint_size[0]}x{checkpoint_size[1]}: give --image_size {size} to train at the recipe's size, or "
            "remove image_size from the recipe."
        )
    forget_choices(processor)
    model.config.loss = arguments.config_fields.get("loss", model.config.loss)
    try:
        model.config.check()
    except ValueError as error:
        raise UserError(str(error)) from error
    return model, processor


def forget_choices(processor: UNetImageProcessor) -> None:
    """Remove the settings that belong to the weights that a checkpoint had, not to those that it will have."""
    processor.peak_threshold = processor.presence_calibration = processor.peak_chosen_on = None
    processor.frame_statistics = None


def _check_same_architecture(name: str, config: UNetConfig, fields: Mapping[str, Any]) -> None:
    """Check that a recipe's architecture is the checkpoint's. The loss is no part of it: fine-tuning may change it.

    Raises:
        UserError: If it is another one.
    """
    try:
        asked = UNetConfig(**fields)
    except ValueError as error:
        raise UserError(str(error)) from error
    other = [field for field in fields if field != "loss" and getattr(asked, field) != getattr(config, field)]
    if other:
        flags = ", ".join(f"--{field} {getattr(asked, field)} (has {getattr(config, field)})" for field in other)
        raise UserError(
            f"The checkpoint {name} brings its architecture, which is another one: remove {flags}, or train from "
            "scratch without --model_name_or_path."
        )


def leave_out_large_sizes(arguments: DataArguments, final_size: int) -> None:
    """Leave those of --progressive_sizes out that are not below the final size, and say so: a recipe may have them."""
    if not arguments.progressive_sizes or len(arguments.progressive_sizes) != len(arguments.progressive_epochs or []):
        return
    pairs = list(zip(arguments.progressive_sizes, arguments.progressive_epochs or [], strict=True))
    kept = [(side, epoch) for side, epoch in pairs if side < final_size]
    if kept != pairs:
        left_out = " ".join(str(side) for side, _ in pairs if side >= final_size)
        if is_main_process():
            print(f"--progressive_sizes {left_out} left out: not below the images' size, {final_size}.")
        arguments.progressive_sizes = [side for side, _ in kept] or None
        arguments.progressive_epochs = [epoch for _, epoch in kept] or None


def progressive_sizes(arguments: DataArguments, smallest: int) -> list[tuple[int, int]]:
    """The image sizes that a training begins with, each with the epoch until which it is used.

    Progressive resizing, as in EfficientNetV2 (Tan and Le, 2021, https://arxiv.org/abs/2104.00298, section 4), but
    with the same augmentation throughout.

    Raises:
        UserError: If the two flags do not fit together, or a size is below the network's minimum.
    """
    sizes, epochs = arguments.progressive_sizes or [], arguments.progressive_epochs or []
    if len(sizes) != len(epochs) or epochs != sorted(set(epochs)):
        raise UserError(
            f"--progressive_sizes {sizes} and --progressive_epochs {epochs} do not fit: give one epoch for each size, "
            "in rising order."
        )
    if sizes and min(sizes) < smallest:
        raise UserError(
            f"--progressive_sizes {min(sizes)} is too small for the network, which needs at least {smallest}."
        )
    return list(zip(sizes, epochs, strict=True))


def load_data(arguments: DataArguments, processor: UNetImageProcessor, is_main: bool) -> dict[str, Split]:
    """The splits "train", with the frames of `--negatives`, and "validation", as `load_splits` gives them.

    Args:
        arguments: Which data, and how it is read.
        processor: Its size is that of synthetic frames; its field of view has to lie within the images.
        is_main: Whether this is the main process, which checks the data and prints which part of it was checked.

    Raises:
        UserError: If the data cannot be loaded or used.
    """
    splits = load_splits(
        **arguments.source,
        needed_splits=["train", "validation"],
        streaming=arguments.streaming,
        synthetic_size=processor.size["height"],
    )
    splits = with_negatives(splits, arguments)
    if is_main:
        used = {split: splits[split] for split in ("train", "validation")}
        check_rectangle(used, processor.field_of_view, arguments.mask_rules)
        if partly := check_at_start(used, arguments.mask_rules):
            print(partly)
    return splits


def with_negatives(splits: Mapping[str, Split], arguments: DataArguments) -> dict[str, Split]:
    """The splits, with the frames of `--negatives`, if any, as further training samples.

    Raises:
        UserError: If they cannot be loaded, show polyps, are frames of a split, or are to be mixed into a stream.
    """
    train = choose_split(splits, "train")
    if arguments.negatives is None:
        return dict(splits)
    if isinstance(train, IterableDataset):
        raise UserError("--negatives cannot be mixed into a stream: remove --streaming.")
    negatives = load_negatives(arguments.negatives, config=arguments.negatives_config, mask_rules=arguments.mask_rules)
    for name, rows in splits.items():
        refuse_shared_frames(negatives, rows, name)
    rows = concatenate_datasets([part.remove_columns("index") for part in (train, negatives)])
    return {**splits, "train": rows.add_column("index", np.arange(len(rows)))}


def build_datasets(
    splits: Mapping[str, Split],
    processor: UNetImageProcessor,
    data_arguments: DataArguments,
    training_arguments: UNetTrainingArguments,
    minimum_size: int,
) -> tuple[Any, Any, TrainTransform]:
    """The training set with augmentation, the validation set without, and the training set's transform.

    Raises:
        UserError: If the arguments do not fit together or not to the masks, or the length of a stream is not known.
    """
    train_split = choose_split(splits, "train")
    is_stream = isinstance(train_split, IterableDataset)
    seen_in_training = {name: rows for name, rows in splits.items() if name in ("train", "validation")}
    check_mask_rules(seen_in_training, data_arguments.mask_rules)
    in_batches = data_arguments.augment_in_batches
    if in_batches is None:
        in_batches = training_arguments.device.type == "cuda" and not training_arguments.dispatches_batches
    try:
        transform = TrainTransform(
            processor,
            data_arguments.mask_rules,
            seed=training_arguments.seed,
            cache_bytes=0 if is_stream else data_arguments.cache_megabytes * 2**20,
            augmentation=data_arguments.augmentation,
            progressive_sizes=progressive_sizes(data_arguments, smallest=minimum_size),
            in_batches=in_batches,
            negative_window_share=data_arguments.negative_window_share,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    validation_set = choose_split(splits, "validation").with_transform(
        EvalTransform(processor, data_arguments.mask_rules)
    )
    if not is_stream:
        return train_split.with_transform(transform), validation_set, transform
    stream = TrainingStream(train_split, transform, training_arguments.seed)
    if training_arguments.max_steps <= 0 and not has_length(stream):
        raise UserError(
            f"{data_arguments.dataset_name} does not say how many samples its training split has, so the epochs of a "
            "stream are not known: give --max_steps, or run without --streaming."
        )
    return stream, validation_set, transform


def print_cache_size(transform: TrainTransform, samples: int, megabytes: int) -> None:
    """Tell the user if the cache is too small for all resized samples."""
    fit = transform.samples_that_fit
    if fit is not None and fit < samples:
        print(
            f"Of {samples:,} training samples {fit:,} are cached in memory once they are resized, in {megabytes} MB a "
            "process; the others are decoded again in each epoch (--cache_megabytes)."
        )
