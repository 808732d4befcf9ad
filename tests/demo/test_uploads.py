"""What visitors upload: images and videos of all kinds, and those that are refused."""

import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason='videos need pip install -e ".[video]"')

from downloads import download_of
from unet_kvasir_seg import predict
from unet_kvasir_seg.benchmarks.layouts import with_panel
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.demo import uploads
from unet_kvasir_seg.demo.examples import write_examples
from unet_kvasir_seg.demo.render import OVERLAY, encode_mask, image_html, lesion_csv
from unet_kvasir_seg.inference.prediction import BasePredictor
from unet_kvasir_seg.inference.predictor import load_predictor
from unet_kvasir_seg.inference.video import VideoError


@pytest.fixture(scope="module")
def predictor(model) -> BasePredictor:
    return load_predictor(str(model), dtype="float32")


@pytest.fixture
def clip(tmp_path) -> Path:
    """A video of 50 frames in 2 seconds."""
    image = next(generate(1, (288, 384), seed=0))["image"]
    return write_examples([image], tmp_path)[1]


def test_table_and_mask_are_those_of_predict(model, predictor, tmp_path):
    next(generate(1, (48, 64), seed=2))["image"].save(tmp_path / "frame.png")
    prediction = uploads.segment_image(tmp_path / "frame.png", predictor).prediction
    prediction = replace(prediction, threshold=float(np.median(prediction.probability)))
    assert 0 < prediction.mask.mean() < 1
    options = ["--model", str(model), "--dtype", "float32", "--output_dir", str(tmp_path / "out")]
    predict.main([str(tmp_path / "frame.png"), *options, "--threshold", str(prediction.threshold)])
    table = lesion_csv("frame.png", prediction)
    assert table.count(b"\n") > 1
    assert table == (tmp_path / "out" / "predictions.csv").read_bytes()
    mask = np.asarray(Image.open(io.BytesIO(encode_mask(prediction.mask))))
    np.testing.assert_array_equal(mask, np.asarray(Image.open(tmp_path / "out" / "masks" / "frame.png")))


def test_an_image_is_segmented_whatever_the_models_peak_threshold_is(predictor, tmp_path, monkeypatch):
    next(generate(1, (48, 64), seed=2))["image"].save(tmp_path / "frame.png")
    monkeypatch.setattr(type(predictor), "peak_threshold", 0.3)
    assert uploads.segment_image(tmp_path / "frame.png", predictor).prediction.peak_threshold == 0.3


def test_the_field_of_view_is_the_predictors(model, tmp_path):
    picture = next(generate(1, (300, 400), seed=4))["image"].crop((60, 45, 340, 255)).resize((320, 240))
    picture = picture.point(lambda level: 40 + level * 0.8)  # nowhere black
    frame, (left, top, right, bottom) = with_panel(picture, seed=1)
    frame.save(tmp_path / "frame.png")
    predictor = load_predictor(str(model), dtype="float32")
    alone = predictor(picture).probability
    for setting in ("auto", (left, top, right, bottom)):
        predictor.field_of_view = setting
        probability = uploads.segment_image(tmp_path / "frame.png", predictor).prediction.probability
        assert probability.shape == (frame.height, frame.width)
        np.testing.assert_allclose(probability[top:bottom, left:right], alone, atol=1e-6)
        assert probability.sum() == pytest.approx(alone.sum(), rel=1e-5)
    predictor.field_of_view = (0, 0, frame.width + 1, 5)
    with pytest.raises(UserError, match=r"^frame\.png The field of view .* does not lie within the frame of"):
        uploads.segment_image(tmp_path / "frame.png", predictor)


def test_a_video_has_the_models_peak_threshold_up_to_the_sliders_threshold(predictor, clip, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(uploads, "segment_video", lambda *_, **options: given.append(options))
    monkeypatch.setattr(uploads, "SegmentedVideo", lambda *_: None)
    (tmp_path / "frames.csv").touch()
    for own in (None, 0.8):
        monkeypatch.setattr(type(predictor), "peak_threshold", own)
        for threshold in (0.5, 0.9):
            uploads.segment_clip(clip, predictor, tmp_path, threshold, 0.0, lambda _: None)
    assert [options["threshold"] for options in given] == [0.5, 0.9, 0.5, 0.9]
    assert [options["peak_threshold"] for options in given] == [0.5, 0.9, 0.8, 0.9]


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
    result = uploads.segment_image(file, predictor)
    assert result.picture.mode == "RGB"
    assert result.prediction.mask.shape == (30, 40)


def test_a_photograph_is_turned_upright_and_its_preview_is_small(predictor, tmp_path):
    image = Image.new("RGB", (2600, 100))
    exif = image.getexif()
    exif[0x0112] = 6  # turn it clockwise by a quarter
    image.save(tmp_path / "phone.jpg", exif=exif)
    result = uploads.segment_image(tmp_path / "phone.jpg", predictor)
    assert result.prediction.probability.shape == (2600, 100)
    assert result.picture.size == (49, 1280)
    mask = download_of(image_html(result, 0.5, 0.35, OVERLAY), "Download mask (PNG)")
    assert Image.open(io.BytesIO(mask)).size == (100, 2600)


def test_unusable_images_are_refused_with_a_reason(predictor, tmp_path):
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 99)]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    Image.effect_noise((64, 64), 50).save(tmp_path / "complete.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "complete.png").read_bytes()[:1500])
    Image.new("1", (5000, 4000)).save(tmp_path / "large.png")
    Image.new("1", (14_000, 14_000)).save(tmp_path / "bomb.png")  # more than Pillow itself opens
    (tmp_path / "empty.png").touch()
    for name, message in {
        "animated.gif": "holds several images",
        "cut.png": "is damaged",
        "large.png": r"is too large \(5000x4000 pixels\): at most 16.8 million pixels",
        "bomb.png": "is too large: at most 16.8 million pixels",
        "empty.png": "is empty",
        "gone.png": "is no longer there",
    }.items():
        with pytest.raises(UserError, match=f"^{name} {message}"):
            uploads.segment_image(tmp_path / name, predictor)


def test_only_uploads_are_read(tmp_path):
    folder = tmp_path / "uploads"
    (folder / "a").mkdir(parents=True)
    inside, outside = folder / "a" / "frame.png", tmp_path / "secret.png"
    inside.touch()
    outside.touch()
    (folder / "link.png").symlink_to(outside)
    assert uploads.uploaded_path({"path": str(inside)}, folder) == inside
    for path in (
        outside,
        folder / ".." / "secret.png",
        folder / "link.png",
        folder,
        folder / "a",
        folder / "gone.png",
    ):
        with pytest.raises(UserError, match="is not here"):
            uploads.uploaded_path({"path": str(path)}, folder)
    for forged in ({}, {"path": None}, {"path": 7}, {"path": "\0"}, [], None, "x"):
        with pytest.raises(UserError, match="no file that was uploaded"):
            uploads.uploaded_path(forged, folder)


def test_work_on_a_video_has_a_time_limit_and_can_be_ended(predictor, clip, tmp_path, monkeypatch):
    def stop(share: float) -> None:
        raise VideoError("is not done: the program ends")

    with pytest.raises(UserError, match=r"synthetic\.mp4 is not done"):
        uploads.segment_clip(clip, predictor, tmp_path, 0.5, 0.0, stop)
    monkeypatch.setattr(uploads, "MAX_VIDEO_WORK_SECONDS", 0)
    with pytest.raises(UserError, match=r"synthetic\.mp4 takes longer than 0 minutes"):
        uploads.segment_clip(clip, predictor, tmp_path, 0.5, 0.0, lambda share: None)


def test_long_videos_are_refused_before_they_are_segmented(predictor, clip, tmp_path, monkeypatch):
    shares: list[float] = []
    made = uploads.segment_clip(clip, predictor, tmp_path, 0.5, 0.0, shares.append)
    assert made.overlay.stat().st_size > 0
    assert made.report.frames == 50
    assert made.table.count(b"\n") == 1 + 50
    assert (len(shares), shares[-1]) == (50, 1.0)
    monkeypatch.setattr(uploads, "MAX_VIDEO_SECONDS", 1)
    with pytest.raises(UserError, match=r"synthetic.mp4 is too long \(2 seconds\): at most 1 are segmented here"):
        uploads.segment_clip(clip, predictor, tmp_path, 0.5, 0.0, shares.append)
    monkeypatch.setattr(uploads, "MAX_VIDEO_SECONDS", 30)
    monkeypatch.setattr(uploads, "MAX_VIDEO_FRAMES", 20)
    with pytest.raises(UserError, match="is too long: at most 20 frames"):
        uploads.segment_clip(clip, predictor, tmp_path, 0.5, 0.0, shares.append)


def test_a_video_damaged_from_the_start_is_refused(predictor, clip, tmp_path):
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(clip.read_bytes()[:100])
    with pytest.raises(UserError, match=r"^damaged\.mp4 begins as a video in MP4, but is damaged or cut off"):
        uploads.segment_clip(damaged, predictor, tmp_path, 0.5, 0.0, lambda share: None)
    assert not (tmp_path / "damaged-overlay.mp4").exists()


def test_a_video_that_states_millions_of_frames_is_read_in_a_process_with_bounds(predictor, clip, tmp_path):
    """Its tables, of gigabytes in memory, are some bytes of the file."""
    content = bytearray(clip.read_bytes())
    tables = {b"stsz": (4000, 80_000_000), b"stts": (1, 80_000_000, 1), b"stsc": (1, 1, 80_000_000, 1)}
    for table, values in tables.items():
        start = content.index(table) + 8
        content[start : start + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)
    many = tmp_path / "many.mp4"
    many.write_bytes(content)
    resource = pytest.importorskip("resource", reason="this system bounds no processes")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"^many\.mp4 "):
        uploads.segment_clip(many, predictor, tmp_path, 0.5, 0.0, lambda share: None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
