"""The page of app.py as its visitors' requests reach it: held results, redrawing, the address."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')
pytest.importorskip("av", reason='videos need pip install -e ".[video]"')

from page_visitors import free_port
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.demo.page import HeldImages, build_page
from unet_kvasir_seg.demo.render import OVERLAY, SIDE_BY_SIDE, SegmentedImage
from unet_kvasir_seg.demo.server import serving
from unet_kvasir_seg.inference.prediction import BasePredictor, Prediction
from unet_kvasir_seg.inference.predictor import load_predictor

OPACITY = 0.35


@pytest.fixture(scope="module")
def predictor(model) -> BasePredictor:
    return load_predictor(str(model), dtype="float32")


@pytest.fixture
def examples() -> list[Image.Image]:
    return [row["image"] for row in generate(3, (288, 384), seed=0)]


def test_images_are_held_within_a_bound_of_memory():
    def segmented() -> SegmentedImage:
        """10x10 pixels: 400 bytes of probabilities, 300 of the picture."""
        probability = np.zeros((10, 10), np.float32)
        return SegmentedImage("frame.png", Image.new("RGB", (10, 10)), Prediction(probability, probability, 0.5), 0.25)

    images = {name: segmented() for name in "abc"}
    held = HeldImages(max_bytes=1400)
    held.keep("a", images["a"])
    held.keep("b", images["b"])
    assert held.get("a") is images["a"]  # now b is the one that was not used for the longest time
    held.keep("c", images["c"])
    assert [held.get(name) for name in "abc"] == [images["a"], None, images["c"]]
    held.forget("a")
    assert held.get("a") is None
    held.keep("", images["a"])  # several visitors could have no name
    assert held.get("") is None


def test_moving_a_slider_runs_no_second_inference(predictor, examples, tmp_path, monkeypatch):
    from gradio_client import Client, handle_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    calls = []
    monkeypatch.setattr(
        BasePredictor,
        "batch",
        lambda self, *args, batch=BasePredictor.batch, **options: calls.append(1) or batch(self, *args, **options),
    )
    next(generate(1, (48, 64), seed=2))["image"].save(tmp_path / "frame.png")
    folder = tmp_path / "uploads"
    folder.mkdir()
    page = build_page(predictor, "tiny", 1000, None, examples, folder)
    port = free_port()
    with serving(page, folder, "127.0.0.1", port) as address:
        second = build_page(predictor, "tiny", 1000, None, examples, folder)
        with pytest.raises(UserError, match=r"--port"), serving(second, folder, "127.0.0.1", port):  # in use now
            pass
        client = Client(address, verbose=False)
        _, html = client.predict(handle_file(tmp_path / "frame.png"), 0.5, OPACITY, OVERLAY, api_name="/segment")
        assert "frame.png: polyps outlined where the probability is above 0.50" in html
        html = client.predict(0.2, OPACITY, SIDE_BY_SIDE, api_name="/redraw")
        assert "above 0.20" in html
        assert len(calls) == 1
        other = Client(address, verbose=False)
        assert "No image is held here" in other.predict(0.2, OPACITY, OVERLAY, api_name="/redraw")


def test_gradio_is_imported_after_its_calls_home_are_switched_off():
    """Importing it with analytics calls its makers' servers."""
    code = "import sys, unet_kvasir_seg.demo.server, unet_kvasir_seg.demo.page; print('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
