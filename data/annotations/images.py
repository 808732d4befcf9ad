"""Finds the images that annotations name, though these were often written on another machine."""

import contextlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from operator import attrgetter
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ...common.errors import some
from ...common.files import IMAGE_SUFFIXES
from ..layouts import IMAGE_FOLDERS, files_below, is_image, is_panoptic
from ..split_names import plain, split_in_name
from .shapes import EntryError

# Folders, as `plain` gives their names, of files with the names of frames that are none.
NO_FRAMES = (
    *("masks", "mask", "segmentations", "segmentation", "segmentationmasks", "polypmasks", "groundtruth"),
    *("segmentationclass", "segmentationclasspng", "segmentationclassvisualization"),  # Pascal VOC
    *("segmentationobject", "segmentationobjectpng", "segmentationobjectvisualization"),
    *("overlays", "probabilities", "uncertainties", "thumbnails"),  # predict.py
)


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
        return self.folder if any(_frames_below(self.folder)) else self.folder.resolve().parent

    @cached_property
    def files(self) -> list[Path]:
        """All images below `root`, without masks and what `predict.py` writes beside them."""
        return list(_frames_below(self.root))

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _grouped(self.files, attrgetter("name"))

    @cached_property
    def _by_folded(self) -> dict[str, list[Path]]:
        return _grouped(self.files, lambda file: file.name.casefold())

    @cached_property
    def _by_upload(self) -> dict[str, list[Path]]:
        return _grouped(self.files, lambda file: _uploaded(file.name))

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return _grouped(self.files, attrgetter("stem"))

    def find(self, name: str, beside: Path, split: str = "") -> Path:
        """The image of that path or name; folders in it count as far as they exist below `root`.

        Args:
            name: As the annotations have it, also of another machine, or of Windows.
            beside: Folder of the annotations file, where it is looked for first.
            split: That the file is of: of several images of the name, the one in a folder of that split is meant.

        Raises:
            EntryError: If it is not there, or several could be meant.
        """
        parts = _parts(name)
        for folder in (beside, self.root):
            exact = folder.joinpath(*parts)
            with contextlib.suppress(OSError):  # of names that are too long
                if exact.is_file() and is_image(exact):
                    return exact
        return self._nearest(name, parts, self._called(parts[-1]), split)

    def _called(self, name: str) -> list[Path]:
        """The images of a name; those that differ in case; or, without ending, as CVAT names frames of videos."""
        found = self._by_name.get(name) or self._by_folded.get(_plain(name.casefold()))
        return found or ([] if name.lower().endswith(IMAGE_SUFFIXES) else self._by_stem.get(name, []))

    def find_stem(self, name: str) -> Path:
        """The image of that path or name without ending.

        Args:
            name: As the annotations have it.

        Raises:
            EntryError: If it is not there, or several could be meant.
        """
        parts = _parts(name)
        return self._nearest(name, parts, self._by_stem.get(parts[-1], []))

    def _nearest(self, name: str, parts: Sequence[str], found: Sequence[Path], split: str = "") -> Path:
        """Of images with the right name, the one that has most folders in common with its path in the annotations."""
        paths = {file: file.relative_to(self.root).parts[:-1] for file in found}
        depths = {file: _common_end(folders, parts[:-1]) for file, folders in paths.items()}
        best = [file for file in found if depths[file] == max(depths.values())]
        if len(best) > 1 and split:
            best = [file for file in best if split in map(split_in_name, paths[file])] or best
        if len(best) > 1:
            listed = some([file.relative_to(self.root).as_posix() for file in best])
            raise EntryError(f"is of the image {name}, which may be {listed}: write its path from {self.root} on")
        if not best:
            raise EntryError(
                f"is of the image {name}, which is not below {self.root}: put it there, or remove the entry"
            )
        return best[0]

    def has(self, name: str) -> bool:
        """Whether there is an image of that file name."""
        return _plain(name) in self._by_name

    def uploaded(self, name: str) -> str | None:
        """The name, before it was uploaded to Label Studio, of the only image that got this one; None if none did.

        Args:
            name: As Label Studio has it, without the code before it.
        """
        names = {file.name for file in self._by_upload.get(_plain(name), [])}
        return names.pop() if len(names) == 1 else None


def _frames_below(folder: Path) -> Iterator[Path]:
    for file in files_below(folder):
        if is_image(file) and not is_panoptic(file.relative_to(folder)):
            kinds = [plain(part) for part in reversed(file.relative_to(folder).parts[:-1])]
            innermost = next((kind for kind in kinds if kind in IMAGE_FOLDERS or kind in NO_FRAMES), "")
            if innermost not in NO_FRAMES:
                yield file


def _uploaded(name: str) -> str:
    """A file's name as Django, and so Label Studio, stores an upload: without spaces and most signs."""
    return re.sub(r"[^-\w.]", "", _plain(name).strip().replace(" ", "_"))


def _grouped(files: Iterable[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    found = defaultdict(list)
    for file in files:
        found[_plain(key(file))].append(file)
    return found


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _parts(name: str) -> list[str]:
    """Folders and name of a path, or of an address, in annotations.

    Raises:
        EntryError: If there is none.
    """
    if "://" in name:
        with contextlib.suppress(ValueError):  # of addresses that are none
            name = unquote(urlsplit(name).path)
    parts = [part for part in PurePosixPath(_plain(name).replace("\\", "/")).parts if part not in ("/", "..")]
    if not parts:
        raise EntryError("names no image")
    return parts


def _common_end(folders: Sequence[str], others: Sequence[str]) -> int:
    """How many folders, from the innermost on, two paths have in common."""
    count = 0
    for one, other in zip(reversed(folders), reversed(others), strict=False):
        if _plain(one) != other:
            break
        count += 1
    return count
