"""The image processor: expected values come from hand, Pillow or torchvision, never from the processor."""

import base64
import io
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageDraw, UnidentifiedImageError
from torchvision import transforms
from unet_kvasir_seg import image_processing_unet
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor, binarize_mask, load_image

EXIF_ORIENTATION = 0x0112
ROTATED_90_CLOCKWISE = 6  # the camera was turned; a viewer rotates the stored pixels by 270 degrees
ONE_GREY_LEVEL = 1 / 255 + 1e-6


def random_image(width, height, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def smooth_image(width, height):
    """Gradients, so that a shifted or flipped result differs by far more than a grey level."""
    y, x = np.mgrid[:height, :width]
    planes = [
        255 * x / max(width - 1, 1),
        255 * y / max(height - 1, 1),
        255 * (x + y) / max(width + height - 2, 1),
    ]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def ellipse_mask(width, height, box, value=255):
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).ellipse(box, fill=value)
    return mask


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return Image.open(buffer)


def unscaled(image, **kwargs):
    """The processor's (3, H, W) grey levels of one image, not resized."""
    batch = UNetImageProcessor()(image, do_resize=False, do_rescale=False, return_tensors="pt", **kwargs)
    return batch.pixel_values[0]


def torchvision_reference(image, size=(256, 256)):
    return transforms.Compose([transforms.Resize(size), transforms.ToTensor()])(image)


# Images: values


@pytest.mark.parametrize("size", [(384, 288), (31, 17), (17, 31), (1, 1), (256, 256), (700, 5)])
def test_default_preprocessing_is_torchvision_resize_and_to_tensor(size):
    for image in (random_image(*size), smooth_image(*size)):
        values = UNetImageProcessor()(image, return_tensors="pt").pixel_values
        assert values.shape == (1, 3, 256, 256)
        assert values.dtype == torch.float32
        assert (values[0] - torchvision_reference(image)).abs().max() <= ONE_GREY_LEVEL


def test_hand_computed_values():
    image = Image.new("RGB", (1, 1), (255, 51, 0))
    values = UNetImageProcessor(size={"height": 2, "width": 3})(image, return_tensors="pt").pixel_values
    expected = torch.tensor([1.0, 0.2, 0.0])[:, None, None].expand(3, 2, 3)
    torch.testing.assert_close(values[0], expected)


@pytest.mark.parametrize("kind", ["numpy_last", "numpy_first", "torch_first", "torch_last"])
@pytest.mark.parametrize("size", [(31, 17), (384, 288)])
def test_arrays_give_what_pil_gives(kind, size):
    image = random_image(*size)
    last = np.array(image)
    first = np.moveaxis(last, -1, 0)
    array = {
        "numpy_last": last,
        "numpy_first": first,
        "torch_first": torch.from_numpy(first.copy()),
        "torch_last": torch.from_numpy(last),
    }[kind]
    processor = UNetImageProcessor()
    expected = processor(image, return_tensors="pt").pixel_values
    assert torch.equal(processor(array, return_tensors="pt").pixel_values, expected)
    assert torch.equal(processor([array], return_tensors="pt").pixel_values, expected)
    assert torch.equal(processor(array[None], return_tensors="pt").pixel_values, expected)


def test_batches_lists_and_nested_lists_keep_the_order():
    images = [random_image(20, 10, seed=seed) for seed in range(3)]
    processor = UNetImageProcessor(size={"height": 8, "width": 12})
    expected = torch.stack([processor(image, return_tensors="pt").pixel_values[0] for image in images])
    arrays = np.stack([np.array(image) for image in images])
    for batch in (
        images,
        tuple(images),
        [images[:1], images[1:]],
        arrays,
        torch.from_numpy(arrays),
        [arrays],
    ):
        assert torch.equal(processor(batch, return_tensors="pt").pixel_values, expected)


def test_images_of_mixed_sizes_kinds_and_modes_in_one_call():
    images = [
        random_image(31, 17),
        random_image(384, 288, "L"),
        np.array(random_image(5, 400)),
        torch.zeros(3, 1, 1, dtype=torch.uint8),
        random_image(31, 17, "RGBA", seed=1),
    ]
    processor = UNetImageProcessor()
    batch = processor(images, return_tensors="pt").pixel_values
    assert batch.shape == (5, 3, 256, 256)
    for image, values in zip(images, batch, strict=True):
        single = processor(image, return_tensors="pt").pixel_values[0]
        assert (single - values).abs().max() <= ONE_GREY_LEVEL


def test_without_return_tensors_the_results_are_lists():
    batch = UNetImageProcessor()([random_image(8, 8), random_image(9, 7)], do_resize=False)
    assert [tuple(image.shape) for image in batch["pixel_values"]] == [(3, 8, 8), (3, 7, 9)]


def test_return_tensors_can_be_a_setting():
    processor = UNetImageProcessor(return_tensors="pt")
    assert processor(random_image(8, 8)).pixel_values.shape == (1, 3, 256, 256)


# Images: modes and layouts


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_pil_modes_convert_as_pillow_does(mode):
    image = random_image(31, 17, mode)
    expected = np.moveaxis(np.array(image.convert("RGB")), -1, 0)
    np.testing.assert_array_equal(unscaled(image), expected)


def test_alpha_is_dropped():
    image = Image.new("RGBA", (7, 5), (10, 20, 30, 0))
    last = np.array(image)
    for kind in (image, last, np.moveaxis(last, -1, 0), torch.from_numpy(last)):
        values = unscaled(kind)
        assert values.shape == (3, 5, 7)
        assert values[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (5, 7, 1)])
def test_grey_arrays_become_three_equal_channels(shape):
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    for array in (grey.reshape(shape), torch.from_numpy(grey.reshape(shape))):
        np.testing.assert_array_equal(unscaled(array), np.stack([grey] * 3))


def test_grey_and_alpha_array():
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    np.testing.assert_array_equal(unscaled(np.stack([grey, grey // 2], axis=-1)), np.stack([grey] * 3))


def test_sixteen_bits_are_scaled_not_clipped():
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    expected = [round(int(level) * 255 / 65535) for level in levels[0]]  # 0, 0, 1, 1, 128, 255
    assert expected == [0, 0, 1, 1, 128, 255]
    kinds = [
        Image.fromarray(levels),
        Image.fromarray(levels.astype(np.int32)),
        levels,
        levels.astype(">u2"),
        torch.from_numpy(levels),
    ]
    assert [getattr(kind, "mode", None) for kind in kinds[:2]] == ["I;16", "I"]
    for kind in kinds:
        assert unscaled(kind).tolist() == [[expected]] * 3


def test_sixteen_bit_png_file(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(path)
    for source in (Image.open(path), str(path), path):
        assert unscaled(source).tolist() == [[[0, 255]]] * 3


def test_bool_and_integer_and_float_arrays():
    assert unscaled(np.array([[False, True]])).tolist() == [[[0, 255]]] * 3
    assert unscaled(np.array([[0, 255]], dtype=np.int64)).tolist() == [[[0, 255]]] * 3
    for dtype in (np.float16, np.float32, np.float64):
        values = unscaled(np.array([[0, 0.5, 200]], dtype=dtype))
        assert values.dtype == torch.float32
        assert values.tolist() == [[[0, 0.5, 200]]] * 3


def test_arrays_torch_cannot_share():
    array = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    flipped = array[::-1]
    frozen = array.copy()
    frozen.setflags(write=False)
    expected = np.moveaxis(array, -1, 0)
    options = {"input_data_format": "channels_last"}
    np.testing.assert_array_equal(unscaled(flipped, **options), expected[:, ::-1])
    np.testing.assert_array_equal(unscaled(frozen, **options), expected)


def test_exif_rotation_is_applied_to_image_and_mask(tmp_path):
    upright = smooth_image(20, 12)
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = ROTATED_90_CLOCKWISE
    stored.save(tmp_path / "image.png", exif=exif)
    image = Image.open(tmp_path / "image.png")
    assert image.size == (12, 20)
    np.testing.assert_array_equal(unscaled(image), np.moveaxis(np.array(upright), -1, 0))

    upright_mask = ellipse_mask(20, 12, (0, 0, 6, 6))
    upright_mask.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(binarize_mask(Image.open(tmp_path / "mask.png")), np.array(upright_mask) // 255)


def test_input_data_format_settles_an_ambiguous_shape():
    array = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    np.testing.assert_array_equal(unscaled(array, input_data_format="channels_first"), array)
    np.testing.assert_array_equal(unscaled(array, input_data_format="channels_last"), np.moveaxis(array, -1, 0))


def test_do_convert_rgb_false_keeps_the_channels():
    batch = UNetImageProcessor()(random_image(8, 8, "L"), do_convert_rgb=False, return_tensors="pt")
    assert batch.pixel_values.shape == (1, 1, 256, 256)


def test_scaled_floats_are_reported(caplog):
    logging.Logger.warning_once.cache_clear()  # another test may have been told already
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        UNetImageProcessor()(np.full((4, 5, 3), 0.25, dtype=np.float32))
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "Pass do_rescale=False if the image is scaled already" in caplog.text


# Images: settings of a call


def test_the_two_calls_of_training_equal_one():
    image, mask = random_image(384, 288), ellipse_mask(384, 288, (100, 80, 200, 160))
    processor = UNetImageProcessor()
    first = processor.preprocess(
        images=image, segmentation_maps=mask, do_rescale=False, do_normalize=False, return_tensors="pt"
    )
    assert first.pixel_values.dtype == torch.uint8
    assert first.pixel_values.shape == (1, 3, 256, 256)
    second = processor.preprocess(images=first.pixel_values, do_resize=False, return_tensors="pt")
    assert torch.equal(second.pixel_values, processor(image, return_tensors="pt").pixel_values)
    assert second.pixel_values.dtype == torch.float32


def test_overrides_of_one_call_do_not_stick():
    processor = UNetImageProcessor()
    before = processor.to_dict()
    image = random_image(31, 17)
    values = processor(
        image,
        size={"height": 8, "width": 10},
        do_normalize=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.5, 1.0],
        return_tensors="pt",
    ).pixel_values[0]
    expected = transforms.Normalize([0.5] * 3, [0.25, 0.5, 1.0])(torchvision_reference(image, (8, 10)))
    assert values.shape == (3, 8, 10)
    assert (values - expected).abs().max() <= 4 * ONE_GREY_LEVEL  # the smallest std is a quarter
    assert processor.to_dict() == before
    assert processor(image, return_tensors="pt").pixel_values.shape == (1, 3, 256, 256)


def test_resample_override():
    image = random_image(31, 17)
    options = {"size": {"height": 8, "width": 12}, "resample": Image.Resampling.NEAREST, "do_rescale": False}
    values = UNetImageProcessor()(image, return_tensors="pt", **options).pixel_values[0]
    expected = image.resize((12, 8), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(values, np.moveaxis(np.array(expected), -1, 0))


def test_rescale_factor_override():
    batch = UNetImageProcessor()(np.full((4, 4), 128, np.uint8), rescale_factor=1 / 64, return_tensors="pt")
    assert torch.equal(batch.pixel_values, torch.full((1, 3, 256, 256), 2.0))


def test_casting_the_batch():
    batch = UNetImageProcessor()(random_image(8, 8), ellipse_mask(8, 8, (2, 2, 5, 5)), return_tensors="pt")
    cast = batch.to("cpu", torch.float16)
    assert cast.pixel_values.dtype == torch.float16
    assert cast.labels.dtype == torch.int64


# Images: errors


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        ([], {}, "Got no image: expected at least one"),
        (
            np.zeros((5, 6, 7), np.uint8),
            {},
            r"shape \(5, 6, 7\); expected 1 to 4 channels.*\(batch, 1, height",
        ),
        (np.zeros((0, 6, 3), np.uint8), {}, r"shape \(0, 6, 3\); expected \(height, width\)"),
        (np.zeros(6, np.uint8), {}, r"shape \(6,\); expected \(height, width\)"),
        (np.array([[-1, 5]]), {}, r"torch.int64 with values from -1 to 5; expected 0 to 255. Convert"),
        (np.array([[0, 4095]]), {}, r"from 0 to 4095; expected 0 to 255. Convert a 16-bit image to uint16"),
        (Image.fromarray(np.array([[0, 70000]], np.int32)), {}, "mode I with values from 0 to 70000.*65535"),
        (
            np.zeros((5, 6, 7), np.uint8),
            {"input_data_format": "channels_last"},
            "7 channels; expected 1 .grey.*Check input_data_format",
        ),
        (
            [random_image(8, 8), random_image(9, 7)],
            {"do_resize": False},
            r"shapes \(3, 7, 9\), \(3, 8, 8\) into one batch. Leave do_resize=True",
        ),
    ],
)
def test_image_errors_say_what_was_got_and_expected(image, options, message):
    with pytest.raises(ValueError, match=message):
        UNetImageProcessor()(image, return_tensors="pt", **options)


def test_what_is_no_image_is_refused():
    with pytest.raises(TypeError, match="int"):
        UNetImageProcessor()([3])


# Masks: values


@pytest.mark.parametrize(
    "mask",
    [
        np.array([[0, 1], [1, 0]], np.uint8),
        np.array([[0, 1], [1, 0]], np.int64),
        np.array([[0, 1], [1, 0]], np.float32),
        np.array([[False, True], [True, False]]),
        torch.tensor([[0, 1], [1, 0]]),
        torch.tensor([[False, True], [True, False]]),
        Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)),
        Image.fromarray(np.array([[False, True], [True, False]])),
        np.array([[0, 255], [255, 0]], np.uint8),
        np.array([[3, 250], [250, 3]], np.int32),
        np.array([[0.0, 255.0], [255.0, 0.0]]),
        Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)),
        np.array([[[0, 255], [255, 0]]], np.uint8),
        np.array([[[0], [255]], [[255], [0]]], np.uint8),
        torch.tensor([[[0, 1], [1, 0]]]),
    ],
)
def test_binary_masks_of_every_kind(mask):
    result = binarize_mask(mask)
    assert result.dtype == np.uint8
    assert result.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (1, 1), (255, 1), (200, 1), (True, 1)])
def test_masks_of_one_value(value, expected):
    for shape in ((1, 1), (17, 31)):
        result = binarize_mask(np.full(shape, value, type(value) if value is True else np.uint8))
        assert result.tolist() == np.full(shape, expected).tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK", "P"])
def test_grey_masks_of_several_channels(mode):
    ground_truth = ellipse_mask(31, 17, (5, 3, 20, 12))
    mask = ground_truth.convert(mode)
    if mode == "P":  # Pillow's conversion keeps grey levels as indices
        assert set(np.unique(np.array(mask))) == {0, 255}
    np.testing.assert_array_equal(binarize_mask(mask), np.array(ground_truth) // 255)
    if mode == "RGB":
        array = np.array(mask)
        np.testing.assert_array_equal(binarize_mask(array), np.array(ground_truth) // 255)
        np.testing.assert_array_equal(binarize_mask(np.moveaxis(array, -1, 0)), np.array(ground_truth) // 255)
        np.testing.assert_array_equal(binarize_mask(torch.from_numpy(array)), np.array(ground_truth) // 255)


def test_a_tint_is_not_a_colour():
    ground_truth = np.array(ellipse_mask(31, 17, (5, 3, 20, 12)))
    tinted = np.stack([ground_truth, ground_truth, np.where(ground_truth == 255, 240, 6)], axis=-1).astype(np.uint8)
    np.testing.assert_array_equal(binarize_mask(tinted), ground_truth // 255)


def test_palette_indices_are_the_values_not_the_colours():
    indices = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    mask = Image.fromarray(indices).convert("P")
    mask.putpalette([200, 0, 0, 0, 0, 90] + [0] * 762)  # background bright, polyp dark
    assert mask.mode == "P"
    assert binarize_mask(mask).tolist() == indices.tolist()


def test_palette_png_file_given_as_a_path(tmp_path):
    mask = Image.new("P", (4, 3))
    mask.putpalette([200, 0, 0, 0, 0, 90] + [0] * 762)
    mask.putpixel((1, 2), 1)
    mask.save(tmp_path / "mask.png")
    image = random_image(4, 3)
    batch = UNetImageProcessor()(image, tmp_path / "mask.png", do_resize=False, return_tensors="pt")
    assert batch.labels.tolist() == [[[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]]


@pytest.mark.parametrize("quality", [30, 60, 75, 90, 95, 98, 100])
@pytest.mark.parametrize("size", [(64, 64), (101, 77), (384, 288)])
def test_jpeg_noise_is_not_a_class(size, quality):
    width, height = size
    ground_truth = ellipse_mask(width, height, (width // 8, height // 6, width // 2, height // 2))
    expected = np.array(ground_truth) // 255
    for mask in (jpeg(ground_truth, quality=quality), jpeg(ground_truth.convert("RGB"), quality=quality)):
        assert len(np.unique(np.array(mask))) > 2
        assert (binarize_mask(mask) != expected).mean() < 0.005


@pytest.mark.parametrize("second_quality", [50, 75, 95])
def test_masks_saved_as_jpeg_twice(second_quality):
    """Off the first compression's grid, the second leaves flat blocks of values near the levels."""
    ground_truth = ellipse_mask(384, 288, (60, 40, 200, 170))
    again = jpeg(jpeg(ground_truth, quality=75).crop((3, 5, 384, 288)), quality=second_quality)
    expected = np.array(ground_truth.crop((3, 5, 384, 288))) // 255
    assert (binarize_mask(again) != expected).mean() < 0.005


def test_antialiased_edges_are_not_a_class():
    ground_truth = ellipse_mask(384, 288, (60, 40, 200, 170))
    soft = ground_truth.resize((192, 144), Image.Resampling.BILINEAR)
    assert len(np.unique(np.array(soft))) > 4
    np.testing.assert_array_equal(binarize_mask(soft), np.array(soft) > 127)


def test_foreground_values_name_the_polyp():
    mask = np.array([[0, 1, 2], [255, 2, 7]], np.uint8)
    for values in ([1, 2], (1, 2), {1, 2}, np.array([1, 2])):
        assert binarize_mask(mask, foreground_values=values).tolist() == [[0, 1, 1], [0, 1, 0]]
    assert binarize_mask(mask, foreground_values=[9]).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert binarize_mask(mask > 0, foreground_values=[1]).tolist() == [[0, 1, 1], [1, 1, 1]]
    assert binarize_mask(mask.astype(np.uint16) * 300, foreground_values=[300]).tolist() == [
        [0, 1, 0],
        [0, 0, 0],
    ]


# Masks: errors


def regions(*values, shape=(64, 64)):
    """Vertical stripes of equal width, one for each value."""
    columns = np.repeat(values, -(-shape[1] // len(values)))[: shape[1]]
    return np.broadcast_to(columns, shape).astype(np.int64)


def void_bordered(shape=(288, 384)):
    """A Pascal VOC label: background 0, object 1, and a border, 5 pixels wide, of 255."""
    mask = Image.new("L", shape[::-1])
    ImageDraw.Draw(mask).ellipse((100, 80, 130, 110), fill=1, outline=255, width=5)
    return np.array(mask)


def small_third_class():
    mask = regions(0, 255)
    mask[10:18, 3:11] = 1  # fills no aligned 8x8 block
    return mask


def small_bright_class():
    mask = regions(0, 255, shape=(128, 128)).copy()
    mask[8:16, 72:80] = 254  # under 1 %, but an aligned 8x8 block
    return mask


REFUSED = {
    "three labels": (regions(0, 1, 2), "0 (34.4 %), 1 (34.4 %), 2 (31.2 %)"),
    "only dark": (regions(0, 2), "0 (50.0 %), 2 (50.0 %)"),
    "at the limit": (regions(0, 127), "0 (50.0 %), 127 (50.0 %)"),
    "three greys": (regions(0, 128, 255), "0 (34.4 %), 128 (34.4 %), 255 (31.2 %)"),
    "half bright": (regions(0, 128), "0 (50.0 %), 128 (50.0 %)"),
    "void": (regions(0, 1, 255), "0 (34.4 %), 1 (34.4 %), 255 (31.2 %)"),
    "two bright": (regions(0, 254, 255), "254 (34.4 %)"),
    "small bright class": (small_bright_class(), "254 (0.4 %)"),
    "thin void": (void_bordered(), "255"),
    "small third class": (small_third_class(), "1 (1.6 %)"),
    "tiny with void": (np.array([[0, 1, 255]]), "0 (33.3 %), 1 (33.3 %), 255 (33.3 %)"),
    "negative": (regions(-1, 0), "-1 (50.0 %), 0 (50.0 %)"),
    "negative and bright": (np.array([[-255, 255]]), "-255 (50.0 %), 255 (50.0 %)"),
    "sixteen bits": (regions(0, 65535), "0 (50.0 %), 65535 (50.0 %)"),
    "probabilities": (np.array([[0.0, 0.25, 1.0]]), "0.25 (33.3 %)"),
    "not a number": (np.array([[0.0, np.nan]]), "nan (50.0 %)"),
    "gradient": (np.arange(256).reshape(16, 16).repeat(8, 0).repeat(8, 1), "and 246 more up to 255"),
    "many labels and void": (regions(*range(8), 255, shape=(72, 72)), "7 (11.1 %), 255 (11.1 %)"),
}


@pytest.mark.parametrize(("mask", "listed"), REFUSED.values(), ids=REFUSED.keys())
def test_other_masks_are_refused_with_their_values_and_the_remedy(mask, listed):
    with pytest.raises(ValueError, match="Cannot tell polyp from background") as error:
        binarize_mask(mask)
    message = str(error.value)
    assert listed in message
    assert "Expected 0 and 1, or two levels of grey" in message
    assert "--foreground_values 1 2" in message
    assert "foreground_values=[1, 2]" in message


def test_a_soft_mask_is_refused():
    soft = ellipse_mask(32, 24, (6, 4, 20, 14)).resize((384, 288), Image.Resampling.BILINEAR)
    with pytest.raises(ValueError, match="Cannot tell polyp from background"):
        binarize_mask(soft)


def test_coloured_and_transparent_masks_are_refused():
    coloured = Image.new("RGB", (4, 3))
    coloured.putpixel((1, 1), (255, 0, 0))
    with pytest.raises(ValueError, match=r"in colour: its channels differ by up to 255.*single-channel image"):
        binarize_mask(coloured)
    for mode in ("RGBA", "LA"):
        transparent = Image.new(mode, (4, 3))
        transparent.putalpha(Image.fromarray(np.eye(3, 4, dtype=np.uint8) * 255))
        with pytest.raises(ValueError, match=r"partly transparent.*single-channel image"):
            binarize_mask(transparent)


def test_a_faint_class_in_one_channel_is_not_lost():
    labels = np.zeros((2, 5, 3), np.uint8)
    labels[0, 1, 0] = 1
    assert binarize_mask(labels).tolist() == [[0, 1, 0, 0, 0], [0] * 5]


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 2, 2, 2)])
def test_masks_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"mask of shape {shape}; expected (height, width)")):
        binarize_mask(np.zeros(shape, np.uint8))


def test_empty_foreground_values_are_refused():
    with pytest.raises(ValueError, match=r"no value in foreground_values; expected .* \[1, 2\]"):
        binarize_mask(np.zeros((2, 2)), foreground_values=[])


# Masks in a call


@pytest.mark.parametrize("size", [(384, 288), (31, 17), (1, 1), (700, 5), (256, 256)])
def test_labels_are_pillows_nearest(size):
    levels = np.random.default_rng(0).integers(0, 2, size[::-1], dtype=np.uint8)
    batch = UNetImageProcessor()(random_image(*size), levels, return_tensors="pt")
    expected = np.array(Image.fromarray(levels).resize((256, 256), Image.Resampling.NEAREST))
    assert batch.labels.dtype == torch.int64
    np.testing.assert_array_equal(batch.labels, expected[None])


def test_masks_of_every_container():
    images = np.stack([np.array(random_image(9, 6, seed=seed)) for seed in range(3)])
    levels = np.random.default_rng(1).integers(0, 2, (3, 6, 9), dtype=np.uint8)
    containers = [
        levels,
        levels[:, None],
        levels[..., None],
        torch.from_numpy(levels),
        list(levels),
        tuple(torch.from_numpy(levels)),
        [Image.fromarray(mask * 255) for mask in levels],
        [[levels[0]], [levels[1], levels[2]]],
    ]
    for maps in containers:
        batch = UNetImageProcessor()(images, segmentation_maps=maps, do_resize=False, return_tensors="pt")
        np.testing.assert_array_equal(batch.labels, levels)


def test_a_single_mask_with_three_channels_is_not_a_batch():
    levels = np.array(ellipse_mask(9, 6, (2, 1, 6, 4)).convert("RGB"))
    for mask in (levels, np.moveaxis(levels, -1, 0)):
        batch = UNetImageProcessor()(random_image(9, 6), mask, do_resize=False, return_tensors="pt")
        np.testing.assert_array_equal(batch.labels[0], levels[..., 0] // 255)


def test_pairs_of_mixed_sizes_match_the_images():
    sizes = [(31, 17), (64, 48)]
    images = [random_image(*size) for size in sizes]
    masks = [ellipse_mask(*size, (3, 3, 14, 12)) for size in sizes]
    batch = UNetImageProcessor()(images, masks, return_tensors="pt")
    for mask, label in zip(masks, batch.labels, strict=True):
        expected = np.array(mask.resize((256, 256), Image.Resampling.NEAREST)) // 255
        np.testing.assert_array_equal(label, expected)


def test_rescaling_and_normalisation_leave_labels_alone():
    mask = ellipse_mask(31, 17, (3, 3, 14, 12))
    options = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    batch = UNetImageProcessor(**options)(random_image(31, 17), mask, do_resize=False, return_tensors="pt")
    np.testing.assert_array_equal(batch.labels[0], np.array(mask) // 255)


def test_center_crop_moves_image_and_mask_together():
    image, mask = smooth_image(31, 17), ellipse_mask(31, 17, (3, 3, 14, 12))
    options = {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 9, "width": 11}}
    batch = UNetImageProcessor(**options)(image, mask, do_rescale=False, return_tensors="pt")
    box = (10, 4, 21, 13)
    np.testing.assert_array_equal(batch.pixel_values[0], np.moveaxis(np.array(image.crop(box)), -1, 0))
    np.testing.assert_array_equal(batch.labels[0], np.array(mask.crop(box)) // 255)


def test_foreground_values_of_a_call():
    mask = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
    processor = UNetImageProcessor()
    batch = processor(random_image(3, 2), mask, foreground_values=[1, 2], do_resize=False, return_tensors="pt")
    assert batch.labels.tolist() == [[[0, 1, 1], [0, 1, 0]]]
    assert "foreground_values" not in processor.to_dict()
    with pytest.raises(ValueError, match="Cannot tell polyp from background"):
        processor(random_image(3, 2), mask)


def test_an_error_names_the_mask():
    images = [random_image(64, 64), random_image(64, 64)]
    with pytest.raises(ValueError, match="Segmentation map 1: Cannot tell polyp from background"):
        UNetImageProcessor()(images, [regions(0, 1), regions(0, 1, 2)])


def test_sizes_of_a_pair_must_agree():
    images = [random_image(31, 17), random_image(31, 17)]
    masks = [Image.new("L", (31, 17)), Image.new("L", (17, 31))]
    with pytest.raises(ValueError, match=r"Image 1 has size \(17, 31\).*map \(31, 17\); expected one size"):
        UNetImageProcessor()(images, masks)


@pytest.mark.parametrize("num_maps", [0, 1, 3])
def test_there_must_be_one_mask_for_each_image(num_maps):
    images = [random_image(8, 8), random_image(8, 8)]
    message = f"Got {num_maps} segmentation maps for 2 images; expected one for each"
    with pytest.raises(ValueError, match=message):
        UNetImageProcessor()(images, [Image.new("L", (8, 8))] * num_maps)


# Post-processing


def outputs(*logits):
    return SimpleNamespace(logits=torch.tensor(logits)[:, None])


def test_the_mask_is_where_the_probability_is_above_the_threshold():
    logits = outputs([[-1.0, 0.0], [0.1, 2.0]], [[3.0, 3.0], [-3.0, -3.0]])
    masks = UNetImageProcessor().post_process_semantic_segmentation(logits)
    assert [mask.tolist() for mask in masks] == [[[0, 0], [1, 1]], [[1, 1], [0, 0]]]
    assert all(mask.dtype == torch.int64 for mask in masks)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.0, [1, 1, 1]), (0.25, [0, 1, 1]), (0.5, [0, 0, 1]), (0.9, [0, 0, 0]), (1.0, [0, 0, 0])],
)
def test_threshold(threshold, expected):
    logits = outputs([[-2.0, 0.0, 2.0]])  # probabilities 0.119, 0.5, 0.881
    masks = UNetImageProcessor().post_process_semantic_segmentation(logits, threshold=threshold)
    assert masks[0].tolist() == [expected]


# Of one row: probabilities 0.731, 0.881, 0.5, 0.731, 0.047, 0.953; three regions above 0.5.
THREE_REGIONS = [[1.0, 2.0, 0.0, 1.0, -3.0, 3.0]]


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        (None, None, [1, 1, 0, 1, 0, 1]),
        (None, 0.8, [1, 1, 0, 0, 0, 1]),
        (0.8, None, [1, 1, 0, 0, 0, 1]),
        (0.8, 0.9, [0, 0, 0, 0, 0, 1]),
        (0.9, 0.8, [1, 1, 0, 0, 0, 1]),
        (0.8, 0.5, [1, 1, 0, 1, 0, 1]),
        (0.99, None, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_a_region_counts_if_its_peak_reaches_the_peak_threshold(own, given, expected):
    processor = UNetImageProcessor(peak_threshold=own)
    arguments = {} if given is None else {"peak_threshold": given}
    (mask,) = processor.post_process_semantic_segmentation(outputs(THREE_REGIONS), **arguments)
    assert (mask.tolist(), mask.dtype) == ([expected], torch.int64)
    (scored,) = processor.post_process_semantic_segmentation(
        outputs(THREE_REGIONS), return_segmentation_scores=True, **arguments
    )
    assert scored.segmentation.tolist() == [expected]
    assert torch.equal(scored.segmentation_scores[1], torch.tensor(THREE_REGIONS).sigmoid())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"min_area": 2}, [1, 1, 0, 0, 0, 0]),
        ({"min_area": 3}, [0, 0, 0, 0, 0, 0]),
        ({"largest_lesion": True}, [1, 1, 0, 0, 0, 0]),
        ({"largest_lesion": True, "peak_threshold": 0.9}, [0, 0, 0, 0, 0, 1]),  # the peak chooses first
        ({"min_area": 2, "peak_threshold": 0.9}, [0, 0, 0, 0, 0, 0]),
        ({"min_area": 1, "largest_lesion": False}, [1, 1, 0, 1, 0, 1]),
    ],
)
def test_a_region_counts_if_it_is_large_enough(options, expected):
    processor = UNetImageProcessor()
    (mask,) = processor.post_process_semantic_segmentation(outputs(THREE_REGIONS), **options)
    assert (mask.tolist(), mask.dtype) == ([expected], torch.int64)
    (scored,) = processor.post_process_semantic_segmentation(
        outputs(THREE_REGIONS), return_segmentation_scores=True, **options
    )
    assert scored.segmentation.tolist() == [expected]
    assert torch.equal(scored.segmentation_scores[1], torch.tensor(THREE_REGIONS).sigmoid())


def test_areas_are_pixels_of_the_target_size():
    # One pixel of two; at twice the size, 2 of the 4 columns in both rows, as the logits between -1 and 1 are resized.
    logits = outputs([[-1.0, 1.0]])
    for min_area, expected in ((4, [[0, 0, 1, 1]] * 2), (5, [[0, 0, 0, 0]] * 2)):
        (mask,) = UNetImageProcessor().post_process_semantic_segmentation(logits, [(2, 4)], min_area=min_area)
        assert mask.tolist() == expected


def test_options_of_regions_that_cannot_be_are_refused():
    for options in ({"min_area": -1}, {"min_area": 0.5}, {"largest_lesion": "yes"}):
        with pytest.raises(ValueError, match="expected"):
            UNetImageProcessor().post_process_semantic_segmentation(outputs(THREE_REGIONS), **options)


def test_a_peak_threshold_below_the_threshold_is_refused():
    message = r"threshold=0\.9 and peak_threshold=0\.8; .*switch it off with peak_threshold=0\.9"
    with pytest.raises(ValueError, match=message):
        UNetImageProcessor().post_process_semantic_segmentation(
            outputs(THREE_REGIONS), threshold=0.9, peak_threshold=0.8
        )
    with pytest.raises(ValueError, match=message):
        UNetImageProcessor(peak_threshold=0.8).post_process_semantic_segmentation(
            outputs(THREE_REGIONS), threshold=0.9
        )


def test_presence_is_that_of_the_highest_probability():
    probability = torch.tensor([[0.1, 0.9], [0.2, 0.3]])
    assert UNetImageProcessor().presence(probability) == pytest.approx(0.9)
    calibrated = UNetImageProcessor(presence_calibration=[2.0, 0.0])  # odds of 9, squared
    assert calibrated.presence(probability) == pytest.approx(81 / 82)
    assert calibrated.presence(probability.numpy()) == pytest.approx(81 / 82)


@pytest.mark.parametrize(
    "settings",
    [{"peak_threshold": 1.5}, {"peak_threshold": "0.9"}, {"presence_calibration": [1.0]}],
)
def test_a_decision_that_cannot_be_is_refused_in_the_constructor_and_in_the_file(settings, tmp_path):
    with pytest.raises(ValueError, match="expected"):
        UNetImageProcessor(**settings)
    UNetImageProcessor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(ValueError, match="expected"):
        UNetImageProcessor.from_pretrained(tmp_path)


def test_the_decision_is_saved_and_loaded(tmp_path, caplog):
    decision = {"peak_threshold": 0.97, "presence_calibration": [1.5, -4.0]}
    processor = UNetImageProcessor(**decision)
    assert decision.items() <= processor.to_dict().items()
    processor.save_pretrained(tmp_path)
    assert decision.items() <= json.loads((tmp_path / "preprocessor_config.json").read_text()).items()
    loaded = UNetImageProcessor.from_pretrained(tmp_path)
    assert (loaded.peak_threshold, loaded.presence_calibration) == (0.97, [1.5, -4.0])
    changed = UNetImageProcessor.from_pretrained(tmp_path, peak_threshold=0.6)
    assert (changed.peak_threshold, changed.presence_calibration) == (0.6, [1.5, -4.0])
    assert "peak_threshold" not in caplog.text
    # Without one, the file stays as it was before there were such settings.
    UNetImageProcessor().save_pretrained(tmp_path)
    assert not decision.keys() & json.loads((tmp_path / "preprocessor_config.json").read_text()).keys()


def test_logits_are_resized_before_the_sigmoid():
    """Halfway between -8 and 2 the logit is -3 (background); averaged probabilities, 0.44, would not tell."""
    result = UNetImageProcessor().post_process_semantic_segmentation(
        outputs([[-8.0, 2.0]]), target_sizes=[(1, 4)], return_segmentation_scores=True
    )[0]
    # With align_corners=False the four centres fall on 0, 1/4, 3/4 and 1 of the way.
    probability = torch.tensor([-8.0, -5.5, -0.5, 2.0]).sigmoid()
    assert result.segmentation.tolist() == [[0, 0, 0, 1]]
    torch.testing.assert_close(result.segmentation_scores[1, 0], probability)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_target_sizes(as_tensor):
    sizes = [(17, 31), (1, 1)]
    logits = SimpleNamespace(logits=torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    masks = UNetImageProcessor().post_process_semantic_segmentation(
        logits, target_sizes=torch.tensor(sizes) if as_tensor else sizes
    )
    assert [tuple(mask.shape) for mask in masks] == sizes
    resized = torch.nn.functional.interpolate(logits.logits[:1], (17, 31), mode="bilinear")[0, 0]
    assert torch.equal(masks[0], (resized > 0).long())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_resized_in_float32(dtype):
    logits = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    processor = UNetImageProcessor()
    half, full = (
        processor.post_process_semantic_segmentation(
            SimpleNamespace(logits=values), [(17, 31)], return_segmentation_scores=True
        )[0]
        for values in (logits, logits.float())
    )
    assert half.segmentation_scores.dtype == torch.float32
    assert torch.equal(half.segmentation_scores, full.segmentation_scores)


def test_scores_are_probabilities_of_background_and_polyp():
    result = UNetImageProcessor().post_process_semantic_segmentation(
        outputs([[0.0, 2.0, -2.0]]), return_segmentation_scores=True
    )[0]
    assert type(result).__name__ == "SemanticSegmentationPostProcessorOutput"
    assert result.segmentation.tolist() == result["segmentation"].tolist() == [[0, 1, 0]]
    expected = torch.tensor([[[0.5, 0.1192, 0.8808]], [[0.5, 0.8808, 0.1192]]])
    torch.testing.assert_close(result.segmentation_scores, expected, atol=1e-4, rtol=0)
    assert torch.equal(result.segmentation_scores, result["segmentation_scores"])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 1, 4, 4), {"target_sizes": [(8, 8)]}, "Got 1 target sizes; expected 2, one for each image"),
        ((1, 1, 4, 4), {"target_sizes": torch.ones(3, 2)}, "Got 3 target sizes; expected 1"),
        (
            (1, 2, 4, 4),
            {},
            r"shape \(1, 2, 4, 4\); expected \(batch, 1, height, width\).*one foreground class",
        ),
        ((1, 4, 4), {}, r"shape \(1, 4, 4\); expected \(batch, 1, height, width\)"),
        ((1, 1, 4, 4), {"threshold": 1.5}, "threshold=1.5; expected a probability between 0 and 1"),
        ((1, 1, 4, 4), {"threshold": -0.1}, "threshold=-0.1; expected"),
        ((1, 1, 4, 4), {"threshold": float("nan")}, "threshold=nan; expected"),
    ],
)
def test_post_processing_errors(shape, options, message):
    with pytest.raises(ValueError, match=message):
        UNetImageProcessor().post_process_semantic_segmentation(SimpleNamespace(logits=torch.zeros(shape)), **options)


# Saving and loading

SETTINGS = {
    "do_resize": True,
    "size": {"height": 18, "width": 20},
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.1, 0.2, 0.3],
    "do_rescale": True,
    "rescale_factor": 0.5,
    "do_convert_rgb": True,
}


def test_default_settings():
    settings = UNetImageProcessor().to_dict()
    assert settings["size"] == {"height": 256, "width": 256}
    assert settings["resample"] == Image.Resampling.BILINEAR
    assert settings["rescale_factor"] == pytest.approx(1 / 255)
    assert (settings["do_convert_rgb"], settings["do_resize"], settings["do_rescale"]) == (True, True, True)
    assert settings["do_normalize"] is False
    assert UNetImageProcessor.model_input_names == ["pixel_values"]


def test_pickled_processors_work():
    """Worker processes of a data loader receive the processor so."""
    image = random_image(31, 17)
    processor = UNetImageProcessor(**SETTINGS)
    copy = pickle.loads(pickle.dumps(processor))
    expected = processor(image, return_tensors="pt").pixel_values
    assert torch.equal(copy(image, return_tensors="pt").pixel_values, expected)


def test_instances_do_not_share_their_size():
    first = UNetImageProcessor()
    first.size["height"] = 8
    assert UNetImageProcessor().to_dict()["size"] == {"height": 256, "width": 256}


def test_json_string_holds_the_settings():
    saved = json.loads(UNetImageProcessor(**SETTINGS).to_json_string())
    assert {key: saved[key] for key in SETTINGS} == SETTINGS
    assert "image_processor_type" not in saved  # transformers 4.57 warns of it


def test_json_file_round_trip(tmp_path):
    processor = UNetImageProcessor(**SETTINGS)
    processor.to_json_file(tmp_path / "image_processor.json")
    assert UNetImageProcessor.from_json_file(tmp_path / "image_processor.json").to_dict() == processor.to_dict()


def test_save_and_load(tmp_path):
    processor = UNetImageProcessor(**SETTINGS)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["auto_map"] == {"AutoImageProcessor": "image_processing_unet.UNetImageProcessor"}
    assert "foreground_values" not in saved
    loaded = UNetImageProcessor.from_pretrained(tmp_path)
    image = random_image(31, 17)
    for name in SETTINGS:
        assert loaded.to_dict()[name] == processor.to_dict()[name]
    expected = processor(image, return_tensors="pt").pixel_values
    assert torch.equal(loaded(image, return_tensors="pt").pixel_values, expected)


@pytest.mark.parametrize("size", [{"height": 42, "width": 43}, (42, 43)])
def test_from_dict_with_another_size(size):
    processor = UNetImageProcessor.from_dict(UNetImageProcessor(**SETTINGS).to_dict(), size=size)
    assert processor.to_dict()["size"] == {"height": 42, "width": 43}
    assert processor.to_dict()["image_mean"] in ([0.5, 0.4, 0.3], (0.5, 0.4, 0.3))


def test_a_size_of_one_number_is_a_square():
    processor = UNetImageProcessor(size=42)
    assert processor.to_dict()["size"] == {"height": 42, "width": 42}
    assert processor(random_image(8, 9), size=12, return_tensors="pt").pixel_values.shape == (1, 3, 12, 12)


REMOTE_USE = """
import sys
from types import SimpleNamespace
import torch
from PIL import Image
from transformers import AutoImageProcessor

source, copy = sys.argv[1:]
AutoImageProcessor.from_pretrained(source, trust_remote_code=True).save_pretrained(copy)
processor = AutoImageProcessor.from_pretrained(copy, trust_remote_code=True, size=[16, 24])
assert type(processor).__module__.startswith("transformers_modules"), type(processor)
batch = processor(Image.new("RGB", (9, 7), (255, 0, 51)), Image.new("1", (9, 7), 1), return_tensors="pt")
corner = [round(value, 6) for value in batch.pixel_values[0, :, 0, 0].tolist()]
print(tuple(batch.pixel_values.shape), corner, batch.labels.sum().item())
logits = torch.tensor([[[[1.0, 2.0, 0.0, 1.0, -3.0, 3.0]]]])
masks = processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits))
print(masks[0].tolist(), processor.presence(logits.sigmoid()))
"""


def test_remote_code_loads_elsewhere_and_is_saved_again(tmp_path):
    """Another folder, a fresh process and an empty module cache: the clone's own folder would hide breaks."""
    model, copy, cwd = (tmp_path / name for name in ("model", "copy", "cwd"))
    cwd.mkdir()
    UNetImageProcessor(peak_threshold=0.9, presence_calibration=[0.0, 0.0]).save_pretrained(model)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_MODULES_CACHE", None)
    command = [sys.executable, "-c", REMOTE_USE, str(model), str(copy)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    prepared, decided = done.stdout.strip().splitlines()
    assert prepared == f"(1, 3, 16, 24) [1.0, 0.0, 0.2] {16 * 24}"
    assert decided == "[[0, 0, 0, 0, 0, 1]] 0.5"
    for code in ("image_processing_unet.py", "field_of_view_unet.py", "regions_unet.py"):
        assert (copy / code).read_bytes() == (model / code).read_bytes()


# Real frames


@pytest.mark.skipif("KVASIR_SEG_DIR" not in os.environ, reason="KVASIR_SEG_DIR names no copy of Kvasir-SEG")
def test_every_real_mask_is_read():
    parquet = pytest.importorskip("pyarrow.parquet")
    files = sorted(Path(os.environ["KVASIR_SEG_DIR"]).glob("data/*.parquet"))
    assert files
    processor = UNetImageProcessor()
    for file in files:
        table = parquet.read_table(file, columns=["image", "mask"])
        for row, cell in enumerate(table.column("mask").to_pylist()):
            mask = Image.open(io.BytesIO(cell["bytes"]))
            np.testing.assert_array_equal(binarize_mask(mask), np.array(mask.convert("L")) > 127, err_msg=f"{row}")
        for row in table.slice(0, 5).to_pylist():
            image, mask = (Image.open(io.BytesIO(row[name]["bytes"])) for name in ("image", "mask"))
            batch = processor(image, mask, return_tensors="pt")
            assert (batch.pixel_values[0] - torchvision_reference(image)).abs().max() <= ONE_GREY_LEVEL
            expected = np.array(mask.convert("L").resize((256, 256), Image.Resampling.NEAREST)) > 127
            np.testing.assert_array_equal(batch.labels[0], expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_of_floats_must_be_finite(value):
    levels = np.full((6, 8), 100, np.float32)
    levels[2, 3] = value
    for image in (levels, torch.from_numpy(levels), Image.fromarray(levels)):
        with pytest.raises(ValueError, match="NaN or infinite; expected finite grey levels"):
            UNetImageProcessor()(image, return_tensors="pt")


@pytest.mark.parametrize("size", [(32, 48), (17, 31), (300, 7)])
def test_a_mask_alone_is_resized_as_with_its_image(size):
    mask = np.random.default_rng(0).random(size) > 0.5
    processor = UNetImageProcessor(size={"height": 32, "width": 48})
    image = np.zeros((*size, 3), np.uint8)
    labels = processor(image, segmentation_maps=mask.astype(np.uint8), return_tensors="pt")["labels"][0]
    alone = processor.resize_mask(mask)
    assert (alone.shape, alone.dtype) == ((32, 48), torch.uint8)
    assert torch.equal(alone.long(), labels)
    # The pixel in which the centre of the resized pixel lies.
    rows, columns = (
        ((np.arange(after) + 0.5) * before / after).astype(int) for before, after in zip(size, (32, 48), strict=True)
    )
    np.testing.assert_array_equal(alone.numpy(), mask[np.ix_(rows, columns)])


# --- Settings and files that attack ---


@pytest.mark.parametrize(
    "size",
    [
        100_000,
        {"height": 100_000, "width": 256},
        {"height": 256, "width": 4097},
        {"height": 0, "width": 256},
        {"height": True, "width": 256},
        {"height": 256.5, "width": 256},
        {"shortest_edge": 256},
    ],
)
def test_sizes_that_no_network_takes_are_refused_at_once(size):
    with pytest.raises(ValueError, match=r"Got size=.*; expected height and width, whole numbers from 1 to 4096"):
        UNetImageProcessor(size=size)


def test_the_largest_size_is_taken():
    size = {"height": 4096, "width": 1}
    assert dict(UNetImageProcessor(size=size).size) == size


def served(folder, content_of: dict[str, bytes]) -> ThreadingHTTPServer:
    """A server of these files on loopback."""
    for name, content in content_of.items():
        (folder / name).write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_images_are_opened_by_path_url_and_base64_and_other_formats_nowhere(tmp_path, monkeypatch):
    """Pillow would start Ghostscript for a picture in PostScript, whatever its name."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for it once
    buffer = io.BytesIO()
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000).save(buffer, "PNG")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    server = served(tmp_path, {"image.png": buffer.getvalue(), "script.png": script})
    try:
        for name, content in (("image.png", buffer.getvalue()), ("script.png", script)):
            encoded = base64.b64encode(content).decode()
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            for source in (tmp_path / name, str(tmp_path / name), url, encoded, f"data:image/png;base64,{encoded}"):
                if name == "script.png":
                    with pytest.raises(UnidentifiedImageError):
                        UNetImageProcessor().upright(source)
                    continue
                image = load_image(source, timeout=30)
                assert image.mode.startswith("I")  # as it is, not cut to 8 bits
                np.testing.assert_array_equal(np.asarray(image), np.arange(12).reshape(3, 4) * 5000)
    finally:
        server.shutdown()
        server.server_close()
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("source", ["absent.png", "ftp://127.0.0.1/x.png", "file:///etc/hostname", ""])
def test_sources_that_are_none_are_refused(source):
    with pytest.raises((ValueError, UnidentifiedImageError)):
        load_image(source)


def test_a_download_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(image_processing_unet, "MAX_DOWNLOAD_BYTES", 10)
    server = served(tmp_path, {"image.png": bytes(11)})
    try:
        with pytest.raises(ValueError, match="Got more than 10 bytes from"):
            load_image(f"http://127.0.0.1:{server.server_port}/image.png")
    finally:
        server.shutdown()
        server.server_close()
