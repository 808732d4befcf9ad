"""Finds the images and videos that a command line names: files, folders and globs, mixed.

    sources, failures = find_inputs(["frame.png", "frames/", "more/**/*.jpg", "clip.mp4"], Path("out"))

Files of the output folder are never among them.
"""

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ..common.errors import UserError, printable
from ..common.files import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv")

# Folders in the output folder, one for each kind of output.
MASKS, OVERLAYS, PROBABILITIES, VIDEOS = OUTPUT_FOLDERS = ("masks", "overlays", "probabilities", "videos")


@dataclass(frozen=True)
class Source:
    """An image or a video to segment.

    Attributes:
        path: Path of the file.
        name: Path below the folder that was named, with "/"; for a single file its name.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        return _suffix(self.name) in VIDEO_SUFFIXES

    def output(self, folder: str, suffix: str) -> str:
        """Path of its output below the output folder: its name in `folder`, with another suffix."""
        return str(PurePosixPath(folder) / PurePosixPath(self.name).with_suffix(suffix))


@dataclass(frozen=True)
class Failure:
    """An input that could not be done, and the reason in one line."""

    path: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


def find_inputs(arguments: Sequence[str], output: Path) -> tuple[list[Source], list[Failure]]:
    """List the images and videos that the arguments name, and the files that cannot be used.

    Folders are searched with all folders in them, also through links. Hidden files and files with other suffixes than
    those of images and videos are passed over. Names with `*`, `?` or `[` that are no file are globs, where `**` is
    any number of folders; a match is named by its path below the last folder before the first such character.

    Args:
        arguments: Files, folders and globs.
        output: The output folder.

    Raises:
        UserError: If an argument names nothing to segment, outputs would be among the inputs, or two inputs would have
            an output of the same name.
    """
    _real.cache_clear()  # links and the working directory may have changed since the last call
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
    """Finds inputs, and refuses those among the outputs: a run must neither read nor overwrite what it wrote.

    Args:
        output: Real path of the output folder.
    """

    def __init__(self, output: str):
        self.output = output

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
        """The paths below a folder that match the parts of a pattern."""
        # Not glob.glob: it follows a link to a folder above again and again, until the path is too long.
        if not parts:
            yield folder
            return
        part, *rest = parts
        if part == "**":
            yield from self._expand(folder, rest, top)
            if not rest:
                return  # all files of the folder are inputs
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
        unlistable: list[Failure] = []

        def on_error(error: OSError) -> None:
            unlistable.append(Failure(str(error.filename), f"cannot be listed ({error.strerror})"))

        for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
            self._check_apart(parent)
            paths = [os.path.join(parent, name) for name in sorted(folders) if not name.startswith(".")]
            loops = [link for path in paths if os.path.islink(path) and (link := _loop(path, top))]
            yield from map(_loop_failure, loops)
            # os.walk goes on with these, in this order.
            folders[:] = [os.path.basename(path) for path in paths if path not in loops]
            for name in sorted(files):
                path = os.path.join(parent, name)
                # Broken links are reported when they are read; sockets and pipes are passed over.
                if not name.startswith(".") and _is_known(name) and (os.path.islink(path) or os.path.isfile(path)):
                    yield self._file(path, top)
        yield from unlistable

    def _file(self, path: str, top: str) -> Source | Failure:
        self._check_apart(os.path.dirname(path), holds_output=False)
        if not _is_known(path):
            return Failure(path, f"has another ending than {', '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}")
        return Source(path, Path(os.path.relpath(path, top or os.curdir)).as_posix())

    def _check_apart(self, folder: str, holds_output: bool = True) -> None:
        """Refuse a folder of inputs that holds the output folder, or lies in one of its folders."""
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
    """The first folder on the path from `top` to `folder` that is a link to a folder above it; None without one."""
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
    """Whether a folder is `inner` or holds it; both are real paths."""
    return inner == outer or inner.startswith(os.path.join(outer, ""))


def _is_known(path: str) -> bool:
    return _suffix(path) in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
