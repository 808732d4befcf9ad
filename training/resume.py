"""Resuming a training: which checkpoint, whether it is complete, and whether it is of the same run."""

import inspect
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..common.command_line import NO
from ..common.errors import UserError
from ..configuration_unet import UNetConfig
from .divergence import first_not_finite
from .ema import TRAINING_WEIGHTS

# Saved in each checkpoint: its architecture and data. Resuming with different ones is refused.
RUN_FILE = "run.json"
FLAGS_OF_MASKS = {
    "foreground_values": "--foreground_values",
    "threshold": "--mask_threshold",
    "ignore_exif": "--ignore_exif",
}


def check_output_folder(folder: Path, resuming: bool) -> None:
    """Make the folder of a run, unless it holds another run.

    Raises:
        UserError: If the folder holds a run that is not resumed, or cannot be made.
    """
    found = [*folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), *folder.glob("*.safetensors"), *folder.glob("results.json")]
    if found and not resuming:
        raise UserError(
            f"{folder} holds another run ({', '.join(sorted(path.name for path in found)[:3])}). Choose another "
            "--output_dir, resume it with --resume_from_checkpoint, or remove the folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {folder} cannot be made: {error}.") from error


def checkpoint_to_resume(wanted: str | None, folder: Path, with_ema: bool) -> str | None:
    """The checkpoint to resume from.

    Args:
        wanted: A checkpoint's folder; "auto" or "true": the last complete one in `folder`; None or a word for
            no: do not resume.
        folder: Of the run.
        with_ema: Whether the run that is to go on has an EMA of the weights.

    Raises:
        UserError: If there is none, it is not complete, or it was trained with an EMA and this run has none, or the
            other way round.
    """
    if wanted is None or wanted.lower() in NO:
        return None
    if wanted.lower() in ("auto", "true"):
        checkpoint = _last_complete_checkpoint(folder)
    elif is_complete(Path(wanted)):
        checkpoint = wanted
    else:
        raise UserError(f"{wanted} is no checkpoint, or is incomplete. Resume from another one, or start anew.")
    broken = first_not_finite(load_file(Path(checkpoint) / "model.safetensors"))
    if broken is not None:
        raise UserError(f"{checkpoint} is broken: {broken} holds NaN or infinity. Resume from an earlier one.")
    had_ema = (Path(checkpoint) / TRAINING_WEIGHTS).is_file()
    if had_ema != with_ema:
        raise UserError(
            f"{checkpoint} was trained {'with' if had_ema else 'without'} --ema_decay: "
            f"{'give' if had_ema else 'remove'} it to go on."
        )
    return checkpoint


def _last_complete_checkpoint(folder: Path) -> str:
    checkpoints = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]
    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        if is_complete(checkpoint):
            return str(checkpoint)
        print(f"{checkpoint} is incomplete: skipped.")
    raise UserError(f"{folder} holds no complete checkpoint to go on from. Start without --resume_from_checkpoint.")


def is_complete(checkpoint: Path) -> bool:
    """Whether all files of a checkpoint exist and none was written in part."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for file in {checkpoint / "model.safetensors", *checkpoint.glob("*.safetensors")}:
            with safetensors.safe_open(file, "pt"):
                pass
        return all(zipfile.is_zipfile(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt"))
    except (OSError, ValueError, safetensors.SafetensorError):
        return False


def check_same_run(checkpoint: str, results: Mapping[str, Any]) -> float:
    """Check that a run has the architecture and the data that a checkpoint was trained with.

    Args:
        checkpoint: Its folder.
        results: What `describe_run` says of the run that is to go on.

    Returns:
        Seconds that the training had taken when the checkpoint was written.

    Raises:
        UserError: If architecture, image size, samples or the reading of masks differ. The path of the data may
            differ. For a stream, name, revision and configuration are compared.
    """
    try:
        before = json.loads((Path(checkpoint) / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{checkpoint} has no {RUN_FILE}, which says what network and data it is of: another program or an early "
            "version of this one wrote it. Fine-tune from it with --model_name_or_path."
        ) from None
    _check_same_network(checkpoint, before["model"], results["model"])
    _check_same_data(checkpoint, before["data"], results["data"])
    return before["training"]["seconds"]


def _check_same_network(checkpoint: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    parameters = inspect.signature(UNetConfig).parameters.values()
    # A field that did not exist when the checkpoint was written had the value that is its default now.
    defaults = {parameter.name: parameter.default for parameter in parameters}
    there = defaults | dict(there)
    differences = [
        f"{field} {there.get(field)} there, {value} here"
        for field, value in here.items()
        if field not in ("name", "repository") and there.get(field) != value
    ]
    if differences:
        raise UserError(
            f"{checkpoint} is of another network ({'; '.join(differences)}). Give the flags or the recipe that it was "
            "started with, or choose another --output_dir to start anew."
        )


def _check_same_data(checkpoint: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    is_streamed = None in (there["fingerprint"], here["fingerprint"])
    compared = ("name", "revision", "config") if is_streamed else ("fingerprint",)
    if any(there.get(field, here[field]) != here[field] for field in compared):
        counts = [", ".join(f"{count} {split}" for split, count in data["rows"].items()) for data in (there, here)]
        raise UserError(
            f"{checkpoint} was trained on other data ({counts[0]} samples there, {counts[1]} here). Give the "
            "--dataset_name, and the other flags of the data, that it was started with; or fine-tune on these data "
            "with --model_name_or_path."
        )
    # Earlier versions did not record how masks are read.
    masks_there, masks_here = there.get("masks", here["masks"]), here["masks"]
    differences = [
        f"{flag} {masks_there[field]} there, {masks_here[field]} here"
        for field, flag in FLAGS_OF_MASKS.items()
        if masks_there[field] != masks_here[field]
    ]
    if differences:
        raise UserError(
            f"{checkpoint} was trained on masks that were read differently ({'; '.join(differences)}; None: not "
            "given). Give the flags that it was started with, or choose another --output_dir to start anew."
        )
