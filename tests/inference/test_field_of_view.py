"""The field of view in what uses it: predictors, pipeline, predict.py, videos, scoring and training."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import save_tiny_model
from PIL import Image
from unet_kvasir_seg import predict
from unet_kvasir_seg.benchmarks.layouts import with_panel
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.data.samples import DatasetError, Sample
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.data.transforms import EvalTransform, TrainTransform
from unet_kvasir_seg.field_of_view_unet import find_field_of_view
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.checkpoint import load_checkpoint
from unet_kvasir_seg.inference.output_folder import describe_settings
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.pipeline_unet import UNetImageSegmentationPipeline
from unet_kvasir_seg.scoring.arguments import EvaluationArguments, check_arguments
from unet_kvasir_seg.scoring.sources import ModelSource
from unet_kvasir_seg.training.arguments import ModelArguments
from unet_kvasir_seg.training.building import build_model

SIZE = (320, 240)  # of the pictures, width and height


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor.from_pretrained(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A picture that is nowhere black."""
    sample = next(generate(1, (300, 400), seed=4))["image"]
    return sample.crop((60, 45, 340, 255)).resize(SIZE).point(lambda level: 40 + level * 0.8)


@pytest.fixture(scope="module")
def bordered(picture):
    """The picture in a black frame with a text panel, and where it lies there."""
    frame, box = with_panel(picture, seed=1)
    assert find_field_of_view(np.asarray(frame)) == box
    return frame, box


def inside(values: np.ndarray, box) -> np.ndarray:
    left, top, right, bottom = box
    return values[top:bottom, left:right]


def test_the_predictor_sees_the_picture_alone(predictor, picture, bordered):
    frame, box = bordered
    expected = predictor(picture)
    for setting in ("auto", box, ",".join(map(str, box))):
        found = predictor(frame, field_of_view=setting)
        assert found.field_of_view == box
        assert found.probability.shape == (frame.height, frame.width)
        assert np.array_equal(inside(found.probability, box), expected.probability)
        assert found.probability.sum() == pytest.approx(expected.probability.sum(), rel=1e-5)
        assert found.mask.sum() == expected.mask.sum() > 0
        moved = [tuple(np.add(lesion.box, box[:2] * 2)) for lesion in expected.lesions]
        assert [lesion.box for lesion in found.lesions] == moved
    flips = predictor([frame, picture], field_of_view="auto", tta=True)
    assert np.array_equal(inside(flips[0].probability, box), flips[1].probability)
    assert predictor(frame).field_of_view is None


def test_a_frame_without_a_border_gives_the_same_to_the_pixel(predictor, picture):
    for image in (picture, picture.resize((333, 210)), Image.new("RGB", (90, 70))):
        found, expected = predictor(image, field_of_view="auto"), predictor(image)
        assert found.field_of_view is None
        assert np.array_equal(found.probability, expected.probability)


def test_the_models_own_setting_is_the_default(folder, picture, bordered, tmp_path):
    frame, box = bordered
    model, _ = load_checkpoint(str(folder))
    model.save_pretrained(tmp_path)
    UNetImageProcessor(size={"height": 32, "width": 32}, field_of_view="auto").save_pretrained(tmp_path)
    own = Predictor.from_pretrained(str(tmp_path), device="cpu", dtype="float32")
    assert own.field_of_view == "auto"
    assert own(frame).field_of_view == box
    assert own(frame, field_of_view="none").field_of_view is None
    own.field_of_view = "none"
    assert own(frame).field_of_view is None
    with pytest.raises(ValueError, match="field_of_view="):
        own.field_of_view = "all"
    segment = UNetImageSegmentationPipeline(model=model, image_processor=own.processor)
    masks = [entries[1]["mask"] for entries in segment([frame, picture], batch_size=2)]
    assert masks[0].size == frame.size
    assert masks[0].crop(box).tobytes() == masks[1].tobytes()
    assert np.asarray(masks[0]).sum() == np.asarray(masks[1]).sum() > 0
    whole = segment(frame, field_of_view="none")[1]["mask"]
    assert np.array_equal(np.asarray(whole) > 0, own(frame, field_of_view="none").mask)
    with pytest.raises(ValueError, match="does not lie within the frame"):
        segment(picture, field_of_view=[0, 0, 9999, 10])


def test_predict_writes_masks_of_the_whole_frame(folder, predictor, bordered, picture, tmp_path, capsys):
    frame, _ = bordered
    (tmp_path / "in").mkdir()
    frame.save(tmp_path / "in" / "wide.png")
    picture.save(tmp_path / "in" / "plain.png")
    flags = ["--model", str(folder), "--device", "cpu", "--dtype", "float32", "--output_dir", str(tmp_path / "out")]
    predict.main([str(tmp_path / "in"), *flags, "--field_of_view", "auto"])
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "wide.png")) > 0
    assert np.array_equal(mask, predictor(frame, field_of_view="auto").mask)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["field_of_view"] == "auto"
    # Another setting gives other masks: they do not go into the same folder.
    with pytest.raises(SystemExit) as ended:
        predict.main([str(tmp_path / "in"), *flags])
    assert ended.value.code == 2
    assert "field_of_view auto and not none" in capsys.readouterr().err


def test_an_image_that_the_rectangle_does_not_fit_fails_alone(folder, bordered, picture, tmp_path, capsys):
    frame, box = bordered
    frame.save(tmp_path / "wide.png")
    picture.save(tmp_path / "plain.png")
    flags = ["--model", str(folder), "--device", "cpu", "--dtype", "float32", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        predict.main([str(tmp_path / "*.png"), *flags, "--field_of_view", ",".join(map(str, box))])
    assert ended.value.code == 1
    assert (tmp_path / "out" / "masks" / "wide.png").is_file()
    assert not (tmp_path / "out" / "masks" / "plain.png").exists()
    error = capsys.readouterr().err
    assert "plain.png" in error
    assert "does not lie within the frame of 320x240 pixels" in error


def test_a_black_image_fails_alone_where_the_picture_is_to_be_found(folder, bordered, tmp_path, capsys):
    bordered[0].save(tmp_path / "seen.png")
    pixels = np.random.default_rng(0).integers(0, 33, (90, 120, 3), dtype=np.uint8)  # a camera's noise in the dark
    Image.fromarray(pixels).save(tmp_path / "dark.png")
    flags = ["--model", str(folder), "--device", "cpu", "--dtype", "float32", "--output_dir"]
    with pytest.raises(SystemExit) as ended:
        predict.main([str(tmp_path / "*.png"), *flags, str(tmp_path / "auto"), "--field_of_view", "auto"])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert "dark.png" in error
    assert "black all over" in error
    assert [file.name for file in (tmp_path / "auto" / "masks").iterdir()] == ["seen.png"]
    predict.main([str(tmp_path / "*.png"), *flags, str(tmp_path / "whole")])
    assert len([*(tmp_path / "whole" / "masks").iterdir()]) == 2


@pytest.mark.parametrize("value", ["all", "1,2,3", "5,5,5,9"])
def test_an_invalid_flag_is_refused_before_the_work(value, folder, tmp_path, capsys):
    flags = ["--model", str(folder), "--output_dir", str(tmp_path / "out"), "--field_of_view", value]
    with pytest.raises(SystemExit) as ended:
        predict.main(["x.png", *flags])
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_of_an_earlier_version_counts_as_of_the_whole_frame(predictor):
    settings = describe_settings(predictor, 0.5, False, 0.0)
    assert settings["field_of_view"] == "none"


def write_clip(file, frames: list[Image.Image]) -> None:
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *frames[0].size, "yuv420p", 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def test_a_video_keeps_one_rectangle(folder, bordered, tmp_path):
    pytest.importorskip("av")
    from unet_kvasir_seg.inference.video import VideoError, find_field, segment_video

    frame, box = bordered
    frame = frame.crop((0, 0, frame.width // 2 * 2, frame.height // 2 * 2))
    black = Image.new("RGB", frame.size)
    clip = tmp_path / "clip.mp4"
    dark = frame.point(lambda level: level * 0.05)
    write_clip(clip, [*[black] * 30, dark, frame, frame, dark])
    predictor = Predictor.from_pretrained(str(folder), device="cpu", dtype="float32")
    assert find_field(clip, predictor) is None
    predictor.field_of_view = "auto"
    found = find_field(clip, predictor)
    assert np.abs(np.subtract(found, box)).max() <= 4
    # At a threshold of 0, all that the network sees is a lesion: in each frame the rectangle.
    report = segment_video(clip, tmp_path / "out.mp4", tmp_path / "out.csv", predictor, threshold=0.0)
    assert report.frames == 34
    with open(tmp_path / "out.csv", encoding="utf-8") as file:
        boxes = {row["boxes"] for row in csv.DictReader(file)}
    assert boxes == {" ".join(map(str, found))}
    write_clip(tmp_path / "black.mp4", [black] * 30)
    with pytest.raises(VideoError, match="black all over"):
        find_field(tmp_path / "black.mp4", predictor)
    predictor.field_of_view = (0, 0, 5000, 100)
    with pytest.raises(VideoError, match=f"{frame.width}x{frame.height}"):
        segment_video(clip, tmp_path / "out.mp4", tmp_path / "out.csv", predictor)


def test_an_onnx_file_carries_the_setting(folder, bordered, picture, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from unet_kvasir_seg.inference.onnx_session import OnnxPredictor
    from unet_kvasir_seg.onnx_export.graph import build_graph
    from unet_kvasir_seg.onnx_export.images import Frame
    from unet_kvasir_seg.onnx_export.verification import verify

    frame, box = bordered
    model, _ = load_checkpoint(str(folder))
    processor = UNetImageProcessor(size={"height": 32, "width": 32}, field_of_view="auto")
    (tmp_path / "model.onnx").write_bytes(build_graph(model.eval(), processor, "fp32").SerializeToString())
    onnx_predictor = OnnxPredictor.load(tmp_path / "model.onnx", device="cpu")
    assert onnx_predictor.field_of_view == "auto"
    for image in (frame, np.asarray(frame), torch.from_numpy(np.array(frame)).permute(2, 0, 1)):
        found = onnx_predictor(image)
        assert found.field_of_view == box
        assert np.array_equal(inside(found.probability, box), onnx_predictor(picture).probability)
        assert found.probability.sum() == pytest.approx(inside(found.probability, box).sum(), rel=1e-5)
    expected = Predictor.from_pretrained(str(folder), device="cpu", dtype="float32")(frame, field_of_view="auto")
    assert np.abs(onnx_predictor(frame).probability - expected.probability).max() < 1e-4
    with_auto = Predictor(model, processor, expected_runtime())
    verification = verify(onnx_predictor.model, with_auto, [Frame(np.array(frame), None)])
    assert verification["problems"] == []


def expected_runtime():
    from unet_kvasir_seg.common.device import choose_runtime

    return choose_runtime("cpu", "float32", False)


def test_scores_are_of_the_whole_frame(folder, bordered, picture):
    frame, box = bordered
    how = {"device": "cpu", "dtype": "float32", "tta": False}
    ground_truth = np.zeros((frame.height, frame.width), bool)
    inside(ground_truth, box)[40:90, 50:120] = True
    source = ModelSource.load(str(folder), None, field_of_view="auto", **how)
    assert source.field_of_view == "auto"
    (maps,) = source.predict([Sample("wide", frame, ground_truth)])
    (alone,) = source.predict([Sample("plain", picture, inside(ground_truth, box))])
    assert np.array_equal(inside(maps.probability, box), alone.probability)
    assert all(np.array_equal(one, other) for one, other in zip(maps.input_pair, alone.input_pair, strict=True))
    other = ModelSource.load(str(folder), None, **how)
    assert other.field_of_view == "none"
    assert other.identity != source.identity
    fixed = ModelSource.load(str(folder), None, field_of_view="0,0,900,900", **how)
    with pytest.raises(UserError, match=r"wide .*does not lie within"):
        fixed.predict([Sample("wide", frame, ground_truth)])
    arguments = EvaluationArguments(field_of_view="auto")
    assert arguments.settings_with(source)["field_of_view"] == "auto"
    assert EvaluationArguments().settings_with(other)["field_of_view"] is None  # as earlier versions recorded it
    with pytest.raises(UserError, match="--field_of_view goes with a model"):
        check_arguments(EvaluationArguments(field_of_view="auto", predictions="folder"))


def row_of(image: Image.Image, mask: np.ndarray, tmp_path) -> dict:
    image.save(tmp_path / "image.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    cells = {name: {"bytes": None, "path": str(tmp_path / f"{name}.png")} for name in ("image", "mask")}
    return {**cells, "index": 0}


@pytest.mark.parametrize("setting", ["auto", "box"])
def test_images_and_masks_are_cropped_alike_in_training(setting, bordered, picture, tmp_path):
    frame, box = bordered
    mask = np.zeros((frame.height, frame.width), bool)
    inside(mask, box)[40:90, 50:120] = True
    (tmp_path / "plain").mkdir()
    wide, plain = row_of(frame, mask, tmp_path), row_of(picture, inside(mask, box), tmp_path / "plain")
    size = {"height": 32, "width": 48}
    cropping = UNetImageProcessor(size=size, field_of_view="auto" if setting == "auto" else list(box))
    usual = UNetImageProcessor(size=size)
    for kind in (EvalTransform, TrainTransform):
        found = kind(cropping)({name: [cell] for name, cell in wide.items()})
        expected = kind(usual)({name: [cell] for name, cell in plain.items()})
        for name in ("pixel_values", "labels"):
            assert torch.equal(found[name][0], expected[name][0])
    if setting == "box":
        with pytest.raises(DatasetError, match=r"image\.png: .*320x240"):
            EvalTransform(cropping)({name: [cell] for name, cell in plain.items()})


def test_a_training_saves_the_setting(tmp_path):
    fields = {"base_channels": 4, "depth": 2}
    for flag, saved in (("auto", "auto"), ("1,2,300,400", [1, 2, 300, 400])):
        _, processor = build_model(ModelArguments(field_of_view=flag, config_fields=fields))
        processor.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "preprocessor_config.json").read_text())["field_of_view"] == saved
    with pytest.raises(UserError, match="field_of_view="):
        build_model(ModelArguments(field_of_view="auto,1", config_fields=fields))
