"""What several test files share."""

import os
import subprocess
import sys
from pathlib import Path

# Before torch and the Hugging Face libraries are imported. No test looks for the network; the tests' networks are so
# small that a second thread costs more than it gives, also in the processes that tests start.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def kvasir_seg() -> str:
    """Folder of real frames; tests on them are skipped without it."""
    folder = os.environ.get("KVASIR_SEG_DIR")
    if not folder:
        pytest.skip("KVASIR_SEG_DIR names no folder of real frames")
    return folder


@pytest.fixture
def run_train(tmp_path, monkeypatch, capfd):
    """Run `train.py` with these arguments in a fresh folder; returns exit status and output as of a process.

    In this process, since imports take longer than the runs, unless `fresh_process` is asked for.
    """
    from unet_kvasir_seg.train import main

    def run(*arguments: object, check: bool = True, fresh_process: bool = False) -> subprocess.CompletedProcess:
        argv = [str(argument) for argument in arguments]
        if fresh_process:
            command = [sys.executable, str(ROOT / "train.py"), *argv]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        else:
            monkeypatch.chdir(tmp_path)
            # transformers 4.57 leaves the precision of one run to the next.
            monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
            capfd.readouterr()
            status = 0
            try:
                main(argv)
            except SystemExit as end:
                status = end.code
            done = subprocess.CompletedProcess(argv, status, *capfd.readouterr())
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run
