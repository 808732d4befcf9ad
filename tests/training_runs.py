"""What tests of trainings share: flags of tiny runs, and comparisons of their weights."""

import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

TINY = ("--dataset_name", "synthetic", "--synthetic_rows", "8", "--base_channels", "4", "--image_size", "32")
FP32 = ("--use_cpu", "--bf16", "False")


def error_of(done: subprocess.CompletedProcess) -> str:
    """The one line that a user's mistake gets."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if "error:" in line][-1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def largest_difference(a: Path, b: Path) -> float:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)
