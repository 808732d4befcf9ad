"""Decodes an uploaded image in a process of its own, with bounds on its time and memory.

Small files can keep a decoder busy for minutes or take gigabytes, and faults of decoders are found every year. What
goes wrong in that process ends with it: no other visitor waits, and no other visitor's image is in its memory.
"""

import json
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from PIL import Image

from ..common.errors import UserError, first_line
from ..common.files import IMAGE_FORMATS, image_from_bytes, read_file, to_rgb

try:
    import resource
except ImportError:  # on Windows, where only SECONDS holds
    resource = None  # type: ignore[assignment]

MAX_PIXELS = 2**24  # of an image: two 4K frames; a phone's photograph has 12 million
CPU_SECONDS = 4  # the slowest honest images of MAX_PIXELS take one
SECONDS = 8.0  # for those on a busy machine, and for all on Windows
MEMORY_BYTES = 800 * 2**20  # a file of 100 MiB, its pixels and two copies; 100 for libraries, and 4K video

# Pillow loads its readers when they are first needed, and leaves out in silence one that fails to load, as it may in a
# process whose memory is bounded.
Image.init()
if missing := set(IMAGE_FORMATS) - set(Image.OPEN):
    raise ImportError(f"Pillow cannot read {', '.join(sorted(missing))}. Install it with pip: pip install pillow")

# A server of clean processes, from which a new one is forked in some 10 ms, without this program's memory. Its socket
# lies in the temporary folder, and the path of a socket has at most 104 bytes.
_HAS_SERVER = "forkserver" in multiprocessing.get_all_start_methods() and len(tempfile.gettempdir()) < 70
_context = multiprocessing.get_context("forkserver" if _HAS_SERVER else "spawn")
if _HAS_SERVER:
    _context.set_forkserver_preload(["__main__", __name__])


def warm_up() -> None:
    """Start what the first call of `decode` would have to wait for."""
    process = _context.Process(target=bound_process)  # type: ignore[attr-defined]
    process.start()
    process.join()


def decode(path: Path) -> Image.Image:
    """The image of a file in RGB, rotated as its EXIF tag says.

    Raises:
        UserError: If the file is gone, is no image, is damaged, too large, or takes too long or too much memory.
    """
    with _answer_of(_send_image, path) as (answer, receiver):
        width, height = answer["size"]
        # Pixels, never a pickle: that would run whatever an attacked decoder sends.
        return Image.frombytes("RGB", (width, height), receiver.recv_bytes(maxlength=3 * MAX_PIXELS))


def ask(function: Callable[[Path], Any], path: Path) -> Any:
    """What a function says of a file, in such a process; it must be something that JSON can express.

    Raises:
        UserError: If the function raises an error, or takes too long or too much memory.
    """
    with _answer_of(partial(_send_result, function), path) as (answer, _):
        return answer["result"]


@contextmanager
def _answer_of(function: Callable[[str, Connection], None], path: Path) -> Iterator[tuple[dict[str, Any], Connection]]:
    """Run a function that sends an answer about a file in a process of its own, which ends with this context."""
    try:
        receiver, sender = _context.Pipe(duplex=False)
        process = _context.Process(target=function, args=(str(path), sender), daemon=True)  # type: ignore[attr-defined]
        process.start()
    except OSError as error:
        raise UserError(f"{path.name} cannot be decoded now: the server is busy. Try again later.") from error
    sender.close()
    # Not a time limit of each read: a process that sends slowly is ended too.
    limit = threading.Timer(SECONDS, process.kill)
    limit.start()
    try:
        answer = json.loads(receiver.recv_bytes(maxlength=2**16))
        if "error" in answer:
            raise UserError(f"{path.name} {answer['error']}.")
        yield answer, receiver
    except (EOFError, OSError) as error:
        raise UserError(
            f"{path.name} cannot be decoded within {CPU_SECONDS} seconds and {MEMORY_BYTES >> 20} MiB of memory. "
            "Save it again as a plain PNG or JPEG, or a video as mp4."
        ) from error
    finally:
        limit.cancel()
        process.kill()
        process.join()
        receiver.close()


def _send_image(path: str, sender: Connection) -> None:
    """Decode a file and send its size and pixels, or an error; runs in the process of its own."""
    bound_process()
    try:
        image = to_rgb(image_from_bytes(read_file(path), MAX_PIXELS))
        answer, pixels = {"size": image.size}, image.tobytes()
    except MemoryError:
        return  # there may be none for a message
    except Exception as error:  # decoders raise errors of all kinds for damaged files
        answer, pixels = _as_answer(error), b""
    with suppress(BrokenPipeError):  # who asked has ended
        sender.send_bytes(json.dumps(answer).encode())
        sender.send_bytes(pixels)


def _send_result(function: Callable[[Path], Any], path: str, sender: Connection) -> None:
    """Send what a function says of a file, or an error; runs in the process of its own."""
    bound_process()
    try:
        answer = {"result": function(Path(path))}
    except MemoryError:
        return
    except Exception as error:
        answer = _as_answer(error)
    with suppress(BrokenPipeError):
        sender.send_bytes(json.dumps(answer).encode())


def _as_answer(error: Exception) -> dict[str, Any]:
    is_gone = isinstance(error, FileNotFoundError)
    return {"error": "is no longer there. Upload it again" if is_gone else first_line(error)[:1000]}


def bound_process() -> None:
    """End this process after `CPU_SECONDS`, let it take at most `MEMORY_BYTES` more, and never dump its memory.

    It also ends when the program that asked for it does, even if that is killed.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        most_bytes = _data_bytes() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _data_bytes() -> int:
    """Memory that counts for RLIMIT_DATA and that this process has from the server, which other code may have filled.

    A process has one server of clean processes, and code beside this may have let it import torch.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except OSError:
        return 100 * 2**20  # elsewhere than on Linux; of this module's own imports
    return pages * resource.getpagesize()
