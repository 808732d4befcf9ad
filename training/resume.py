"""Resuming a training: which checkpoint, and whether it is of the same run."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.command_line import NO
from ..common.errors import UserError
from ..common.launcher import is_main_process
from ..configuration_unet import UNetConfig
from ..data.division import division_differences
from ..field_of_view_unet import field_of_view_text
from .checkpoints import RUN_FILE, WEIGHTS, checkpoints_in, fault_of, is_unfinished, read_record
from .ema import TRAINING_WEIGHTS

FLAGS_OF_MASKS = {
    "foreground_values": "--foreground_values",
    "threshold": "--mask_threshold",
    "ignore_exif": "--ignore_exif",
    "labels": "--labels",
    "unlabelled": "--unlabelled",
}
# Fields of the results' section "training": they are those of the run's start, whatever flags it is resumed with.
STARTS = ("fine_tuned", "base_model", "encoder_weights")


def check_output_folder(folder: Path, resuming: bool) -> None:
    """Check that the folder of a run does not hold another one.

    Raises:
        UserError: If the folder holds a run that is not resumed. One that was killed before its first checkpoint was
            complete may start anew.
    """
    checkpoints = [checkpoint for checkpoint in checkpoints_in(folder) if not is_unfinished(checkpoint)]
    found = [*checkpoints, *folder.glob("*.safetensors"), *folder.glob("results.json")]
    if found and not resuming:
        raise UserError(
            f"{folder} holds another run ({', '.join(sorted(path.name for path in found)[:3])}). Choose another "
            "--output_dir, resume it with --resume_from_checkpoint, or remove the folder."
        )


def checkpoint_to_resume(wanted: str | None, folder: Path, with_ema: bool) -> str | None:
    """The checkpoint to resume from.

    Args:
        wanted: A checkpoint's folder; "auto" or "true": the last complete one in `folder`, or none if the run was
            killed while it wrote its first one; None or a word for no: do not resume.
        folder: Of the run.
        with_ema: Whether the run that is to go on has an EMA of the weights.

    Raises:
        UserError: If there is none, it is not complete, or it was trained with an EMA and this run has none, or the
            other way round.
    """
    if wanted is None or wanted.lower() in NO:
        return None
    if wanted.lower() in ("auto", "true"):
        found = _last_complete_checkpoint(folder)
        if found is None:
            return None
        checkpoint = found
    else:
        checkpoint = Path(wanted)
        if fault := fault_of(checkpoint):
            raise UserError(
                f"{checkpoint} {fault}. Resume from another one, start anew, or fine-tune from its weights with "
                "--model_name_or_path."
            )
    had_ema = (checkpoint / TRAINING_WEIGHTS).is_file()
    if had_ema != with_ema:
        raise UserError(
            f"{checkpoint} was trained {'with' if had_ema else 'without'} --ema_decay: "
            f"{'give' if had_ema else 'remove'} it to go on."
        )
    return str(checkpoint)


def _last_complete_checkpoint(folder: Path) -> Path | None:
    skipped: list[str] = []
    for checkpoint in checkpoints_in(folder):
        fault = fault_of(checkpoint)
        if fault is None:
            if skipped and is_main_process():
                print("\n".join([*skipped, f"Going on from {checkpoint}."]))
            return checkpoint
        skipped.append(f"{checkpoint} {fault}: skipped.")
    if skipped and all(map(is_unfinished, checkpoints_in(folder))):
        if is_main_process():
            print("\n".join([*skipped, "The run was killed before its first checkpoint was complete: starting anew."]))
        return None
    raise UserError(
        f"{folder} holds no complete checkpoint to go on from. Start without --resume_from_checkpoint"
        f"{', in another folder' if skipped else ''}.",
        skipped,
    )


def check_same_run(checkpoint: str, results: Mapping[str, Any]) -> float:
    """Check that a run has the architecture and the data that a checkpoint was trained with.

    Args:
        checkpoint: Its folder.
        results: What `describe_run` says of the run that is to go on.

    Returns:
        Seconds that the training had taken when the checkpoint was written.

    Raises:
        UserError: If architecture, image size, samples or the reading of masks differ, or the record is damaged. The
            path of the data may differ. For a stream, name, revision and configuration are compared.
    """
    try:
        before = read_record(Path(checkpoint))
        _check_same_network(checkpoint, before["model"], results["model"])
        _check_same_data(checkpoint, before["data"], results["data"])
        return float(before["training"]["seconds"])
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{checkpoint} is damaged ({RUN_FILE} does not say what network and data it is of). Resume from an "
            "earlier one, or fine-tune from it with --model_name_or_path."
        ) from error


def check_same_field_of_view(checkpoint: str, field_of_view: Any) -> None:
    """Check that a checkpoint was trained on the same part of the frames.

    Args:
        checkpoint: Its folder.
        field_of_view: The setting of the run that is to go on, as its image processor has it.

    Raises:
        UserError: If it is another one, or the checkpoint's settings cannot be read.
    """
    path = Path(checkpoint) / "preprocessor_config.json"
    try:
        # Earlier versions did not write it: they saw all of each frame.
        there = field_of_view_text(json.loads(path.read_text(encoding="utf-8")).get("field_of_view"))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{checkpoint} is damaged ({path.name} cannot be read). Resume from an earlier one."
        ) from error
    here = field_of_view_text(field_of_view)
    if there != here:
        raise UserError(
            f"{checkpoint} was trained with --field_of_view {there}, and this run has {here}. Give the flag that it "
            "was started with, or choose another --output_dir to start anew."
        )


def start_of_run(checkpoint: str) -> dict[str, Any]:
    """What the record of a checkpoint says of the weights that its run started from; nothing if it is an old one."""
    training = read_record(Path(checkpoint))["training"]
    return {name: training[name] for name in STARTS if name in training}


def fault_of_weights(checkpoint: Path, results: Mapping[str, Any]) -> str | None:
    """Why the weights of a checkpoint cannot become those of a run, as "is of another run"; None if they can.

    Args:
        checkpoint: Its folder.
        results: What `describe_run` says of the run.
    """
    if fault := fault_of(checkpoint, WEIGHTS):
        return fault
    try:
        check_same_run(str(checkpoint), results)
    except UserError:
        return "is of another run"
    return None


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
        found = "; ".join([f"{counts[0]} samples there, {counts[1]} here", *division_differences(there, here)])
        raise UserError(
            f"{checkpoint} was trained on other data ({found}). Give the "
            "--dataset_name, and the other flags of the data, that it was started with; or fine-tune on these data "
            "with --model_name_or_path."
        )
    # Earlier versions did not record how masks are read.
    masks_there, masks_here = there.get("masks", here["masks"]), here["masks"]
    differences = [
        f"{flag} {masks_there.get(field, masks_here[field])} there, {masks_here[field]} here"
        for field, flag in FLAGS_OF_MASKS.items()
        if field in masks_here and masks_there.get(field, masks_here[field]) != masks_here[field]
    ]
    if differences:
        raise UserError(
            f"{checkpoint} was trained on masks that were read differently ({'; '.join(differences)}; None: not "
            "given). Give the flags that it was started with, or choose another --output_dir to start anew."
        )
