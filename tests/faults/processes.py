"""Real commands in processes of their own, for tests of faults."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conftest import ROOT


def start(
    command: str, *arguments: object, cwd: Path, launcher: Sequence[str] = (), **options: Any
) -> subprocess.Popen:
    """Start a command, such as `train.py`, in a session of its own: a signal to its group reaches no other test.

    Args:
        command: File in the root of the repository.
        arguments: Its arguments.
        cwd: Working folder.
        launcher: What starts it in place of plain Python, such as `["-m", "torch.distributed.run"]`.
        options: For `Popen`. Standard output and error are pipes of text unless these say otherwise.
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / command), *map(str, arguments)],
        cwd=cwd,
        start_new_session=True,
        **options,
    )


def finish(process: subprocess.Popen, status: int | None = 0, seconds: float = 120) -> str:
    """Wait for a command's end, check its status (None: any) and that it gave no traceback; returns both outputs."""
    try:
        output = "".join(text or "" for text in process.communicate(timeout=seconds))
    finally:
        process.kill()
    assert status in (None, process.returncode), output
    assert "Traceback" not in output, output
    return output


def run(command: str, *arguments: object, cwd: Path, status: int | None = 0, **options: Any) -> str:
    """`start` and `finish`."""
    return finish(start(command, *arguments, cwd=cwd, **options), status)


def wait_until(condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 60) -> None:
    """Wait until a condition holds; a process that must not end before that may be given."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder at any depth, without hidden ones."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (folder / path).read_bytes() for path in files if not is_hidden(path)}


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def unfinished(folder: Path) -> list[Path]:
    """Files that `atomic_file` has not completed."""
    return list(folder.rglob("*.part"))
