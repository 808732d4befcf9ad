"""Choosing a peak threshold, calibrating presence against scikit-learn, and keeping both in a model's settings."""

import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from test_presence import NEGATIVES, SPLIT, image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.regions_unet import presence_of
from unet_kvasir_seg.scoring.peak import (
    PeakChoice,
    choose_peak,
    cut_in_halves,
    fit_presence,
    highest_peak,
    save_peak,
)
from unet_kvasir_seg.scoring.presence import ScoredImages
from unet_kvasir_seg.scoring.saved_settings import check_savable

ONCE = {"resamples": 50, "seed": 0}


def frame(*peaks: float):
    """A frame with a polyp for each peak: found until there, or not at all at 0."""
    found = [(peak, 30, 30, [index]) for index, peak in enumerate(peaks) if peak]
    return image(*found, polyps=len(peaks))


@pytest.mark.parametrize(
    ("sensitivity", "expected"),
    [
        (1, 0.5625),
        (0.8, 0.5625),
        (0.75, 0.625),
        (0.74, 0.625),
        (0.5, 0.75),
        (0.26, 0.75),
        (0.25, 0.875),
        (0.01, 0.875),
    ],
)
def test_the_highest_peak_that_keeps_a_share_of_the_found_polyps(sensitivity, expected):
    frames = [frame(0.875, 0.75), frame(0.625), frame(0, 0.5625), frame()]  # one of the five is not found
    assert highest_peak(frames, sensitivity, 0.5, "the frames") == expected
    kept = sum(one.found_polyps(expected) for one in frames)
    assert kept >= sensitivity * 4
    assert sum(one.found_polyps(expected + 1e-4) for one in frames) < sensitivity * 4


def test_rounding_loses_no_polyp():
    """The peak is rounded down, but not below the threshold, and shares such as 0.07 of 100 are met exactly."""
    peak = highest_peak([frame(np.float32(0.9876543))], 1, 0.5, "the frames")
    assert peak == 0.987654
    assert highest_peak([frame(np.nextafter(np.float32(0.3), np.float32(1)))], 1, 0.3, "the frames") == 0.3
    hundred = [frame((500 + i) / 1000) for i in range(1, 101)]
    assert highest_peak(hundred, 0.07, 0.5, "the frames") == pytest.approx(0.594, abs=2e-6)
    assert sum(one.found_polyps(highest_peak(hundred, 0.29, 0.5, "")) for one in hundred) == 29


def test_there_is_nothing_to_choose_by_without_found_polyps():
    for frames in ([frame()], [frame(0, 0)]):
        with pytest.raises(UserError, match=r"on the validation split: .* none of its [02] polyps is found"):
            highest_peak(frames, 0.98, 0.5, "the validation split")


def choose(images: ScoredImages, **changes) -> PeakChoice:
    """`choose_peak` on the validation split, keeping every polyp that is found, unless the changes say otherwise."""
    how = {"split": "validation", "fingerprint": "sha256:ab", "sensitivity": 1, "threshold": 0.5, "cross_fit": False}
    return choose_peak(images, **{**how, **ONCE, **changes})


def test_a_peak_is_chosen_with_its_operating_points():
    choice = choose(ScoredImages.of(SPLIT, NEGATIVES), sensitivity=0.6)
    assert (choice.value, choice.halves, choice.is_cross_fitted) == (0.9375, None, False)
    assert choice.peaks.tolist() == [0.9375] * 8
    assert [(point["peaks"], point["found"], point["alarms"]) for point in choice.points] == [
        ([], 3, 2),
        ([0.9375], 2, 0),
    ]
    # With polyp 0.75, 0.9375 and 0.25; without 0.6875, 0.8125, 0.25 and 0.5.
    assert choice.presence_calibration == fit_presence([0.75, 0.9375, 0.25], [0.6875, 0.8125, 0.25, 0.5])
    without = choose(ScoredImages.of(SPLIT))
    assert without.presence_calibration is None


def test_each_half_gets_the_peak_that_was_chosen_on_the_other():
    frames = [frame((600 + 5 * i) / 1000) for i in range(40)]
    windows = [image()] * 80
    of_frames = [index % 40 for index in range(80)]
    choice = choose(ScoredImages.of(frames, windows, of_frames), cross_fit=True, seed=3)
    is_second = cut_in_halves(40, seed=3)
    assert is_second.sum() == 20
    lowest = [min(one.polyp_peaks[0] for one, in_it in zip(frames, half, strict=True) if in_it) for half in
              (~is_second, is_second)]  # fmt: skip
    assert choice.halves == pytest.approx(lowest, abs=2e-6)
    assert choice.value == min(choice.halves)
    assert lowest[0] != lowest[1]
    # The first half's peak is the second half's, and a window has that of its frame.
    assert choice.peaks[:40] == pytest.approx(np.where(is_second, choice.halves[0], choice.halves[1]))
    assert choice.peaks[40:].tolist() == choice.peaks[of_frames].tolist()


def test_halves_depend_on_the_seed_alone():
    for count in (2, 7, 100):
        first = cut_in_halves(count, 0)
        assert first.sum() == count // 2
        assert cut_in_halves(count, 0).tolist() == first.tolist()
    assert cut_in_halves(100, 0).tolist() != cut_in_halves(100, 1).tolist()


def test_frames_of_another_data_set_are_cut_too():
    frames, others = [frame((600 + 5 * i) / 1000) for i in range(10)], [image()] * 6
    choice = choose(ScoredImages.of(frames, others), cross_fit=True)
    assert sorted(choice.peaks[10:].tolist()) == sorted([choice.halves[0]] * 3 + [choice.halves[1]] * 3)


def test_a_half_without_found_polyps_is_refused():
    with pytest.raises(UserError, match="one half of the v split"):
        choose_peak(
            ScoredImages.of([frame(0.75), frame(0)]),
            split="v",
            fingerprint="",
            sensitivity=1,
            threshold=0.5,
            cross_fit=True,
            **ONCE,
        )


def test_presence_is_the_logistic_regression_of_scikit_learn():
    rng = np.random.default_rng(0)
    with_polyp, without = (1 / (1 + np.exp(-rng.normal(mean, 2, count))) for mean, count in ((2, 60), (-1, 200)))
    scale, offset = fit_presence(with_polyp, without)
    # A soft target is a label of 1 with that weight and of 0 with the rest; each kind weighs 1 in all.
    logits, labels, weights = [], [], []
    for values, target in ((with_polyp, 61 / 62), (without, 1 / 202)):
        logit = np.log(values) - np.log(1 - values)
        for label, weight in ((1, target), (0, 1 - target)):
            logits.append(logit)
            labels.append(np.full(len(values), label))
            weights.append(np.full(len(values), weight / len(values)))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    model.fit(np.concatenate(logits)[:, None], np.concatenate(labels), np.concatenate(weights))
    assert (scale, offset) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), abs=1e-4)


def test_presence_of_two_values_by_hand():
    """Two values are told apart completely: presence of each is its target, (n + 1) / (n + 2) or 1 / (n + 2)."""
    calibration = fit_presence([0.9] * 3, [0.2] * 8)
    assert presence_of(0.9, calibration) == pytest.approx(4 / 5, abs=1e-5)
    assert presence_of(0.2, calibration) == pytest.approx(1 / 10, abs=1e-5)


def test_presence_does_not_depend_on_how_many_windows_there_are():
    rng = np.random.default_rng(1)
    with_polyp, without = rng.uniform(0.4, 1, 500), rng.uniform(0, 0.8, 500)
    few, many = fit_presence(with_polyp, without), fit_presence(with_polyp, np.tile(without, 20))
    for peak in (0.1, 0.5, 0.7, 0.9):  # the smoothed targets alone differ, by 0.002
        assert presence_of(peak, few) == pytest.approx(presence_of(peak, many), abs=0.003)


def test_presence_stays_finite_and_rises():
    for with_polyp, without in (([1.0], [0.0]), ([1.0] * 1000, [0.0] * 1000), ([0.3], [0.3]), ([0.1] * 5, [0.9] * 5)):
        scale, offset = fit_presence(with_polyp, without)
        assert math.isfinite(scale)
        assert math.isfinite(offset)
        assert scale >= 0
        assert 0 < presence_of(0.0, (scale, offset)) <= presence_of(1.0, (scale, offset)) < 1


def saved(folder) -> dict:
    return json.loads((folder / "preprocessor_config.json").read_text())


def choice_of(value: float, calibration) -> PeakChoice:
    return PeakChoice("validation", "sha256:ab", 0.98, value, None, np.zeros(0), calibration, [])


def test_a_choice_is_kept_with_the_model(tmp_path):
    UNetImageProcessor(size={"height": 96, "width": 64}).save_pretrained(tmp_path)
    settings = saved(tmp_path) | {"of_a_user": [1, {"a": None}]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    chosen_on = {"peak_chosen_on": "sha256:ab"}
    save_peak(tmp_path, choice_of(0.987654, (1.5, -4.25)))
    assert saved(tmp_path) == settings | chosen_on | {"peak_threshold": 0.987654, "presence_calibration": [1.5, -4.25]}
    assert not list(tmp_path.glob("*.part"))
    processor = UNetImageProcessor.from_pretrained(tmp_path)
    assert processor.to_dict()["peak_chosen_on"] == "sha256:ab"  # it goes with the model
    assert (processor.peak_threshold, list(processor.presence_calibration)) == (0.987654, [1.5, -4.25])
    # Chosen again without images without polyp: the calibration stays.
    (tmp_path / "copy").mkdir()
    save_peak(tmp_path, choice_of(0.75, None), copy_to=tmp_path / "copy")
    assert saved(tmp_path / "copy") == saved(tmp_path)
    assert saved(tmp_path) == settings | chosen_on | {"peak_threshold": 0.75, "presence_calibration": [1.5, -4.25]}


def test_damaged_settings_are_left_as_they_are(tmp_path):
    for content in ("{", "[1]"):
        (tmp_path / "preprocessor_config.json").write_text(content)
        with pytest.raises(UserError, match="cannot be written into"):
            save_peak(tmp_path, choice_of(0.75, None))
        assert (tmp_path / "preprocessor_config.json").read_text() == content


def test_only_a_folder_can_keep_a_choice(tmp_path):
    with pytest.raises(UserError, match="me/unet is no folder of this machine"):
        check_savable("me/unet", "--save_peak")
    with pytest.raises(UserError, match=r"model\.onnx is an ONNX file"):
        check_savable("onnx/model.onnx", "--save_peak")
    with pytest.raises(UserError, match=r"with such a file"):
        check_savable(str(tmp_path), "--save_peak")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    check_savable(str(tmp_path), "--save_peak")
