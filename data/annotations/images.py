"""Finds the images that annotations name, though these were often written on another machine."""

import unicodedata
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath

from ...common.errors import some
from ..layouts import files_below, holds_images, is_image
from .shapes import EntryError


class ImageFinder:
    """The images below a folder or, if there are none, below the folder above it, as of annotations/ beside images/.

    Args:
        folder: Of the annotations.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def root(self) -> Path:
        """Where images are looked for."""
        return self.folder if holds_images(self.folder) else self.folder.resolve().parent

    @cached_property
    def files(self) -> list[Path]:
        """All images below `root`."""
        return [file for file in files_below(self.root) if is_image(file)]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for file in self.files:
            found[_plain(file.name)].append(file)
        return found

    def find(self, name: str) -> Path:
        """The image of that path or name; folders in it count as far as they exist below `root`.

        Args:
            name: As the annotations have it, also of another machine, or of Windows.

        Raises:
            EntryError: If it is not there, or several could be meant.
        """
        parts = [part for part in PurePosixPath(_plain(name).replace("\\", "/")).parts if part not in ("/", "..")]
        if not parts:
            raise EntryError("names no image")
        exact = self.root.joinpath(*parts)
        if exact.is_file() and is_image(exact):
            return exact
        found = self._by_name.get(parts[-1], [])
        depths = [_common_end(file.relative_to(self.root), parts) for file in found]
        best = [file for file, depth in zip(found, depths, strict=True) if depth == max(depths)]
        if len(best) > 1:
            paths = some([file.relative_to(self.root).as_posix() for file in best])
            raise EntryError(f"is of the image {name}, which may be {paths}: write its path from {self.root} on")
        if not best:
            raise EntryError(
                f"is of the image {name}, which is not below {self.root}: put it there, or remove the entry"
            )
        return best[0]

    def has(self, name: str) -> bool:
        """Whether there is an image of that file name."""
        return _plain(name) in self._by_name


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _common_end(path: Path, parts: list[str]) -> int:
    """How many folders, from the file's name on, two paths have in common."""
    count = 0
    for one, other in zip(reversed(path.parts), reversed(parts), strict=False):
        if _plain(one) != other:
            break
        count += 1
    return count
