"""`results.json`: what a run measured, in the form that the model card and comparisons read."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from ..common.device import Runtime
from ..common.errors import UserError
from ..common.files import write_atomic
from ..common.paths import PACKAGE

RESULTS_SCHEMA = 1


def read_results(path: Path, *, allow_invalid: bool = False) -> dict[str, Any]:
    """Read a `results.json`.

    Args:
        path: The file.
        allow_invalid: Read it also if its run was marked invalid.

    Raises:
        UserError: If it is missing, is no JSON, has another schema than this version of the project writes, or
            its run was marked invalid.
    """
    results = read_versioned(Path(path), RESULTS_SCHEMA, "the results.json of a run", "evaluation.py")
    if "invalid" in results and not allow_invalid:
        raise UserError(f"{path} is of a run that is invalid: {results['invalid']}")
    return results


def read_versioned(path: Path, schema: int, expected: str, program: str) -> dict[str, Any]:
    """Read a JSON file with a schema version.

    Args:
        path: The file.
        schema: The version that is read.
        expected: What the file is to be.
        program: What writes it.

    Raises:
        UserError: If it is missing, is no JSON, or has another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Expected {expected}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Expected {expected}.") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != schema:
        raise UserError(
            f"{path} has the schema version {found}; this version of the project reads {schema}. "
            f"Measure again with {program}, or use the version that wrote it."
        )
    return content


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write a `results.json`, whole or not at all."""
    # NaN is no JSON, and no score: a ValueError here is better than a file that others cannot read.
    write_atomic(path, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())


def known_results(model: str, revision: str | None) -> dict[str, Any]:
    """The `results.json` beside a model, or beside the folder of an ONNX file; empty if there is none."""
    if model.endswith(".onnx"):
        file = Path(model).resolve().parent.parent / "results.json"
    elif Path(model).is_dir():
        file = Path(model) / "results.json"
    else:
        try:
            file = Path(hf_hub_download(model, "results.json", revision=revision))
        except (OSError, EntryNotFoundError, HFValidationError):
            return {}
    return read_results(file, allow_invalid=True) if file.is_file() else {}


def exports_of(weights: str, *known: dict[str, Any]) -> dict[str, Any]:
    """The entries "exports" of some results, by precision, that are of these weights; the last one's where both have.

    Args:
        weights: A fingerprint.
        known: From `known_results`.
    """
    return {
        precision: report
        for results in known
        for precision, report in results.get("exports", {}).items()
        if report["fingerprint"] == weights
    }


def check_results_folder(folder: Path, results: dict[str, Any]) -> None:
    """Refuse to write over what is not this run's.

    Raises:
        UserError: If the folder is the project's own, cannot be made, or holds the results of another model or of
            other data.
    """
    remedy = "Choose another --output_dir, or remove what is there."
    if folder.resolve() == PACKAGE:
        raise UserError(f"--output_dir {folder} is the project itself, whose README.md would be lost. {remedy}")
    if (folder / "results.json").exists():
        earlier = read_results(folder / "results.json", allow_invalid=True)
        if any(earlier["model"].get(key) != results["model"][key] for key in ("name", "fingerprint")):
            raise UserError(
                f"{folder} holds the results of another model, {earlier['model']['name']}; this one is "
                f"{results['model']['name']}. {remedy}"
            )
        # Of a training, the scores of its own validation stay in the section "training".
        if earlier["metrics"] and earlier["data"]["fingerprint"] != results["data"]["fingerprint"]:
            raise UserError(
                f"{folder} holds the results on other data: {earlier['data']['name']}, split "
                f"{earlier['data']['split']}. {remedy}"
            )
    elif (folder / "README.md").exists():
        raise UserError(f"{folder} holds a README.md that no run of this project wrote. {remedy}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {folder} cannot be made: {error}.") from error


def describe_environment(runtime: Runtime, processes: int) -> dict[str, Any]:
    """Versions and device of a run, without names of users and hosts."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "runtime": str(runtime),
        "processes": processes,
        "code": code_version(),
    }


def code_version() -> str:
    """The project's version and, in a clone with git, its commit: "0.1.0 (commit 1a2b3c4, changed)"."""
    version = importlib.metadata.version("unet-kvasir-seg")
    if not (PACKAGE / ".git").exists():
        return version
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--exclude=*", "--dirty=, changed"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git here, or a clone that belongs to someone else
        return version
    return f"{version} (commit {commit})"
