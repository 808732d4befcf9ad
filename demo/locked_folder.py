"""Temporary folders that a later program can tell from those of a running one, and deletes if theirs was killed."""

import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from ..common.errors import UserError

LOCK_SUFFIX = ".lock"  # of the file beside a folder, which its program locks as long as it runs
LOCK_SECONDS = 5  # another program may try the lock of a folder that is just made
DELETE_SECONDS = 1  # for which a thread that is ending may still write


class LockedFolder:
    """A new folder for temporary files, readable by this user alone. Those of killed programs are deleted first.

    Args:
        prefix: Beginning of its name, which tells what it is for.

    Attributes:
        path: The folder.

    Raises:
        UserError: If the system's folder for temporary files cannot be written to.
    """

    def __init__(self, prefix: str):
        try:
            parent = Path(tempfile.gettempdir())
            delete_abandoned(parent, prefix)
            self.path = parent / f"{prefix}{secrets.token_hex(4)}"
            # Before the folder is there: one without a lock would be taken for a killed program's.
            self._lock = FileLock(_lock_of(self.path), timeout=LOCK_SECONDS)
            self._lock.acquire()
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise cannot_write_temporary(error) from error

    def release(self) -> None:
        """Leave the folder, if it is there, to the user: no program deletes it."""
        with suppress(OSError):
            _lock_of(self.path).unlink()
        self._lock.release()

    def delete(self) -> None:
        """Delete the folder. What cannot be deleted is left to a later program."""
        end = time.monotonic() + DELETE_SECONDS
        while _remains(self.path) and time.monotonic() < end:
            time.sleep(0.05)
        if not self.path.exists():
            self.release()


def delete_abandoned(parent: Path, prefix: str) -> None:
    """Delete this user's folders of programs that were killed: those whose locks nobody holds."""
    for lock in parent.glob(f"{prefix}*{LOCK_SUFFIX}"):
        with suppress(OSError):  # also if it is held
            if _is_own(lock, stat.S_ISREG):
                with FileLock(lock, timeout=0):
                    if not _remains(lock.with_suffix("")):
                        lock.unlink()


def delete_unlocked(parent: Path, prefix: str, seconds: float) -> None:
    """Delete this user's folders that lack a lock, as those of earlier versions, and did not change for so long."""
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            is_unlocked = _is_own(folder, stat.S_ISDIR) and not _lock_of(folder).exists()
            if is_unlocked and time.time() - folder.stat().st_mtime > seconds:
                shutil.rmtree(folder, ignore_errors=True)


def cannot_write_temporary(error: OSError) -> UserError:
    return UserError(
        f"The folder for temporary files cannot be written to: {error.strerror or error}. Free some space there, or "
        "name another folder in the environment variable TMPDIR."
    )


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK_SUFFIX)


def _remains(folder: Path) -> bool:
    """Try to delete a folder; returns whether some of it is left."""
    shutil.rmtree(folder, ignore_errors=True)  # refuses links
    return folder.exists()


def _is_own(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Whether a path is of this user, and of a kind of `stat`, which a link is not."""
    status = path.lstat()
    return is_kind(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())
