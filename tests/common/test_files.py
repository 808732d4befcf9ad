"""Images in RGB: of each PIL mode the same grey levels as the image processor gives."""

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.common.files import to_rgb
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F")


def image_of(mode: str) -> Image.Image:
    """A random image, 11 pixels wide and 6 high."""
    random = np.random.default_rng(0)
    if mode.startswith("I"):
        values = random.integers(0, 65536, (6, 11))
        values[0, :2] = 0, 65535
        if mode == "I;16B":
            return Image.frombytes(mode, (11, 6), values.astype(">u2").tobytes())
        return Image.fromarray(values.astype(np.int32 if mode == "I" else np.uint16))
    if mode == "F":
        return Image.fromarray(random.uniform(-3, 260, (6, 11)).astype(np.float32))
    if mode in ("P", "PA"):
        return Image.fromarray(random.integers(0, 256, (6, 11, 3), dtype=np.uint8)).quantize(16).convert(mode)
    bands = len(Image.new(mode, (1, 1)).getbands())
    if mode == "1":
        return Image.fromarray(random.random((6, 11)) > 0.5)
    return Image.frombytes(mode, (11, 6), random.integers(0, 256, (6, 11, bands), dtype=np.uint8).tobytes())


@pytest.mark.parametrize("mode", MODES)
def test_grey_levels_are_those_of_the_image_processor(mode):
    image = image_of(mode)
    assert image.mode == mode
    before = image.tobytes()
    rgb = to_rgb(image)
    expected = UNetImageProcessor().upright(image).permute(1, 2, 0).numpy()
    assert (rgb.mode, rgb.size) == ("RGB", (11, 6))
    np.testing.assert_array_equal(np.asarray(rgb), expected.round().clip(0, 255))
    assert len(np.unique(expected)) > 1
    assert image.tobytes() == before


def test_exif_rotation_is_applied_and_the_result_is_a_copy():
    image = image_of("RGB")
    assert to_rgb(image) is not image
    image.getexif()[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("value", [-1, 65536])
def test_more_than_16_bits_are_refused_as_by_the_image_processor(value):
    image = Image.new("I", (3, 2), value)
    for read in (to_rgb, UNetImageProcessor().upright):
        with pytest.raises(ValueError, match=f"mode I with values from {value} to {value}; expected 16 bits"):
            read(image)
