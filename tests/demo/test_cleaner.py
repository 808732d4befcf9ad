"""What is deleted from the folder of uploads, when, and whatever happens to a file meanwhile."""

import os
import time
from pathlib import Path

from unet_kvasir_seg.demo import cleaner
from unet_kvasir_seg.demo.cleaner import CLEANING_SECONDS, FILE_SECONDS, Cleaner, upload_folder


def write(path: Path, age: float, size: int = 1) -> Path:
    """A file that was written `age` seconds ago, in a folder of the same age."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    for changed in (path, path.parent):
        os.utime(changed, (time.time() - age,) * 2)
    return path


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_old_files_and_their_folders_are_deleted_whatever_they_are(tmp_path):
    write(tmp_path / "a" / "frame.png", FILE_SECONDS)
    write(tmp_path / "tmp12345", FILE_SECONDS)  # a broken-off upload
    write(tmp_path / "deep_links" / "b" / "state.json", FILE_SECONDS)
    write(tmp_path / "young" / "frame.png", FILE_SECONDS / 2)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.utime(tmp_path / "link", (0, 0), follow_symlinks=False)
    examples = [write(tmp_path / "examples" / "synthetic.jpg", FILE_SECONDS * 9)]
    (tmp_path / "new").mkdir()  # for an upload that is about to come
    clean = Cleaner(tmp_path, examples)
    for _ in range(3):  # a folder is deleted when it was empty for a while
        clean.delete_old()
        for folder in filter(Path.is_dir, tmp_path.rglob("*")):
            if folder.name != "new":
                os.utime(folder, (time.time() - CLEANING_SECONDS,) * 2)
    assert names(tmp_path) == {"examples", "examples/synthetic.jpg", "new", "young", "young/frame.png"}


def test_a_file_that_cannot_be_deleted_leaves_the_others_to_be_deleted(tmp_path, monkeypatch):
    for name in "abc":
        write(tmp_path / name / "frame.png", FILE_SECONDS)

    def unlink(self: Path, unlink=Path.unlink) -> None:  # root may delete any file
        if self.parent.name == "b":
            raise PermissionError
        unlink(self)

    monkeypatch.setattr(Path, "unlink", unlink)
    Cleaner(tmp_path, []).delete_old()
    assert {path.parent.name for path in tmp_path.glob("*/frame.png")} == {"b"}


def test_the_thread_goes_on_after_any_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cleaner, "CLEANING_SECONDS", 0.05)
    folder = tmp_path / "uploads"
    clean = Cleaner(folder, [])  # which is not there yet
    clean.start()
    time.sleep(0.2)
    write(folder / "a" / "frame.png", FILE_SECONDS)
    end = time.monotonic() + 10
    while names(folder) and time.monotonic() < end:
        time.sleep(0.05)
    clean.stop()
    assert names(folder) == set()
    assert "deleting old uploads failed" in caplog.text


def test_the_oldest_files_make_room(tmp_path, monkeypatch):
    examples = [write(tmp_path / "synthetic.jpg", 999, size=100)]
    for age in (30, 20, 10):
        write(tmp_path / f"{age}" / "frame.png", age, size=100)
    clean = Cleaner(tmp_path, examples)
    monkeypatch.setattr(cleaner, "MAX_BYTES", 450)
    clean.make_room(50)
    assert {path.parent.name for path in tmp_path.glob("*/frame.png")} == {"30", "20", "10"}
    clean.make_room(51)
    assert {path.parent.name for path in tmp_path.glob("*/frame.png")} == {"20", "10"}
    monkeypatch.setattr(cleaner, "MAX_FILES", 3)
    clean.make_room(0)
    assert {path.parent.name for path in tmp_path.glob("*/frame.png")} == {"10"}
    assert examples[0].exists()


def test_the_folder_is_private_and_deleted_at_the_end():
    with upload_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0 or os.name == "nt"
        write(folder / "a" / "frame.png", 0)
    assert not folder.exists()
