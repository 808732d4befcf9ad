"""How an exported file is compared with PyTorch, with predictions whose differences are known."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import save_tiny_model
from unet_kvasir_seg.common.device import choose_runtime
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.checkpoint import load_checkpoint
from unet_kvasir_seg.inference.onnx_session import OnnxSession
from unet_kvasir_seg.inference.prediction import Prediction
from unet_kvasir_seg.inference.predictor import Predictor

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from unet_kvasir_seg.onnx_export.graph import build_graph
from unet_kvasir_seg.onnx_export.images import Frame
from unet_kvasir_seg.onnx_export.verification import grey_levels, verify


class FixedPredictor:
    """Finds polyp, with probability 0.75, in the left half of each frame; the input size is 2x2."""

    processor = UNetImageProcessor(size={"height": 2, "width": 2})

    def prepare(self, image, field_of_view=None):
        return SimpleNamespace(pixels=torch.zeros(1, 3, 2, 2), size=(image.height, image.width))

    def predict_prepared(self, prepared, *, threshold, peak_threshold):
        height, width = prepared[0].size
        probability = np.full((height, width), 0.25, np.float32)
        probability[:, : width // 2] = 0.75
        return [Prediction(probability, np.full((2, 2), 0.5, np.float32), threshold, peak_threshold)]


class FixedSession:
    """The same, but for the pixels given, whose probabilities are 1 minus that; logits are 0, probability 0.5."""

    def __init__(self, precision: str, wrong: tuple[slice, slice] = (slice(0), slice(0))):
        self.precision, self.wrong = precision, wrong

    def run(self, frames, threshold=0.5):
        _, height, width, _ = frames.shape
        probability = np.full((1, height, width), 0.25, np.float32)
        probability[:, :, : width // 2] = 0.75
        if (height, width) == (10, 20):
            probability[(0, *self.wrong)] = 1 - probability[(0, *self.wrong)]
        return (probability > threshold).astype(np.uint8), probability, np.zeros((1, 1, 2, 2), np.float32)


@pytest.fixture
def frame() -> Frame:
    """10x20 pixels, of which the left half is polyp."""
    ground_truth = np.zeros((10, 20), bool)
    ground_truth[:, :10] = True
    return Frame(np.zeros((10, 20, 3), np.uint8), ground_truth)


def test_equal_predictions_have_no_difference(frame):
    found = verify(FixedSession("fp32"), FixedPredictor(), [frame, frame])
    assert found["images"] == 2
    assert found["same_pixel_values"] == found["end_to_end"] == {"mean": 0, "worst": 0}
    assert found["equal_mask_pixels"] == 1
    assert found["dice_between_masks"] == {"mean": 1, "worst": 1}
    assert found["dice"] == {"pytorch": 1, "onnx": 1, "mean_difference": 0, "worst_image": 0}
    assert list(found["sizes"]) == ["1x1", "31x17", "256x256", "1920x1072"]
    assert found["problems"] == []


def test_differences_by_hand(frame):
    # 10 of the 100 polyp pixels are missed: Dice is 2 * 90 / (90 + 100).
    session = FixedSession("fp32", (slice(0, 1), slice(0, 10)))
    found = verify(session, FixedPredictor(), [frame])
    assert found["end_to_end"] == {"mean": pytest.approx(10 * 0.5 / 200), "worst": 0.5}
    assert found["dice_between_masks"]["mean"] == pytest.approx(180 / 190)
    assert found["dice"] == {
        "pytorch": 1,
        "onnx": pytest.approx(180 / 190),
        "mean_difference": pytest.approx(-10 / 190),
        "worst_image": pytest.approx(-10 / 190),
    }
    pixels = 200 + 1 + 17 * 31 + 256 * 256 + 1072 * 1920
    assert found["equal_mask_pixels"] == pytest.approx(1 - 10 / pixels, abs=1e-12)
    assert found["problems"] == []  # within 0.1 % of all pixels


def test_int8_is_held_to_the_dice(frame):
    wrong = (slice(0, 1), slice(0, 10))
    found = verify(FixedSession("int8", wrong), FixedPredictor(), [frame])
    (problem,) = found["problems"]
    assert problem == "difference of the mean Dice 0.0526316, beyond 0.002"
    without_ground_truth = Frame(frame.pixels, None)
    found = verify(FixedSession("int8", wrong), FixedPredictor(), [without_ground_truth])
    assert found["dice"] is None
    assert found["problems"] == ["mean Dice between the masks 0.947368, beyond 0.95"]
    found = verify(FixedSession("int8", (slice(0, 1), slice(0, 9))), FixedPredictor(), [without_ground_truth])
    assert found["problems"] == []


@pytest.mark.parametrize("statistics", [{}, {"do_normalize": True, "image_mean": [0.6] * 3, "image_std": [0.3] * 3}])
def test_grey_levels_undo_the_image_processor(statistics):
    processor = UNetImageProcessor(size={"height": 8, "width": 8}, **statistics)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    pixel_values = processor.preprocess(image, return_tensors="pt")["pixel_values"]
    np.testing.assert_array_equal(grey_levels(pixel_values, processor)[0], image)


@pytest.mark.parametrize("peak", [0.3, 0.999])
def test_a_models_peak_threshold_is_left_out(tmp_path, peak):
    """The graph does not apply it. At 0.3 it is below the threshold of the comparison, at 0.999 no mask is left."""
    network, processor = load_checkpoint(str(save_tiny_model(tmp_path / "tiny", seed=0)))
    processor.peak_threshold = peak
    (tmp_path / "model.onnx").write_bytes(build_graph(network.eval(), processor, "fp32").SerializeToString())
    predictor = Predictor(network, processor, choose_runtime("cpu", "float32"))
    picture = next(generate(1, 40, seed=0))["image"]
    assert (predictor(picture, threshold=0.3).mask.any()) == (peak == 0.3)
    found = verify(OnnxSession.load(tmp_path / "model.onnx"), predictor, [Frame(np.array(picture), None)])
    assert found["problems"] == []
    assert found["equal_mask_pixels"] > 0.999


def test_nan_is_beyond_any_tolerance(tmp_path):
    network, processor = load_checkpoint(str(save_tiny_model(tmp_path / "tiny", seed=0)))
    predictor = Predictor(copy.deepcopy(network), processor, choose_runtime("cpu", "float32"))

    with torch.no_grad():
        network.classifier.weight[0, 0] = torch.nan
    (tmp_path / "model.onnx").write_bytes(build_graph(network, processor, "fp32").SerializeToString())
    frame = Frame(np.array(next(generate(1, 40, seed=0))["image"]), None)
    found = verify(OnnxSession.load(tmp_path / "model.onnx"), predictor, [frame])
    assert any("same pixel_values nan" in problem for problem in found["problems"])
