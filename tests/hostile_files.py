"""Small image files that cost much, or state what is not so."""

import io
import struct
import zlib

from PIL import Image

PICTURE = Image.new("RGB", (11, 6), (200, 80, 70))


def tiff(tags: dict[int, tuple[int, int, int]], rest: bytes = b"", pages: int = 1) -> bytes:
    """A little-endian TIFF file.

    Args:
        tags: Type, count and value (or offset) by tag; an offset of -1 is that of `rest`.
        rest: What follows the directories.
        pages: Number of directories, which are all alike.
    """
    length = 2 + 12 * len(tags) + 4
    end = 8 + pages * length
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, end if value == -1 else value)
        for tag, (kind, count, value) in sorted(tags.items())
    )
    following = [8 + page * length for page in range(1, pages)] + [0]
    directories = [struct.pack("<H", len(tags)) + entries + struct.pack("<I", place) for place in following]
    return b"".join([b"II*\0" + struct.pack("<I", 8), *directories, rest])


# Of a grey image of 4x4 pixels, uncompressed in one strip behind the directories.
GREY_TIFF = {
    256: (4, 1, 4),
    257: (4, 1, 4),
    258: (3, 1, 8),
    259: (3, 1, 1),
    262: (3, 1, 1),
    273: (4, 1, -1),
    277: (3, 1, 1),
    278: (4, 1, 4),
    279: (4, 1, 16),
}


def overlapping_tiff(tags: int) -> bytes:
    """A TIFF file with `tags` further entries that all refer to the bytes of all entries."""
    return tiff(GREY_TIFF | {40_000 + index: (7, 12 * tags, 8) for index in range(tags)}, bytes(16))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that states this size."""
    return _png(width, height, 8, b"")


def black_png(width: int, height: int) -> bytes:
    """A complete PNG file of one bit a pixel."""
    return _png(width, height, 1, bytes((1 + (width + 7) // 8) * height))


def _png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    header = struct.pack(">2I5B", width, height, bits, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def jpeg_of_many_scans(scans: int) -> bytes:
    """A progressive JPEG file whose last scan is repeated."""
    content = encoded(PICTURE, "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + scans * content[last:-2] + content[-2:]


def jpeg_of_many_exif_segments(segments: int) -> bytes:
    content = encoded(PICTURE, "JPEG", exif=Image.Exif())
    segment = b"\xff\xe1" + struct.pack(">H", 2 + 6 + 2000) + b"Exif\0\0" + bytes(2000)
    return content[:2] + segments * segment + content[2:]
