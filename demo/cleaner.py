"""Deletes what visitors uploaded when it is old, whatever happened to it meanwhile, and what killed programs left.

gradio's own task deletes only files that it remembers, and ends for good at the first one that it cannot delete.
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILE_SECONDS = 600  # no upload or result is older
CLEANING_SECONDS = 30  # between two searches
MAX_BYTES = 2**32  # of all uploads and results; the oldest make room for new ones
MAX_FILES = 4000
FOLDER_PREFIX = "unet-app-"


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder for all uploads and results, readable by this user alone. It is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    try:
        yield folder
    finally:
        # A thread that is ending may still write: then the folder is not empty, and is deleted once more.
        for _ in range(50):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


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
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.delete_old()
                delete_abandoned(Path(tempfile.gettempdir()))
            except Exception as error:  # the next search may succeed; without a search, frames would stay
                print(f"app.py: deleting old uploads failed: {error}.", file=sys.stderr)
            self._stopped.wait(CLEANING_SECONDS)

    def delete_old(self) -> None:
        """Delete what reaches `FILE_SECONDS` before the next search, and empty folders."""
        os.utime(self.folder)  # says to other programs that this one runs
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


def delete_abandoned(parent: Path) -> None:
    """Delete this user's folders of programs that were killed: those whose cleaner is silent for `FILE_SECONDS`."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()  # a link is no folder, and what it names is not deleted
            is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if is_own and folder.is_dir() and time.time() - status.st_mtime > FILE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)  # refuses links
