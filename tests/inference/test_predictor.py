"""Predictions against the same steps written out with torch."""

import json
import shutil
import tempfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from unet_kvasir_seg.common.device import choose_runtime
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.prediction import Prediction
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    model = UNetForSemanticSegmentation(UNetConfig(base_channels=4, depth=2))
    processor = UNetImageProcessor(size={"height": 32, "width": 48})
    return Predictor(model, processor, choose_runtime("cpu", "float32"))


def frame(height: int, width: int) -> Image.Image:
    return next(generate(1, 64, seed=3))["image"].resize((width, height))


def by_hand(predictor: Predictor, image: Image.Image) -> np.ndarray:
    """The probability map at the original size of an upright RGB image."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, (32, 48), mode="bilinear", antialias=True).round() / 255
    with torch.no_grad():
        logits = predictor.model(resized).logits
    original_size = F.interpolate(logits, (image.height, image.width), mode="bilinear", align_corners=False)
    return original_size.sigmoid()[0, 0].numpy()


@pytest.mark.parametrize("size", [(1, 1), (31, 17), (32, 48), (256, 256), (1072, 1920)])
def test_maps_have_the_original_size_and_the_values_of_the_steps(predictor, size):
    image = frame(*size)
    prediction = predictor(image)
    expected = by_hand(predictor, image)
    assert prediction.probability.shape == size
    assert prediction.probability.dtype == np.float32
    # PIL and torch round the resized image differently, by up to a grey level.
    np.testing.assert_allclose(prediction.probability, expected, atol=0.01)
    np.testing.assert_array_equal(prediction.mask, prediction.probability > 0.5)
    assert prediction.probability_at_input_size.shape == (32, 48)


def test_a_batch_of_mixed_sizes_equals_its_images_one_by_one(predictor):
    images = [frame(40, 56), frame(9, 7), Image.new("L", (20, 30), 90)]
    for together, image in zip(predictor.batch(images), images, strict=True):
        alone = predictor(image)
        np.testing.assert_allclose(together.probability, alone.probability, atol=1e-6)


def test_exif_rotation_is_applied(predictor, tmp_path):
    upright = frame(40, 56)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned = predictor(Image.open(tmp_path / "turned.png"))
    np.testing.assert_array_equal(turned.probability, predictor(upright).probability)


def test_floats_are_grey_levels_or_within_0_and_1(predictor):
    grey = frame(40, 56).convert("L")
    levels = np.asarray(grey, np.float32)
    expected = predictor(grey).probability
    assert predictor(Image.new("L", (56, 40))).probability.std() < expected.std()  # a black image gives another map
    for image in (levels, levels / 255):
        for kind in (Image.fromarray(image), image, torch.from_numpy(image)):
            # Not rounded to whole levels after the resize, as those of 8 bits are.
            np.testing.assert_allclose(predictor(kind).probability, expected, atol=1e-3)


def test_arrays_and_tensors_are_images_too(predictor):
    image = frame(40, 56)
    array = np.array(image)
    expected = predictor(image).probability
    np.testing.assert_array_equal(predictor(array).probability, expected)
    np.testing.assert_array_equal(predictor(torch.from_numpy(array).permute(2, 0, 1)).probability, expected)


@pytest.mark.parametrize("several", [list, tuple, np.stack, lambda frames: torch.from_numpy(np.stack(frames))])
def test_several_images_give_a_list(predictor, several):
    frames = [np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8) for seed in range(3)]
    predictions = predictor(several(frames), threshold=0.4, peak_threshold=0.4, tta=True)
    assert len(predictions) == 3
    for image, prediction in zip(frames, predictions, strict=True):
        expected = predictor(image, threshold=0.4, peak_threshold=0.4, tta=True)
        np.testing.assert_array_equal(prediction.probability, expected.probability)
        assert (prediction.threshold, prediction.peak_threshold) == (0.4, 0.4)
    assert predictor([]) == []


def test_a_prediction_says_in_short_what_it_is():
    probability = np.zeros((3, 5), np.float32)
    probability[0, 1], probability[2, 4] = 0.75, 0.625
    assert repr(Prediction(probability, probability, 0.5)) == "<Prediction 5x3: 2 lesions, presence 0.750>"


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(predictor, threshold):
    with pytest.raises(ValueError, match="threshold"):
        predictor(np.zeros((8, 8, 3), np.uint8), threshold=threshold)


def test_tta_is_the_mean_over_the_flips_of_the_image(predictor):
    image = frame(40, 56)
    array = np.array(image)
    maps = [
        predictor(np.ascontiguousarray(np.flip(array, axes))).probability.copy() for axes in ((), (1,), (0,), (0, 1))
    ]
    flipped_back = [np.flip(m, axes) for m, axes in zip(maps, ((), (1,), (0,), (0, 1)), strict=True)]
    averaged = predictor(image, tta=True)
    np.testing.assert_allclose(averaged.probability, np.mean(flipped_back, axis=0), atol=1e-5)
    assert not np.allclose(averaged.probability, maps[0], atol=1e-4)


def test_the_threshold_of_a_call_is_applied(predictor):
    image = frame(40, 56)
    probability = predictor(image).probability
    middle = float(np.median(probability))
    assert predictor(image, threshold=middle).mask.sum() == (probability > middle).sum() > 0


def peaks_of_regions(probability: np.ndarray, threshold: float) -> list[float]:
    """The highest probability of each region above the threshold, in order."""
    labels, count = ndimage.label(probability > threshold, np.ones((3, 3)))
    return sorted(float(probability[labels == label].max()) for label in range(1, count + 1))


def test_the_peak_threshold_of_a_call_or_the_model_chooses_the_regions(predictor):
    image = frame(200, 300)
    probability = predictor(image).probability
    threshold = float(np.quantile(probability, 0.9))
    peaks = peaks_of_regions(probability, threshold)
    assert len(peaks) >= 3
    middle = peaks[len(peaks) // 2]

    def regions(some: Predictor, **thresholds: float) -> list[float]:
        mask = some(image, threshold=threshold, **thresholds).mask
        return peaks_of_regions(np.where(mask, probability, 0), threshold)

    expected = [peak for peak in peaks if peak >= middle]
    assert regions(predictor) == peaks
    assert regions(predictor, peak_threshold=middle) == expected
    own = UNetImageProcessor(**predictor.processor_settings, peak_threshold=middle, presence_calibration=[1.0, 2.0])
    with_own = Predictor(predictor.model, own, predictor.runtime)
    assert regions(with_own) == expected
    assert regions(with_own, peak_threshold=threshold) == peaks

    (prediction,) = with_own.batch([image], threshold=threshold)
    assert (prediction.peak_threshold, prediction.presence_calibration) == (middle, [1.0, 2.0])
    assert prediction.mask is prediction.mask  # labelled once
    assert len(prediction.lesions) == len(expected)
    assert prediction.peak == probability.max()
    odds = prediction.peak / (1 - prediction.peak) * np.exp(2.0)
    assert prediction.presence == pytest.approx(odds / (1 + odds))


def test_small_regions_are_left_out_on_demand(predictor):
    image = frame(200, 300)
    probability = predictor(image).probability
    threshold = float(np.quantile(probability, 0.9))
    areas = [lesion.pixels for lesion in predictor(image, threshold=threshold).lesions]
    assert len(areas) >= 3
    middle = areas[1]
    kept = predictor(image, threshold=threshold, min_area=middle)
    assert [lesion.pixels for lesion in kept.lesions] == [area for area in areas if area >= middle]
    assert kept.mask.sum() == sum(area for area in areas if area >= middle)
    for found in (
        predictor(image, threshold=threshold, largest_lesion=True),
        *predictor([image], threshold=threshold, largest_lesion=True),
        *predictor.batch([image], threshold=threshold, largest_lesion=True, min_area=middle),
    ):
        assert [lesion.pixels for lesion in found.lesions] == areas[:1]
        assert found.presence == kept.presence
    with pytest.raises(ValueError, match=r"min_area=2\.5; expected a whole number"):
        predictor(image, min_area=2.5)


def test_a_peak_threshold_below_the_threshold_is_refused(predictor):
    with pytest.raises(ValueError, match=r"threshold=0\.6 and peak_threshold=0\.55; .*peak_threshold=0\.6"):
        predictor(frame(8, 8), threshold=0.6, peak_threshold=0.55)
    own = UNetImageProcessor(**predictor.processor_settings, peak_threshold=0.55)
    with pytest.raises(ValueError, match=r"threshold=0\.6 and peak_threshold=0\.55"):
        Predictor(predictor.model, own, predictor.runtime)(frame(8, 8), threshold=0.6)


def test_a_folder_is_loaded_and_errors_name_what_is_missing(predictor, tmp_path):
    predictor.model.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"no usable image processor .* preprocessor_config.json"):
        Predictor.from_pretrained(str(tmp_path / "model"))
    predictor.processor.save_pretrained(tmp_path / "model")
    loaded = Predictor.from_pretrained(str(tmp_path / "model"), device="cpu", dtype="float32")
    image = frame(40, 56)
    np.testing.assert_array_equal(loaded(image).probability, predictor(image).probability)
    with pytest.raises(UserError, match=r"There is no checkpoint .*nowhere: expected a folder"):
        Predictor.from_pretrained(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("works", [True, False])
def test_values_are_the_same_compiled_or_if_compiling_fails(predictor, monkeypatch, capsys, works):
    """Compiling fails if there is no C++ compiler, as on many machines."""
    if works and shutil.which("g++") is None:
        pytest.skip("compiling needs a C++ compiler")
    if not works:
        monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    image = frame(40, 50)
    compiled = Predictor(predictor.model, predictor.processor, choose_runtime("cpu", "float32", compile=True))
    assert str(compiled.runtime) == "cpu, float32, channels_last, compiled"
    with monkeypatch.context() as patch, tempfile.TemporaryDirectory() as cache:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", cache)
        for _ in range(2):
            np.testing.assert_allclose(compiled(image).probability, predictor(image).probability, atol=1e-5)
    assert capsys.readouterr().err.count("could not be compiled") == (0 if works else 1)
    assert compiled.runtime.compiles is works


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"depth": 10**8}, "cannot be loaded: .*`depth` must be at most 12"),
        (
            "config.json",
            {"block": "residual", "norm": "batch", "encoder_blocks": [10**7] * 3},
            "cannot be loaded: .*at most 1000 convolutions",
        ),
        ("config.json", {"id2label": 5}, "cannot be loaded"),
        ("config.json", {"channels": {}}, "cannot be loaded"),
        ("preprocessor_config.json", {"size": {"height": 100_000, "width": 100_000}}, "from 1 to 4096 pixels"),
        ("preprocessor_config.json", {"size": 100_000}, "from 1 to 4096 pixels"),
        ("preprocessor_config.json", {"size": "large"}, "no usable image processor"),
    ],
)
def test_files_that_state_what_no_machine_holds_are_one_line(predictor, tmp_path, file, change, message):
    predictor.model.save_pretrained(tmp_path)
    predictor.processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(settings | change))
    with pytest.raises(UserError, match=message) as refusal:
        Predictor.from_pretrained(str(tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["[]", "{", "5", "[" * 100_000])
def test_damaged_files_are_one_line(predictor, tmp_path, file, text):
    predictor.model.save_pretrained(tmp_path)
    predictor.processor.save_pretrained(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=r"cannot be loaded|no usable image processor") as refusal:
        Predictor.from_pretrained(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_weights_that_could_run_code_are_not_read(predictor, tmp_path):
    predictor.model.config.save_pretrained(tmp_path)
    predictor.processor.save_pretrained(tmp_path)
    torch.save(predictor.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        Predictor.from_pretrained(str(tmp_path))
