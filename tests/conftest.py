"""What several test files share."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch and the Hugging Face libraries are imported. No test looks for the network; the tests' networks are so
# small that a second thread costs more than it gives, also in the processes that tests start.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent  # of the repository


@pytest.fixture(scope="session")
def kvasir_seg() -> str:
    """Folder of real frames; tests on them are skipped without it."""
    folder = os.environ.get("KVASIR_SEG_DIR")
    if not folder:
        pytest.skip("KVASIR_SEG_DIR names no folder of real frames")
    return folder


def forget_training() -> None:
    """transformers 4.57 leaves the precision and the compiler of a training to the next, also in other processes."""
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]


@pytest.fixture(autouse=True)
def no_trace_of_a_training() -> Iterator[None]:
    """What a test's trainings leave does not reach the next test."""
    yield
    forget_training()


def save_tiny_model(folder: Path, seed: int, bias: float = 0.0) -> Path:
    """An untrained network whose masks are neither empty nor full, and its image processor."""
    import numpy as np
    import torch
    from unet_kvasir_seg.configuration_unet import UNetConfig
    from unet_kvasir_seg.data.synthetic import generate
    from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
    from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

    torch.manual_seed(seed)
    model = UNetForSemanticSegmentation(UNetConfig(base_channels=4, depth=2))
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(next(generate(1, 32, seed=9))["image"])).permute(2, 0, 1)[None] / 255
        model.classifier.bias -= model(pixels).logits.median() + bias
    model.save_pretrained(folder)
    UNetImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """Folder of such a network. Tests share it: those that change it change a copy."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-unet", seed=0)


def save_confident_model(folder: Path) -> Path:
    """Such a network with probabilities far from 0.5, like a trained one: rounding changes no mask."""
    import torch
    from unet_kvasir_seg.inference.checkpoint import load_checkpoint

    model, _ = load_checkpoint(str(save_tiny_model(folder, seed=0)))
    with torch.no_grad():
        model.classifier.weight *= 20
        model.classifier.bias *= 20
    model.save_pretrained(folder)
    return folder


def peak_megabytes(folder: Path, command: str, *arguments: object) -> float:
    """Highest resident memory of a command, such as `train.py`, in a process of its own; in units of Linux."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / command), *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss / 1024


@pytest.fixture
def run_command(tmp_path, monkeypatch, capfd):
    """Run a command's `main` in this process, since imports take longer than the runs, and in a fresh folder.

    Returns exit status and output as of a process; the status must be the one given, unless that is None.
    """

    def run(main, *arguments: object, status: int | None = 0) -> subprocess.CompletedProcess:
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        argv = [str(argument) for argument in arguments]
        found = 0
        try:
            main(argv)
        except SystemExit as end:
            found = end.code
        done = subprocess.CompletedProcess(argv, found, *capfd.readouterr())
        assert status is None or done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def run_train(run_command, tmp_path):
    """Run `train.py` as `run_command` does, or in a process of its own if `fresh_process` is asked for."""
    from unet_kvasir_seg.train import main

    def run(*arguments: object, check: bool = True, fresh_process: bool = False) -> subprocess.CompletedProcess:
        forget_training()
        if not fresh_process:
            return run_command(main, *arguments, status=0 if check else None)
        command = [sys.executable, str(ROOT / "train.py"), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


RELIABILITY_COLUMNS = ("fault", "tried", "lost", "left behind")


@pytest.fixture
def add_row(record_property) -> Callable[[str, int, int, int], None]:
    """Add a row to the table of docs/reliability.md, which is printed when the tests end.

    It says what was done, how often, and how often something was lost or left behind.
    """

    def add(fault: str, tried: int, lost: int, left_behind: int) -> None:
        record_property("reliability", (fault, tried, lost, left_behind))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    properties = [found for report in terminalreporter.stats.get("passed", []) for found in report.user_properties]
    rows = [row for name, row in properties if name == "reliability"]
    if rows:
        terminalreporter.write_sep("=", "docs/reliability.md")
        for row in (RELIABILITY_COLUMNS, ["---"] * len(RELIABILITY_COLUMNS), *rows):
            terminalreporter.write_line(f"| {' | '.join(map(str, row))} |")
