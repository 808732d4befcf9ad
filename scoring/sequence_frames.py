"""Which video each frame of a split is of, and its number there: from names, or from columns.

sequences = sequences_by_name(rows, r"(?P<sequence>[^/]+)_(?P<frame>\\d+)$", "path/to/data")
sequences["case1"]  # [(frame number, place in the split), ...], in order of the numbers
check_sequences(sequences, rows, rate=25.0, alert_seconds=0.5)
"""

import contextlib
import logging
import re
import reprlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import isnan
from typing import Any, TypeAlias

from datasets import Dataset

from ..common.errors import UserError, counted, printable, some
from ..common.files import open_image
from ..data.division import groups_in
from ..data.locations import names_below
from ..data.samples import Cell, encoded_bytes
from ..inference.tracks import GAP_SECONDS
from .intervals import Groups

logger = logging.getLogger(__name__)

GROUPS = ("sequence", "frame")
EXAMPLE = r"(?P<sequence>[^/]+)_(?P<frame>\d+)$"
MAX_NUMBER = 10**12  # years of video
Sequences: TypeAlias = dict[str, list[tuple[int, int]]]


def find_sequences(rows: Dataset, pattern: str | None, folder: str, rate: float, alert_seconds: float) -> Sequences:
    """The videos of a split, checked.

    Args:
        rows: The split.
        pattern, folder: As for `sequences_by_name`; without a pattern, the columns tell the videos.
        rate, alert_seconds: As for `check_sequences`.

    Raises:
        UserError: If the frames cannot be told to be those of videos, or a video is of several groups.
    """
    found = sequences_by_column(rows) if pattern is None else sequences_by_name(rows, pattern, folder)
    check_sequences(found, rows, rate, alert_seconds)
    sequence_groups(found, groups_in(rows))
    return found


def sequences_by_name(rows: Dataset, pattern: str, folder: str) -> Sequences:
    """The videos of a split, by the names of its images.

    Args:
        rows: The split.
        pattern: A regular expression with the groups `sequence` and `frame`, found anywhere in the name.
        folder: Of the data set, or its id. Names are paths below it, with "/" and without ending.

    Raises:
        UserError: If the pattern is invalid or does not fit all names, images have no names, or numbers repeat.
    """
    compiled = compile_pattern(pattern)
    names = names_below(rows["image"], folder)
    if None in names:
        raise UserError(
            "The images of this data set have no names, which --sequence_pattern could fit: give --sequence_column "
            "and --frame_column."
        )
    found = [(name, compiled.search(name)) for name in names if name is not None]
    if misfits := [name for name, match in found if match is None]:
        raise UserError(
            f"--sequence_pattern {pattern} does not fit {len(misfits)} of {len(found)} images: {some(misfits)}."
        )
    places = [(name, match["sequence"], match["frame"]) for name, match in found if match is not None]
    if unnamed := [name for name, sequence, _ in places if not sequence]:
        raise UserError(f"--sequence_pattern {pattern} finds no sequence in {some(unnamed)}.")
    return _group((sequence, _number(number, name)) for name, sequence, number in places)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A regular expression with the two groups.

    Raises:
        UserError: If it is none.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"--sequence_pattern {pattern} is no regular expression: {error}.") from error
    if missing := [group for group in GROUPS if group not in compiled.groupindex]:
        raise UserError(
            f"--sequence_pattern {pattern} has no group {' and no group '.join(missing)}: expected both, as in "
            f"'{EXAMPLE}'."
        )
    return compiled


def sequences_by_column(rows: Dataset) -> Sequences:
    """The videos of a split, by its columns `sequence` and `frame`.

    Raises:
        UserError: If a cell names no sequence or holds no whole number, or numbers repeat.
    """
    names, numbers = rows["sequence"], rows["frame"]
    if empty := [f"row {index}" for index, name in enumerate(names) if _is_empty(name)]:
        raise UserError(f"The column of the sequences is empty in {some(empty)}: name the video of each frame.")
    if others := [f"row {index}" for index, name in enumerate(names) if not isinstance(name, str | int | float)]:
        raise UserError(
            f"The column of the sequences holds neither text nor numbers in {some(others)}: name a column that does."
        )
    places = enumerate(zip(names, numbers, strict=True))
    return _group((str(name), _number(number, f"row {index}")) for index, (name, number) in places)


def check_sequences(sequences: Sequences, rows: Dataset, rate: float, alert_seconds: float) -> None:
    """Refuse what cannot be videos, and warn of those in which no alert can be.

    Args:
        sequences: The videos.
        rows: The split.
        rate: Frames per second, which the numbers count.
        alert_seconds: How long a track must be seen to be an alert.

    Raises:
        UserError: If the frames of a video differ in size, or no video is long enough for an alert.
    """
    images = rows["image"]
    for name, frames in sequences.items():
        _refuse_mixed_sizes(name, frames, images)
    lengths = {name: _longest_part([number for number, _ in frames], rate) for name, frames in sequences.items()}
    short = [name for name, length in lengths.items() if length < alert_seconds]
    if len(short) == len(lengths):
        longest = max(lengths, key=lambda name: lengths[name])
        raise UserError(
            f"No sequence lasts {alert_seconds:g} s without a gap of more than {GAP_SECONDS:g} s between frames, so "
            f"that none can have an alert: the longest is {printable(longest)}, {lengths[longest]:g} s of "
            f"{counted(len(sequences[longest]), 'frame')} at {rate:g} frames per second. Correct what tells sequence "
            "and frame, --frame_rate or --alert_seconds."
        )
    if short:
        logger.warning(
            "%d of %d sequences last less than %g s without a gap of more than %g s, so that they can have no alert: "
            "%s.",
            *(len(short), len(lengths), alert_seconds, GAP_SECONDS, some(short)),
        )


def sequence_groups(sequences: Sequences, groups: Groups) -> Groups:
    """The group of each video, which is that of its frames.

    Args:
        sequences: The videos.
        groups: Of the samples of the split; None: none are known, nor are those of the videos.

    Raises:
        UserError: If the frames of a video are of several groups.
    """
    if groups is None:
        return None
    of_videos = {name: {groups[index] for _, index in frames} for name, frames in sequences.items()}
    if mixed := [name for name, found in of_videos.items() if len(found) > 1]:
        raise UserError(
            f"The frames of {counted(len(mixed), 'sequence')} are of more than one group: {some(mixed)}. A video is "
            "of one patient: correct what tells sequences or groups."
        )
    return [found.pop() for found in of_videos.values()]


def _group(places: Iterable[tuple[str, int]]) -> Sequences:
    sequences: defaultdict[str, dict[int, int]] = defaultdict(dict)
    repeated = []
    for index, (sequence, number) in enumerate(places):
        if number in sequences[sequence]:
            repeated.append(f"frame {number} of {sequence}")
        sequences[sequence][number] = index
    if repeated:
        raise UserError(
            f"{len(repeated)} frame numbers occur several times in a sequence: {some(repeated)}. Give each video a "
            "name, and each of its frames a number, of its own."
        )
    return {name: sorted(frames.items()) for name, frames in sorted(sequences.items())}


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and isnan(cell))


def _number(value: Any, where: str) -> int:
    """A frame number: an integer, a float without fraction, or either as text, as a table may hold it."""
    if isinstance(value, str) and (digits := re.fullmatch(r"\s*([+-]?\d{1,18})(\.0*)?\s*", value)):
        number = int(digits[1])
    elif (isinstance(value, float) and value.is_integer()) or type(value) is int:
        number = int(value)
    else:
        number = None
    if number is not None and abs(number) <= MAX_NUMBER:
        return number
    raise UserError(
        f"The frame number of {printable(where)} is {reprlib.repr(value)}: expected a whole number of at most "
        f"{MAX_NUMBER:,}."
    )


def _refuse_mixed_sizes(name: str, frames: Sequence[tuple[int, int]], images: Sequence[Cell]) -> None:
    sizes: dict[tuple[int, int], int] = {}
    for number, index in frames:
        with contextlib.suppress(OSError, ValueError), open_image(encoded_bytes(images[index])) as image:
            # One that cannot be read is named when it is scored.
            sizes.setdefault(image.size, number)
    if len(sizes) > 1:
        shown = [f"{width}x{height} (frame {number})" for (width, height), number in sizes.items()]
        raise UserError(
            f"The frames of the sequence {printable(name)} differ in size: {some(shown)}. These are several videos: "
            "correct what tells sequence and frame."
        )


def _longest_part(numbers: Sequence[int], rate: float) -> float:
    """Seconds from the first to the last frame of the longest part without a gap that no track bridges."""
    longest, start = 0.0, numbers[0]
    for before, number in pairwise(numbers):
        if (number - before) / rate > GAP_SECONDS:
            start = number
        longest = max(longest, (number - start) / rate)
    return longest
