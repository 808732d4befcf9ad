"""Writes what evaluation.py finds out about a model into the model's settings, preprocessor_config.json."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.files import write_atomic

PROCESSOR_FILE = "preprocessor_config.json"


def check_savable(model: str, flag: str) -> None:
    """Check that a model's settings can be written.

    Args:
        model: Its folder, as it was given.
        flag: What wants to write, as "--save_peak", for the message.

    Raises:
        UserError: If it is not a folder with a preprocessor_config.json, or cannot be written to.
    """
    if not (Path(model) / PROCESSOR_FILE).is_file():
        kind = "an ONNX file" if model.endswith(".onnx") else "no folder of this machine with such a file"
        raise UserError(
            f"{flag} writes into the {PROCESSOR_FILE} of the model's folder, and {model} is {kind}. "
            "Give --model such a folder; of a model on the Hub, download it, and push it again afterwards."
        )
    if not os.access(model, os.W_OK):
        raise UserError(f"{flag} cannot write into {model}: give --model a folder that can be written to.")


def save_settings(folder: Path, settings: Mapping[str, Any], what: str, copy_to: Path | None = None) -> None:
    """Add settings to a model's, atomically.

    Args:
        folder: The model's.
        settings: They take the place of those of the same names.
        what: Their name in messages.
        copy_to: A folder that gets a copy of all settings, from which they can be pushed beside the results.

    Raises:
        UserError: If the settings cannot be read or written.
    """
    file = folder / PROCESSOR_FILE
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        # As transformers writes it.
        content = (json.dumps(before | settings, indent=2, sort_keys=True) + "\n").encode()
        write_atomic(file, content)
        if copy_to is not None:
            write_atomic(copy_to / PROCESSOR_FILE, content)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{what} cannot be written into {file}: {error}.") from error
