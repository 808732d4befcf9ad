"""The checkpoints of a training. One is complete once its record is there, which is written last.

The record holds what the run is, and the hash of every other file: a file that is damaged later is found.
"""

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..common.files import digest_of
from ..reporting.results import write_results

# Its architecture and data, and the hashes. Resuming with another architecture or other data is refused.
RUN_FILE = "run.json"
# Without the optimizer's state, as --save_only_model leaves it out, a training cannot go on to the same weights.
NEEDED = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
WEIGHTS = ("model.safetensors",)
UNFINISHED = ".unfinished"  # in a checkpoint while it is written, so that what a killed process left is known


def checkpoint_of_step(folder: Path, step: int) -> Path:
    """Where `Trainer` saves the checkpoint of a step."""
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in the folder of a run, complete or not, the newest first."""
    found = {
        path: path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-") for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    }
    steps = {path: int(step) for path, step in found.items() if step.isdecimal()}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def begin_checkpoint(checkpoint: Path) -> None:
    """Make the folder of a checkpoint, or take one that is written anew, and mark it as unfinished."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / UNFINISHED).touch()
    (checkpoint / RUN_FILE).unlink(missing_ok=True)


def complete_checkpoint(checkpoint: Path, results: Mapping[str, Any]) -> None:
    """Complete a checkpoint, whose other files are there.

    Args:
        checkpoint: Its folder.
        results: What the run is.
    """
    files = [file for file in sorted(checkpoint.iterdir()) if file.is_file() and file.name != UNFINISHED]
    write_results(checkpoint / RUN_FILE, {**results, "files": {file.name: _hash_of(file) for file in files}})
    (checkpoint / UNFINISHED).unlink()


def is_unfinished(checkpoint: Path) -> bool:
    """Whether a process was killed while it wrote a checkpoint, which nobody needs."""
    return (checkpoint / UNFINISHED).exists() and not (checkpoint / RUN_FILE).exists()


def read_record(checkpoint: Path) -> dict[str, Any]:
    """What the run of a checkpoint is.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged.
    """
    return _read_json_object(checkpoint / RUN_FILE)


def is_complete(checkpoint: Path) -> bool:
    """Whether a training can go on from a checkpoint."""
    return fault_of(checkpoint) is None


def fault_of(checkpoint: Path, needed: Sequence[str] = NEEDED) -> str | None:
    """Why a training cannot go on from a checkpoint, as "is incomplete (optimizer.pt is missing)"; None if it can.

    Args:
        checkpoint: Its folder.
        needed: If others than `NEEDED`, these files alone are looked at.
    """
    try:
        if not checkpoint.is_dir():
            return "is no checkpoint"
        if not (checkpoint / RUN_FILE).is_file():
            return f"is incomplete ({RUN_FILE} is missing)"
        record = read_record(checkpoint)
        hashes = record.get("files", {})
        if not {"model", "data", "training"} <= record.keys() or not isinstance(hashes, dict):
            return f"is damaged ({RUN_FILE})"
        if needed != NEEDED:
            hashes = {name: expected for name, expected in hashes.items() if name in needed}
        for name in {*needed, *hashes}:
            if not (checkpoint / name).is_file():
                return f"is incomplete ({name} is missing)"
    except ValueError:
        return f"is damaged ({RUN_FILE})"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    # Earlier versions recorded no hashes.
    changed = (name for name in hashes if not _has_hash(checkpoint / name, hashes[name]))
    damaged = next(changed if hashes else _malformed(checkpoint.iterdir()), None)
    return None if damaged is None else f"is damaged ({damaged})"


def remove_older(newest: Path, best: str | None, limit: int | None) -> None:
    """Remove checkpoints beside a new one, so that at most `limit` are left; as `Trainer` does, which would do so
    before the new one is complete.

    Args:
        newest: Is kept, as is the best.
        best: Folder of the best one, if it is known.
        limit: How many may stay; None: all.
    """
    if limit is None:
        return
    others = [path for path in checkpoints_in(newest.parent) if path.name not in (newest.name, Path(best or "").name)]
    kept = 1 if best is None or Path(best).name == newest.name else 2
    for checkpoint in others[max(limit - kept, 0) :]:
        try:
            shutil.rmtree(checkpoint, ignore_errors=True)
        except KeyboardInterrupt:  # no half of it stays
            shutil.rmtree(checkpoint, ignore_errors=True)
            raise


def _hash_of(file: Path) -> str:
    with file.open("rb") as content:
        return digest_of(content)


def _has_hash(file: Path, expected: object) -> bool:
    try:
        return _hash_of(file) == expected
    except OSError:
        return False


def _malformed(files: Iterable[Path]) -> Iterator[str]:
    """Names of the files that are not of the format that their ending says."""
    for file in files:
        try:
            if file.suffix == ".json":
                _read_json_object(file)
            elif file.suffix == ".safetensors":
                with safetensors.safe_open(file, "pt"):
                    pass
            elif file.suffix in (".pt", ".pth") and not zipfile.is_zipfile(file):
                yield file.name
        except (OSError, ValueError, safetensors.SafetensorError):
            yield file.name


def _read_json_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no object")
    return content
