"""Files of data sets that the `datasets` library reads: which split they are of, and in which order.

files_by_split(["Train/metadata.csv", "Val/metadata.csv"])  # {"train": ["Train/**"], "validation": ["Val/**"]}
"""

import glob
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from datasets import Dataset, Image
from datasets.data_files import SPLIT_KEYWORDS, get_data_patterns

from ..common.errors import some
from .samples import DatasetError
from .split_names import SPLIT_NAMES, known_split

logger = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
TABLES = (".parquet", ".arrow", ".csv", ".jsonl")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
KNOWN_WORDS = {word for words in SPLIT_KEYWORDS.values() for word in words}
OF_A_SHARD = re.compile(r"-\d{5}-of-\d{5}")  # whose names say the split, whatever it is called


def files_by_split(names: Iterable[str]) -> dict[str, list[str]] | None:
    """The files of each split, where the `datasets` library would take those of several splits for one.

    It knows fewer names than `split_names.py`, and those in lower case only.

    Args:
        names: Of the data set's files, from its folder on.

    Returns:
        Patterns of files, as `load_dataset` takes them; None if the library finds the splits itself, or none is named.
    """
    names = sorted(name for name in names if name.lower().endswith((*TABLES, *ARCHIVES)))
    if any(map(OF_A_SHARD.search, names)):
        return None
    found: dict[str, list[str]] = {}
    words, others = set(), []
    for name in names:
        for part, pattern in _parts(name):
            word = _split_word(part)
            if word is not None:
                words.add(word)
                patterns = found.setdefault(known_split(word), [])
                patterns += [] if pattern in patterns else [pattern]
                break
        else:
            others.append(name)
    if words <= KNOWN_WORDS:
        return None
    if others:
        logger.warning("Ignored files whose names say no split, as others do: %s", some(others))
    return found


def _parts(name: str) -> list[tuple[str, str]]:
    """The folders of a file and its name without ending, each with the pattern of the files that are in it."""
    path = PurePosixPath(name)
    folders = [(folder.name, f"{glob.escape(str(folder))}/**") for folder in reversed(path.parents[:-1])]
    return [*folders, (path.name.split(".")[0], glob.escape(name))]


def _split_word(name: str) -> str | None:
    """The word in a file's or folder's name that says its split."""
    words = [name, *re.split(r"[-._ 0-9]+", name)]
    return next((word for word in words if len(word) > 2 and known_split(word) in SPLIT_NAMES), None)


def is_pattern(folder: Path) -> bool:
    """Whether the `datasets` library would take the path of a folder for a pattern, as it does "polyps [old]"."""
    return glob.has_magic(str(folder.resolve()))


def files_of_pattern(folder: Path, data_files: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """The files of each split of a folder for which `is_pattern` holds, as `load_dataset` takes them.

    Args:
        folder: Of the data set.
        data_files: As `files_by_split` gives them.
    """
    base = glob.escape(folder.resolve().as_posix())
    found = data_files or get_data_patterns(base)
    return {str(split): [f"{base}/{pattern}" for pattern in patterns] for split, patterns in found.items()}


def refuse_special_files(folder: Path) -> None:
    """Refuse pipes, sockets and devices below a folder: the `datasets` library would wait for them.

    Raises:
        DatasetError: The message names one.
    """
    for path in folder.rglob("*"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DatasetError(f"{path} is no file, but a pipe, a socket or a device: remove it from the data set.")


def in_fixed_order(rows: Dataset) -> Dataset:
    """The rows of an image folder in an order that is the same in every process.

    The `datasets` library reads several metadata files of a split in an order that changes with the process. Here they
    are in order of their contents, which is the same on every machine. Rows of one metadata file stay as they are.
    """
    if rows.builder_name != "imagefolder" or "image" not in rows.column_names:
        return rows
    cells = rows.select_columns(["image"]).cast_column("image", Image(decode=False))["image"]
    folders = [os.path.dirname(cell["path"] or "") if cell else "" for cell in cells]
    metadata = {folder: _metadata_of(folder) for folder in set(folders)}
    if len(set(metadata.values())) < 2:
        return rows
    return rows.select(sorted(range(len(rows)), key=lambda row: metadata[folders[row]]))


def _metadata_of(folder: str) -> tuple[str, str]:
    """Hash and path of the metadata file in a folder or, next, above it; of none, both are empty."""
    for place in (Path(folder), *Path(folder).parents) if folder else ():
        for file in (place / name for name in METADATA):
            if file.is_file():
                return hashlib.sha256(file.read_bytes()).hexdigest(), str(file)
    return "", ""
