"""One command at a time writes into an output folder.

with output_lock(Path("out"), "predict.py", ["masks"]):
    ...  # a second command on this folder is refused at once
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import UserError
from .files import remove_unfinished, write_atomic

LOCK, HOLDER = ".lock", ".lock.json"  # hidden, so that nobody takes them for outputs


@contextlib.contextmanager
def output_lock(folder: Path, program: str, subfolders: Sequence[str] = ()) -> Iterator[None]:
    """Make an output folder and hold it for this process, until the block ends or the process does, however it ends.

    Unfinished files, which a killed process left, are removed first: their writer would hold the lock. If the block
    ends with an error or an interruption, what the lock itself has made is removed: the folder, and those above it,
    if they are empty.

    Args:
        folder: The output folder.
        program: Name of the command, for the message to others.
        subfolders: Those of its folders that unfinished files may lie in, at any depth.

    Raises:
        UserError: If another process holds the folder, or it cannot be written to.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    made = [path for path in (folder / LOCK, folder, *folder.parents) if not os.path.lexists(path)]
    to_remove = [folder / HOLDER]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder} is in use by {_holder(folder)}. Wait until it ends, or choose another --output_dir."
        ) from error
    except OSError as error:
        _remove(made, folder)
        raise _cannot_write(folder, error) from error
    try:
        try:
            remove_unfinished(folder, subfolders)
            write_atomic(folder / HOLDER, json.dumps(_describe_this_process(program)).encode())
        except OSError as error:
            raise _cannot_write(folder, error) from error
        yield
    except BaseException:
        to_remove += made
        raise
    finally:
        _remove(to_remove, folder)
        lock.release()


def _remove(paths: Sequence[Path], folder: Path) -> None:
    """Remove files of the output folder, the folder itself and those above it, as far as they are there and empty."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink() if path.parent == folder else path.rmdir()


def _describe_this_process(program: str) -> dict[str, str | int]:
    return {"program": program, "process": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}


def _holder(folder: Path) -> str:
    """Which process holds a folder, in words."""
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"{holder['program']} (process {int(holder['process'])}, started {holder['started']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another command"  # which has not yet written who it is


def _cannot_write(folder: Path, error: OSError) -> UserError:
    file = "" if error.filename in (None, str(folder)) else f" ({Path(error.filename).name})"
    reason = f"{error.strerror or error}{file}"
    for path in (folder, *folder.parents):
        if os.path.exists(path) and not os.path.isdir(path):  # unlike those of Path, with names of any length
            reason = f"{path} is a file"
    return UserError(f"--output_dir {folder} cannot be written to: {reason}. Choose another one.")
