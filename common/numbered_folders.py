"""Output folders that share a name and differ in a number: outputs/predictions, outputs/predictions-2, ..."""

import os
import re
from collections.abc import Collection
from itertools import count
from pathlib import Path


def numbered_folders(first: Path) -> list[Path]:
    """The first folder and those of its name with a number that are there, in the order of the numbers."""
    pattern = re.compile(rf"{re.escape(first.name)}(?:-([2-9]|[1-9]\d+))?")
    try:
        matches = [pattern.fullmatch(name) for name in os.listdir(first.parent)]
    except OSError:  # whoever writes there says so
        return []
    folders = [_numbered(first, number) for number in sorted(int(match[1] or 1) for match in matches if match)]
    return [folder for folder in folders if folder.is_dir()]


def next_free(first: Path, taken: Collection[Path] = ()) -> Path:
    """The first of these folders, but for those taken, that is not there, or holds nothing but hidden files."""
    folders = (_numbered(first, number) for number in count(1))
    return next(folder for folder in folders if folder not in taken and _is_free(folder))


def why_not(first: Path, difference: str) -> str:
    """Why the first folder is not taken, in words.

    Args:
        first: The folder.
        difference: What it holds.
    """
    return f"{first} holds {difference}" if first.is_dir() else f"{first} is a file"


def _numbered(first: Path, number: int) -> Path:
    return first if number == 1 else first.with_name(f"{first.name}-{number}")


def _is_free(folder: Path) -> bool:
    try:
        return all(name.startswith(".") for name in os.listdir(folder))
    except OSError:
        return not os.path.lexists(folder)
