"""Measures of frames worked out by hand, the rule by which frames differ, and statistics that cannot be used."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from scipy.stats import binom
from unet_kvasir_seg.common.device import choose_runtime
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference import frame_statistics
from unet_kvasir_seg.inference.frame_statistics import (
    LEVELS,
    MEASURES,
    FrameStatistics,
    StatisticsError,
    describe_differences,
    find_differences,
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


def uniform(**others: list[float]) -> FrameStatistics:
    """Of brightness that is spread evenly from 0 to 1."""
    return FrameStatistics(100, 100, {"brightness": list(LEVELS), **others})


def found(*brightness: float) -> list[tuple[str, float]]:
    differences = find_differences(uniform(), [{"brightness": value} for value in brightness])
    return [(one.what, one.share) for one in differences]


def test_more_than_half_of_the_frames_have_to_be_far_off_on_one_side():
    assert found(0.02, 0.02, 0.02, 0.5, 0.5) == [("darker", 0.6)]
    assert found(0.98, 0.99, 2.0, 0.98) == [("brighter", 1.0)]
    assert found(0.02, 0.02, 0.02, 0.5, 0.5, 0.5) == []
    assert found(*[0.02] * 3, *[0.98] * 3) == []
    assert found(*[0.03] * 100) == []  # all in the lower tenth, and none beyond 97.5 %
    assert found() == []


@pytest.mark.parametrize("count", range(1, 12))
def test_few_frames_have_to_be_more_than_chance(count):
    """The smallest number far off that is told, by scipy's binomial distribution."""
    expected = next(
        (far for far in range(1, count + 1) if far > count / 2 and binom.sf(far - 1, count, 0.025) < 0.0005), None
    )
    told = [far for far in range(1, count + 1) if found(*[0.01] * far, *[0.5] * (count - far))]
    assert told[:1] == ([] if expected is None else [expected])
    assert (expected is None) == (count < 3)


def test_measures_that_say_nothing_bad_are_not_told():
    statistics = FrameStatistics(100, 100, {"presence": list(LEVELS), "uncertainty": list(LEVELS)})
    assert find_differences(statistics, [{"presence": 1.0, "uncertainty": 0.0}] * 9) == []
    told = find_differences(statistics, [{"presence": 0.0}] * 6 + [{"presence": 0.0, "uncertainty": 1.0}] * 3)
    assert [(one.what, one.share) for one in told] == [("fewer polyps found", 1.0), ("less certain outlines", 1.0)]


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "are of version 2, and this version of the project reads 1"),
        ({"version": None}, "are of version None"),
        ({"quantiles": {"brightness": [1.0]}}, "are damaged"),
        ({"quantiles": {"brightness": list(LEVELS[::-1])}}, "are damaged"),
        ({"quantiles": {"brightness": ["x"] * len(LEVELS)}}, "are damaged"),
        ({"quantiles": 3}, "are damaged"),
        ({"frames": None}, "are damaged"),
        ({"levels": [0.5]}, "are damaged: their quantiles are at other levels"),
    ],
)
def test_other_statistics_are_a_line_and_no_crash(change, message):
    settings = {"frame_statistics": uniform().to_dict() | change}
    with pytest.raises(StatisticsError, match=message):
        FrameStatistics.from_settings(settings)
    line = describe_differences(settings, [{"brightness": 0.0}] * 9)
    assert line.count("\n") == 1
    assert message in line
    assert "--save_statistics" in line
    assert describe_differences({"frame_statistics": [1]}, []).startswith(
        "The model's statistics of its training frames are damaged"
    )


def test_they_survive_saving_loading_and_the_metadata_of_an_onnx_file(tmp_path, caplog):
    kept = uniform().to_dict()
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


def test_real_frames(kvasir_seg):
    """Colours and sharpness alone, without the network: validation frames are like the training's, grey ones not."""
    from unet_kvasir_seg.data.dataset import load_splits
    from unet_kvasir_seg.data.samples import decode_image

    statistics = FrameStatistics.from_settings(json.loads((ROOT / "preprocessor_config.json").read_text()))
    assert statistics is not None
    rows = load_splits(kvasir_seg, needed_splits=["validation"])["validation"]
    images = [decode_image(rows[index]["image"], index) for index in range(0, len(rows), 4)]
    assert (
        find_differences(statistics, [measured(resize_frame(np.asarray(image), (384, 384))) for image in images]) == []
    )
    grey = [np.asarray(image.convert("L").convert("RGB")) for image in images[:5]]
    told = find_differences(statistics, [measured(resize_frame(image, (384, 384))) for image in grey])
    assert {"less red", "bluer", "paler colours"} <= {one.what for one in told}


def test_constants_agree():
    assert frame_statistics.TAIL in LEVELS
    assert 1 - frame_statistics.TAIL in LEVELS
