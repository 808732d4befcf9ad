"""Trainings that are disturbed: two at once, a full disk, damaged and lost checkpoints, signals, a read-only home."""

import contextlib
import json
import os
import resource
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from processes import finish, start, unfinished, wait_until
from training_runs import FP32, TINY, error_of
from unet_kvasir_seg.data.cache import datasets_cache
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.inference.checkpoint import fingerprint, load_checkpoint
from unet_kvasir_seg.scoring.metrics import PolypSegmentation
from unet_kvasir_seg.train import KEPT
from unet_kvasir_seg.training.checkpoints import RUN_FILE, begin_checkpoint, fault_of, is_complete

RUN = (*TINY, *FP32, "--output_dir", "run")
RESUME = "--resume_from_checkpoint"
# The weights stay as they are, so that the first checkpoint stays the best.
CONSTANT = ("--learning_rate", 0, "--norm", "none")
DAMAGES = {
    "zeros": lambda content: bytes(len(content)),
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "one bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "not UTF-8": lambda content: b"\xff" + content,
    "a list": lambda content: b"[1, 2]",
    "deep": lambda content: b"[" * 100_000,
    "another object": lambda content: b"{}",
}


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def check_outcome(folder: Path) -> None:
    """What results.json says is of the weights beside it."""
    assert results_of(folder)["model"]["fingerprint"] == fingerprint(load_checkpoint(str(folder))[0])


@contextlib.contextmanager
def largest_file(size: int):
    """Writing a file beyond a size fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_running_training_is_not_joined_and_ends_with_one_line(run_train, tmp_path):
    """A signal reaches its workers too, as Ctrl-C does."""
    endless = ("--num_train_epochs", 10_000, "--dataloader_num_workers", 2)
    first = start("train.py", *RUN, *endless, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_until(lambda: list(tmp_path.glob(f"run/checkpoint-*/{RUN_FILE}")), first)
    os.killpg(first.pid, signal.SIGSTOP)  # it holds the folder still, and takes no time from the others
    for arguments in (RUN, (*RUN, RESUME)):
        message = error_of(run_train(*arguments, check=False))
        assert f"run is in use by train.py (process {first.pid}, started" in message
    os.killpg(first.pid, signal.SIGCONT)
    os.killpg(first.pid, signal.SIGINT)
    output = finish(first, status=128 + signal.SIGINT)
    assert output.count("train.py: ") == 1
    assert f"train.py: interrupted. {KEPT}" in output
    assert all(is_complete(checkpoint) for checkpoint in tmp_path.glob("run/checkpoint-*"))
    assert unfinished(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="shows what a process has loaded on Linux")
def test_an_interruption_while_libraries_are_loaded(tmp_path):
    process = start("train.py", *RUN, cwd=tmp_path)
    wait_until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    process.send_signal(signal.SIGINT)
    assert finish(process, status=128 + signal.SIGINT) == f"train.py: interrupted. {KEPT}\n"
    assert list(tmp_path.iterdir()) == []


def test_each_damaged_file_of_a_checkpoint_is_named(run_train, tmp_path):
    run_train(*RUN, "--num_train_epochs", 2, "--ema_decay", 0.9)
    checkpoint = tmp_path / "run" / "checkpoint-4"
    files = sorted(checkpoint.iterdir())
    assert {"rng_state.pth", "optimizer.pt", "training_args.bin", "training_weights.safetensors", RUN_FILE} <= {
        file.name for file in files
    }
    for file in files:
        content = file.read_bytes()
        for kind, damage in DAMAGES.items():
            if (file.name, kind) == (RUN_FILE, "one bit"):
                continue  # it has no hash of its own; a line break became a space
            file.write_bytes(damage(content))
            assert fault_of(checkpoint) == f"is damaged ({file.name})", kind
        file.unlink()
        assert fault_of(checkpoint) == f"is incomplete ({file.name} is missing)"
        file.write_bytes(content)
    assert fault_of(checkpoint) is None

    (checkpoint / "rng_state.pth").write_bytes(b"")
    arguments = (*RUN, "--num_train_epochs", 3, "--ema_decay", 0.9)
    message = error_of(run_train(*arguments, RESUME, "run/checkpoint-4", check=False))
    assert "run/checkpoint-4 is damaged (rng_state.pth). Resume from another one" in message
    done = run_train(*arguments, RESUME)
    assert "run/checkpoint-4 is damaged (rng_state.pth): skipped.\nGoing on from run/checkpoint-2.\n" in done.stdout
    assert is_complete(tmp_path / "run" / "checkpoint-6")
    check_outcome(tmp_path / "run")


@pytest.mark.parametrize("change", ["gone", "damaged", "replaced"])
def test_the_best_checkpoint_is_lost_during_the_training(run_train, tmp_path, change):
    """The weights of the last step are kept then, and results.json and model card say so."""

    if change == "replaced":
        run_train(*RUN, "--base_channels", 8, "--num_train_epochs", 1, "--output_dir", "other")

    def disturb():
        wait_until(lambda: is_complete(tmp_path / "run" / "checkpoint-4"))
        if change != "damaged":
            shutil.rmtree(tmp_path / "run" / "checkpoint-2")
            if change == "replaced":
                (tmp_path / "other" / "checkpoint-2").rename(tmp_path / "run" / "checkpoint-2")
        else:
            file = tmp_path / "run" / "checkpoint-2" / "model.safetensors"
            file.write_bytes(DAMAGES["one bit"](file.read_bytes()))

    other = threading.Thread(target=disturb)
    other.start()
    done = run_train(*RUN, *CONSTANT, "--num_train_epochs", 12)
    other.join()
    said = {
        "gone": "is no checkpoint",
        "damaged": "is damaged (model.safetensors)",
        "replaced": "is of another run",
    }[change]
    assert (
        f"run/checkpoint-2, the best checkpoint, {said}: the weights of the last step are kept instead" in done.stdout
    )
    assert "the last step:" in done.stdout
    assert results_of(tmp_path / "run")["training"]["best_step"] is None
    assert "| checkpoint | the last |" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    check_outcome(tmp_path / "run")


def test_a_moved_run_goes_on_with_its_best_checkpoint(run_train, tmp_path):
    run_train(*RUN, *CONSTANT, "--num_train_epochs", 2)
    (tmp_path / "run").rename(tmp_path / "moved")
    arguments = (*TINY, *FP32, *CONSTANT, "--num_train_epochs", 3, "--output_dir", "moved", RESUME)
    run_train(*arguments)
    assert results_of(tmp_path / "moved")["training"]["best_step"] == 2
    check_outcome(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoint-2")
    done = run_train(*arguments)
    assert "moved/checkpoint-2, the best checkpoint so far, is gone or damaged" in done.stdout
    assert results_of(tmp_path / "moved")["training"]["best_step"] is None
    check_outcome(tmp_path / "moved")


def test_a_run_that_was_killed_at_its_first_checkpoint(run_train, tmp_path):
    """As such a run leaves its folder; it may start anew, asked to go on or not."""
    for further in ([], [RESUME]):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        begin_checkpoint(tmp_path / "run" / "checkpoint-2")
        (tmp_path / "run" / "checkpoint-2" / "model.safetensors").write_bytes(b"half")
        done = run_train(*RUN, "--num_train_epochs", 1, *further)
        assert ("starting anew" in done.stdout) == bool(further)
        assert is_complete(tmp_path / "run" / "checkpoint-2")
        check_outcome(tmp_path / "run")
    (tmp_path / "run" / "checkpoint-2" / RUN_FILE).unlink()  # of another program, perhaps
    message = error_of(run_train(*RUN, RESUME, check=False))
    assert (
        "run holds no complete checkpoint to go on from. Start without --resume_from_checkpoint, in another" in message
    )


def test_files_that_cannot_be_written(run_train, tmp_path):
    """model.safetensors is refused at first, then optimizer.pt, of twice its size; nothing of a checkpoint is left."""
    for size, reason in ((100_000, "File too large"), (700_000, "the disk may be full")):
        with largest_file(size):
            message = error_of(run_train(*RUN, check=False))
        assert "run/checkpoint-2 cannot be written: " in message
        assert reason in message
        assert "No checkpoint was written before: start again." in message
        assert {path.name for path in tmp_path.glob("run/[!.]*")} <= {"history.csv"}
    with largest_file(10_000):
        message = error_of(run_train(*RUN, check=False))
    assert "run/checkpoint-2/modeling_unet.py cannot be written: File too large." in message  # not what was copied
    run_train(*RUN, "--num_train_epochs", 2)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    before = results_of(tmp_path / "run")
    with largest_file(700_000):
        message = error_of(run_train(*RUN, "--num_train_epochs", 2, RESUME, check=False))
    assert "checkpoint-2 is complete: go on from it with --resume_from_checkpoint." in message
    assert results_of(tmp_path / "run") == before
    check_outcome(tmp_path / "run")


def test_an_outcome_that_cannot_be_written_is_written_later(run_train, tmp_path):
    """The weights fit, and the earlier outcome stays, until all of the new one is there."""
    run_train(*RUN, "--num_train_epochs", 1)
    with largest_file(100_000):
        message = error_of(run_train(*RUN, "--num_train_epochs", 1, RESUME, check=False))
    assert "cannot be written: " in message
    assert "run/checkpoint-2 is complete: go on from it" in message
    assert not (tmp_path / "run" / ".unfinished").exists()
    check_outcome(tmp_path / "run")
    run_train(*RUN, "--num_train_epochs", 1, RESUME)
    check_outcome(tmp_path / "run")


def test_an_output_folder_that_cannot_be_made_is_noticed_before_the_data(run_train, tmp_path):
    (tmp_path / "file").touch()
    data = ("--dataset_name", "no/such/data", "--output_dir")
    for folder in ("file", "file/run", "/proc/run", "n" * 300):
        message = error_of(run_train(*data, folder, check=False))
        assert f"--output_dir {folder} cannot be written to: " in message


def test_caches_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", "/dev/null/metrics")
    monkeypatch.setattr("unet_kvasir_seg.data.cache.HF_DATASETS_CACHE", "/dev/null/datasets")
    metric = PolypSegmentation()
    metric.add_counts(np.array([[2, 1, 1]]))
    assert metric.compute()["dice_per_image"] == pytest.approx(2 / 3)
    datasets_cache.cache_clear()
    try:
        (datasets_cache() / "copy").touch()
    finally:
        datasets_cache.cache_clear()


@pytest.mark.slow
def test_a_read_only_home(tmp_path):
    """The data set is parquet, which the `datasets` library copies into its cache."""
    for split in ("train", "validation"):
        rows = load_splits("synthetic", synthetic_rows=8, synthetic_size=32)[split].remove_columns("index")
        rows.to_parquet(str(tmp_path / "data" / "data" / f"{split}-00000-of-00001.parquet"))
    home = {"HOME": "/dev/null/home", "HF_HOME": "/dev/null/home/hf", "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    flags = ("--dataset_name", "data", *TINY[4:], "--num_train_epochs", 1, "--output_dir", "run")
    output = finish(start("train.py", *flags, cwd=tmp_path, env={**os.environ, **home}))
    assert "The cache /dev/null/home/hf/datasets cannot be written to" in output
    assert list((tmp_path / "tmp").glob("unet-*")) == []
    check_outcome(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_two_processes_end_together(tmp_path, name):
    """A signal to the launcher, which gives a traceback of its own; or SIGKILL to one of the two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-r", "3", "--log-dir", "logs"]
    flags = ("--num_train_epochs", 10_000, "--ddp_backend", "gloo")
    process = start("train.py", *RUN, *flags, cwd=tmp_path, launcher=launcher)
    wait_until(lambda: list(tmp_path.glob(f"run/checkpoint-*/{RUN_FILE}")), process)
    if name == "SIGKILL":
        holder = json.loads((tmp_path / "run" / ".lock.json").read_text(encoding="utf-8"))
        os.kill(holder["process"], signal.SIGKILL)
    else:
        process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    assert process.returncode != 0
    said = [file.read_text(encoding="utf-8") for file in tmp_path.glob("logs/**/stderr.log")]
    assert len(said) == 2
    assert not any("Traceback" in text for text in said)
    lines = sum(text.count("train.py: ") for text in said)
    assert lines <= 1
    assert name == "SIGKILL" or lines == 1
    assert any(is_complete(checkpoint) for checkpoint in tmp_path.glob("run/checkpoint-*"))
