"""What the values of a mask mean: palettes, soft edges, EXIF tags; by `binarize_mask` and the image processor."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor, binarize_mask, mask_levels, may_misalign

SQUARE = np.zeros((16, 16), bool)
SQUARE[4:8, 6:12] = True  # 24 of 256 pixels
BLACK, WHITE, RED, GREY = (0, 0, 0), (255, 255, 255), (200, 0, 0), (128, 128, 128)


def palette_mask(inside: int, outside: int, *colours: tuple[int, int, int], where: np.ndarray = SQUARE) -> Image.Image:
    """An image of mode P whose pixels have the index `inside` in the square, and `outside` elsewhere."""
    mask = Image.frombytes("P", where.shape[::-1], np.where(where, inside, outside).astype(np.uint8).tobytes())
    mask.putpalette(sum(colours, ()))
    return mask


def saved(image: Image.Image, image_format: str, **options) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return Image.open(buffer)


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("colours", [2, 4])
def test_a_quantized_black_and_white_mask_is_not_inverted(image_format, colours):
    mask = saved(Image.fromarray(SQUARE).convert("RGB").quantize(colours), image_format)
    assert mask.mode == "P"
    assert np.array(mask)[5, 7] == 0  # Pillow stores white first
    np.testing.assert_array_equal(binarize_mask(mask), SQUARE)
    np.testing.assert_array_equal(binarize_mask(mask, threshold=127), SQUARE)
    np.testing.assert_array_equal(binarize_mask(mask, foreground_values=[255]), SQUARE)
    image = Image.new("RGB", (16, 16))
    labels = UNetImageProcessor()(image, mask, do_resize=False, return_tensors="pt").labels[0]
    np.testing.assert_array_equal(labels, SQUARE)


@pytest.mark.parametrize("value", [0, 255])
def test_a_quantized_mask_of_one_grey_is_what_it_shows(value):
    mask = saved(Image.new("RGB", (4, 3), (value,) * 3).quantize(2), "PNG")
    assert np.unique(mask).tolist() == [0]
    assert np.unique(binarize_mask(mask)).tolist() == [value // 255]


@pytest.mark.parametrize(
    ("inside", "outside", "colours"),
    [
        (1, 0, (BLACK, WHITE)),
        (0, 1, (WHITE, BLACK)),
        (5, 2, (RED, RED, BLACK, RED, RED, WHITE)),  # entries that are not in use may have colours
        (2, 5, (RED, RED, WHITE, RED, RED, BLACK)),
        (0, 1, ((250, 252, 255), (3, 0, 0))),  # a slight tint is none
        (1, 0, (BLACK, GREY)),  # indices 0 and 1 in the order of their greys
        (1, 0, (BLACK, RED)),
        (1, 0, (WHITE, RED)),  # with a colour, the indices count
        (1, 0, (BLACK, BLACK)),  # a palette that shows nothing
        (1, 0, ()),
    ],
)
def test_palettes_without_a_flag(inside, outside, colours):
    np.testing.assert_array_equal(binarize_mask(palette_mask(inside, outside, *colours)), SQUARE)


def test_a_palette_that_decides_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Cannot tell polyp .* 0 \(90.6 %\), 128 \(9.4 %\)"):
        binarize_mask(palette_mask(0, 1, GREY, BLACK))


def test_soft_edges_of_a_grey_palette_are_read_as_greys():
    soft = Image.fromarray(SQUARE).convert("L").resize((160, 160), Image.Resampling.BILINEAR)
    mask = soft.convert("RGB").quantize(256)
    assert (np.array(mask) != np.array(soft)).any()
    np.testing.assert_array_equal(binarize_mask(mask, threshold=127), np.array(mask.convert("L")) > 127)


def test_foreground_values_of_a_palette_are_its_indices_or_else_its_greys():
    classes = np.repeat(np.uint8([[0, 1, 2]]), 4, axis=0)
    three = Image.frombytes("P", (3, 4), classes.tobytes())
    three.putpalette(BLACK + WHITE + RED)
    assert binarize_mask(three, [1, 2])[0].tolist() == [0, 1, 1]
    # The same file format with two classes in use, which are black and white.
    np.testing.assert_array_equal(binarize_mask(palette_mask(1, 0, BLACK, WHITE, RED), [1, 2]), SQUARE)
    np.testing.assert_array_equal(binarize_mask(palette_mask(1, 0, BLACK, WHITE), [255]), SQUARE)
    np.testing.assert_array_equal(binarize_mask(palette_mask(1, 0, BLACK, WHITE), [1, 255]), SQUARE)
    # Pillow puts white first: whoever names the 1 that is usual for polyp would get the background.
    for values in ([1], [0], [1, 255]):
        with pytest.raises(
            ValueError, match=r"indices \[0, 1\] are shown as the greys \[255, 0\]: by index .* by grey"
        ):
            binarize_mask(palette_mask(0, 1, WHITE, BLACK), values)
    assert np.unique(mask_levels(palette_mask(0, 1, WHITE, BLACK), [7])).tolist() == [0, 255]


def soft_mask() -> Image.Image:
    return Image.fromarray(SQUARE).convert("L").resize((320, 320), Image.Resampling.BICUBIC)


def test_a_threshold_reads_soft_masks_of_all_depths():
    soft = soft_mask()
    levels = np.array(soft)
    expected = levels > 127
    with pytest.raises(ValueError, match=r"--mask_threshold 127 or mask_threshold=127"):
        binarize_mask(soft)
    for mask in (
        soft,
        soft.convert("RGB"),
        levels,
        torch.from_numpy(levels),
        Image.fromarray(levels.astype(np.uint16) * 257),
        Image.fromarray(levels.astype(np.int32) * 257),
        levels.astype(np.uint16),
        (levels / 255).astype(np.float32),
        Image.fromarray((levels / 255).astype(np.float32)),
        Image.fromarray(expected),
        expected,
    ):
        np.testing.assert_array_equal(binarize_mask(mask, threshold=127), expected)
    np.testing.assert_array_equal(binarize_mask(soft, threshold=0), levels > 0)
    image = Image.new("RGB", (320, 320))
    batch = UNetImageProcessor()(image, soft, mask_threshold=200, do_resize=False, return_tensors="pt")
    np.testing.assert_array_equal(batch.labels[0], levels > 200)


@pytest.mark.parametrize(
    ("mask", "settings", "message"),
    [
        (np.eye(3, dtype=np.uint8), {"threshold": 127}, "mask of 0 and 1, none of them above .* need no threshold"),
        (np.full((2, 2), np.nan), {"threshold": 127}, "values from nan to nan"),
        (np.full((2, 2), 70000), {"threshold": 127}, "values from 70000 to 70000; expected grey levels"),
        (np.full((2, 2), -1), {"threshold": 127}, "values from -1 to -1"),
        (palette_mask(1, 0, BLACK, RED), {"threshold": 127}, "mask in colour"),
        (np.eye(3), {"threshold": 0.5}, "Got the threshold 0.5 for masks; expected a grey level"),
        (np.eye(3), {"threshold": 255}, "Got the threshold 255 for masks"),
        (np.eye(3), {"threshold": float("nan")}, "Got the threshold nan for masks"),
        (np.eye(3), {"threshold": 127, "foreground_values": [1]}, "exclude each other"),
    ],
)
def test_what_a_threshold_cannot_read_is_refused(mask, settings, message):
    with pytest.raises(ValueError, match=message):
        binarize_mask(mask, **settings)


def test_pairs_that_exif_tags_may_misalign():
    assert may_misalign(3, (4, 6), 1, (4, 6))  # by the tag alone: the sizes agree either way
    assert may_misalign(6, (4, 6), 1, (6, 4))  # the mask was drawn on the image as stored
    assert may_misalign(6, (4, 6), 8, (4, 6))
    assert may_misalign(6, (5, 5), 1, (5, 5))
    assert may_misalign(1, (4, 6), 2, (4, 6))
    assert not may_misalign(6, (4, 6), 1, (4, 6))  # on the image as shown
    assert not may_misalign(6, (4, 6), 6, (4, 6))
    assert not may_misalign(1, (4, 6), 1, (6, 4))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_processor_refuses_a_pair_whose_tags_differ(image_format):
    exif = Image.Exif()
    exif[0x0112] = 3
    image = saved(Image.new("RGB", (16, 16)), image_format, exif=exif)
    mask = saved(Image.fromarray(SQUARE), "PNG")
    with pytest.raises(ValueError, match="Image 0 has the EXIF orientation 3 and its segmentation map 1"):
        UNetImageProcessor()(image, mask)
    labels = UNetImageProcessor()(image, np.array(mask), do_resize=False, return_tensors="pt").labels[0]
    np.testing.assert_array_equal(labels, SQUARE)
    turned = saved(Image.fromarray(SQUARE), "PNG", exif=exif)
    image = saved(Image.new("RGB", (16, 16)), image_format, exif=exif)
    labels = UNetImageProcessor()(image, turned, do_resize=False, return_tensors="pt").labels[0]
    np.testing.assert_array_equal(labels, SQUARE[::-1, ::-1])
