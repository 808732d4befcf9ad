"""Samples by the user's rules for masks: values, a threshold, EXIF tags; and rules that are true of no mask."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.common.mask_rules import MaskRules
from unet_kvasir_seg.data.columns import PAIR_FEATURES
from unet_kvasir_seg.data.mask_values import check_mask_rules
from unet_kvasir_seg.data.samples import DatasetError, decode_image, load_sample

LEVELS = np.arange(24 * 16, dtype=np.uint8).reshape(16, 24) // 2  # no symmetry: each turn gives another image
MASK = np.zeros((16, 24), np.uint8)
MASK[2:5, 3:12] = 255


def cell(levels: np.ndarray, orientation: int | None = None, image_format: str = "PNG", **options) -> dict:
    buffer = io.BytesIO()
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    Image.fromarray(levels).save(buffer, image_format, **options)
    return {"bytes": buffer.getvalue(), "path": "folder/a.png"}


def row(image: dict, mask: dict | None) -> dict:
    return {"image": image, "mask": mask, "index": 0}


def turned(levels: np.ndarray, orientation: int) -> np.ndarray:
    """What is shown of pixels that are stored with this EXIF orientation, by the definition of the tag."""
    upright = levels.T if orientation >= 5 else levels
    down = {2: (0, 1), 3: (1, 1), 4: (1, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}.get(orientation, (0, 0))
    return upright[:: -1 if down[0] else 1, :: -1 if down[1] else 1]


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_that_was_drawn_on_the_stored_image(orientation, image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    pair = row(cell(LEVELS, orientation, image_format, **options), cell(MASK))
    if orientation > 1:
        with pytest.raises(DatasetError, match=rf"a.png: .* EXIF orientation {orientation} and its mask 1 .* true"):
            load_sample(pair)
    stored = load_sample(pair, MaskRules(ignore_exif=True))
    np.testing.assert_array_equal(np.array(stored.image.convert("L")), LEVELS)
    np.testing.assert_array_equal(stored.ground_truth, MASK == 255)
    assert stored.image.getexif().get(0x0112, 1) == 1  # nothing later turns it once more


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_that_was_drawn_on_the_image_as_shown(orientation):
    shown = turned(LEVELS, orientation)
    pair = row(cell(LEVELS, orientation), cell(turned(MASK, orientation)))
    rules = MaskRules(ignore_exif=None if orientation in (1, 5, 6, 7, 8) else False)
    sample = load_sample(pair, rules)
    np.testing.assert_array_equal(np.array(sample.image), shown)
    np.testing.assert_array_equal(sample.ground_truth, turned(MASK, orientation) == 255)
    both = load_sample(row(cell(LEVELS, orientation), cell(MASK, orientation)))
    np.testing.assert_array_equal(both.ground_truth, turned(MASK, orientation) == 255)


def test_tags_of_masks_and_of_squares_are_no_less_doubtful():
    square = LEVELS[:, :16]
    for image, mask, tags in (
        (cell(square, 6), cell(MASK[:, :16]), (6, 1)),
        (cell(LEVELS), cell(MASK, 3), (1, 3)),
        (cell(LEVELS, 6), cell(MASK, 8), (6, 8)),
    ):
        with pytest.raises(DatasetError, match=rf"EXIF orientation {tags[0]} and its mask {tags[1]} .*exif false"):
            load_sample(row(image, mask))
    with pytest.raises(DatasetError, match="turn the mask"):
        load_sample(row(cell(LEVELS, 6), cell(MASK)))
    with pytest.raises(DatasetError, match="16x24 pixels and its mask 24x16 once they are turned"):
        load_sample(row(cell(LEVELS, 6), cell(MASK)), MaskRules(ignore_exif=False))
    with pytest.raises(DatasetError, match=r"24x16 pixels and its mask 16x24\. A mask"):
        load_sample(row(cell(LEVELS, 6), cell(MASK.T)), MaskRules(ignore_exif=True))


def test_a_photograph_at_reduced_scale_is_left_as_stored_too():
    levels = np.repeat(np.repeat(np.uint8([[10, 90], [170, 250]]), 64, 0), 96, 1)  # 128 rows, 192 columns
    mask = np.zeros((128, 192), np.uint8)
    mask[0, 0] = 255
    pair = row(cell(levels, 6, "JPEG", quality=95), cell(mask))
    sample = load_sample(pair, MaskRules(ignore_exif=True), smallest_side=32)
    assert sample.image.size == (48, 32)
    corners = np.array(sample.image, int)[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners, [10, 90, 170, 250], atol=4)
    assert sample.ground_truth[0, 0]
    upright = load_sample(row(pair["image"], None), smallest_side=32)
    assert (upright.image.size, upright.ground_truth.shape) == ((32, 48), (192, 128))


def test_a_threshold_decides_what_is_polyp():
    soft = np.array(Image.fromarray(MASK).resize((240, 160), Image.Resampling.BILINEAR))
    pair = row(cell(np.zeros_like(soft)), cell(soft))
    with pytest.raises(DatasetError, match=r"a.png: Cannot tell polyp .*--mask_threshold 127"):
        load_sample(pair)
    np.testing.assert_array_equal(load_sample(pair, MaskRules(threshold=100)).ground_truth, soft > 100)


def test_images_of_floats_and_of_16_bits_are_seen_as_they_look():
    unit = (LEVELS / 255).astype(np.float32)
    for levels in (unit, unit * 255):
        sample = load_sample(row(cell(levels, None, "TIFF"), cell(MASK)))
        assert sample.image.mode == "RGB"
        np.testing.assert_array_equal(np.array(sample.image)[..., 0], LEVELS)
    for levels in (unit, LEVELS.astype(np.uint16) * 257):
        np.testing.assert_array_equal(np.array(decode_image(cell(levels, None, "TIFF"), 0))[..., 0], LEVELS)
    with pytest.raises(DatasetError, match=r"a.png cannot be read \(Got an image of floats from 0 to 1000"):
        load_sample(row(cell(np.float32([[0, 1000]]), None, "TIFF"), None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"foreground_values": [1], "threshold": 127.0}, "exclude each other"),
        ({"foreground_values": []}, "names no value"),
        ({"threshold": 0.5}, "--mask_threshold 0.5 is no grey level"),
        ({"threshold": float("nan")}, "is no grey level"),
    ],
)
def test_rules_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskRules(**settings)


def rows_of(*masks: np.ndarray | None) -> datasets.Dataset:
    cells = [{"image": cell(LEVELS), "mask": None if mask is None else cell(mask)} for mask in masks]
    rows = datasets.Dataset.from_list(cells, features=PAIR_FEATURES)
    return rows.add_column("index", np.arange(len(rows)))


def test_values_that_occur_in_no_mask_are_named():
    splits = {"train": rows_of(MASK, None, 0 * MASK), "validation": rows_of(MASK // 255 * 7)}
    for allowed in ([255], [7, 255], [0]):
        check_mask_rules(splits, MaskRules(allowed))
    with pytest.raises(
        DatasetError, match=r"--foreground_values 1: none of the 3 masks .* holds 1; they hold 0, 7, 255"
    ):
        check_mask_rules(splits, MaskRules([1]))
    with pytest.raises(DatasetError, match=r"--foreground_values 7 3 255 9: none .* holds 3, 9; they hold"):
        check_mask_rules(splits, MaskRules([7, 3, 255, 9]))
    with pytest.raises(DatasetError, match=r"--mask_threshold 254.5: none of the 3 masks"):
        check_mask_rules({"train": rows_of(MASK // 255 * 254, 0 * MASK, 0 * MASK)}, MaskRules(threshold=254.5))
    check_mask_rules(splits, MaskRules(threshold=127))
    check_mask_rules({"train": rows_of(None)}, MaskRules([1]))  # frames without polyp alone


def test_reading_ends_with_the_mask_in_which_the_last_value_occurs():
    rows = rows_of(0 * MASK, MASK, MASK)
    damaged = rows.to_list()
    damaged[2]["mask"]["bytes"] = b"no image"
    rows = datasets.Dataset.from_list(damaged, features=rows.features)
    check_mask_rules({"train": rows}, MaskRules([0, 255]))
    check_mask_rules({"train": rows}, MaskRules(threshold=127))
    with pytest.raises(DatasetError, match=r"mask folder/a\.png cannot be read"):
        check_mask_rules({"train": rows}, MaskRules([1]))


def test_of_a_stream_the_first_samples_are_read_and_other_splits_come_first(monkeypatch):
    monkeypatch.setattr("unet_kvasir_seg.data.mask_values.STREAM_SAMPLES", 2)
    stream = rows_of(MASK, MASK, MASK // 255).to_iterable_dataset()
    check_mask_rules({"train": stream, "validation": rows_of(MASK // 255)}, MaskRules([1]))
    check_mask_rules({"train": stream, "validation": rows_of(0 * MASK)}, MaskRules([255]))
    with pytest.raises(DatasetError, match="none of the 3 masks that were read holds 1"):
        check_mask_rules({"train": stream, "validation": rows_of(0 * MASK)}, MaskRules([1]))
