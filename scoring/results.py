"""`results.json`: what a run measured, in the form that the model card and comparisons read."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers

from ..errors import UserError
from ..files import write_whole
from ..runtime import Runtime

RESULTS_SCHEMA = 1
PACKAGE = Path(__file__).resolve().parent.parent


def read_results(path: Path, *, allow_invalid: bool = False) -> dict[str, Any]:
    """Read a `results.json`.

    Args:
        path: The file.
        allow_invalid: Read it also if its run was marked invalid.

    Raises:
        UserError: If it is missing, is no JSON, has another schema than this version of the project writes, or
            its run was marked invalid.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Expected the results.json of a run.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Expected the results.json of a run.") from error
    schema = results.get("schema_version") if isinstance(results, dict) else None
    if schema != RESULTS_SCHEMA:
        raise UserError(
            f"{path} has the schema version {schema}; this version of the project reads {RESULTS_SCHEMA}. "
            "Measure again with evaluation.py, or use the version that wrote it."
        )
    if "invalid" in results and not allow_invalid:
        raise UserError(f"{path} is of a run that is invalid: {results['invalid']}")
    return results


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write a `results.json`, whole or not at all."""
    # NaN is no JSON, and no score: a ValueError here is better than a file that others cannot read.
    write_whole(path, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())


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
