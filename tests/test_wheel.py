"""A wheel, installed without the clone, has the trained weights: its commands work from any folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from unet_kvasir_seg.inference.predictor import Predictor

LEFT_OUT = (".*", "outputs", "build", "*.egg-info", "node_modules", "__pycache__", "tests", "docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder that the wheel of a copy of this clone is installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    # Building leaves files behind, so it is done in a copy.
    shutil.copytree(ROOT, folder / "clone", ignore=shutil.ignore_patterns(*LEFT_OUT))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-build-isolation"]
    command = [*pip, "--target", folder / "site", folder / "clone"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "recipes/card.yaml"])
def test_files_beside_the_code_are_the_clones(site: Path, name: str):
    assert (site / "unet_kvasir_seg" / name).read_bytes() == (ROOT / name).read_bytes()


def test_predict_finds_the_weights_from_another_folder(site: Path, tmp_path: Path):
    frame = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(frame).save(tmp_path / "frame.png")
    environment = os.environ | {"PYTHONPATH": str(site)}
    program = "import sys; from unet_kvasir_seg import predict; print(predict.__file__); predict.main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "frame.png", "--output_dir", "out", "--dtype", "float32", "--report"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))  # the wheel's code ran, not the clone's
    expected = Predictor.from_pretrained(str(ROOT), device="cpu", dtype="float32")(Image.fromarray(frame)).mask
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "masks" / "frame.png")) == 255, expected)

    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for part in ("report.css", "report.js"):
        assert (ROOT / "reporting" / "page" / part).read_text(encoding="utf-8") in page


def test_recipes_are_found_from_another_folder(site: Path, tmp_path: Path):
    command = [sys.executable, "-c", "from unet_kvasir_seg.train import main; main(['recipes/none.yaml'])"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "recipes/card.yaml" in done.stderr


def run_script(site: Path, folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a console script of the wheel with the packages of this environment."""
    command = [sys.executable, str(site / "bin" / name), *arguments]
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "export", "app", "convert"])
def test_console_scripts_call_themselves_by_their_names(site: Path, tmp_path: Path, name: str):
    done = run_script(site, tmp_path, f"unet-{name}", "--help")
    assert done.stdout.startswith(f"usage: unet-{name} "), done.stderr
    assert f"\n    unet-{name} " in done.stdout  # an example
    assert f"python {name}.py" not in done.stdout


def test_errors_of_a_console_script_begin_with_its_name(site: Path, tmp_path: Path):
    done = run_script(site, tmp_path, "unet-predict", "absent.png")
    assert done.returncode == 2
    assert done.stderr == "unet-predict: error: There is no file or folder absent.png.\n"


def test_a_missing_extra_is_added_to_the_wheel(site: Path, tmp_path: Path):
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "without_av.py").write_text(
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'av' else find(name)\n"
        "from unet_kvasir_seg.predict import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "without_av.py", "clip.mp4"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stderr == (
        'predict.py: error: av is not installed; this needs pip install "unet-kvasir-seg[video]".\n'
    )
