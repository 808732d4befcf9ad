"""Saving the outcome of a training: complete or not at all, and checked on the disk."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import safetensors
from safetensors.torch import load_file
from torch import Tensor

from ..common.errors import UserError
from ..inference.checkpoint import fingerprint_of
from .checkpoints import UNFINISHED

# They describe the weights, and are written after them.
DESCRIPTIONS = ("results.json", "README.md")


@contextlib.contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """A folder to write into, whose files take the place of those of `folder` when the block ends.

    After an error `folder` is as before. Descriptions of earlier weights are removed with them.
    """
    unfinished = folder / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for name in DESCRIPTIONS:
            (folder / name).unlink(missing_ok=True)
        for file in unfinished.iterdir():
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_saved(folder: Path, fingerprint: str) -> None:
    """Check that the files of a training are there, with the weights that `results.json` describes.

    Raises:
        UserError: If not.
    """
    wrong = [name for name in (*DESCRIPTIONS, "config.json") if not (folder / name).is_file()]
    weights: dict[str, Tensor] = {}
    try:
        for file in folder.glob("model*.safetensors"):  # several, if the network is larger than transformers' limit
            weights |= load_file(file)
    except (OSError, safetensors.SafetensorError):
        wrong.append(file.name)
    if fingerprint_of(weights) != fingerprint:
        wrong.append("model.safetensors")
    if wrong:
        raise UserError(
            f"{folder} does not hold what was saved in it ({wrong[0]}): another program has changed or removed it. "
            "Write it again with --resume_from_checkpoint."
        )
