"""Measures of frames worked out by hand, the sample of a film, and statistics that are kept."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from unet_kvasir_seg.common.device import choose_runtime
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.frame_statistics import (
    FILM_FRAMES,
    LEVELS,
    MEASURES,
    FilmSample,
    FrameStatistics,
    measure_frame,
    measure_prediction,
)
from unet_kvasir_seg.inference.prediction import BasePredictor, Prediction, PreparedImage
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.inference.resize import resize_frame
from unet_kvasir_seg.inference.uncertainty import mask_uncertainty
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation


class Frames(BasePredictor):
    """Takes frames (h, w, 3) uint8 as they are."""

    processor, processor_settings, identity = None, {}, ""

    def prepare(self, image, field_of_view=None):
        return PreparedImage(image, image.shape[:2])

    def flip_maps(self, prepared, axes):
        raise AssertionError("frames are measured without a prediction")


def measured(frame: np.ndarray) -> dict[str, float]:
    predictor = Frames()
    return measure_frame(predictor, predictor.prepare(frame))


def test_a_frame_of_one_colour():
    frame = np.empty((96, 40, 3), np.uint8)
    frame[:] = 200, 80, 70
    expected = {"brightness": 0.299 * 200 + 0.587 * 80 + 0.114 * 70, "contrast": 0, "red": 200 / 350, "blue": 70 / 350}
    expected |= {"saturation": 1 - 70 / 200, "dark": 0, "sharpness": -2, "grain": -2}  # the logarithms of 0.01
    assert measured(frame) == pytest.approx(expected, abs=1e-4)


def test_dark_pixels_count_for_no_colour():
    frame = np.zeros((96, 40, 3), np.uint8)
    frame[:, 20:] = 100, 100, 50
    found = measured(frame)
    assert (found["dark"], found["red"], found["blue"]) == pytest.approx((0.5, 0.4, 0.2), abs=1e-6)
    grey = 0.886 * 100 + 0.114 * 50
    assert (found["brightness"], found["contrast"]) == pytest.approx((grey / 2, grey / 2), abs=1e-4)
    assert measured(np.zeros((96, 40, 3), np.uint8))["dark"] == 1


def test_stripes_and_noise():
    """Of stripes of one pixel the Laplacian is 200 everywhere: 4 * 100 - 100 - 100, or -200."""
    frame = np.zeros((96, 40, 3), np.uint8)
    frame[:, ::2, 1] = 100
    found = measured(frame)
    assert (found["sharpness"], found["grain"]) == pytest.approx((math.log10(200.01),) * 2, abs=1e-4)
    # One sharp edge raises the mean square, and not the median.
    frame = np.zeros((96, 40, 3), np.uint8)
    frame[:, 20:, 1] = 100
    found = measured(frame)
    assert found["sharpness"] == pytest.approx(math.log10(math.sqrt(2 * 100**2 / 38) + 0.01), abs=1e-4)
    assert found["grain"] < -0.3


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (9, 2), (3, 3)])
def test_tiny_frames(shape):
    found = measured(np.full((*shape, 3), 90, np.uint8))
    assert found["brightness"] == pytest.approx(90, abs=1e-3)
    assert ("grain" in found) == (min(shape) >= 3)


def sampled(times: list[float]) -> list[float]:
    """Of frames whose brightness is their number, those that are kept."""
    predictor, sample = Frames(), FilmSample()
    for number, seconds in enumerate(times):
        sample.add(seconds, predictor, predictor.prepare(np.full((3, 3, 3), number % 256, np.uint8)))
    return [round(measures["brightness"]) for measures in sample.measures]


def test_a_film_is_sampled_once_a_second():
    assert sampled([number / 10 for number in range(95)]) == list(range(0, 95, 10))
    # Without regard to the frame rate; where a second has no frame, none stands for it.
    assert sampled([0.0, 0.9, 1.2, 1.9, 2.0, 7.5, 7.9, 8.1]) == [0, 2, 4, 5, 7]
    assert sampled([]) == []


@pytest.mark.parametrize(("seconds", "apart"), [(64, 1), (65, 2), (128, 2), (129, 4), (255, 4), (10_000, 256)])
def test_a_long_film_is_sampled_evenly(seconds, apart):
    kept = sampled([number / 2 for number in range(2 * seconds)])
    assert kept == [2 * second % 256 for second in range(0, seconds, apart)]
    assert len(kept) <= FILM_FRAMES


@pytest.mark.parametrize(
    "settings", [{}, {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3}]
)
def test_pytorch_sees_the_frames_of_onnx_files(settings):
    torch.manual_seed(0)
    network = UNetForSemanticSegmentation(UNetConfig(base_channels=4, depth=2))
    processor = UNetImageProcessor(size={"height": 24, "width": 32}, **settings)
    predictor = Predictor(network, processor, choose_runtime("cpu", "float32"))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    prepared = predictor.prepare(Image.fromarray(image))
    frame = resize_frame(image, (24, 32))
    assert predictor.input_height(prepared) == 24
    np.testing.assert_array_equal(predictor.grey_levels(prepared, np.array([0, 5, 5, 23])), frame[[0, 5, 5, 23]])
    assert measure_frame(predictor, prepared) == measured(frame)


def test_uncertainty_is_one_minus_the_expected_dice():
    probability = np.array([[0.9, 0.6], [0.2, 0.3]], np.float32)
    mask = probability > 0.5
    assert mask_uncertainty(probability, mask) == pytest.approx(1 - 2 * 1.5 / (2.0 + 2))
    assert mask_uncertainty(probability, np.zeros((2, 2), bool)) == 1
    assert mask_uncertainty(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool)) == 0
    assert mask_uncertainty(mask.astype(np.float32), mask) == 0
    # Whatever the thresholds of a run; a frame without a marked pixel has presence alone.
    prediction = Prediction(probability, probability, threshold=0.95, peak_threshold=0.99)
    assert measure_prediction(prediction) == pytest.approx({"presence": 0.9, "uncertainty": 0.25}, abs=1e-6)
    assert measure_prediction(Prediction(probability / 2, probability / 2, 0.1)) == pytest.approx({"presence": 0.45})


def test_statistics_are_quantiles_and_are_read_back():
    frames = [{"brightness": float(value), "presence": 0.0} for value in range(101)]
    predicted = [{"brightness": 0.0, "presence": value / 100} for value in range(101)]
    statistics = FrameStatistics.of(frames, predicted)
    assert statistics is not None
    assert statistics.quantiles["brightness"] == pytest.approx([100 * level for level in LEVELS])
    assert statistics.quantiles["presence"] == pytest.approx(LEVELS)
    kept = json.loads(json.dumps({"size": {}, "frame_statistics": statistics.to_dict()}))
    assert FrameStatistics.from_settings(kept) == statistics
    assert FrameStatistics.from_settings({"size": {}}) is None
    assert FrameStatistics.of(frames[:39], predicted[:39]) is None


def test_they_survive_saving_loading_and_the_metadata_of_an_onnx_file(tmp_path, caplog):
    kept = FrameStatistics(100, 100, {"brightness": list(LEVELS)}).to_dict()
    UNetImageProcessor(frame_statistics=kept).save_pretrained(tmp_path / "first")
    loaded = UNetImageProcessor.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    again = UNetImageProcessor.from_pretrained(tmp_path / "second")
    assert again.frame_statistics == kept
    assert json.loads(again.to_json_string())["frame_statistics"] == kept  # what export.py writes
    assert "frame_statistics" not in caplog.text
    UNetImageProcessor().save_pretrained(tmp_path / "none")
    assert "frame_statistics" not in json.loads((tmp_path / "none" / "preprocessor_config.json").read_text())


def test_the_shipped_weights_keep_statistics():
    settings = json.loads((ROOT / "preprocessor_config.json").read_text())
    statistics = FrameStatistics.from_settings(settings)
    assert statistics is not None
    assert statistics.quantiles.keys() == MEASURES.keys()
    assert len(json.dumps(statistics.to_dict())) < 4096
