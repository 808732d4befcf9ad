"""Words for what ends a training from outside: a disk that cannot be written, a process that has gone."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import safetensors
import torch

from ..common.errors import UserError, first_line
from .checkpoints import checkpoints_in, is_complete

# What torch says if it cannot write a file; it leaves out the reason.
SIGNS_OF_TORCH = ("PytorchStreamWriter", "inline_container", "iostream error", "Parent directory", "cannot be opened")
# Of gloo, which raises plain RuntimeError.
SIGNS_OF_A_LOST_PROCESS = ("Connection closed by peer", "Connection reset by peer", "gloo", "Broken pipe")
SIGN_OF_A_LOST_WORKER = "DataLoader worker"


@contextlib.contextmanager
def write_errors_explained(target: Path, folder: Path) -> Iterator[None]:
    """Turn the errors of writing files into a `UserError` that says why, what is left, and what to do.

    Args:
        target: What is written, for errors that do not name it.
        folder: Of the run.
    """
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        # Of a copy, the second is what is written.
        name = getattr(error, "filename2", None) or getattr(error, "filename", None) or target
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{name} cannot be written: {reason}. {how_to_go_on(folder)}") from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in SIGNS_OF_TORCH):
            raise
        reason = "the disk may be full, or the folder gone"
        raise UserError(f"{target} cannot be written: {reason}. {how_to_go_on(folder)}") from error


@contextlib.contextmanager
def lost_processes_explained(folder: Path) -> Iterator[None]:
    """Turn the errors of a process whose data loader lost a worker, or whose group a process, into a `UserError`.

    Args:
        folder: Of the run.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if SIGN_OF_A_LOST_WORKER in message:
            what = (
                f"A worker of the data loader has ended ({first_line(error)}). If memory ran out, lower "
                "--dataloader_num_workers"
            )
        elif torch.distributed.is_available() and _is_of_a_lost_process(error):
            what = "Another process of this training has ended; its own message says why"
        else:
            raise
        raise UserError(f"{what}. {how_to_go_on(folder)}") from error


def _is_of_a_lost_process(error: RuntimeError) -> bool:
    if not torch.distributed.is_initialized():
        return False
    signs = any(sign in str(error) for sign in SIGNS_OF_A_LOST_PROCESS)
    return signs or isinstance(error, torch.distributed.DistError)


def how_to_go_on(folder: Path) -> str:
    """What is left of a run, and what to do."""
    checkpoint = next(filter(is_complete, checkpoints_in(folder)), None)
    if checkpoint is None:
        return "No checkpoint was written before: start again."
    return f"{checkpoint} is complete: go on from it with --resume_from_checkpoint."
