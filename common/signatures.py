"""What a file holds, by its first bytes: the images and videos that are read here, and others, to name them.

kind = recognise(content[:HEAD_BYTES])
"""

import re
from dataclasses import dataclass

HEAD_BYTES = 1024


@dataclass(frozen=True)
class Kind:
    """A format of images or videos.

    Attributes:
        name: Of an image that is read here, Pillow's name of its format.
        suffix: An ending of such files; None for formats that are not read here.
        is_video: Whether it is a format of videos.
    """

    name: str
    suffix: str | None
    is_video: bool = False

    def __str__(self) -> str:
        return f"{'a video' if self.is_video else 'an image'} in {self.name}"

    @property
    def remedy(self) -> str:
        """How to make a file of another format one that is read."""
        return "Convert it to MP4" if self.is_video else "Save it as JPEG or PNG"

    @property
    def renaming(self) -> str:
        """What to do with a file that has the ending of something else."""
        return f"Rename it to end in {self.suffix}" if self.suffix else self.remedy


# The head of a packet, which has 188 bytes, and in some files a time of 4 bytes in front.
TS_PACKET = rb"(.{4})?G[\0-\x1f@-_].[\x10-\x3f].{184}"

# The first that matches counts. An ISO file begins with the length of its first box (4 bytes) and that box's type; in
# "ftyp" follow a brand (4 bytes), its version (4 bytes) and further brands.
SIGNATURES = (
    (Kind("JPEG", ".jpg"), rb"\xff\xd8\xff"),
    (Kind("PNG", ".png"), rb"\x89PNG\r\n\x1a\n"),
    (Kind("GIF", ".gif"), rb"GIF8[79]a"),
    (Kind("BMP", ".bmp"), rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),  # with the length of its second header
    (Kind("TIFF", ".tif"), rb"II[*+]\0|MM\0[*+]"),
    (Kind("WEBP", ".webp"), rb"RIFF.{4}WEBP"),
    (Kind("AVIF", ".avif"), rb".{4}ftyp(avif|avis|(mif1|msf1).{4}(.{4}){0,8}avif)"),
    (Kind("HEIC", None), rb".{4}ftyp(he[iv].|mif1|msf1)"),
    (Kind("JPEG 2000", None), rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    (Kind("JPEG XL", None), rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"),
    (Kind("Photoshop", None), rb"8BPS"),
    (Kind("DICOM", None), rb".{128}DICM"),
    (Kind("Canon raw", None), rb".{4}ftypcrx "),
    (Kind("MP4", ".mp4", is_video=True), rb".{4}ftyp(?!M4[ABP] )|\0.{3}(moov|mdat|wide|free|skip)"),  # no audio books
    (Kind("Matroska", ".mkv", is_video=True), rb"\x1aE\xdf\xa3"),
    (Kind("AVI", ".avi", is_video=True), rb"RIFF.{4}AVI "),
    (Kind("ASF", ".wmv", is_video=True), rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    (Kind("MPEG", ".mpg", is_video=True), rb"\0\0\x01[\xb3\xba]"),
    (Kind("MPEG-TS", ".ts", is_video=True), TS_PACKET * 3),
    (Kind("Flash", None, is_video=True), rb"FLV\x01"),
    (Kind("MXF", None, is_video=True), rb"\x06\x0e\x2b\x34"),
    (Kind("RealMedia", None, is_video=True), rb"\.RMF"),
)


def recognise(head: bytes) -> Kind | None:
    """The format of a file by its first `HEAD_BYTES`; None if it is none of images or videos that are known here."""
    kinds = (kind for kind, signature in SIGNATURES if re.match(signature, head, flags=re.DOTALL))
    return next(kinds, None)
