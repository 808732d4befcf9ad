"""Folders of killed programs are told from those of running ones, and only they are deleted."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.demo.locked_folder import LockedFolder, delete_abandoned, delete_unlocked

PROGRAM = """
import sys, time
from unet_kvasir_seg.demo.locked_folder import LockedFolder
folder = LockedFolder("unet-app-")
(folder.path / "frame.png").write_bytes(b"x")
print(folder.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The system's folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def start_program(temporary: Path) -> tuple[subprocess.Popen, Path]:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    return program, Path(program.stdout.readline().strip())


def test_a_killed_programs_folder_is_deleted_and_a_running_ones_stays(temporary):
    killed, left = start_program(temporary)
    running, in_use = start_program(temporary)
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (left / "frame.png").exists()
        own = LockedFolder("unet-app-")
        delete_abandoned(temporary, "unet-app-")  # again, as the cleaner does, with one that this program holds
        assert set(temporary.glob("unet-app-*[!k]")) == {in_use, own.path}
        assert (in_use / "frame.png").exists()
        assert own.path.stat().st_mode & 0o777 == 0o700
    finally:
        running.kill()
        running.wait()
    delete_abandoned(temporary, "unet-app-")
    own.delete()
    assert list(temporary.iterdir()) == []


def test_a_released_folder_stays(temporary):
    folder = LockedFolder("unet-space-")
    folder.release()
    delete_abandoned(temporary, "unet-space-")
    assert list(temporary.iterdir()) == [folder.path]


def test_links_and_other_names_stay(temporary, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (temporary / "unet-app-link").symlink_to(outside)
    (temporary / "unet-app-link.lock").touch()
    (temporary / "unet-app-other.lock").symlink_to(outside / "file")
    (temporary / "other").mkdir()
    (temporary / "other.lock").touch()
    delete_abandoned(temporary, "unet-app-")
    assert {path.name for path in temporary.iterdir()} == {
        *("other", "other.lock", "unet-app-link", "unet-app-link.lock", "unet-app-other.lock")
    }
    assert (outside / "file").exists()


def test_folders_without_a_lock_are_deleted_once_they_are_silent(temporary):
    """As earlier versions made them."""
    for name, age in (("unet-app-silent", 601), ("unet-app-busy", 1), ("other", 601)):
        (temporary / name).mkdir()
        os.utime(temporary / name, (time.time() - age,) * 2)
    own = LockedFolder("unet-app-")
    os.utime(own.path, (0, 0))
    delete_unlocked(temporary, "unet-app-", seconds=600)
    own.delete()
    assert {path.name for path in temporary.iterdir()} == {"unet-app-busy", "other"}


def test_a_temporary_folder_that_cannot_be_used_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(UserError, match="TMPDIR"):
        LockedFolder("unet-app-")
