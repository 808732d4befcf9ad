"""Decoding in a process of its own: the same pixels, and an end to what takes too long or too much."""

import os
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.demo import decoder
from unet_kvasir_seg.demo.decoder import bound_process, decode

pytestmark = pytest.mark.skipif(decoder.resource is None, reason="this system bounds no processes")


def compute(path: str, sender: Connection) -> None:
    """A decoder that computes without end."""
    bound_process()
    while True:
        pass


def wait(path: str, sender: Connection) -> None:
    """A decoder that sends a part of its answer, and then waits without end."""
    sender.send_bytes(b'{"size": [9, 9]}')
    time.sleep(600)


def fill_memory(path: str, sender: Connection) -> None:
    """A decoder that needs a gigabyte."""
    bound_process()
    sender.send_bytes(b'{"size": [%d, 1]}' % len(bytearray(2**30)))


def crash(path: str, sender: Connection) -> None:
    """A decoder that crashes."""
    os.abort()


def attack(path: str, sender: Connection) -> None:
    """A decoder that an attacker controls: it sends more pixels than there are in any image."""
    sender.send_bytes(b'{"size": [9, 9]}')
    sender.send_bytes(bytes(3 * decoder.MAX_PIXELS + 1))


def test_pixels_are_those_of_the_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 3  # turned by 180 degrees
    image.save(tmp_path / "frame.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "frame.png")), pixels[::-1, ::-1])


def readers(path: Path) -> list[str]:
    """Formats that Pillow can read before it has opened a file."""
    return sorted(Image.OPEN)


def test_readers_are_loaded_before_memory_is_bounded(tmp_path):
    assert set(decoder.ask(readers, tmp_path)) >= {"BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"}


def test_memory_that_a_process_has_from_its_server_does_not_count(tmp_path):
    Image.new("RGB", (2600, 100)).save(tmp_path / "frame.jpg")
    program = (
        "import sys, multiprocessing\n"
        "from pathlib import Path\n"
        "from unet_kvasir_seg.demo import decoder\n"
        "multiprocessing.get_context('forkserver').set_forkserver_preload(['gibibyte'])\n"
        "print(decoder.decode(Path(sys.argv[1])).size)\n"
    )
    (tmp_path / "gibibyte.py").write_text("ballast = bytearray(2**30)\n")
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "frame.jpg")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout == "(2600, 100)\n", answer.stderr


@pytest.mark.parametrize("behaviour", [compute, wait, fill_memory, crash, attack])
def test_a_decoder_that_misbehaves_is_ended(tmp_path, monkeypatch, behaviour):
    monkeypatch.setattr(decoder, "_send_image", behaviour)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"^frame\.png cannot be decoded within 4 seconds and \d+ MiB"):
        decode(tmp_path / "frame.png")
    assert time.monotonic() - started < 15


def test_images_are_decoded_side_by_side(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "frame.png")

    def decode_endlessly() -> None:
        with pytest.raises(UserError):
            decode(tmp_path / "frame.png")

    with monkeypatch.context() as patched:
        patched.setattr(decoder, "_send_image", compute)
        slow = threading.Thread(target=decode_endlessly)
        slow.start()
        time.sleep(0.5)
    assert decode(tmp_path / "frame.png").size == (8, 8)
    assert slow.is_alive()
    slow.join()
