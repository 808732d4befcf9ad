"""Whether a network can train on the batches that a training has: normalisation needs several values per channel."""

import copy

import torch

from ..common.errors import UserError
from ..data.transforms import TrainTransform
from ..modeling_unet import UNetForSemanticSegmentation
from .arguments import UNetTrainingArguments


def check_batches(
    model: UNetForSemanticSegmentation,
    transform: TrainTransform,
    samples: int | None,
    arguments: UNetTrainingArguments,
) -> None:
    """Check that every batch of the training holds samples, and enough of them for the network.

    Args:
        model: What is trained.
        transform: Of the training; knows the sizes of the examples.
        samples: Of the training split; None: those of a stream, whose last batch may be of any size.
        arguments: Of the training.

    Raises:
        UserError: If there is no complete batch, or the network cannot train on the smallest batch.
    """
    if samples is None and arguments.dataloader_drop_last:
        raise UserError("--dataloader_drop_last has no effect on a stream: remove it, or --streaming.")
    step = arguments.train_batch_size * arguments.world_size
    if samples is not None and arguments.dataloader_drop_last and samples < step:
        raise UserError(
            f"With --dataloader_drop_last nothing would be trained: {samples} training samples are fewer than one "
            f"batch of {step}. Lower --per_device_train_batch_size, or remove the flag."
        )
    if not transform.processor.do_resize:
        return  # images keep sizes that are not known here
    size = transform.processor.size
    sides = [size["height"], size["width"], *(side for side, _ in transform.progressive_sizes)]
    smallest, side = smallest_batch(samples, arguments), min(sides)
    if can_train_on(model, smallest, side):
        return
    batch_size = arguments.per_device_train_batch_size
    if smallest == batch_size:
        remedy = "raise --per_device_train_batch_size"
    elif samples is None:
        remedy = "remove --streaming"
    elif samples < step:
        remedy = "train on more samples"
    else:
        remedy = f"give --dataloader_drop_last, or another --per_device_train_batch_size than {batch_size}"
    raise UserError(
        f"A batch of {smallest} at {side}x{side} pixels leaves the network's normalisation one value per channel: "
        f"{remedy}, use larger images, a lower --depth or another --norm."
    )


def smallest_batch(samples: int | None, arguments: UNetTrainingArguments) -> int:
    """The fewest samples that the network gets at once during an epoch, on any device.

    With several processes, accelerate completes the last batches; with several GPUs in one process, a batch is split
    among them in chunks.
    """
    if arguments.world_size > 1 or arguments.dataloader_drop_last:
        return arguments.per_device_train_batch_size
    if samples is None:
        return 1
    last = samples % arguments.train_batch_size or min(samples, arguments.train_batch_size)
    devices = max(arguments.n_gpu, 1)
    return min(len(chunk) for chunk in torch.arange(last).chunk(devices))


def can_train_on(model: UNetForSemanticSegmentation, samples: int, side: int) -> bool:
    """Whether the network can train on a batch (samples, 3, side, side). Nothing is computed but shapes."""
    shapes_only = copy.deepcopy(model).to("meta").train()
    try:
        shapes_only(torch.empty(samples, model.config.num_channels, side, side, device="meta"))
    except ValueError as error:
        if "Expected more than 1" not in str(error):  # torch.nn.functional.batch_norm, group_norm, instance_norm
            raise
        return False
    return True
