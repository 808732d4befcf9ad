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
