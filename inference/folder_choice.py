"""Which output folder `predict.py` takes where none is named: the first one, or its name with a number.

A run goes on in a folder of its model and settings; where there is none, it takes the next name that is free.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..common.errors import UserError, printable
from ..common.numbered_folders import next_free, numbered_folders, why_not
from .inputs import MASKS, OUTPUT_FOLDERS, VIDEOS, Inputs
from .output_folder import (
    RUN_FILE,
    DamagedRunError,
    find_difference,
    held_folder,
    holds_files,
    open_output,
    read_run,
    refuse_unused_flags,
)

FIRST_FOLDER = Path("outputs", "predictions")


def possible_folders(named: Path | None) -> list[Path]:
    """The folder that was named; or else the first one, and those of its name with a number that are there."""
    return [named] if named else list(dict.fromkeys([FIRST_FOLDER, *numbered_folders(FIRST_FOLDER)]))


@contextlib.contextmanager
def run_folder(named: Path | None, program: str) -> Iterator[Callable[[dict[str, Any], Inputs], Path]]:
    """Hold the output folder of a run: one that was named at once, another as soon as it is chosen.

    Args:
        named: The folder, if one was named.
        program: Name of the command.

    Yields:
        A function that chooses and opens the folder, by what `describe_settings` gives and the inputs.

    Raises:
        UserError: If another command holds the folder, it holds other outputs, or it cannot be written to.
    """
    with contextlib.ExitStack() as held:
        settings = held.enter_context(held_folder(named, program)) if named else {}

        def open_folder(described: dict[str, Any], found: Inputs) -> Path:
            nonlocal settings
            folder = named
            if folder is None:
                folder, reason = choose_folder(described, found)
                print(f"{printable(reason)}\n" if reason else "", end="", flush=True)
                settings = held.enter_context(held_folder(folder, program))
            settings |= open_output(folder, described, with_videos=bool(found.videos))
            return folder

        yield open_folder


def choose_folder(settings: dict[str, Any], found: Inputs) -> tuple[Path, str]:
    """The folder of a run for which none was named.

    Of several that it can add to: one that has outputs of its kinds, then one that has any; and of these the one that
    was used last.

    Args:
        settings: As `describe_settings` gives them.
        found: The inputs.

    Returns:
        The folder, and why it is not the first one; empty if it is.
    """
    first = FIRST_FOLDER
    with_videos = bool(found.videos)
    kinds = [folder for folder, is_used in ((MASKS, bool(found.images)), (VIDEOS, with_videos)) if is_used]

    def how_well(folder: Path) -> tuple[bool, bool]:
        return _holds_any(folder, kinds), _holds_any(folder, OUTPUT_FOLDERS)

    fitting = [folder for folder in last_used_first() if _difference(folder, settings, with_videos) is None]
    chosen = max(fitting, key=how_well, default=None) or next_free(first)  # of equals, the one that comes first
    if chosen == first:
        return first, ""
    if difference := _difference(first, settings, with_videos):
        return chosen, f"{why_not(first, difference)}. So {chosen} is taken."
    return chosen, f"{chosen} is taken, which has the outputs of this model and these settings that were made last."


def last_used_first() -> list[Path]:
    """The folders, with or without a number, that hold a run; the one that was written to last first."""
    times = []
    for number, folder in enumerate(numbered_folders(FIRST_FOLDER)):
        try:
            times.append(((folder / RUN_FILE).stat().st_mtime_ns, number, folder))  # each run writes it
        except OSError:
            continue
    return [folder for _, _, folder in sorted(times, reverse=True)]


def folder_to_report(named: Path | None, flags: dict[str, Any]) -> Path:
    """The folder whose report is made: the one that was named, or that of the last run that the flags agree with.

    Args:
        named: The folder, if one was named.
        flags: As for `refuse_unused_flags`.

    Raises:
        UserError: If there is no run, or none agrees with the flags.
    """
    refusal = None
    for folder in [named] if named else last_used_first() or [FIRST_FOLDER]:
        try:
            refuse_unused_flags(read_run(folder), flags)
        except UserError as error:
            refusal = refusal or error
        else:
            return folder
    assert refusal is not None
    raise refusal


def _difference(folder: Path, settings: dict[str, Any], with_videos: bool) -> str | None:
    """As `find_difference`; a folder that cannot be read differs too."""
    try:
        return find_difference(folder, settings, with_videos=with_videos)
    except OSError as error:
        return f"files that cannot be read ({error.strerror or error})"
    except DamagedRunError:
        return f"a {RUN_FILE} that is not of this command"


def _holds_any(folder: Path, kinds: Sequence[str]) -> bool:
    return any(holds_files(folder / kind) for kind in kinds)
