"""docs/library.md: each of its examples is run, in order, in a folder with a frame and a clip."""

import contextlib
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

pytest.importorskip("av", reason="needs the extra [video]")
pytest.importorskip("monai", reason="needs the extra [evaluation]")

import av
from scipy import ndimage
from unet_kvasir_seg.data.clips import clip_samples
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.predictor import Predictor

PAGE = ROOT / "docs" / "library.md"
FRAMES = 3


def examples() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def write_clip(path: Path) -> None:
    frames = [sample["image"] for sample in islice(clip_samples(8, 64, seed=0), FRAMES)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = frames[0].size
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the examples leave, when all were run."""
    folder = tmp_path_factory.mktemp("library")
    next(generate(1, (96, 128), seed=3))["image"].save(folder / "frame.jpg")
    write_clip(folder / "clip.mp4")
    found: dict[str, Any] = {}
    with contextlib.chdir(folder):
        for code in examples():
            exec(compile(code, str(PAGE), "exec"), found)
        yield found


def test_every_import_of_the_page_is_run(names):
    text = PAGE.read_text(encoding="utf-8")
    lines = re.findall(r"^from unet_kvasir_seg\S* import .+$", text, flags=re.MULTILINE)
    assert len(lines) >= 12
    assert lines == [line for code in examples() for line in code.splitlines() if line.startswith("from unet_kvasir")]


def test_masks_and_lesions(names):
    prediction = names["prediction"]
    assert (prediction.mask.shape, prediction.mask.dtype) == ((96, 128), bool)
    assert (prediction.probability.shape, prediction.probability.dtype) == ((96, 128), np.float32)
    peak = names["predictor"].peak_threshold
    labels, count = ndimage.label(prediction.probability > 0.5, np.ones((3, 3)))
    kept = [label for label in range(1, count + 1) if prediction.probability[labels == label].max() >= peak]
    np.testing.assert_array_equal(prediction.mask, np.isin(labels, kept))


def test_several_models(names):
    first, second = (
        Predictor.from_pretrained(one)(names["image"]).probability for one in (names["TRAINED_MODEL"], "another")
    )
    np.testing.assert_allclose(names["together"].probability, (first + second) / 2, atol=1e-5)
    np.testing.assert_allclose(names["together"].spread, abs(first - second) / 2, atol=1e-5)


def test_pictures_and_videos(names):
    with Image.open("overlay.png") as overlay, Image.open("frame.jpg") as frame:
        assert overlay.size == frame.size
    assert names["report"].frames == FRAMES
    assert Path("overlay.mp4").stat().st_size > 0
    assert len(Path("frames.csv").read_text().splitlines()) == 1 + FRAMES


def test_scores_of_arrays(names):
    dice = []
    for sample, probability in zip(names["samples"], names["predictions"], strict=True):
        predicted, true = probability > 0.5, sample.ground_truth
        total = predicted.sum() + true.sum()
        dice.append(2 * (predicted & true).sum() / total if total else 1)
    assert names["summary"]["metrics"]["dice_per_image_native"]["value"] == pytest.approx(np.mean(dice))
    assert len(Path("per_image.csv").read_text().splitlines()) == 1 + len(dice)


def test_post_processing(names):
    assert names["results"]["metrics"]["dice_per_image_native"]["value"] == pytest.approx(0.902, abs=5e-4)
    assert tuple(names["mask"].shape) == (96, 128)
