"""What the page of app.py answers, its bounds and errors, and the Space that it becomes."""

import base64
import csv
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')
pytest.importorskip("av", reason='videos need pip install -e ".[video]"')

from loopback_hub import LoopbackHub
from unet_kvasir_seg import app, predict
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.demo import space
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.predictor import Prediction, Predictor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

OPACITY = 0.35


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny network."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-unet"
    UNetForSemanticSegmentation(UNetConfig(base_channels=4, depth=2)).save_pretrained(folder)
    UNetImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def predictor(checkpoint) -> Predictor:
    return Predictor.from_pretrained(str(checkpoint), dtype="float32")


def result_of(probability: np.ndarray, name: str = "frame.png", seconds: float = 0.25) -> app.Result:
    height, width = probability.shape
    picture = Image.new("RGB", (width, height), (200, 120, 100))
    return app.Result(name, picture, Prediction(probability, probability, 0.5), seconds)


def embedded(html: str, label: str) -> bytes:
    """The file behind a link."""
    (content,) = re.findall(rf'href="data:[^;]+;base64,([^"]+)"[^>]*>{re.escape(label)}<', html)
    return base64.b64decode(content)


def test_a_result_is_drawn_at_any_threshold():
    probability = np.zeros((40, 60), np.float32)
    probability[10:20, 5:25] = 0.9  # 200 pixels
    probability[30:32, 50:55] = 0.4  # 10 pixels
    result = result_of(probability)
    html = app.draw_result(result, 0.5, OPACITY, app.OVERLAY)
    assert "<strong>1 region</strong>, 8.33 % of the image. Inference: 0.25 s." in html  # 200 of 2400 pixels
    mask = np.asarray(Image.open(io.BytesIO(embedded(html, "Download mask (PNG)"))))
    np.testing.assert_array_equal(mask, np.where(probability > 0.5, 255, 0))
    assert html.count("<img ") == 1

    html = app.draw_result(result, 0.3, OPACITY, app.SIDE_BY_SIDE)
    assert "<strong>2 regions</strong>, 8.75 % of the image." in html
    rows = list(csv.DictReader(io.StringIO(embedded(html, "Download lesion table (CSV)").decode())))
    assert [(row["left"], row["top"], row["right"], row["bottom"], row["area_pixels"]) for row in rows] == [
        ("5", "10", "25", "20", "200"),
        ("50", "30", "55", "32", "10"),
    ]
    assert html.count("<img ") == 2

    assert "No polyp found" in app.draw_result(result, 0.95, OPACITY, app.OVERLAY)


def test_a_name_is_no_html():
    html = app.draw_result(result_of(np.ones((8, 8), np.float32), '<b>"x".png'), 0.5, OPACITY, app.OVERLAY)
    assert "<b>" not in html
    assert 'download="&lt;b&gt;&quot;x&quot;-mask.png"' in html


def test_the_table_and_the_mask_are_those_of_predict(checkpoint, predictor, tmp_path):
    next(generate(1, (48, 64), seed=2))["image"].save(tmp_path / "frame.png")
    result = app.segment_image(tmp_path / "frame.png", predictor)
    threshold = float(np.median(result.prediction.probability))  # so that there are lesions
    options = ["--model", str(checkpoint), "--dtype", "float32", "--output_dir", str(tmp_path / "out")]
    predict.main([str(tmp_path / "frame.png"), *options, "--threshold", str(threshold)])
    html = app.draw_result(result, threshold, OPACITY, app.OVERLAY)
    table = embedded(html, "Download lesion table (CSV)")
    assert table.count(b"\n") > 1
    assert table == (tmp_path / "out" / "predictions.csv").read_bytes()
    mask = np.asarray(Image.open(io.BytesIO(embedded(html, "Download mask (PNG)"))))
    np.testing.assert_array_equal(mask, np.asarray(Image.open(tmp_path / "out" / "masks" / "frame.png")))


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "P", "LA", "1"])
def test_images_of_all_modes_are_handled(predictor, tmp_path, mode):
    grey = np.linspace(0, 255, 40 * 30).reshape(30, 40)
    image = (
        Image.fromarray((grey * 257).astype(np.uint16))
        if mode == "I;16"
        else Image.fromarray(grey.astype(np.uint8)).convert(mode)
    )
    file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(file)
    result = app.segment_image(file, predictor)
    assert result.picture.mode == "RGB"
    assert result.prediction.mask.shape == (30, 40)


def test_a_photograph_is_turned_upright_and_its_preview_is_small(predictor, tmp_path):
    image = Image.new("RGB", (2600, 100))
    exif = image.getexif()
    exif[0x0112] = 6  # turn it clockwise by a quarter
    image.save(tmp_path / "phone.jpg", exif=exif)
    result = app.segment_image(tmp_path / "phone.jpg", predictor)
    assert result.prediction.probability.shape == (2600, 100)
    assert result.picture.size == (49, 1280)
    html = app.draw_result(result, 0.5, OPACITY, app.OVERLAY)
    assert Image.open(io.BytesIO(embedded(html, "Download mask (PNG)"))).size == (100, 2600)


def test_what_cannot_be_used_is_said(predictor, tmp_path):
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 99)]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1500])
    Image.new("1", (5000, 4000)).save(tmp_path / "large.png")
    Image.new("1", (14_000, 14_000)).save(tmp_path / "bomb.png")  # more than Pillow itself opens
    (tmp_path / "empty.png").touch()
    for name, message in {
        "animated.gif": "holds 2 images",
        "cut.png": "is damaged",
        "large.png": r"is too large \(5000x4000 pixels\): at most 16.8 million pixels",
        "bomb.png": "is too large: at most 16.8 million pixels",
        "empty.png": "is empty",
        "gone.png": "is no longer there",
    }.items():
        with pytest.raises(UserError, match=f"^{name} {message}"):
            app.segment_image(tmp_path / name, predictor)


def test_only_uploads_are_read(tmp_path):
    inside, outside = tmp_path / "uploads" / "a" / "frame.png", tmp_path / "secret.png"
    assert app.uploaded({"path": str(inside)}, tmp_path / "uploads") == inside
    for path in (outside, tmp_path / "uploads" / ".." / "secret.png"):
        with pytest.raises(UserError, match="was not uploaded"):
            app.uploaded({"path": str(path)}, tmp_path / "uploads")


def test_results_are_held_within_a_bound_of_memory():
    # 10x10 pixels: 400 bytes of probabilities, 300 of the picture.
    results = {name: result_of(np.zeros((10, 10), np.float32)) for name in "abc"}
    held = app.Results(most_bytes=1400)
    held.keep("a", results["a"])
    held.keep("b", results["b"])
    assert held.of("a") is results["a"]  # so b was not looked at for longest
    held.keep("c", results["c"])
    assert [held.of(name) for name in "abc"] == [results["a"], None, results["c"]]
    held.forget("a")
    assert held.of("a") is None


def test_long_videos_are_refused_before_they_are_segmented(predictor, tmp_path, monkeypatch):
    _, clip = app.write_examples(tmp_path)  # 50 frames in 2 seconds
    told: list[float] = []
    made = app.segment_clip(str(clip), predictor, tmp_path, 0.5, 0.0, told.append)
    assert made.overlay.stat().st_size > 0
    assert "50 frames" in made.html
    assert (len(told), told[-1]) == (50, 1.0)
    monkeypatch.setattr(app, "MAX_VIDEO_SECONDS", 1)
    with pytest.raises(UserError, match=r"synthetic.mp4 is too long \(2 seconds\): at most 1 are segmented here"):
        app.segment_clip(str(clip), predictor, tmp_path, 0.5, 0.0, told.append)
    monkeypatch.setattr(app, "MAX_VIDEO_SECONDS", 30)
    monkeypatch.setattr(app, "MAX_VIDEO_FRAMES", 20)
    with pytest.raises(UserError, match="is too long: at most 20 frames"):
        app.segment_clip(str(clip), predictor, tmp_path, 0.5, 0.0, told.append)


def test_a_video_damaged_from_the_start_is_refused(predictor, tmp_path):
    _, clip = app.write_examples(tmp_path)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(clip.read_bytes()[:100])
    with pytest.raises(app.UserError, match=r"^damaged\.mp4 is no video that can be read"):
        app.segment_clip(str(damaged), predictor, tmp_path, 0.5, 0.0, lambda share: None)
    assert not (tmp_path / "damaged-overlay.mp4").exists()


def test_moving_a_slider_runs_no_second_inference(predictor, tmp_path, monkeypatch):
    from gradio_client import Client, handle_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    calls = []
    monkeypatch.setattr(
        Predictor,
        "batch",
        lambda self, *args, batch=Predictor.batch, **options: calls.append(1) or batch(self, *args, **options),
    )
    next(generate(1, (48, 64), seed=2))["image"].save(tmp_path / "frame.png")
    page = app.build_page(predictor, "tiny", None, tmp_path)
    address = app.launch(page, "127.0.0.1", free_port())
    try:
        with pytest.raises(UserError, match=r"--port"):  # it is in use now
            app.launch(app.build_page(predictor, "tiny", None, tmp_path), "127.0.0.1", page.server_port)
        client = Client(address, verbose=False)
        _, html = client.predict(handle_file(tmp_path / "frame.png"), 0.5, OPACITY, app.OVERLAY, api_name="/segment")
        assert "frame.png: polyps outlined where the probability is above 0.50" in html
        html = client.predict(0.2, OPACITY, app.SIDE_BY_SIDE, api_name="/redraw")
        assert "above 0.20" in html
        assert len(calls) == 1
        other = Client(address, verbose=False)
        assert "No image is held here" in other.predict(0.2, OPACITY, app.OVERLAY, api_name="/redraw")
    finally:
        page.close(verbose=False)


def test_examples_outlive_the_uploads(predictor, tmp_path):
    from gradio.route_utils import delete_files_created_by_app

    page = app.build_page(predictor, "tiny", None, tmp_path)
    delete_files_created_by_app(page, age=None)  # as for uploads that are older than any
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"synthetic-{number}.jpg" for number in (1, 2, 3)),
        "synthetic.mp4",
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_mistakes_at_the_start_get_one_line(tmp_path, capsys):
    for argv, message in (
        (["--model", str(tmp_path)], f"app.py: error: The checkpoint {tmp_path} cannot be loaded"),
        (["--device", "abacus"], "app.py: error: There is no device 'abacus' here"),
        (["--prot", "8000"], "unknown flag '--prot'; near it are --port"),
    ):
        with pytest.raises(SystemExit) as end:
            app.main(argv)
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_the_scores_are_of_these_weights_or_none(checkpoint, predictor, capsys, tmp_path):
    assert app.find_results(str(checkpoint), None, predictor) is None
    (tmp_path / "results.json").write_text('{"schema_version": 1, "model": {"fingerprint": "sha256:other"}}')
    assert app.find_results(str(tmp_path), None, predictor) is None
    assert "of other weights" in capsys.readouterr().err
    results = {
        "data": {"name": "a & b", "split": "test", "rows": {"test": 120}},
        "metrics": {"dice_per_image_native": {"value": 0.8125, "ci95": [0.7, 0.9]}},
    }
    head = app.describe(predictor, "tiny", results)
    assert "0.812</strong> (95 % interval 0.700 to 0.900)" in head
    assert "on the 120 images of the test split of a &amp; b" in head
    assert "not measured" in app.describe(predictor, "tiny", None)
    for html in (head, app.describe(predictor, "tiny", None)):
        assert "Research use only. Not a medical device" in html


def test_a_space_is_pushed_in_one_commit_and_runs_as_it_stands(checkpoint, predictor, tmp_path):
    from gradio_client import Client, handle_file

    with LoopbackHub() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": hub.token,
            "HF_HOME": str(tmp_path / "hf"),
        }
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, app.__file__, "--push_to_space", "me/polyps", "--model", str(checkpoint)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        repo = hub.repos["spaces/me/polyps"]
    assert len(repo.pushes) == 1
    model = {f"model/{name}" for name in ("config.json", "model.safetensors", "preprocessor_config.json")}
    modules = {name for name in repo.files if name.startswith("unet_kvasir_seg/")}
    assert set(repo.files) == {"README.md", "requirements.txt", "app.py"} | model | modules
    # Some that it needs, at the end of a chain of imports too, and some that it does not.
    wanted = {"app", "predictor", "video", "background", "data/synthetic", "scoring/results", "configuration_unet"}
    assert {f"unet_kvasir_seg/{name}.py" for name in wanted} <= modules
    assert not {f"unet_kvasir_seg/{name}.py" for name in ("train", "evaluation", "predict", "space", "hub")} & modules
    metadata = yaml.safe_load(repo.files["README.md"].decode().split("---")[1])
    assert (metadata["sdk"], metadata["sdk_version"], metadata["app_file"]) == ("gradio", version("gradio"), "app.py")
    assert f"transformers=={version('transformers')}\n" in repo.files["requirements.txt"].decode()
    assert not [name for name, content in repo.files.items() if str(checkpoint.parent).encode() in content]

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
        _, html = client.predict(handle_file(tmp_path / "frame.png"), 0.5, OPACITY, app.OVERLAY, api_name="/segment")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    mask = np.asarray(Image.open(io.BytesIO(embedded(html, "Download mask (PNG)"))))
    expected = predictor(Image.open(tmp_path / "frame.png")).mask
    np.testing.assert_array_equal(mask, expected * np.uint8(255))


def test_a_space_of_a_model_on_the_hub_loads_it_from_there(tmp_path):
    files = space.write_space(tmp_path, "me/unet", "v2", "unet")
    assert not [file for file in files if "model" in file.relative_to(tmp_path).parts]
    assert "models:\n- me/unet\n" in (tmp_path / "README.md").read_text()
    assert "main([\"--model\", 'me/unet', \"--model_revision\", 'v2', " in (tmp_path / "app.py").read_text()


def test_a_refused_push_keeps_the_files_and_says_how_to_go_on(checkpoint, monkeypatch):
    with LoopbackHub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(UserError, match=r"The Space me/polyps cannot be made.*hf auth login"):
            space.push_space("me/polyps", str(checkpoint), None, "tiny")
        assert hub.repos == {}

        monkeypatch.setenv("HF_TOKEN", hub.token)
        hub.refusals["POST .*/commit/"] = 403
        with pytest.raises(UserError, match="The push to me/polyps failed") as error:
            space.push_space("me/polyps", str(checkpoint), None, "tiny")
    command = shlex.split(str(error.value).rpartition("To upload it: ")[2])
    assert command[:3] == ["hf", "upload", "me/polyps"]
    assert command[-2:] == ["--repo-type", "space"]
    kept = Path(command[3])
    assert (kept / "app.py").exists()
    shutil.rmtree(kept)
