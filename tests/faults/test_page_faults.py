"""The page and signals, kills, a full disk and interrupted uploads, with real processes."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

pytest.importorskip("av", reason='videos need pip install -e ".[video]"')
pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')

import av
from loopback_hub import LoopbackHub, Reply
from page_visitors import API, RunningPage, Visitor, file_data, free_port, running_page
from processes import finish, start, wait_until

END_SECONDS = 5  # a container is killed ten seconds after it was asked to end
DECODING = """
import sys, time
from pathlib import Path
from unet_kvasir_seg.demo import decoder

def decode_slowly(path):
    Path("decoding").write_text("x")
    time.sleep(600)

if __name__ == "__main__":
    decoder.SECONDS = 600
    decoder.ask(decode_slowly, Path("frame.png"))
"""


WRITING = """
import sys
import numpy as np
from unet_kvasir_seg.inference.video import VideoReader, VideoWriter

failed = 0
with VideoReader(sys.argv[1]) as video:
    writer = VideoWriter("/dev/full", video)
    for frame in video.frames():
        try:
            writer.encode(frame, np.asarray(frame.image))
        except OSError:
            failed += 1
    writer.container.close()
print("went on after errors:", failed > 1)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    """Eight seconds of noise."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, bit_rate=1_000_000)
        stream.width, stream.height = 320, 240
        for number in range(200):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, number, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def slow_jpeg() -> bytes:
    """A progressive JPEG file that takes seconds to decode."""
    buffer = io.BytesIO()
    Image.new("L", (4000, 4000)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * 80 + b"\xff\xd9"


def is_decoding(page: RunningPage) -> bool:
    """Whether a process that was forked to decode an image is at work."""
    program = psutil.Process(page.process.pid)
    with suppress(psutil.NoSuchProcess):  # one that ends at this moment
        return len(program.children(recursive=True)) > len(program.children())
    return False


@contextmanager
def load(page: RunningPage, clip: bytes) -> Iterator[None]:
    """A video and slow images that are worked on, and others that wait."""
    visitors = [Visitor(page.address) for _ in range(8)]
    jpeg = slow_jpeg()
    first = visitors[0]
    event = first.event("segment_video", [file_data(first.upload(clip, "clip.mp4")), 0.5, 0.6])
    assert first.post(f"{API}/queue/join", json=event).status_code == 200

    def visit(visitor: Visitor) -> None:
        with suppress(Exception):  # the page ends
            while True:
                visitor.segment(jpeg, "slow.jpg")

    threads = [threading.Thread(target=visit, args=(visitor,), daemon=True) for visitor in visitors[1:]]
    wait_until(lambda: list(page.temporary.glob("*/*/*-overlay.mp4")), page.process)
    for thread in threads:
        thread.start()
    wait_until(lambda: is_decoding(page), page.process)
    yield
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SIGINT", "interrupted"),
        pytest.param("SIGTERM", "SIGTERM", marks=pytest.mark.slow),
        pytest.param("SIGHUP", "SIGHUP", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_page_in_time_and_nothing_is_left(tmp_path, model, clip, add_row, name, said):
    number = getattr(signal, name)
    with running_page(model, tmp_path) as page:
        with load(page, clip):
            started = time.monotonic()
            page.process.send_signal(number)
            time.sleep(0.2)
            page.process.send_signal(signal.SIGTERM)  # a second one while it ends
            status = page.process.wait(timeout=60)
            seconds = time.monotonic() - started
        assert status == 128 + number
        assert page.log.read_text() == f"app.py: {said}. All uploads are deleted.\n"
        left = list(page.temporary.iterdir())
        assert left == []
        assert seconds < END_SECONDS
    add_row(f"page: {name} under load, a video and slow images at work", 1, 0, len(left))


@pytest.mark.slow
def test_a_full_disk_is_told_to_the_visitor_and_in_a_line_of_the_log(tmp_path, model, clip):
    """With a bound on the size of files, which fails as a full disk does."""
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("this system bounds no other processes")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "PNG")
    with running_page(model, tmp_path) as page:
        visitor = Visitor(page.address)
        video = file_data(visitor.upload(clip, "clip.mp4"))
        before = page.files()
        resource.prlimit(page.process.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        for size in (100_000, 2_000_000):  # received in memory, and into a file
            answer = visitor.post(f"{API}/upload", files={"files": ("frame.png", bytes(size))})
            assert answer.status_code == 507
            assert "cannot be kept" in answer.json()["detail"]
        overlay, html = visitor.call("segment_video", [video, 0.5, 0.6])
        assert overlay is None
        assert "The result cannot be kept" in html
        assert page.files() == before
        lines = page.log.read_text().splitlines()
        assert len(lines) == 3
        assert all(line.startswith("app.py: the ") and "cannot be kept: " in line for line in lines)
        assert "polyps outlined" in visitor.segment(buffer.getvalue())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_video_that_cannot_be_written_does_not_crash_the_program(tmp_path, clip):
    """FFmpeg would, if it went on after the header of an mp4 file failed."""
    (tmp_path / "clip.mp4").write_bytes(clip)
    done = subprocess.run(
        [sys.executable, "-c", WRITING, str(tmp_path / "clip.mp4")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "went on after errors: True\n"), done.stderr


def test_a_decoder_ends_with_its_program_however_that_is_killed(tmp_path):
    (tmp_path / "program.py").write_text(DECODING)
    program = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path)
    wait_until((tmp_path / "decoding").exists, program)
    helpers = psutil.Process(program.pid).children(recursive=True)
    assert helpers
    program.kill()
    program.wait()
    _, alive = psutil.wait_procs(helpers, timeout=10)
    assert alive == []


@pytest.mark.slow
def test_a_port_that_is_taken_leaves_nothing(tmp_path, model):
    with running_page(model, tmp_path) as page:
        before = sorted(path.name for path in page.temporary.iterdir())
        port = page.address.rpartition(":")[2]
        environment = {**os.environ, "TMPDIR": str(page.temporary)}
        failed = start("app.py", "--model", model, "--port", port, cwd=tmp_path, env=environment)
        assert "Choose another --port" in finish(failed, 2)
        assert sorted(path.name for path in page.temporary.iterdir()) == before
        # And a reader of its output that has gone ends the page quietly.
        unread = start("app.py", "--model", model, "--port", free_port(), cwd=tmp_path, env=environment)
        unread.stdout.close()
        assert unread.wait(timeout=60) == 128 + signal.SIGPIPE
        assert unread.stderr.read() == ""
        assert sorted(path.name for path in page.temporary.iterdir()) == before


@pytest.mark.slow
def test_a_killed_page_is_cleaned_up_beside_a_running_one(tmp_path, model, clip, add_row):
    """Killed under load; its helpers end, and the next start deletes its uploads, and nothing of the other page."""

    def folders() -> set[Path]:
        return set(killed.temporary.glob("unet-app-*[!k]"))

    with running_page(model, tmp_path) as killed:
        (of_killed,) = folders()
        environment = {**os.environ, "TMPDIR": str(killed.temporary)}

        def start_another() -> subprocess.Popen:
            page = start("app.py", "--model", model, "--port", free_port(), cwd=tmp_path, env=environment)
            assert " is on http" in page.stdout.readline()
            return page

        running = start_another()
        (of_running,) = folders() - {of_killed}
        kept = {path for path in of_running.rglob("*") if path.is_file()}
        with load(killed, clip):
            helpers = psutil.Process(killed.process.pid).children(recursive=True)
            killed.process.kill()
            killed.process.wait()
            assert list(of_killed.glob("*/*-overlay.mp4"))
        assert psutil.wait_procs(helpers, timeout=10)[1] == []
        third = start_another()
        try:
            # The running page looks for such folders too, and may be deleting this one.
            wait_until(lambda: of_killed not in folders(), seconds=2)
            assert of_running in folders()
            assert len(folders()) == 2
            assert kept <= set(of_running.rglob("*"))
        finally:
            for page in (running, third):
                page.send_signal(signal.SIGTERM)
                finish(page, 128 + signal.SIGTERM)
    left = list(killed.temporary.iterdir())
    assert left == []
    add_row("page: kill -9 under load, another page beside it, and the next start", 1, 0, len(left))


class StallingHub(LoopbackHub):
    """A Hub that does not answer commits."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.ended = threading.Event(), threading.Event()

    def reply(self, method: str, path: str, token: str | None, body: bytes) -> Reply:
        if "/commit/" in path:
            self.asked.set()
            self.ended.wait(timeout=60)
            return Reply(503)
        return super().reply(method, path, token, body)


def test_an_interrupted_push_of_a_space_leaves_nothing(tmp_path, model, add_row):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with StallingHub() as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token, "TMPDIR": str(temporary)}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        push = start("app.py", "--push_to_space", "me/polyps", "--model", model, cwd=tmp_path, env=environment)
        wait_until(hub.asked.is_set, push)
        assert list(temporary.glob("unet-space-*/app.py"))
        push.send_signal(signal.SIGINT)
        output = finish(push, 128 + signal.SIGINT, seconds=END_SECONDS)
        hub.ended.set()
        assert output.endswith(
            "app.py: interrupted. The Space has all of the new files or none of them. Run the same command again.\n"
        )
        assert hub.repos["spaces/me/polyps"].pushes == []
    left = list(temporary.iterdir())
    assert left == []
    add_row("page: SIGINT while a Space is pushed", 1, 0, len(left))
