"""ONNX files in ONNX Runtime: against the image processor and the network in PyTorch, and files that are refused."""

import numpy as np
import pytest
import torch
from conftest import save_tiny_model
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.checkpoint import describe_model, fingerprint, load_checkpoint
from unet_kvasir_seg.inference.onnx_session import OnnxSession
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
def test_a_frame_of_any_size_gives_the_predictors_maps(network, predictor, size):
    picture = frame(*size)
    expected = predictor(Image.fromarray(picture))
    mask, probability, logits = network.run(picture[None], threshold=0.5)
    assert (mask.shape, mask.dtype) == ((1, *size), np.uint8)
    assert (probability.shape, probability.dtype) == ((1, *size), np.float32)
    assert (logits.shape, logits.dtype) == ((1, 1, 32, 48), np.float32)
    # torchvision's resize may round a grey level otherwise; at sizes that divide, and the network's own, it does not.
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


def test_it_says_of_which_network_it_is(network, predictor):
    assert network.fingerprint == fingerprint(predictor.model) == fingerprint(network)
    assert network.precision == "fp32"
    assert network.processor.to_dict() == predictor.processor.to_dict()
    described = describe_model(network, network.processor, "tiny", None)
    assert described.pop("format") == "onnx"
    assert described.pop("precision") == "fp32"
    assert described == describe_model(predictor.model, predictor.processor, "tiny", None)


def test_a_predictor_has_it_inside(folder, predictor):
    of_file = Predictor.from_pretrained(str(folder / "model.onnx"), device="cpu")
    images = [Image.fromarray(frame(40, 56)), Image.fromarray(frame(9, 7)), Image.new("L", (20, 30), 90)]
    for tta in (False, True):
        found, expected = (one.batch(images, tta=tta) for one in (of_file, predictor))
        for one, other in zip(found, expected, strict=True):
            # torchvision's resize may round a grey level otherwise.
            np.testing.assert_allclose(one.probability, other.probability, atol=5e-3)
            np.testing.assert_allclose(one.network_probability, other.network_probability, atol=5e-3)
    assert of_file.identity != predictor.identity
    with pytest.raises(UserError, match="revision main is of a repo on the Hub"):
        Predictor.from_pretrained(str(folder / "model.onnx"), revision="main", device="cpu")


def test_what_is_no_file_of_this_project_is_refused(tmp_path, folder):
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
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "anonymous.onnx")
    with pytest.raises(UserError, match="does not say of which network it is"):
        OnnxSession.load(tmp_path / "anonymous.onnx")
