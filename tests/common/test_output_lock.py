"""Two commands and one output folder, with real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.common.files import atomic_file
from unet_kvasir_seg.common.output_lock import output_lock

HOLDER = """
import time
from pathlib import Path
from unet_kvasir_seg.common.files import atomic_file
from unet_kvasir_seg.common.output_lock import output_lock
with output_lock(Path("out"), "train.py"), atomic_file(Path("out/masks/frame.png")):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/out and writes a file in it."""
    (tmp_path / "out" / "masks").mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", HOLDER], cwd=tmp_path, text=True, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_command_is_refused_and_told_who_holds_the_folder(tmp_path, holder):
    unfinished = list(tmp_path.rglob("*.part"))
    with (
        pytest.raises(UserError, match=rf"in use by train\.py \(process {holder.pid}, started 20.*--output_dir"),
        output_lock(tmp_path / "out", "predict.py", ["masks"]),
    ):
        pass
    assert len(unfinished) == 1
    assert unfinished[0].exists()


def test_a_killed_holder_is_no_obstacle_and_its_unfinished_files_go(tmp_path, holder):
    theirs = tmp_path / "out" / "masks" / "mine.part"
    theirs.touch()
    holder.kill()
    holder.wait()
    assert len(list(tmp_path.rglob("*.part"))) == 2
    with output_lock(tmp_path / "out", "predict.py", ["masks"]):
        assert list(tmp_path.rglob("*.part")) == [theirs]
    with output_lock(tmp_path / "out", "predict.py", ["masks"]):  # once more in this process
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] in (["masks", ".lock"], [".lock", "masks"])


def test_a_failed_start_leaves_what_was_there(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    for folder in (tmp_path / "mine", tmp_path / "new"):
        with pytest.raises(UserError, match="wrong"), output_lock(folder, "predict.py"):
            raise UserError("wrong")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "notes"]


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt, RuntimeError])
def test_a_failed_start_leaves_no_folder(tmp_path, error):
    """Of those above the output folder, too, what was made goes if it is empty."""
    (tmp_path / "mine").mkdir()
    with pytest.raises(error), output_lock(tmp_path / "mine" / "a" / "out", "predict.py"):
        raise error("wrong")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
    with pytest.raises(UserError), output_lock(tmp_path / "c" / ("n" * 300), "predict.py"):
        pass
    assert not (tmp_path / "c").exists()


def test_a_folder_that_is_removed_meanwhile_is_no_error_here(tmp_path):
    with output_lock(tmp_path / "out", "predict.py"), atomic_file(tmp_path / "other"):
        (tmp_path / "out" / ".lock.json").unlink()
        (tmp_path / "out" / ".lock").unlink()
        (tmp_path / "out").rmdir()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/out")):
        with (
            pytest.raises(UserError, match=r"--output_dir .* cannot be written to: "),
            output_lock(path, "predict.py"),
        ):
            pass


def test_what_is_in_the_place_of_the_lock_is_named(tmp_path):
    (tmp_path / ".lock.json").mkdir()
    message = r"cannot be written to: Is a directory \(\.lock\.json\)"
    with pytest.raises(UserError, match=message), output_lock(tmp_path, "b.py"):
        pass


@pytest.mark.parametrize("folder", ["taken", "taken/deep/out"])
def test_a_file_in_place_of_the_folder_is_named(tmp_path, folder):
    (tmp_path / "taken").write_text("mine")
    message = f"{tmp_path / folder} cannot be written to: {tmp_path / 'taken'} is a file. "
    with pytest.raises(UserError, match=message), output_lock(tmp_path / folder, "predict.py"):
        pass
    assert (tmp_path / "taken").read_text() == "mine"
