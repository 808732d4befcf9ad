"""Finds the images and videos that a command line names: files, folders and globs, mixed.

    found = find_inputs(["frame.png", "frames/", "more/**/*.jpg", "clip.mp4"], Path("out"))
    found.sources, found.failures, found.ignored

Files of the output folder are never among them.
"""

import fnmatch
import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ..common.errors import UserError, printable, some
from ..common.files import IMAGE_FORMATS, IMAGE_SUFFIXES, recognise_file

# All endings of the formats that video.py reads.
VIDEO_SUFFIXES = (
    *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov"),
    *(".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".qt", ".ts", ".vob", ".webm", ".wmv"),
)
SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
# Of images and videos that are not read. Their first bytes may be those of a format that is: a raw photograph in TIFF
# has its thumbnail in front.
UNREAD_SUFFIXES = (
    *(".arw", ".cr2", ".cr3", ".dcm", ".dib", ".dicom", ".dng", ".emf", ".eps", ".exr", ".heic", ".heif"),
    *(".hif", ".ico", ".j2k", ".jp2", ".jpf", ".jpm", ".jpx", ".jxl", ".jxr", ".nef", ".orf", ".pbm", ".pcx", ".pgm"),
    *(".pnm", ".ppm", ".psd", ".raf", ".rw2", ".svg", ".tga", ".wdp", ".wmf", ".xcf"),
    *(".dv", ".flv", ".h264", ".h265", ".hevc", ".mjpeg", ".mjpg", ".mxf", ".ogm", ".ogv", ".rm", ".rmvb"),
    *(".wtv", ".y4m"),
)
# Of sound and subtitles, in the containers of videos.
SOUND_SUFFIXES = (".f4a", ".m4a", ".m4b", ".mka", ".mks", ".weba", ".wma")

# Folders in the output folder, one for each kind of output.
OUTPUT_FOLDERS = ("masks", "overlays", "probabilities", "uncertainties", "videos", "thumbnails", "annotations")
MASKS, OVERLAYS, PROBABILITIES, UNCERTAINTIES, VIDEOS, THUMBNAILS, ANNOTATIONS = OUTPUT_FOLDERS
SELECTED = "selected"  # copies of inputs, which may be inputs again
IMAGE_OUTPUT, VIDEO_OUTPUTS = ".png", (".mp4", ".csv", ".json")  # endings
NAME_BYTES = 255  # of a file, in most file systems
HASH_DIGITS = 16  # in names that are shortened


@dataclass(frozen=True)
class Source:
    """An image or a video to segment.

    Attributes:
        path: Path of the file.
        name: Path below the folder that was named, with "/"; for a single file its name.
        name_bytes: Highest number of bytes of a name in the file system of the outputs.
    """

    path: str
    name: str
    name_bytes: int = NAME_BYTES

    @property
    def is_video(self) -> bool:
        return _suffix(self.name) in VIDEO_SUFFIXES

    def output(self, folder: str, suffix: str) -> str:
        """Path of its output below the output folder: its name in `folder`, with another suffix.

        Names that the file system would not take are cut, and end in a hash of the complete name.
        """
        *folders, file = PurePosixPath(self.name).parts
        longest = max(map(len, VIDEO_OUTPUTS if self.is_video else [IMAGE_OUTPUT]))  # all outputs have the same stem
        stem = shortened(PurePosixPath(file).stem, file, self.name_bytes - longest)
        folders = [shortened(name, name, self.name_bytes) for name in folders]
        return str(PurePosixPath(folder, *folders, stem + suffix))


def shortened(name: str, complete: str, most_bytes: int) -> str:
    """A name of at most so many bytes, with a hash of the complete name if something is cut."""
    if len(os.fsencode(name)) <= most_bytes:
        return name
    digest = hashlib.sha256(os.fsencode(complete)).hexdigest()[:HASH_DIGITS]
    while name and len(os.fsencode(name)) > most_bytes - len(digest) - 1:
        name = name[:-1]
    return f"{name}-{digest}"


@dataclass(frozen=True)
class Failure:
    """An input that could not be done, and the reason in one line."""

    path: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


@dataclass(frozen=True)
class Ignored:
    """A file, or a hidden folder, that is neither an image nor a video."""

    path: str


@dataclass(frozen=True)
class Inputs:
    """What a command line names.

    Attributes:
        sources: The images and videos.
        failures: The images and videos that cannot be used, and what might be one.
        ignored: Paths of other files and of hidden files and folders, in the folders that are named.
    """

    sources: list[Source]
    failures: list[Failure]
    ignored: list[str]

    @property
    def images(self) -> list[Source]:
        return [source for source in self.sources if not source.is_video]

    @property
    def videos(self) -> list[Source]:
        return [source for source in self.sources if source.is_video]


def find_inputs(arguments: Sequence[str], *outputs: Path) -> Inputs:
    """List the images and videos that the arguments name, the files that cannot be used, and the other ones.

    Folders are searched with all folders in them, also through links. Files are taken by their endings, and those
    without one if their first bytes are those of an image. What is an image or a video otherwise, and links that lead
    nowhere, are failures. Names with `*`, `?` or `[` that are no file are globs, where `**` is any number of folders;
    a match is named by its path below the last folder before the first such character.

    Args:
        arguments: Files, folders and globs.
        *outputs: The output folder; or those of which one is chosen later, which are beside each other.

    Raises:
        UserError: If an argument names nothing to segment, outputs would be among the inputs, or two inputs would have
            an output of the same name.
    """
    _real.cache_clear()  # links and the working directory may have changed since the last call
    finder = _Finder([os.path.realpath(output) for output in outputs])
    sources: dict[str, Source] = {}
    failures: dict[str, Failure] = {}
    ignored: dict[str, None] = {}
    for argument in arguments:
        found = list(finder.find(argument))
        others = [item.path for item in found if isinstance(item, Ignored)]
        if len(others) == len(found):
            raise UserError(_describe_nothing(argument, others))
        ignored |= dict.fromkeys(others)
        for item in found:
            if isinstance(item, Failure):
                failures[item.path] = item
            elif isinstance(item, Source):
                _add(item, sources)
    return Inputs(list(sources.values()), list(failures.values()), list(ignored))


def _add(source: Source, sources: dict[str, Source]) -> None:
    target = source.output(VIDEOS, VIDEO_OUTPUTS[0]) if source.is_video else source.output(MASKS, IMAGE_OUTPUT)
    other = sources.setdefault(target, source)
    if other is not source and _real(other.path) != _real(source.path):
        raise UserError(
            f"{other.path} and {source.path} would both become {target}. Rename one, name the folder that holds both "
            "if they lie in different folders, or give each an --output_dir of its own."
        )


def _describe_nothing(argument: str, others: Sequence[str]) -> str:
    endings = ", ".join(SUFFIXES)
    besides = f" Ignored: {some(others)}." if others else ""
    if os.path.isdir(argument):
        return f"The folder {argument} holds no image and no video, by their endings: {endings}.{besides}"
    if glob.has_magic(argument):
        return f"Nothing matches {argument}: expected at least one file that ends in {endings}.{besides}"
    return f"There is no file or folder {argument}."


class _Finder:
    """Finds inputs, and refuses those among the outputs: a run must neither read nor overwrite what it wrote.

    Args:
        outputs: Real paths of the output folders.
    """

    def __init__(self, outputs: Sequence[str]):
        self.outputs = outputs
        self.name_bytes = min(map(_longest_name, outputs))

    def find(self, argument: str) -> Iterator[Source | Failure | Ignored]:
        if os.path.isdir(argument):
            yield from self._folder(argument, argument)
        elif os.path.lexists(argument):
            found = self._file(argument, os.path.dirname(argument))
            is_other = isinstance(found, Ignored)
            yield Failure(argument, "is neither an image nor a video that is known here") if is_other else found
        elif glob.has_magic(argument):
            yield from self._glob(argument)

    def _glob(self, pattern: str) -> Iterator[Source | Failure | Ignored]:
        parts = Path(pattern).parts
        fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        top = os.path.join("", *parts[:fixed])
        for found in self._expand(top, parts[fixed:], top):
            if isinstance(found, Failure):
                yield found
            elif os.path.isdir(found):
                yield from self._folder(found, top)
            else:
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
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            yield Failure(folder, f"cannot be listed ({error.strerror})")
            return
        for name in names:
            path = os.path.join(folder, name)
            is_hidden = name.startswith(".") and not part.startswith(".")
            if is_hidden or not (part == "**" or fnmatch.fnmatchcase(name, part)):
                continue
            below = parts if part == "**" else rest
            if not os.path.isdir(path):
                if not below or _is_broken_link(path):  # the link may be one to a folder
                    yield path
            elif link := _loop(path, top):
                yield _loop_failure(link)
            else:
                yield from self._expand(path, below, top)

    def _folder(self, folder: str, top: str) -> Iterator[Source | Failure | Ignored]:
        unlistable: list[Failure] = []

        def on_error(error: OSError) -> None:
            unlistable.append(Failure(str(error.filename), f"cannot be listed ({error.strerror})"))

        for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
            self._check_apart(parent)
            hidden = [name for name in (*folders, *files) if name.startswith(".")]
            yield from (Ignored(os.path.join(parent, name)) for name in sorted(hidden))
            paths = [os.path.join(parent, name) for name in sorted(folders) if name not in hidden]
            loops = [link for path in paths if os.path.islink(path) and (link := _loop(path, top))]
            yield from map(_loop_failure, loops)
            # os.walk goes on with these, in this order.
            folders[:] = [os.path.basename(path) for path in paths if path not in loops]
            for name in sorted(set(files).difference(hidden)):
                yield self._file(os.path.join(parent, name), top)
        yield from unlistable

    def _file(self, path: str, top: str) -> Source | Failure | Ignored:
        self._check_apart(os.path.dirname(path), holds_output=False)
        if _is_broken_link(path):
            return Failure(path, f"is a link to {os.readlink(path)}, which is not there: mend or remove the link")
        if _suffix(path) in SUFFIXES or (problem := _problem(path)) is None:
            return Source(path, Path(os.path.relpath(path, top or os.curdir)).as_posix(), self.name_bytes)
        return problem

    def _check_apart(self, folder: str, holds_output: bool = True) -> None:
        """Refuse a folder of inputs that holds an output folder, or lies in one of its folders."""
        real = _real(folder)
        for output in self.outputs:
            if holds_output and _holds(real, output):
                raise UserError(
                    f"--output_dir {output} is the input folder {folder} or lies inside: the next run would take "
                    "masks for images. Choose a folder outside."
                )
            for name in OUTPUT_FOLDERS:
                if _holds(os.path.join(output, name), real):
                    raise UserError(
                        f"The input {folder} is among the outputs, in {os.path.join(output, name)}, and might be "
                        "overwritten. Choose another --output_dir."
                    )


def _longest_name(folder: str) -> int:
    """Highest number of bytes of a name in a folder, which may not yet be there."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    try:
        found = os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows has no `pathconf`
        found = -1  # as of a file system that does not tell
    return found if found > 0 else NAME_BYTES


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


def _problem(path: str) -> Failure | Ignored | None:
    """Why a file without an ending of images or videos is not used; None if it is one without any ending."""
    suffix = _suffix(path)
    if suffix in SOUND_SUFFIXES:
        return Ignored(path)
    try:
        kind = recognise_file(path)
    except ValueError:  # a device, a pipe or a socket
        return Ignored(path)
    except OSError as error:
        return Failure(path, f"cannot be read ({error.strerror})")
    if kind and kind.suffix is None:
        return Failure(path, f"holds {kind}, which is not read here. {kind.remedy}")
    if suffix in UNREAD_SUFFIXES:
        remedy = kind.remedy if kind else "Save an image as JPEG or PNG, convert a video to MP4"
        return Failure(path, f"ends in {suffix}, which is not read here. {remedy}")
    if kind is None:
        return Ignored(path)
    if kind.name in IMAGE_FORMATS and not suffix:
        return None
    return Failure(path, f"holds {kind}, but does not end as one. {kind.renaming}")


def _is_broken_link(path: str) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
