"""What several test files share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before any Hugging Face library is imported: no test looks for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def kvasir_seg() -> str:
    """Folder of real frames; tests on them are skipped without it."""
    folder = os.environ.get("KVASIR_SEG_DIR")
    if not folder:
        pytest.skip("KVASIR_SEG_DIR names no folder of real frames")
    return folder


@pytest.fixture
def run_train(tmp_path):
    """Run `train.py` with these arguments in a fresh process and folder; returns the finished process."""

    def run(*arguments: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "train.py"), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=300
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run
