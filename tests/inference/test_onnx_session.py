"""ONNX files in ONNX Runtime: compared with image processor and network in PyTorch, and files that are refused."""

import json

import numpy as np
import pytest
import torch
from conftest import save_tiny_model
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.checkpoint import describe_model, fingerprint, load_checkpoint
from unet_kvasir_seg.inference.onnx_session import OnnxPredictor, OnnxSession, number_of_threads, refuse_other_files
from unet_kvasir_seg.inference.output_folder import describe_settings
from unet_kvasir_seg.inference.predictor import Predictor

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from unet_kvasir_seg.onnx_export.graph import build_graph  # noqa: E402 - it needs onnx


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint whose processor normalises, and model.onnx beside it."""
    folder = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)
    processor = UNetImageProcessor(
        size={"height": 32, "width": 48}, do_normalize=True, image_mean=[0.1, 0.0, 0.05], image_std=[1.2, 0.9, 1.0]
    )
    processor.save_pretrained(folder)
    model, processor = load_checkpoint(str(folder))
    (folder / "model.onnx").write_bytes(build_graph(model.eval(), processor, "fp32").SerializeToString())
    return folder


@pytest.fixture(scope="module")
def network(folder) -> OnnxSession:
    return OnnxSession.load(folder / "model.onnx")


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor.from_pretrained(str(folder), device="cpu", dtype="float32")


def frame(height: int, width: int, seed: int = 3) -> np.ndarray:
    return np.array(next(generate(1, 64, seed=seed))["image"].resize((width, height)))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 31), (32, 48), (64, 96), (288, 384)])
def test_maps_of_frames_of_any_size_are_those_of_pytorch(network, predictor, size):
    picture = frame(*size)
    expected = predictor(Image.fromarray(picture))
    mask, probability, logits = network.run(picture[None], threshold=0.5)
    assert (mask.shape, mask.dtype) == ((1, *size), np.uint8)
    assert (probability.shape, probability.dtype) == ((1, *size), np.float32)
    assert (logits.shape, logits.dtype) == ((1, 1, 32, 48), np.float32)
    # torchvision's resize may round a grey level differently, but not at multiples of the input size.
    exact = size in ((1, 1), (32, 48), (64, 96))
    np.testing.assert_allclose(probability[0], expected.probability, atol=1e-5 if exact else 5e-3)
    np.testing.assert_array_equal(mask, probability > 0.5)


def test_the_resize_is_torchvisions_to_a_grey_level(network):
    picture = frame(45, 100)
    resized = network.processor.preprocess(Image.fromarray(picture), do_rescale=False, do_normalize=False)
    grey = resized["pixel_values"][0].permute(1, 2, 0).numpy().astype(int)
    from unet_kvasir_seg.onnx_export.graph import resize_weights

    pixels = torch.from_numpy(picture).permute(2, 0, 1).float()
    across = torch.floor(pixels @ resize_weights(100, 48).T + 0.5)
    found = torch.floor(resize_weights(45, 32) @ across + 0.5).permute(1, 2, 0).numpy()
    assert np.abs(found - grey).max() <= 1
    assert (found != grey).mean() < 0.05


def test_the_resize_by_hand():
    from unet_kvasir_seg.onnx_export.graph import resize_weights

    # Halving: triangles of 4 pixels, 1/8 3/8 3/8 1/8, cut off at the border and made to sum to 1.
    expected = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    np.testing.assert_allclose(resize_weights(4, 2).numpy(), expected, rtol=1e-6)
    # Doubling: a quarter of the next pixel.
    expected = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(resize_weights(2, 4).numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(resize_weights(3, 3).numpy(), np.eye(3))


def test_the_threshold_is_an_input_and_frames_come_in_batches(network):
    pictures = np.stack([frame(40, 56, seed) for seed in range(3)])
    _, probability, _ = network.run(pictures)
    middle = float(np.median(probability))
    mask, again, _ = network.run(pictures, middle)
    np.testing.assert_array_equal(mask, again > np.float32(middle))
    assert 0.2 < mask.mean() < 0.8
    np.testing.assert_allclose(network.run(pictures[1:2])[1][0], probability[1], atol=1e-6)


def test_it_describes_the_exported_network(network, predictor):
    assert network.fingerprint == fingerprint(predictor.model) == fingerprint(network)
    assert network.precision == "fp32"
    assert network.processor.to_dict() == predictor.processor.to_dict()
    described = describe_model(network, network.processor, "tiny", None)
    assert described.pop("format") == "onnx"
    assert described.pop("precision") == "fp32"
    assert described == describe_model(predictor.model, predictor.processor, "tiny", None)


def test_its_predictions_are_those_of_pytorch(folder, predictor):
    of_file = Predictor.from_pretrained(str(folder / "model.onnx"), device="cpu")
    images = [Image.fromarray(frame(*size)) for size in ((32, 48), (40, 56), (9, 7))] + [Image.new("L", (20, 30), 90)]
    ramp = np.linspace(0, 255, 600, dtype=np.float32).reshape(20, 30)
    images += [Image.fromarray(ramp), Image.fromarray(ramp / 255), ramp / 255]
    for tta in (False, True):
        found, expected = (one.batch(images[: None if not tta else 4], tta=tta) for one in (of_file, predictor))
        for one, other in zip(found[:4], expected[:4], strict=True):
            np.testing.assert_allclose(one.probability, other.probability, atol=1e-5)
            np.testing.assert_allclose(one.probability_at_input_size, other.probability_at_input_size, atol=1e-5)
        for one, other in zip(found[4:], expected[4:], strict=True):  # grey levels between two are rounded
            np.testing.assert_allclose(one.probability, other.probability, atol=5e-3)
    assert of_file.identity != predictor.identity
    with pytest.raises(UserError, match="revision main is of a repo on the Hub"):
        Predictor.from_pretrained(str(folder / "model.onnx"), revision="main", device="cpu")


@pytest.fixture(scope="module")
def onnx_predictor(folder) -> OnnxPredictor:
    found = Predictor.from_pretrained(str(folder / "model.onnx"), device="cpu")
    assert isinstance(found, OnnxPredictor)
    return found


def test_a_batch_of_mixed_sizes_equals_its_images_one_by_one(onnx_predictor):
    images = [Image.fromarray(frame(*size)) for size in ((40, 56), (40, 56), (9, 7), (40, 56))]
    for together, image in zip(onnx_predictor.batch(images), images, strict=True):
        alone = onnx_predictor(image)
        assert together.probability.shape == (image.height, image.width)
        assert together.probability_at_input_size.shape == (32, 48)
        np.testing.assert_allclose(together.probability, alone.probability, atol=1e-6)
        np.testing.assert_allclose(together.probability_at_input_size, alone.probability_at_input_size, atol=1e-6)


def test_tta_is_the_mean_over_the_flips_of_the_frame(onnx_predictor, network):
    picture = frame(32, 48)
    maps, at_input_size = [], []
    for axes in ((), (1,), (0,), (0, 1)):
        _, probability, logits = network.run(np.flip(picture, axes)[None])
        maps.append(np.flip(probability[0], axes))
        at_input_size.append(np.flip(1 / (1 + np.exp(-logits[0, 0])), axes))
    averaged = onnx_predictor(Image.fromarray(picture), tta=True)
    np.testing.assert_allclose(averaged.probability, np.mean(maps, axis=0), atol=1e-6)
    np.testing.assert_allclose(averaged.probability_at_input_size, np.mean(at_input_size, axis=0), atol=1e-6)
    assert averaged.probability.dtype == averaged.probability_at_input_size.dtype == np.float32
    assert not np.allclose(averaged.probability, maps[0], atol=1e-4)


def test_arrays_and_tensors_are_images_too(onnx_predictor):
    picture = frame(40, 56)
    expected = onnx_predictor(Image.fromarray(picture)).probability
    channels_first = torch.from_numpy(picture).permute(2, 0, 1)
    for image in (picture, channels_first, channels_first.numpy()):
        np.testing.assert_array_equal(onnx_predictor(image).probability, expected)
    # Floats are resized as floats, so that grey levels are rounded once, not for each axis.
    np.testing.assert_allclose(onnx_predictor(picture.astype(np.float32)).probability, expected, atol=5e-3)
    with pytest.raises(ValueError, match="expected 1 to 4 channels"):
        onnx_predictor(np.zeros((40, 56, 7), np.uint8))


@pytest.mark.parametrize("shape", [(3, 56, 3), (1, 56, 3)])
def test_arrays_of_ambiguous_shape_are_read_as_by_the_image_processor(onnx_predictor, shape):
    """Channels are taken to come first if they could."""
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert onnx_predictor(picture).probability.shape == (56, 3)


def test_settings_are_those_of_the_image_processor(onnx_predictor, predictor):
    settings = [describe_settings(one, 0.5, tta=False, smoothing=0.0) for one in (onnx_predictor, predictor)]
    found, expected = (json.loads(json.dumps(one["image_processor"])) for one in settings)
    assert found == expected
    assert found["image_mean"] == [0.1, 0.0, 0.05]
    assert settings[0]["dtype"] == settings[1]["dtype"] == "float32"


def test_the_peak_threshold_and_calibration_of_the_exported_model_are_used(folder, onnx_predictor, tmp_path):
    model, processor = load_checkpoint(str(folder))
    picture = frame(288, 384)
    probability = onnx_predictor(picture).probability
    threshold = float(np.quantile(probability, 0.9))
    peak = float(probability.max())  # which one region has
    decision = {"peak_threshold": peak, "presence_calibration": [2.0, -1.0]}
    own = UNetImageProcessor(**processor.to_dict() | decision)
    (tmp_path / "model.onnx").write_bytes(build_graph(model.eval(), own, "fp32").SerializeToString())
    with_own = OnnxPredictor.load(tmp_path / "model.onnx")
    assert (with_own.peak_threshold, with_own.presence_calibration) == (peak, [2.0, -1.0])
    prediction = with_own(picture, threshold=threshold)
    without = onnx_predictor(picture, threshold=threshold)
    assert without.peak_threshold is None
    assert len(prediction.lesions) < len(without.lesions)
    np.testing.assert_array_equal(
        prediction.mask, onnx_predictor(picture, threshold=threshold, peak_threshold=peak).mask
    )
    np.testing.assert_array_equal(with_own(picture, threshold=threshold, peak_threshold=threshold).mask, without.mask)
    odds = (peak / (1 - peak)) ** 2 * np.exp(-1)
    assert prediction.presence == pytest.approx(odds / (1 + odds))
    # The graph itself thresholds alone.
    np.testing.assert_array_equal(with_own.model.run(picture[None], 0.5)[1] > 0.5, onnx_predictor(picture).mask[None])
    with pytest.raises(ValueError, match="switch it off with peak_threshold=1"):
        with_own(picture, threshold=1.0)


def test_a_device_that_onnx_runtime_lacks_is_refused(folder, onnx_predictor):
    assert str(onnx_predictor.runtime) == "cpu, float32, ONNX Runtime"
    with pytest.raises(UserError, match="ONNX Runtime has no device 'mps' here; it has cpu"):
        OnnxPredictor.load(folder / "model.onnx", device="mps")


@pytest.mark.parametrize(
    ("bound", "threads"), [(None, 8), ("3", 3), ("2,4", 2), ("99", 8), ("0", 8), ("many", 8), ("", 8)]
)
def test_threads_are_bounded_by_omp_num_threads(monkeypatch, bound, threads):
    monkeypatch.setattr("unet_kvasir_seg.inference.onnx_session.usable_processors", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if bound is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", bound)
    assert number_of_threads() == threads


def test_other_files_are_refused(tmp_path, folder):
    (tmp_path / "text.onnx").write_text("no network")
    for name in ("text.onnx", "absent.onnx"):
        with pytest.raises(UserError, match=rf"{name} cannot be loaded as an ONNX file .* export.py"):
            OnnxSession.load(tmp_path / name)

    other = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[B, 3, 8, 8] image) => (float[B, 3, 8, 8] out) '
        "{ out = Relu(image) }"
    )
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(
        UserError, match=r"another contract. It takes image tensor\(float\) \['B', 3, 8, 8\]; it gives"
    ):
        OnnxSession.load(tmp_path / "other.onnx")

    graph = onnx.load(folder / "model.onnx")
    known = {entry.key: entry.value for entry in graph.metadata_props}
    onnx.helper.set_model_props(graph, known | {"contract_version": "0", "contract": "takes grey frames"})
    onnx.save(graph, tmp_path / "old.onnx")
    with pytest.raises(UserError, match=r"version 0 of the contract.* takes grey frames.* Export it again"):
        OnnxSession.load(tmp_path / "old.onnx")
    for setting in ({"peak_threshold": 1.5}, {"presence_calibration": [1]}):
        preprocessor = json.dumps(json.loads(known["preprocessor"]) | setting)
        onnx.helper.set_model_props(graph, known | {"preprocessor": preprocessor})
        onnx.save(graph, tmp_path / "wrong.onnx")
        with pytest.raises(UserError, match=r"image processor that cannot be: .*expected"):
            OnnxSession.load(tmp_path / "wrong.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "anonymous.onnx")
    with pytest.raises(UserError, match="does not say of which network it is"):
        OnnxSession.load(tmp_path / "anonymous.onnx")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        *(
            (entry, text)
            for entry in ("config", "preprocessor")
            for text in ("no JSON", "[]", "5", "[" * 100_000, "{")
        ),
        ("preprocessor", "{}"),
        ("preprocessor", '{"size": {"height": 100000, "width": 32}}'),
        ("preprocessor", '{"size": {"height": "32", "width": 32}}'),
        ("preprocessor", '{"size": [32, 32]}'),
        ("preprocessor", '{"size": {"height": 32, "width": 32}, "peak_threshold": 1' + 400 * "0" + "}"),
        ("parameters", "many"),
    ],
)
def test_descriptions_that_were_damaged_are_one_line(tmp_path, folder, entry, value):
    graph = onnx.load(folder / "model.onnx")
    known = {prop.key: prop.value for prop in graph.metadata_props}
    onnx.helper.set_model_props(graph, known | {entry: value})
    onnx.save(graph, tmp_path / "damaged.onnx")
    with pytest.raises(UserError, match=r"damaged.onnx describes .* that cannot be: .*Export it again") as refusal:
        OnnxSession.load(tmp_path / "damaged.onnx")
    assert "\n" not in str(refusal.value)


def test_a_network_that_cannot_be_is_refused_when_it_is_asked_for(tmp_path, folder):
    graph = onnx.load(folder / "model.onnx")
    known = {prop.key: prop.value for prop in graph.metadata_props}
    for config in ({"depth": 10**8}, {"id2label": 5}, {"channels": {}}):
        onnx.helper.set_model_props(graph, known | {"config": json.dumps(config)})
        onnx.save(graph, tmp_path / "damaged.onnx")
        with pytest.raises(UserError, match="describes a network that cannot be"):
            _ = OnnxSession.load(tmp_path / "damaged.onnx").config


def test_a_file_that_was_damaged_by_hand_is_refused(tmp_path, folder):
    content = (folder / "model.onnx").read_bytes()
    place = content.index(b'"size"')
    for damage in (b"\xff\xfe{", b'"siz\x00"', b"[[[[[["):
        (tmp_path / "damaged.onnx").write_bytes(content[:place] + damage + content[place + len(damage) :])
        with pytest.raises(UserError, match=r"damaged.onnx (cannot be loaded|describes)"):
            OnnxSession.load(tmp_path / "damaged.onnx")


@pytest.mark.parametrize("is_padded", [False, True])
def test_tensors_in_other_files_are_not_read(tmp_path, folder, monkeypatch, is_padded):
    """Files in the folder that the program is started in would be, also if the name is written longer than need be."""
    graph = onnx.load(folder / "model.onnx")
    onnx.save(graph, tmp_path / "outside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    content = (tmp_path / "outside.onnx").read_bytes()
    assert (tmp_path / "weights.bin").stat().st_size > 1000
    monkeypatch.chdir(tmp_path)
    if is_padded:  # the lengths of the messages around it would have to follow; that the key is seen is enough
        content = content.replace(b"\x0a\x08location", b"\x0a\x88\x00location")
        with pytest.raises(ValueError, match="tensors in other files"):
            refuse_other_files(content)
        return
    with pytest.raises(UserError, match="it keeps tensors in other files, which are not read"):
        OnnxSession.load("outside.onnx")


def test_devices_are_not_read_as_onnx_files(tmp_path):
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"zero.onnx cannot be loaded as an ONNX file \(is no regular file"):
        OnnxSession.load(tmp_path / "zero.onnx")
