"""Finds the images and videos that a command line names: files, folders, globs, mixed.

    sources, failures = find_inputs(["frame.png", "frames/", "more/**/*.jpg", "clip.mp4"], Path("out"))

Nothing of the output folder is among them.
"""

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ..common.errors import UserError
from ..common.files import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv")

# Where in the output folder each kind of output goes.
MASKS, OVERLAYS, PROBABILITIES, VIDEOS = OUTPUT_FOLDERS = ("masks", "overlays", "probabilities", "videos")


@dataclass(frozen=True)
class Source:
    """An image or a video to segment.

    Attributes:
        path: Where it is.
        name: Its path below the folder that was named, with "/"; of a single file its name.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        return _suffix(self.name) in VIDEO_SUFFIXES

    def output(self, folder: str, suffix: str) -> str:
        """Its output below the output folder: the same name in `folder`, with another ending."""
        return str(PurePosixPath(folder) / PurePosixPath(self.name).with_suffix(suffix))


@dataclass(frozen=True)
class Failure:
    """An input that could not be done, and why, in one line."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def find_inputs(arguments: Sequence[str], output: Path) -> tuple[list[Source], list[Failure]]:
    """List what the arguments name, and what of it cannot be used.

    Folders are searched with all folders below them, through links too; hidden files and other endings than those of
    images and videos are passed over there. Names with `*`, `?` or `[` that are no file are globs, where `**` is any
    number of folders; their files are named from the last folder before the first such character.

    Raises:
        UserError: An argument that names nothing to segment; outputs that would be among the inputs; two inputs whose
            outputs would have the same name.
    """
    _real.cache_clear()  # links, and the folder that names are relative to, may have changed since
    finder = _Finder(os.path.realpath(output))
    sources: dict[str, Source] = {}
    failures: dict[str, Failure] = {}
    for argument in arguments:
        found_any = False
        for found in finder.find(argument):
            found_any = True
            if isinstance(found, Failure):
                failures[found.path] = found
            else:
                _add(found, sources)
        if not found_any:
            raise UserError(_describe_nothing(argument))
    return list(sources.values()), list(failures.values())


def _add(source: Source, sources: dict[str, Source]) -> None:
    target = source.output(VIDEOS, ".mp4") if source.is_video else source.output(MASKS, ".png")
    other = sources.setdefault(target, source)
    if other is not source and _real(other.path) != _real(source.path):
        raise UserError(
            f"{other.path} and {source.path} would both become {target}. Rename one, name the folder that holds both "
            "if they lie in different folders, or give each an --output_dir of its own."
        )


def _describe_nothing(argument: str) -> str:
    endings = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    if os.path.isdir(argument):
        return f"The folder {argument} holds no image and no video, by their endings: {endings}."
    if glob.has_magic(argument):
        return f"Nothing matches {argument}: expected at least one file that ends in {endings}."
    return f"There is no file or folder {argument}."


class _Finder:
    """Finds inputs apart from the outputs, so that a run neither feeds on nor overwrites what it wrote."""

    def __init__(self, output: str):
        self.output = output  # its real path

    def find(self, argument: str) -> Iterator[Source | Failure]:
        if os.path.isdir(argument):
            yield from self._folder(argument, argument)
        elif os.path.lexists(argument):
            yield self._file(argument, os.path.dirname(argument))
        elif glob.has_magic(argument):
            yield from self._glob(argument)

    def _glob(self, pattern: str) -> Iterator[Source | Failure]:
        parts = Path(pattern).parts
        fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        top = os.path.join("", *parts[:fixed])
        for found in self._expand(top, parts[fixed:], top):
            if isinstance(found, Failure):
                yield found
            elif os.path.isdir(found):
                yield from self._folder(found, top)
            elif _is_known(found):
                yield self._file(found, top)

    def _expand(self, folder: str, parts: Sequence[str], top: str) -> Iterator[str | Failure]:
        """The paths below a folder that match; unlike the standard library's, it does not follow links in circles."""
        if not parts:
            yield folder
            return
        part, *rest = parts
        if part == "**":
            yield from self._expand(folder, rest, top)
            if not rest:
                return  # the folder stands for all that is in it
        try:
            names = sorted(os.listdir(folder or os.curdir))
        except OSError:
            return
        for name in names:
            path = os.path.join(folder, name)
            is_hidden = name.startswith(".") and not part.startswith(".")
            if is_hidden or not (part == "**" or fnmatch.fnmatchcase(name, part)):
                continue
            below = parts if part == "**" else rest
            if not os.path.isdir(path):
                if not below:
                    yield path
            elif link := _loop(path, top):
                yield _loop_failure(link)
            else:
                yield from self._expand(path, below, top)

    def _folder(self, folder: str, top: str) -> Iterator[Source | Failure]:
        self._check_apart(folder)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield Failure(folder, f"cannot be listed ({error.strerror})")
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):
                if link := entry.is_symlink() and _loop(entry.path, top):
                    yield _loop_failure(link)
                else:
                    yield from self._folder(entry.path, top)
            # A link to nothing is named when it is read; sockets and pipes are passed over.
            elif _is_known(entry.name) and (entry.is_symlink() or entry.is_file()):
                yield self._file(entry.path, top)

    def _file(self, path: str, top: str) -> Source | Failure:
        self._check_apart(os.path.dirname(path), holds_output=False)
        if not _is_known(path):
            return Failure(path, f"has another ending than {', '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}")
        return Source(path, Path(os.path.relpath(path, top or os.curdir)).as_posix())

    def _check_apart(self, folder: str, holds_output: bool = True) -> None:
        """Refuse a folder of inputs that holds the outputs, or lies among them."""
        real = _real(folder)
        if holds_output and _holds(real, self.output):
            raise UserError(
                f"--output_dir {self.output} is the input folder {folder} or lies inside: the next run would take "
                "masks for images. Choose a folder outside."
            )
        for name in OUTPUT_FOLDERS:
            if _holds(os.path.join(self.output, name), real):
                raise UserError(
                    f"The input {folder} is among the outputs, in {os.path.join(self.output, name)}, and might be "
                    "overwritten. Choose another --output_dir."
                )


def _loop(folder: str, top: str) -> str | None:
    """The first folder on the way from `top` down to `folder` that is a link back to a folder above it."""
    path = top
    above = [_real(top)]
    for part in Path(os.path.relpath(folder, top or os.curdir)).parts:
        path = os.path.join(path, part)
        real = _real(path)
        if any(_holds(real, earlier) for earlier in above) and part != os.curdir:
            return path
        above.append(real)
    return None


def _loop_failure(link: str) -> Failure:
    return Failure(link, f"links back to a folder that holds it, {os.path.realpath(link)}; it was not followed")


@lru_cache(maxsize=4096)
def _real(path: str) -> str:
    return os.path.realpath(path)


def _holds(outer: str, inner: str) -> bool:
    """Whether a folder is another or holds it; real paths."""
    return inner == outer or inner.startswith(os.path.join(outer, ""))


def _is_known(path: str) -> bool:
    return _suffix(path) in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
