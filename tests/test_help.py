"""--help of the commands comes at once: no large package is imported before the arguments are parsed."""

import importlib
import subprocess
import sys

import pytest
import tomllib
from conftest import ROOT

HEAVY = ("accelerate", "datasets", "evaluate", "gradio", "onnx", "torch", "torchvision", "transformers")
PROGRAM = """
import sys
from unet_kvasir_seg.{command} import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print("imported:", *sorted({heavy} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("evaluation", "--tune_threshold_on"),
        ("predict", "--smoothing"),
        ("export", "--calibration_dataset"),
        ("convert", "--concat"),
        ("app", "--push_to_space"),
    ],
)
def test_help_imports_no_heavy_package(command, flag):
    program = PROGRAM.format(command=command, heavy=set(HEAVY))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert flag in done.stdout
    assert done.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize("command", ["train", "evaluation", "predict", "export", "convert", "app"])
def test_version(command, capsys):
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"unet_kvasir_seg.{command}").main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"{stated}\n")


@pytest.mark.parametrize("command", ["train", "evaluation", "predict", "export", "convert", "app"])
def test_a_command_catches_signals_before_it_imports_a_large_package(command):
    """Until then Ctrl-C shows a traceback."""
    program = f"import sys, unet_kvasir_seg.{command}; print(*{set(HEAVY) | {'numpy', 'PIL'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "\n"), done
