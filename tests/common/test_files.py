"""Images in RGB, with the image processor's grey levels; files that attack; atomic writing."""

import io
import os
import stat
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hostile_files import (
    GREY_TIFF,
    PICTURE,
    encoded,
    jpeg_of_many_exif_segments,
    jpeg_of_many_scans,
    overlapping_tiff,
    png_of_size,
    tiff,
)
from PIL import EpsImagePlugin, Image
from unet_kvasir_seg.common import files
from unet_kvasir_seg.common.files import (
    IMAGE_FORMATS,
    MAX_SIDE,
    atomic_file,
    image_from_bytes,
    read_file,
    to_rgb,
    write_atomic,
)
from unet_kvasir_seg.image_processing_unet import IMAGE_FORMATS as HUB_FORMATS
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor, load_image

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


@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
def test_images_of_the_formats_whose_endings_are_listed_are_read(image_format):
    read = np.asarray(image_from_bytes(encoded(PICTURE, image_format)).convert("RGB"), int)
    np.testing.assert_allclose(read, np.asarray(PICTURE), atol=3)


def test_the_pipeline_reads_the_same_formats(tmp_path):
    assert HUB_FORMATS == IMAGE_FORMATS
    (tmp_path / "frame.avif").write_bytes(encoded(PICTURE, "AVIF"))
    np.testing.assert_allclose(np.asarray(load_image(tmp_path / "frame.avif")), np.asarray(PICTURE), atol=3)


@pytest.mark.parametrize("image_format", ["AVIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_rotated_images_of_all_formats_are_turned_upright(image_format):
    image = Image.new("RGB", (32, 16), "red")
    image.paste("blue", (16, 0, 32, 16))  # on the right, and below when it is turned by 90 degrees clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.asarray(to_rgb(image_from_bytes(encoded(image, image_format, exif=exif))), int)
    expected = np.zeros((32, 16, 3))
    expected[:16, :, 0] = expected[16:, :, 2] = 255
    np.testing.assert_allclose(upright[[4, 28]], expected[[4, 28]], atol=6)


def test_the_longest_side_is_read_and_one_more_pixel_is_refused_before_it_is_decoded():
    assert image_from_bytes(encoded(Image.new("1", (1, MAX_SIDE)), "PNG")).size == (1, MAX_SIDE)
    for size in ((1, MAX_SIDE + 1), (MAX_SIDE + 1, 1), (1, 80_000_000)):
        with pytest.raises(ValueError, match=rf"^is too large \({size[0]}x{size[1]} pixels\): each side .* 16384"):
            image_from_bytes(png_of_size(*size))


def test_another_bound_of_pixels_can_be_given():
    content = encoded(Image.new("1", (40, 50)), "PNG")
    assert image_from_bytes(content, most_pixels=2000).size == (40, 50)
    with pytest.raises(ValueError, match=r"^is too large \(40x50 pixels\): at most 0.0 million pixels"):
        image_from_bytes(content, most_pixels=1999)


def test_content_never_starts_ghostscript(tmp_path, monkeypatch):
    """With a picture in PostScript under an image's name, Pillow would run `gs`."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for it once
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ValueError, match="is no image of a format that is read here"):
        image_from_bytes(content)
    assert not (tmp_path / "started").exists()
    with pytest.raises(OSError, match="image"):  # so that this test sees whether it is started
        Image.open(io.BytesIO(content)).load()
    assert (tmp_path / "started").exists()


@pytest.mark.parametrize("image_format", ["PPM", "ICO", "TGA", "PCX", "SGI", "DDS", "IM", "SPIDER", "MSP", "DIB"])
def test_other_decoders_are_not_run(image_format):
    content = encoded(image_of({"SPIDER": "F", "MSP": "1"}.get(image_format, "RGB")), image_format)
    with pytest.raises(ValueError, match="is no image of a format that is read here"):
        image_from_bytes(content)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: tiff(GREY_TIFF, bytes(16), pages=100_001), "holds several images"),
        (lambda: tiff(GREY_TIFF | {322: (4, 1, 2**15), 323: (4, 1, 2**15)}, bytes(16)), "is too large .32768x32768"),
        (lambda: tiff(GREY_TIFF | {322: (4, 1, 2**14), 323: (4, 1, 2**14)}, bytes(16)), "is too large .16384x16384"),
        (lambda: overlapping_tiff(20_000), "refers to the same bytes again and again"),
        (lambda: encoded(PICTURE, "PNG", exif=b"Exif\0\0" + overlapping_tiff(20_000)), "bytes of EXIF data"),
        (lambda: encoded(PICTURE, "WEBP", exif=overlapping_tiff(20_000)), "bytes of EXIF data"),
        (lambda: jpeg_of_many_scans(10_000), "passes over the image"),
        (lambda: jpeg_of_many_exif_segments(20_000), "holds EXIF data again and again"),
    ],
    ids=["pages", "tiles", "smaller tiles", "tags", "PNG's EXIF", "WebP's EXIF", "scans", "EXIF segments"],
)
def test_small_files_that_cost_much_are_refused(make, reason):
    """Unbounded, each of them takes gigabytes of memory or tens of seconds."""
    content = make()
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(ValueError, match=reason):
        image_from_bytes(content)
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 15
    assert peak < 12 * len(content) + 2**24


def test_images_like_these_that_cost_little_are_read():
    assert image_from_bytes(tiff(GREY_TIFF, bytes(range(16)))).tobytes() == bytes(range(16))
    assert image_from_bytes(jpeg_of_many_scans(1)).size == (11, 6)
    assert image_from_bytes(jpeg_of_many_exif_segments(2)).size == (11, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x9286] = "x" * 60_000  # a comment, which takes most of the bytes that are allowed
    assert image_from_bytes(encoded(PICTURE, "PNG", exif=exif)).size == (6, 11)


def test_files_that_may_never_end_are_refused(tmp_path):
    for device in ("/dev/zero", "/dev/urandom"):
        link = tmp_path / Path(device).name
        link.symlink_to(device)
        with pytest.raises(ValueError, match="is no regular file"):
            read_file(link)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is no regular file"):
        read_file(tmp_path / "pipe")  # which nobody writes to
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)  # of holes
    with pytest.raises(ValueError, match=r"^is too large \(1099512 MB\): at most 537 MB are read"):
        read_file(tmp_path / "huge")


def test_regular_files_are_read_and_links_to_them(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_file(tmp_path / "link", most_bytes=7) == b"content"
    with pytest.raises(ValueError, match="is too large"):
        read_file(tmp_path / "link", most_bytes=6)


def test_a_file_is_replaced_when_it_is_complete_and_keeps_its_permissions(tmp_path):
    path = tmp_path / ("x" * 251 + ".png")  # the longest name that there can be
    umask = os.umask(0o027)
    try:
        write_atomic(path, b"first")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    with atomic_file(path) as file:
        file.write(b"second")
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.write("no bytes")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_planted_link_is_never_followed(tmp_path, monkeypatch):
    """Not even by who guesses the random name, or puts a link in the place of the file itself."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    (tmp_path / "mask.png").symlink_to(victim)
    write_atomic(tmp_path / "mask.png", b"mask")
    assert victim.read_bytes() == b"kept"
    assert not (tmp_path / "mask.png").is_symlink()
    names = set()
    for _ in range(2):
        with atomic_file(tmp_path / "mask.png") as file:
            names.add(file.name)
    assert len(names) == 2
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".guessed.part").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "mask.png", b"other")
    assert victim.read_bytes() == b"kept"


def test_a_gif_whose_comment_is_read_again_and_again_is_refused(monkeypatch):
    """Pillow copies all of a comment with each of its blocks."""
    monkeypatch.setattr(files, "MAX_READING_SECONDS", 0.2)
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "GIF")
    gif = file.getvalue()
    after_palette = 13 + 3 * (2 << (gif[10] & 7))
    comment = b"\x21\xfe" + 40_000 * (b"\xff" + 255 * b"a") + b"\0"
    started = time.thread_time()
    with pytest.raises(ValueError, match=r"takes more than 0\.2 seconds to decode"):
        image_from_bytes(gif[:after_palette] + comment + gif[after_palette:])
    assert time.thread_time() - started < 5


def test_what_follows_a_jpeg_does_not_count_as_scans():
    """Phones append the video of a motion photo, in which any two bytes occur."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "JPEG")
    video = np.random.default_rng(0).integers(0, 256, 12_000_000, dtype=np.uint8).tobytes()
    assert video.count(b"\xff\xda") > files.MAX_SCANS
    assert image_from_bytes(file.getvalue() + video).size == (64, 48)


@pytest.mark.parametrize("scale", [1, 255])
def test_floats_of_either_scale_are_the_same_picture(scale, caplog):
    files._say_that_floats_are_scaled.cache_clear()  # another test may have been told already
    levels = np.arange(66, dtype=np.float32).reshape(6, 11) * 3
    image = Image.fromarray(levels / 255 * scale)
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(to_rgb(image))[..., 0], levels)
    upright = UNetImageProcessor().upright(image)
    np.testing.assert_allclose(upright[0], levels, atol=1e-3)
    said = [record for record in caplog.records if "floats within 0 and 1" in record.getMessage()]
    assert len(said) == (1 if scale == 1 else 0)


def test_black_is_black_on_either_scale():
    assert np.asarray(to_rgb(Image.new("F", (3, 2)))).max() == 0
    assert UNetImageProcessor().upright(Image.new("F", (3, 2))).max() == 0


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_8_bits_stored_in_16_are_refused_and_black_is_not(dtype):
    for read in (to_rgb, UNetImageProcessor().upright):
        with pytest.raises(ValueError, match="16-bit image whose highest value is 255; expected 0 to 65535"):
            read(Image.fromarray(np.array([[0, 255]], dtype)))
        assert np.asarray(read(Image.fromarray(np.zeros((3, 2), dtype)))).max() == 0


@pytest.mark.parametrize("values", [(0, 65535), (-100, 200), (0, np.nan), (0, np.inf)])
def test_floats_of_other_ranges_are_refused_as_by_the_image_processor(values):
    image = Image.fromarray(np.float32([values]))
    for read in (to_rgb, UNetImageProcessor().upright):
        with pytest.raises(ValueError, match=r"floats from|NaN or infinite"):
            read(image)
