"""Statistics of frames from the command lines: kept by train.py and evaluation.py, compared by predict.py."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import save_tiny_model
from PIL import Image
from training_runs import TINY
from unet_kvasir_seg import evaluation, predict
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import decode_image
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.frame_statistics import LEVELS, FrameStatistics, measure_frame
from unet_kvasir_seg.inference.predictor import Predictor

LINE = "These frames differ from those that the model was trained on"


def settings_of(folder: Path) -> dict:
    return json.loads((folder / "preprocessor_config.json").read_text())


def keep(folder: Path, statistics: dict) -> None:
    (folder / "preprocessor_config.json").write_text(
        json.dumps(settings_of(folder) | {"frame_statistics": statistics})
    )


def brightness_of(folder: Path, images: list[Image.Image]) -> list[float]:
    predictor = Predictor.from_pretrained(str(folder), device="cpu", dtype="float32")
    return [measure_frame(predictor, predictor.prepare(image))["brightness"] for image in images]


@pytest.fixture
def model(tmp_path) -> Path:
    return save_tiny_model(tmp_path / "model", seed=0)


@pytest.fixture
def frames(tmp_path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(6):
        next(generate(1, 48, seed=index))["image"].save(folder / f"{index}.png")
    return folder


def test_training_keeps_them(run_train, tmp_path):
    flags = ["64" if word == "8" else word for word in TINY]
    run_train(*flags, "--num_train_epochs", 1, "--output_dir", "run")
    kept = settings_of(tmp_path / "run")["frame_statistics"]
    assert (kept["version"], kept["frames"], kept["predicted_frames"]) == (1, 64, 16)
    rows = load_splits("synthetic", synthetic_rows=64, synthetic_size=32)["train"]
    images = [decode_image(row["image"], row["index"]) for row in rows]
    expected = np.quantile(brightness_of(tmp_path / "run", images), LEVELS)
    assert kept["quantiles"]["brightness"] == pytest.approx(expected, rel=1e-4)
    assert "presence" not in kept["quantiles"]  # 16 validation frames are too few
    # A model that is trained on from there has its own, or none.
    run_train(*TINY[:4], "--model_name_or_path", "run", "--num_train_epochs", 1, "--output_dir", "second")
    assert "frame_statistics" not in settings_of(tmp_path / "second")


def test_predict_says_that_frames_are_far_off_and_compares_all_of_a_folder(run_command, model, frames, tmp_path):
    def run(*inputs: object, folder: str = "out") -> str:
        flags = ("--model", model, "--device", "cpu", "--output_dir", folder)
        return run_command(predict.main, *inputs, *flags).stdout

    assert LINE not in run(frames)  # the model has no statistics
    brightness = brightness_of(model, [Image.open(file) for file in frames.iterdir()])
    like = sorted(np.quantile(brightness, LEVELS))
    usual = {"version": 1, "frames": 100, "predicted_frames": 0, "levels": list(LEVELS)}
    keep(
        model, {**usual, "quantiles": {"brightness": [low - 30 for low in like[:5]] + [top + 30 for top in like[5:]]}}
    )
    assert LINE not in run(frames)
    # The frames are done, and all of them are compared, whichever this run was given.
    keep(model, {**usual, "quantiles": {"brightness": [value + 200 for value in like]}})
    done = run(frames / "0.png")
    assert f"{LINE}: darker (100% of them). Expect lower scores." in done
    assert LINE not in run(frames / "0.png", folder="one")  # a single frame tells nothing
    keep(model, {**usual, "version": 7, "quantiles": {}})
    assert "The model's statistics of its training frames are of version 7" in run(frames)


def write_film(path: Path, images: list[Image.Image]) -> Path:
    """A film that shows each image for a second, at four frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = *images[0].size, "yuv420p"
        stream.codec_context.options = {"crf": "10"}
        for index in range(4 * len(images)):
            container.mux(stream.encode(av.VideoFrame.from_image(images[index // 4])))
        container.mux(stream.encode())
    return path


def test_predict_compares_films(run_command, model, tmp_path):
    def run(*inputs: object, folder: str) -> str:
        flags = ("--model", model, "--device", "cpu", "--output_dir", folder)
        return run_command(predict.main, *inputs, *flags).stdout

    images = [next(generate(1, 64, seed=seed))["image"] for seed in range(60)]
    predictor = Predictor.from_pretrained(str(model), device="cpu", dtype="float32")
    statistics = FrameStatistics.of([measure_frame(predictor, predictor.prepare(image)) for image in images], [])
    assert statistics is not None
    keep(model, statistics.to_dict())
    like = write_film(tmp_path / "like.mp4", images[:12])
    dark = write_film(tmp_path / "dark.mp4", [image.point(lambda level: level // 3) for image in images[:12]])
    said = "The frames of the video differ from those that the model was trained on: darker"
    assert "differ from" not in run(like, folder="like")
    assert said in run(dark, folder="dark")
    record = json.loads((tmp_path / "dark/videos/dark.json").read_text())
    assert len(record["measures"]) == 12  # one in a second
    assert record["measures"][3]["brightness"] == pytest.approx(brightness_of(model, images[3:4])[0] / 3, abs=4)
    # What is done is compared too; videos beside it do not hide it.
    assert said in run(dark, folder="dark")
    assert "darker (1 of 2: dark.mp4)" in run(like, dark, folder="both")
    assert "differ from" not in run(write_film(tmp_path / "short.mp4", [Image.new("RGB", (64, 64))]), folder="short")


def test_evaluation_keeps_them_in_a_folder(run_command, model, frames, tmp_path):
    data = tmp_path / "data"
    for split, count in (("train", 44), ("validation", 3), ("test", 41)):
        for kind in ("images", "masks"):
            (data / split / kind).mkdir(parents=True)
        for index, sample in enumerate(generate(count, 32, seed=len(split))):
            sample["image"].save(data / split / "images" / f"{split}{index}.png")
            sample["mask"].save(data / split / "masks" / f"{split}{index}.png")
    before = settings_of(model)
    command = (evaluation.main, "--dataset_name", data, "--resamples", 100, "--save_statistics", "--device", "cpu")
    done = run_command(*command, "--model", model, "--split", "test", "--output_dir", "out")
    assert "Saved the statistics of 44 frames, and of predictions for 41" in done.stdout
    kept = settings_of(model)
    statistics = kept.pop("frame_statistics")
    assert kept == before
    assert {"brightness", "grain", "presence", "uncertainty"} <= statistics["quantiles"].keys()
    images = [Image.open(file) for file in (data / "train" / "images").iterdir()]
    expected = np.quantile(brightness_of(model, images), LEVELS)
    assert statistics["quantiles"]["brightness"] == pytest.approx(expected, rel=1e-4)
    assert settings_of(tmp_path / "out") == settings_of(model)
    for name, message in (("me/unet", "is no folder of this machine"), ("a/b.onnx", "is an ONNX file")):
        refused = run_command(*command, "--model", name, status=2)
        assert "--save_statistics writes into the preprocessor_config.json" in refused.stderr
        assert message in refused.stderr
