"""app.py from its command line: errors, the scores that it shows, and the Space that it pushes."""

import io
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from importlib.metadata import version

import numpy as np
import pytest
import yaml
from PIL import Image

pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')
pytest.importorskip("av", reason='videos need pip install -e ".[video]"')

from conftest import ROOT
from downloads import download_of
from loopback_hub import LoopbackHub
from page_visitors import free_port
from unet_kvasir_seg import app
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.demo.render import OVERLAY
from unet_kvasir_seg.inference.checkpoint import fingerprint, load_checkpoint
from unet_kvasir_seg.inference.predictor import load_predictor


def test_invalid_arguments_are_answered_in_one_line(tmp_path, capsys):
    for argv, message in (
        (["--model", str(tmp_path)], f"app.py: error: The checkpoint {tmp_path} cannot be loaded"),
        (["--device", "abacus"], "app.py: error: There is no device 'abacus' here"),
        (["--prot", "8000"], "unknown flag '--prot'; near it are --port"),
    ):
        with pytest.raises(SystemExit) as end:
            app.main(argv)
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_scores_are_shown_if_they_are_of_these_weights(model, capsys, tmp_path):
    weights = fingerprint(load_checkpoint(str(model))[0])
    assert app.find_results(str(model), None, weights) is None
    assert capsys.readouterr().err == ""
    shutil.copy(ROOT / "results.json", tmp_path)  # of the shipped weights
    assert app.find_results(str(tmp_path), None, weights) is None
    assert "of other weights" in capsys.readouterr().err
    shipped = fingerprint(load_checkpoint(str(ROOT))[0])
    results = app.find_results(str(tmp_path), None, shipped)
    assert results is not None
    assert results["model"]["fingerprint"] == shipped


def test_a_space_is_pushed_in_one_commit_and_runs_from_its_files(model, tmp_path):
    from gradio_client import Client, handle_file

    with LoopbackHub() as hub:
        done = hub.run([("app", "--push_to_space", "me/polyps", "--model", model)], tmp_path)
        assert done.returncode == 0, done.stderr
        repo = hub.repos["spaces/me/polyps"]
    assert len(repo.pushes) == 1
    weights = {f"model/{name}" for name in ("config.json", "model.safetensors", "preprocessor_config.json")}
    package = {name.removeprefix("unet_kvasir_seg/") for name in repo.files if name.startswith("unet_kvasir_seg/")}
    assert set(repo.files) == {"README.md", "requirements.txt", "app.py"} | weights | {
        f"unet_kvasir_seg/{name}" for name in package
    }
    # Some that it needs, at the end of a chain of imports too, and some that it does not.
    assert package > {
        *("app.py", "demo/page.py", "demo/render.py", "demo/style.css", "demo/__init__.py", "inference/predictor.py"),
        *("inference/video.py", "common/prefetch.py", "data/synthetic.py", "reporting/results.py"),
        "configuration_unet.py",
    }
    assert not package & {"train.py", "evaluation.py", "predict.py", "demo/space.py", "common/hub.py"}
    metadata = yaml.safe_load(repo.files["README.md"].decode().split("---")[1])
    assert (metadata["sdk"], metadata["sdk_version"], metadata["app_file"]) == ("gradio", version("gradio"), "app.py")
    assert f"transformers=={version('transformers')}\n" in repo.files["requirements.txt"].decode()
    assert not [name for name, content in repo.files.items() if str(model.parent).encode() in content]

    for name, content in repo.files.items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(content)
    # A Python that has the packages and not this project: -S leaves out the editable install.
    port = free_port()
    launcher = tmp_path / "space" / "app.py"
    launcher.write_text(launcher.read_text().replace('"7860"', f'"{port}", "--dtype", "float32"'))
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    command = [sys.executable, "-S", "-u", "app.py"]
    with subprocess.Popen(
        command, cwd=launcher.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        seen = ""
        while " is on http" not in seen and (line := process.stdout.readline()):
            seen += line
        assert " is on http" in seen, seen
        next(generate(1, (48, 64), seed=2))["image"].save(tmp_path / "frame.png")
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        _, html = client.predict(handle_file(tmp_path / "frame.png"), 0.5, 0.35, OVERLAY, api_name="/segment")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    mask = np.asarray(Image.open(io.BytesIO(download_of(html, "Download mask (PNG)"))))
    expected = load_predictor(str(model), dtype="float32")(Image.open(tmp_path / "frame.png")).mask
    np.testing.assert_array_equal(mask, expected * np.uint8(255))
