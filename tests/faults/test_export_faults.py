"""`export.py` and `convert.py`: two at once, and disks that cannot be written to."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import save_confident_model
from unet_kvasir_seg import convert
from unet_kvasir_seg.common.output_lock import output_lock
from unet_kvasir_seg.inference.checkpoint import load_checkpoint

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from unet_kvasir_seg import export


@pytest.fixture
def model(tmp_path) -> Path:
    return save_confident_model(tmp_path / "model")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_second_export_or_conversion_is_refused_before_the_work(run_command, model, tmp_path):
    with output_lock(tmp_path / "out", "export.py"):
        done = run_command(export.main, "--model", model, "--output_dir", "out", status=2)
        assert "out is in use by export.py (process" in done.stderr
        done = run_command(convert.main, model, "--concat", "skip-first", "--output_dir", "out", status=2)
        assert "out is in use by export.py (process" in done.stderr
    assert list((tmp_path / "out").glob("[!.]*")) == []


def test_a_report_that_cannot_be_written_leaves_the_earlier_file(run_command, model, tmp_path):
    """Neither file may be of an export that the other is not of."""
    run_command(export.main, "--model", model, "--output_dir", "out")
    before = contents(tmp_path / "out" / "onnx")
    assert before.keys() == {"model.onnx", "model.json"}
    assert json.loads(before["model.json"])["bytes"] == len(before["model.onnx"])
    written = (tmp_path / "out" / "onnx" / "model.onnx").stat().st_mtime_ns
    (tmp_path / "out" / "onnx" / "model.json").unlink()
    (tmp_path / "out" / "onnx" / "model.json").mkdir()
    done = run_command(export.main, "--model", model, "--output_dir", "out", status=2)
    assert "model.json cannot be written: " in done.stderr
    assert contents(tmp_path / "out" / "onnx") == {"model.onnx": before["model.onnx"]}
    assert (tmp_path / "out" / "onnx" / "model.onnx").stat().st_mtime_ns == written


def test_a_conversion_is_complete_or_not_there(run_command, model, tmp_path):
    flags = (model, "--concat", "skip-first", "--output_dir", "out")
    (tmp_path / "out" / ".unfinished" / "left.safetensors").mkdir(parents=True)  # of a killed run
    (tmp_path / "out" / "preprocessor_config.json" / "in the way").mkdir(parents=True)
    done = run_command(convert.main, *flags, status=2)
    assert "preprocessor_config.json" in done.stderr
    assert not contents(tmp_path / "out").keys() & {"config.json", "model.safetensors"}
    assert not (tmp_path / "out" / ".unfinished").exists()
    shutil.rmtree(tmp_path / "out")
    run_command(convert.main, *flags)
    load_checkpoint(str(tmp_path / "out"))
    assert not (tmp_path / "out" / ".unfinished").exists()
