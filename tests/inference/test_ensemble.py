"""Ensembles against their members' maps averaged by hand; what cannot be averaged; the spread of maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import save_tiny_model
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.arguments import is_further_model
from unet_kvasir_seg.inference.ensemble import Ensemble, describe_choices
from unet_kvasir_seg.inference.frame_statistics import measure_frame
from unet_kvasir_seg.inference.output_folder import describe_settings
from unet_kvasir_seg.inference.prediction import BasePredictor
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.inference.uncertainty import Spread
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

RUN = {"device": "cpu", "dtype": "float32"}


def with_settings(folder: Path, **settings: object) -> Path:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Three networks; the second sees larger images, which it normalises."""
    folder = tmp_path_factory.mktemp("members")
    found = [save_tiny_model(folder / name, seed, bias=0.2 * seed) for seed, name in enumerate("abc")]
    own = {"size": {"height": 48, "width": 40}, "do_normalize": True, "image_mean": [0.4] * 3, "image_std": [0.5] * 3}
    with_settings(found[1], **own)
    return found


@pytest.fixture(scope="module")
def members(folders) -> list[BasePredictor]:
    return [Predictor.from_pretrained(folder, **RUN) for folder in folders]


@pytest.fixture(scope="module")
def ensemble(folders) -> BasePredictor:
    return Predictor.from_pretrained(folders, **RUN)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return next(generate(1, 64, seed=3))["image"].resize((56, 40))


@pytest.mark.parametrize("tta", [False, True])
def test_the_map_is_the_mean_of_the_members(ensemble, members, image, tta):
    found = ensemble(image, tta=tta, uncertainty=True)
    maps = np.stack([member(image, tta=tta).probability for member in members])
    np.testing.assert_allclose(found.probability, maps.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.spread, maps.std(axis=0), atol=1e-5)
    np.testing.assert_array_equal(found.single, maps[0])
    np.testing.assert_array_equal(found.mask, found.probability > 0.5)
    # At the input size of the first, those of the others resized.
    at_input_size = [torch.from_numpy(member(image, tta=tta).probability_at_input_size) for member in members]
    resized = [F.interpolate(one[None, None], (32, 32), mode="bilinear", align_corners=False) for one in at_input_size]
    np.testing.assert_allclose(found.probability_at_input_size, torch.cat(resized).mean(0)[0].numpy(), atol=1e-6)
    plain = ensemble(image, tta=tta)
    np.testing.assert_array_equal(plain.probability, found.probability)
    assert (plain.spread, plain.single) == (None, None)


def test_batches_and_lists(ensemble, image):
    other = image.resize((30, 50))
    together = ensemble([image, other])
    for alone, found in zip((ensemble(image), ensemble(other)), together, strict=True):
        np.testing.assert_allclose(found.probability, alone.probability, atol=1e-6)
    assert Predictor.from_pretrained([ensemble.names[0]], **RUN).identity == ensemble.members[0].identity


def test_the_flips_of_one_model_spread_too(members, image):
    found = members[0](image, tta=True, uncertainty=True)
    array = np.asarray(image)
    flips = [(), (1,), (0,), (0, 1)]
    maps = np.stack([np.flip(members[0](np.flip(array, axes).copy()).probability, axes) for axes in flips])
    np.testing.assert_allclose(found.probability, maps.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.spread, maps.std(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.single, maps[0], atol=1e-6)
    with pytest.raises(ValueError, match="add tta=True, or load several models"):
        members[0](image, uncertainty=True)


def test_small_differences_of_confident_maps_are_not_lost():
    maps = [np.full((2, 3), 1 - step * 1e-6, np.float32) for step in (1, 2, 3)]
    spread = Spread(maps[0])
    for one in maps[1:]:
        spread.add(one)
    np.testing.assert_allclose(spread.deviation(), np.std(np.stack(maps).astype(np.float64), axis=0), rtol=1e-2)


def test_frames_are_measured_as_the_first_member_sees_them(ensemble, members, image):
    expected = measure_frame(members[0], members[0].prepare(image))
    assert measure_frame(ensemble, ensemble.prepare(image)) == expected


def test_the_statistics_are_those_of_the_first_member_that_has_some(folders, image, tmp_path):
    copies = [save_tiny_model(tmp_path / str(seed), seed) for seed in range(3)]
    with_settings(copies[1], size={"height": 48, "width": 40}, frame_statistics={"version": 1})
    with_settings(copies[2], frame_statistics={"version": 2})
    found = Predictor.from_pretrained(copies, **RUN)
    assert found.processor_settings["frame_statistics"] == {"version": 1}
    assert found.processor_settings["size"] == {"height": 32, "width": 32}  # all else is the first's
    assert measure_frame(found, found.prepare(image)) == measure_frame(
        found.members[1], found.members[1].prepare(image)
    )
    assert found.identity == Predictor.from_pretrained(copies, **RUN).identity
    without = Predictor.from_pretrained([copies[0], folders[2]], **RUN)
    assert without.processor_settings.get("frame_statistics") is None


def test_settings_that_were_chosen_for_one_network_are_put_together(folders, tmp_path):
    copies = [save_tiny_model(tmp_path / str(seed), seed) for seed in range(2)]
    with_settings(copies[0], peak_threshold=0.9, presence_calibration=[2.0, -1.0], peak_chosen_on="sha256:0")
    with_settings(copies[1], peak_threshold=0.8, presence_calibration=[1.0, -2.0])
    both = Predictor.from_pretrained(copies, **RUN)
    assert (both.peak_threshold, both.presence_calibration) == (0.8, [1.5, -1.5])
    assert both.processor_settings["peak_chosen_on"] is None
    assert "0.9, 0.8; the ensemble takes the lowest, 0.8" in describe_choices(both)
    # A member without one leaves the ensemble without.
    mixed = Predictor.from_pretrained([copies[0], folders[2]], **RUN)
    assert (mixed.peak_threshold, mixed.presence_calibration) == (None, None)
    assert "0.9, none; the ensemble takes none" in describe_choices(mixed)
    assert describe_choices(both.members[0]) == ""
    # What was chosen tells no other network; how images are prepared does.
    before = both.identity
    with_settings(copies[1], peak_threshold=0.7)
    assert Predictor.from_pretrained(copies, **RUN).identity == before
    with_settings(copies[1], size={"height": 64, "width": 64})
    assert Predictor.from_pretrained(copies, **RUN).identity != before


def test_run_json_names_all(ensemble, members):
    described = describe_settings(ensemble, 0.5, tta=False, smoothing=0.0)
    assert described["members"] == [member.identity for member in members]
    assert described["member_names"] == ensemble.names
    assert described["dtype"] == "float32"
    assert "members" not in describe_settings(members[0], 0.5, tta=False, smoothing=0.0)


def test_what_cannot_be_averaged(folders, tmp_path):
    with pytest.raises(UserError, match=r"are the same network, whose maps do not differ: leave one out"):
        Predictor.from_pretrained([folders[0], folders[0]], **RUN)
    other = UNetForSemanticSegmentation(UNetConfig(base_channels=4, depth=2, id2label={0: "background", 1: "tool"}))
    other.save_pretrained(tmp_path)
    UNetImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"the first are background, polyp, and of the second background, tool"):
        Predictor.from_pretrained([folders[0], tmp_path], **RUN)
    with pytest.raises(UserError, match="The checkpoint nowhere cannot be loaded"):
        Predictor.from_pretrained([folders[0], "nowhere"], **RUN)
    with pytest.raises(UserError, match="There is no model"):
        Predictor.from_pretrained([], **RUN)


def test_a_member_in_an_onnx_file(folders, members, image, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra [export]")
    from unet_kvasir_seg.export import main

    main(["--model", str(folders[2]), "--output_dir", str(tmp_path)])
    file = tmp_path / "onnx" / "model.onnx"
    mixed = Predictor.from_pretrained([folders[1], file], **RUN)
    expected = (members[1](image).probability + members[2](image).probability) / 2
    np.testing.assert_allclose(mixed(image).probability, expected, atol=1e-4)
    assert isinstance(mixed, Ensemble)
    assert mixed.runtime.device == "cpu"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a.onnx", True),
        ("me/unet", True),
        ("me/unet@v2", True),
        ("frames/x.png", False),
        ("frames", False),
        ("archive/**/*.tif", False),
        ("deep/er/path", False),
    ],
)
def test_models_are_told_from_inputs(word, expected, folders, tmp_path):
    assert is_further_model(word) == expected
    assert is_further_model(str(folders[0]))
    assert not is_further_model(str(tmp_path))
