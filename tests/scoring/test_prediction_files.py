"""The scale of another program's masks and probabilities: 8 and 16 bits, palettes, colours."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.scoring.prediction_files import PredictionFiles

MASK = np.zeros((6, 8), np.uint8)
MASK[2:4, 3:7] = 1


def read(folder: Path, name: str = "a") -> np.ndarray:
    return PredictionFiles(folder).probability(name, MASK.shape)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(MASK),
        Image.fromarray(MASK * 255),
        Image.fromarray(MASK == 1),
        Image.fromarray(MASK.astype(np.uint16)),
        Image.fromarray(MASK.astype(np.uint16) * 65535),
        Image.fromarray(MASK.astype(np.float32)),
        Image.fromarray(MASK * 255).convert("RGB"),
        Image.fromarray(MASK * 255).convert("RGB").quantize(2),  # whose palette begins with white
    ],
    ids=lambda image: f"{image.mode} to {np.array(image).max()}",
)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_mask_of_any_depth_is_the_mask(tmp_path, image, ending):
    image.save(tmp_path / f"a.{'tif' if image.mode == 'F' else ending}")
    np.testing.assert_array_equal(read(tmp_path), MASK)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, ">u2", np.int64, np.float16, np.float64])
def test_a_mask_of_any_type_of_numbers_is_the_mask(tmp_path, dtype):
    np.save(tmp_path / "a.npy", MASK.astype(dtype))
    np.testing.assert_array_equal(read(tmp_path), MASK)


def test_a_dim_file_among_brighter_ones_holds_probabilities(tmp_path):
    for bits, full in ((np.uint8, 255), (np.uint16, 65535)):
        Image.fromarray(MASK.astype(bits)).save(tmp_path / "a.png")
        Image.fromarray(MASK.astype(bits) * full).save(tmp_path / "b.png")
        np.testing.assert_allclose(read(tmp_path), MASK / full, rtol=1e-6)


def test_bits_have_a_scale_each(tmp_path):
    Image.fromarray(MASK.astype(np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(MASK * 200).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read(tmp_path, "a"), MASK)
    np.testing.assert_allclose(read(tmp_path, "b"), MASK * 200 / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            MASK.astype(np.uint16) * 255,
            "highest value in its files of 16 bits is 255: expected .* 0 to 65535, or masks",
        ),
        (MASK.astype(np.uint16) * 2, "files of 16 bits is 2"),
        (MASK.astype(np.uint16) * 4095, "files of 16 bits is 4095"),
        (MASK * 100, "files of 8 bits is 100"),
        (MASK.astype(np.int32) * 70000, "other values than probabilities"),
        (MASK.astype(np.float32) * 255, "other values than probabilities"),
    ],
)
def test_an_unknown_scale_is_refused(tmp_path, array, message):
    Image.fromarray(array).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("array", [np.full((6, 8), "x"), np.full((6, 8), 1j), np.zeros((6, 8), "M8[s]")])
def test_what_is_no_number_is_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=r"a.npy cannot be read \(it holds .*, not numbers\)"):
        read(tmp_path)


def test_colours_and_transparent_parts_are_refused(tmp_path):
    overlay = np.stack([MASK * 255, 0 * MASK, 0 * MASK], axis=-1)
    Image.fromarray(overlay).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png cannot be read \(Got a mask in colour"):
        read(tmp_path)
    cut_out = Image.fromarray(MASK * 255)
    cut_out.putalpha(Image.fromarray(MASK * 255))
    cut_out.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png cannot be read \(Got a mask that is partly transparent"):
        read(tmp_path)


def test_probabilities_that_nowhere_reach_one_half_are_read_with_a_word(tmp_path, caplog):
    levels = MASK * 100
    levels[0, 0] = 7
    Image.fromarray(levels).save(tmp_path / "a.png")
    np.testing.assert_allclose(read(tmp_path), levels / 255, rtol=1e-6)
    assert "the highest value in its files of 8 bits is 100 of 255, a probability of 0.392" in caplog.text


@pytest.mark.parametrize(("stored", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_of_names_may_be_written_in_two_ways(tmp_path, stored, asked):
    Image.fromarray(np.eye(2, dtype=np.uint8)).save(tmp_path / f"{unicodedata.normalize(stored, 'polype é')}.png")
    name = unicodedata.normalize(asked, "polype é")
    assert PredictionFiles(tmp_path).probability(name, (2, 2)).tolist() == [[1, 0], [0, 1]]
