"""Files that the cells of a data set name: relative to its folder, in an archive, or on the Hub.

rows = Locator.of_folder("path/to/data-set").locate(rows, ["mask"])  # paths that are valid in any working directory
read_location("zip://masks/a.png::path/to/train.zip")                # the file's bytes
"""

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import fsspec
from datasets import Dataset, Features, Image, IterableDataset

from ..common.errors import UserError, describe_error, some
from ..common.files import IMAGE_SUFFIXES, MAX_FILE_BYTES, read_file

READ_FROM = ("hf", "zip", "tar")  # the Hub, and archives there or here
TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def read_location(path: str) -> bytes:
    """Read a file of at most `MAX_FILE_BYTES`, also one in an archive or on the Hub, as `datasets` writes their paths.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no regular file, too large, in a damaged archive, or at an address elsewhere.
    """
    if "://" not in path:
        return read_file(path)
    kinds = [part.split("://")[0] for part in path.split("::") if "://" in part]
    if other := [kind for kind in kinds if kind not in READ_FROM]:
        raise ValueError(
            f"is at an address of the kind {other[0]}://, from which nothing is loaded: download it first"
        )
    inside, mark, archive = path.partition("::")
    kind, name = inside.split("://", maxsplit=1)
    try:
        opened = _archive(kind, archive, os.getpid()).open(name) if mark else fsspec.open(path)
        with opened as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        raise
    except Exception as error:  # readers of archives raise errors of all kinds
        raise ValueError(describe_error(error)) from error
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"is too large: at most {MAX_FILE_BYTES / 1e6:.0f} MB are read")
    return content


def file_of(path: str) -> str:
    """The path of a file in its archive, or else the path itself."""
    return path.split("::")[0] if "://" in path else path


def names_below(cells: Iterable[Mapping[str, Any] | None], folder: str) -> list[str | None]:
    """The path of each image below the folder of its data set, or in its archive, without ending; None without one.

    Args:
        cells: The encoded images; None is an empty cell.
        folder: Of the data set, or its id; or its annotations file, whose images may lie in the folder above its own.
    """
    paths = [Path(make(os.path.expanduser(folder))) for make in (os.path.abspath, os.path.realpath)]
    below = [path.parent if path.is_file() else path for path in paths]
    roots = list(dict.fromkeys([*below, *(path.parent for path in below)]))
    return [_name_below(cell, roots) if cell and cell["path"] else None for cell in cells]


def _name_below(cell: Mapping[str, Any], roots: Iterable[Path]) -> str:
    path = Path(file_of(cell["path"]).split("://")[-1])
    if cell["bytes"] is None and "://" not in cell["path"]:  # a file on this machine
        path = Path(os.path.abspath(path))
        path = next((path.relative_to(root) for root in roots if path.is_relative_to(root)), path)
    name = re.sub(r"^.*/snapshots/[0-9a-f]{40}/", "", path.as_posix())  # of a copy of a data set on the Hub
    return name[: -len(path.suffix)] if path.suffix.lower() in IMAGE_SUFFIXES else name


@dataclass(frozen=True)
class Locator:
    """Finds the files that are named by paths relative to a data set's folder, or to that of its tables.

    Attributes:
        root: The data set's folder, here or on the Hub ("hf://datasets/me/polyps@main").
        tables: The folders of its tables, among them those of metadata.jsonl.
        exists: Tells whether there is such a file.
    """

    root: str
    tables: Sequence[str]
    exists: Callable[[str], bool]

    @classmethod
    def of_folder(cls, folder: str) -> "Locator":
        """Of a data set on this machine."""
        root = os.path.abspath(folder)
        names = (posixpath.join(above, name) for above, _, files in os.walk(root) for name in files)
        return cls(root, _folders_of_tables(names), os.path.isfile)

    @classmethod
    def of_hub(cls, url: str, names: Iterable[str]) -> "Locator":
        """Of a data set on the Hub with files of these names."""
        there = frozenset(f"{url}/{name}" for name in names)
        return cls(url, _folders_of_tables(there), partial(_is_among, there))

    def locate(self, rows: Dataset | IterableDataset, columns: Sequence[str]) -> Dataset | IterableDataset:
        """Rows of encoded images and masks whose paths, in these columns, are complete.

        Raises:
            UserError: If a path may be that of several files.
        """
        if isinstance(rows, IterableDataset):
            return rows.map(self._located)
        cells = [self._located(row) for row in rows]
        for column in columns:
            column_cells = [row[column] for row in cells]
            there = Dataset.from_dict({column: column_cells}, features=Features({column: Image(decode=False)}))
            rows = rows.remove_columns(column).add_column(
                column, there.data.column(column), feature=there.features[column]
            )
        return rows

    def _located(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row's image, and its mask, which lies near the image."""
        image = self._cell(row["image"], ())
        above = list(self._folders_above(image["path"])) if image and image["path"] else []
        return {"image": image, "mask": self._cell(row["mask"], above)}

    def _cell(self, cell: Any, near: Sequence[tuple[str, str]]) -> Any:
        if not cell or cell["bytes"] is not None or not cell["path"] or "://" in cell["path"]:
            return cell
        path = cell["path"].replace("\\", "/")
        if os.path.isabs(path):
            return cell
        found = next((place for before, after in near if self._is_there(place := before + path + after)), None)
        return {"bytes": None, "path": found or self._beside_tables(path)}

    def _is_there(self, place: str) -> bool:
        if "::" not in place:
            return self.exists(place)
        inside, archive = place.split("::", maxsplit=1)
        kind, name = inside.split("://")
        return posixpath.normpath(name) in _names_in_archive(kind, archive)

    def _beside_tables(self, path: str) -> str:
        places = [posixpath.join(folder, path) for folder in dict.fromkeys([self.root, *self.tables])]
        found = [place for place in places if self.exists(place)]
        if len(found) > 1:
            raise UserError(
                f"The path {path} of a table may be {some(found)}: write it from the data set's folder on."
            )
        return found[0] if found else places[0]

    def _folders_above(self, path: str) -> Iterator[tuple[str, str]]:
        """What stands before and after the names of files in the folders from a file's own up to the root."""
        inside, mark, archive = path.partition("::")
        start, root = (f"{inside.split('://')[0]}://", "") if mark else ("", self.root)
        folder = posixpath.dirname(inside.removeprefix(start))
        while f"{folder}/".startswith(f"{root}/") or mark:
            yield start + (f"{folder}/" if folder else ""), mark + archive
            if folder == root:
                return
            folder = posixpath.dirname(folder)


@lru_cache(maxsize=8)
def _archive(kind: str, archive: str, process: int) -> fsspec.AbstractFileSystem:
    """An opened archive. Each process has its own: forked ones would share the place that is read at."""
    return fsspec.url_to_fs(f"{kind}://::{archive}")[0]


@lru_cache(maxsize=8)
def _names_in_archive(kind: str, archive: str) -> frozenset[str]:
    return frozenset(_archive(kind, archive, os.getpid()).find(""))


def _folders_of_tables(names: Iterable[str]) -> list[str]:
    return sorted({posixpath.dirname(name) for name in names if name.lower().endswith(TABLE_SUFFIXES)})


def _is_among(names: frozenset[str], name: str) -> bool:
    return name in names
