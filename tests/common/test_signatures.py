"""Formats by their first bytes, as Pillow and FFmpeg write them."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from hostile_files import PICTURE, encoded
from unet_kvasir_seg.common.files import IMAGE_FORMATS, image_from_bytes
from unet_kvasir_seg.common.signatures import HEAD_BYTES, recognise

# Container -> codec and what is recognised.
VIDEOS = {
    "mp4": ("mpeg4", "MP4"),
    "mov": ("mpeg4", "MP4"),
    "3gp": ("mpeg4", "MP4"),
    "matroska": ("mpeg4", "Matroska"),
    "avi": ("mpeg4", "AVI"),
    "asf": ("mpeg4", "ASF"),
    "vob": ("mpeg2video", "MPEG"),
    "mpeg1video": ("mpeg1video", "MPEG"),
    "mpegts": ("mpeg2video", "MPEG-TS"),
    "flv": ("flv", "Flash"),
    "mxf": ("mpeg2video", "MXF"),
}
HEICS = {
    "an iPhone's": b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEmiafMiHBheic",
    "by the brand of all": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "a sequence": b"\0\0\0\x18ftyphevc\0\0\0\0msf1hevc",
}


@pytest.mark.parametrize("name", IMAGE_FORMATS)
def test_images_that_are_read(name):
    kind = recognise(encoded(PICTURE, name)[:HEAD_BYTES])
    assert (kind.name, kind.is_video) == (name, False)


@pytest.mark.parametrize("container", VIDEOS)
def test_videos(container):
    codec, expected = VIDEOS[container]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        output.mux([*stream.encode(frame), *stream.encode()])
    kind = recognise(file.getvalue()[:HEAD_BYTES])
    assert (kind.name, kind.is_video) == (expected, True)


@pytest.mark.parametrize("content", HEICS.values(), ids=HEICS)
def test_photographs_of_phones_are_named_whatever_their_ending(content):
    """Mail programs and shares give HEIC files the ending .jpg."""
    assert recognise(content).name == "HEIC"
    with pytest.raises(ValueError, match=r"^holds an image in HEIC, which is not read here: AVIF, .* Save it"):
        image_from_bytes(content + bytes(500))


def test_what_else_is_no_image_is_named():
    with pytest.raises(ValueError, match=r"^holds a video in Matroska: expected an image"):
        image_from_bytes(b"\x1aE\xdf\xa3" + bytes(500))
    with pytest.raises(ValueError, match=r"^holds an image in JPEG 2000, which is not read here"):
        image_from_bytes(encoded(PICTURE, "JPEG2000"))
    with pytest.raises(ValueError, match=r"^begins as an image in AVIF, but is damaged, or of a kind that"):
        image_from_bytes(encoded(PICTURE, "AVIF")[:100])


def test_text_and_archives_are_nothing_of_these():
    for content in (
        b"",
        b"image,mask\n1,2\n",
        b"BMI,age\n" * 20,
        b"Group A " * 100,
        b"PK\3\4",
        b"%PDF-1.4",
        b"<?xml ?>",
    ):
        assert recognise(content) is None
