"""The output folder of `evaluation.py`: one that was named, or outputs/evaluation, or the next name that is free.

    with ExitStack() as held:
        folder = open_folder(None, results, settings, processes, held, "evaluation.py")
        ...  # score, and write results.json

Scores of other settings are not overwritten. The settings of a run lie in a hidden file of its folder, from its start
on, so that those of an unfinished one are known too; a folder of an earlier version has none, and any may follow.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from ..common.errors import UserError, printable
from ..common.files import read_file, write_atomic
from ..common.numbered_folders import next_free, numbered_folders, why_not
from ..common.output_lock import output_lock
from ..common.processes import Processes, ending_alike
from .results import REMEDY, Results, model_identity, other_results, read_results, refuse_project_folder

FIRST_FOLDER = Path("outputs", "evaluation")
SETTINGS = ".settings.json"
MAX_BYTES = 2**20
KEPT_SCORES = ".scores"  # the folder of those of an unfinished run, as scoring/kept_scores.py writes it
OUTPUT_FOLDERS = ("figures", KEPT_SCORES)


def open_folder(
    named: Path | None,
    results: Results,
    settings: dict[str, Any],
    processes: Processes,
    held: contextlib.ExitStack,
    program: str,
) -> Path:
    """The output folder of a run, in all of its processes the same.

    Args:
        named: The folder, if one was named; the main process holds it already.
        results: Of the run, which need no scores yet.
        settings: That its scores depend on besides, by the names of their flags.
        processes: The run's.
        held: Holds the folder, and its recorded settings, until it is closed.
        program: Name of the command.

    Raises:
        UserError: If it holds other results, another command holds it, or it cannot be written to.
    """
    folder = named
    with ending_alike(processes):
        if processes.is_main:
            settings = {"model": model_identity(results), "data": results["data"]["fingerprint"], **settings}
            if named is None:
                folder, reason = choose_folder(results, settings)
                if reason:
                    print(printable(reason), flush=True)
                hold_folder(folder, held, program)
            # The kept scores of an unfinished run are no results: in a folder that was named, others may follow.
            elif difference := find_difference(named, results, settings, count_unfinished=False):
                raise UserError(f"{folder} holds {difference}. {REMEDY}")
            held.enter_context(recorded_settings(cast(Path, folder), settings))
    return cast(Path, processes.gather(folder)[0])


def hold_folder(folder: Path, held: contextlib.ExitStack, program: str) -> None:
    """Hold an output folder until the stack is closed.

    Raises:
        UserError: If it is the project itself, another command holds it, or it cannot be written to.
    """
    refuse_project_folder(folder)
    held.enter_context(output_lock(folder, program, OUTPUT_FOLDERS))


def choose_folder(results: Results, settings: dict[str, Any]) -> tuple[Path, str]:
    """The folder of a run for which none was named: the last one of the same settings, or one that is free.

    Args:
        results: Of the run, which need no scores yet.
        settings: That its scores depend on, with "model" and "data", which tell those from others.

    Returns:
        The folder, and why it is not the first one; empty if it is.
    """
    first = FIRST_FOLDER
    there = [folder for folder in numbered_folders(first) if folder != first and (folder / SETTINGS).is_file()]
    differences = {folder: _difference(folder, results, settings) for folder in (first, *there)}
    fitting = [folder for folder, difference in differences.items() if difference is None]
    chosen = max(fitting, key=_last_used, default=None) or next_free(first, taken=differences)
    if chosen == first:
        return first, ""
    if difference := differences[first]:
        return chosen, f"{why_not(first, difference)}: {chosen} is taken."
    return chosen, f"{chosen} is taken, which holds the last scores of this model and these settings."


def find_difference(
    folder: Path, results: Results, settings: dict[str, Any], count_unfinished: bool = True
) -> str | None:
    """What a folder holds, in words, if the results of a run cannot take its place; None if they can.

    Args:
        folder: It need not be there.
        results, settings: As for `choose_folder`.
        count_unfinished: Whether the kept scores of an unfinished run count.

    Raises:
        UserError: If it holds a results.json that this version cannot read.
    """
    if difference := other_results(folder, results):
        return difference
    before = _read_settings(folder)
    is_finished = (folder / "results.json").exists() and bool(
        read_results(folder / "results.json", allow_invalid=True)["metrics"]
    )
    is_unfinished = count_unfinished and (folder / KEPT_SCORES).is_dir()
    if before is None or not (is_finished or is_unfinished):
        return None
    what = "the results" if is_finished else "the scores of an unfinished evaluation"
    now = _as_read_back(settings)
    differing = [name for name in now if before.get(name) != now[name]]
    if "model" in differing or "image_processor" in differing:
        return f"{what} of another model"
    if "data" in differing:
        return f"{what} on other data"
    values = ", ".join(f"{name} {before.get(name)} and not {now[name]}" for name in differing)
    return f"{what} of other settings: {values}" if differing else None


@contextlib.contextmanager
def recorded_settings(folder: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Write the settings of a run into its folder; if the run ends with an error and has kept nothing, remove them.

    Args:
        folder: The output folder.
        settings: As for `choose_folder`.

    Raises:
        UserError: If they cannot be written.
    """
    file = folder / SETTINGS
    before = file.read_bytes() if file.is_file() else None
    try:
        write_atomic(file, (json.dumps(settings, indent=2, default=str) + "\n").encode())
    except OSError as error:
        raise UserError(
            f"{file} cannot be written: {error.strerror or error}. Choose another --output_dir."
        ) from error
    try:
        yield
    except BaseException:
        if not (folder / KEPT_SCORES).is_dir():
            with contextlib.suppress(OSError):
                file.unlink() if before is None else write_atomic(file, before)
        raise


def _difference(folder: Path, results: Results, settings: dict[str, Any]) -> str | None:
    """As `find_difference`; a folder that cannot be read, or is a file, differs too."""
    if folder.is_file():
        return "a file"
    try:
        return find_difference(folder, results, settings)
    except UserError:
        return "a results.json that this version cannot read"
    except OSError as error:
        return f"files that cannot be read ({error.strerror or error})"


def _read_settings(folder: Path) -> dict[str, Any] | None:
    """Those of the folder's run; None if they are not known."""
    try:
        found = json.loads(read_file(folder / SETTINGS, MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _as_read_back(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=str))


def _last_used(folder: Path) -> float:
    """When the settings of its run were written; 0 if there are none."""
    try:
        return (folder / SETTINGS).stat().st_mtime
    except OSError:
        return 0.0
