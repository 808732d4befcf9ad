"""Deletes what visitors uploaded when it is old, whatever happened to it meanwhile, and what killed programs left.

gradio's own task deletes only files that it remembers, and ends for good at the first one that it cannot delete.
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .locked_folder import LockedFolder, delete_abandoned, delete_unlocked

FILE_SECONDS = 600  # no upload or result is older
CLEANING_SECONDS = 30  # between two searches
MAX_BYTES = 2**32  # of all uploads and results; the oldest make room for new ones
MAX_FILES = 4000
STOP_SECONDS = 1  # for the search that is under way
FOLDER_PREFIX = "unet-app-"

logger = logging.getLogger(__name__)  # unlike print, it bears a closed standard error


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder for all uploads, results and temporary files of this program, readable by this user alone.

    It is deleted at the end.

    Raises:
        UserError: If the system's folder for temporary files cannot be written to.
    """
    folder = LockedFolder(FOLDER_PREFIX)
    outer = tempfile.tempdir
    tempfile.tempdir = str(folder.path)  # also for the socket of the decoder's server, and what gradio writes
    try:
        yield folder.path
    finally:
        tempfile.tempdir = outer
        folder.delete()


class Cleaner:
    """Keeps the folder of uploads clean in a thread, from `start` to `stop`.

    Args:
        folder: The folder of all uploads and results.
        keep: Files in it that stay, such as examples.
    """

    def __init__(self, folder: Path, keep: Collection[Path]):
        self.folder = folder
        self.keep = frozenset(keep)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="cleaner")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.delete_old()
                delete_abandoned(self.folder.parent, FOLDER_PREFIX)
                delete_unlocked(self.folder.parent, FOLDER_PREFIX, FILE_SECONDS)
            except Exception as error:  # the next search may succeed; without a search, frames would stay
                logger.error("app.py: deleting old uploads failed: %s.", error)
            self._stopped.wait(CLEANING_SECONDS)

    def delete_old(self) -> None:
        """Delete what reaches `FILE_SECONDS` before the next search, and empty folders."""
        os.utime(self.folder)  # or it would be taken for a killed program's if its lock were deleted
        now = time.time()
        for root, folders, files in os.walk(self.folder, topdown=False):
            for name in files:
                path = Path(root, name)
                if path not in self.keep and _age(path, now) > FILE_SECONDS - 2 * CLEANING_SECONDS:
                    with suppress(OSError):
                        path.unlink()
            for name in folders:
                # An upload's folder is empty for a moment.
                if _age(Path(root, name), now) > CLEANING_SECONDS / 2:
                    with suppress(OSError):  # it is not empty
                        Path(root, name).rmdir()

    def make_room(self, size: int) -> None:
        """Delete the oldest files until a new one of `size` bytes fits into the bounds."""
        files = []
        for root, _, names in os.walk(self.folder):
            for path in (Path(root, name) for name in names):
                with suppress(OSError):
                    status = path.lstat()
                    files.append((status.st_mtime, status.st_size, path))
        used = sum(file_size for _, file_size, _ in files)
        count = len(files)
        for _, file_size, path in sorted(files):
            if used + size <= MAX_BYTES and count < MAX_FILES:
                return
            if path not in self.keep:
                with suppress(OSError):
                    path.unlink()
                    used -= file_size
                    count -= 1


def _age(path: Path, now: float) -> float:
    """Seconds since the last change; 0 if the file is gone."""
    try:
        return now - path.lstat().st_mtime
    except OSError:
        return 0.0
