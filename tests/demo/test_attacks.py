"""Attacks on the page of `python app.py` on loopback: each ends in a message or a refusal, soon and in little memory,
and other visitors are served meanwhile."""

import io
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')
pytest.importorskip("av", reason='videos need pip install -e ".[video]"')

from page_visitors import API, SETTINGS, RunningPage, Visitor, file_data, running_page, wait_until
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.demo.gate import MAX_UPLOAD_BYTES, STALL_SECONDS
from unet_kvasir_seg.demo.jobs import MAX_OF_VISITOR

SECONDS, MEGABYTES = 15, 1000  # the bounds that each attack keeps


@pytest.fixture(scope="module")
def page(model, tmp_path_factory) -> Iterator[RunningPage]:
    with running_page(model, tmp_path_factory.mktemp("page")) as page:
        Visitor(page.address).segment(frame(0))  # memory and speed of a page that is in use
        yield page


@pytest.fixture
def visitor(page) -> Visitor:
    return Visitor(page.address)


def frame(seed: int) -> bytes:
    """A PNG file of a synthetic frame."""
    buffer = io.BytesIO()
    next(generate(1, (48, 64), seed=seed))["image"].save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def bounds(page: RunningPage) -> Iterator[None]:
    """Check that what is inside keeps the bounds of time and memory, and that another visitor is served meanwhile."""
    idle = page.megabytes()
    peak, ended = idle, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            peak = max(peak, page.megabytes())

    def visit() -> float:
        time.sleep(0.3)
        started = time.monotonic()
        assert "polyps outlined" in Visitor(page.address).segment(frame(1), "other.png")
        return time.monotonic() - started

    with ThreadPoolExecutor(2) as threads:
        watching, other = threads.submit(watch), threads.submit(visit)
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            other_seconds = other.result()
            ended.set()
            watching.result()
    print(f"{seconds:.1f} s, {peak - idle:.0f} MB above {idle:.0f} MB, another visitor {other_seconds:.1f} s")
    assert seconds < SECONDS
    assert other_seconds < SECONDS
    assert peak - idle < MEGABYTES


def png(width: int, height: int) -> bytes:
    """A black PNG file, made without an image in memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packed = zlib.compressobj(9)
    rows = b"".join([*(packed.compress(bytes(1 + width)) for _ in range(height)), packed.flush()])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_of_many_scans(repeats: int = 10_000) -> bytes:
    """A progressive JPEG file whose last scan is repeated."""
    buffer = io.BytesIO()
    Image.new("L", (4000, 4000)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * repeats + b"\xff\xd9"


def jpeg_of_many_headers() -> bytes:
    """A JPEG file of 8 MB of Exif headers."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    header = b"Exif\0\0" + bytes(58)
    return b"\xff\xd8" + (b"\xff\xe1" + struct.pack(">H", 2 + len(header)) + header) * 120_000 + buffer.getvalue()[2:]


def tiff_of_many_directories() -> bytes:
    """A TIFF file of one pixel, described in 100,001 directories."""
    tags = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (278, 1), (279, 1))
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    size = 2 + len(entries) + 4
    directories = (
        struct.pack("<H", len(tags)) + entries + struct.pack("<I", 10 + size * (number + 1) if number < 100_000 else 0)
        for number in range(100_001)
    )
    return b"II*\0" + struct.pack("<I", 10) + b"\0\0" + b"".join(directories)


BOMBS = {
    "a side of 16,777,216 pixels": (lambda: png(1, 2**24), "each side may have at most 16384"),
    "a side of 80,000,000 pixels": (lambda: png(1, 2**21)[:20] + struct.pack(">I", 80_000_000), "bomb.png"),
    "the largest image": (lambda: png(16_384, 1024), "polyps outlined"),
    "many scans": (jpeg_of_many_scans, "bomb.png"),
    "many Exif headers": (jpeg_of_many_headers, "bomb.png"),
    "many TIFF directories": (tiff_of_many_directories, "bomb.png"),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\n", "is no image"),
    "text": (lambda: b"This is no picture.", "is no image"),
    "nothing": (lambda: b"", "is empty"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_cannot_take_time_and_memory(page, visitor, kind):
    make, expected = BOMBS[kind]
    content = make()
    with bounds(page):
        assert expected in visitor.segment(content, "bomb.png")


def test_a_visitor_with_many_slow_files_is_bounded_and_others_take_turns(page, visitor):
    path = visitor.upload(jpeg_of_many_scans(80), "slow.jpg")  # as many as are decoded at all
    event = visitor.event("segment", [file_data(path), *SETTINGS])
    with bounds(page):
        answers = [visitor.post(f"{API}/queue/join", json=event).status_code for _ in range(MAX_OF_VISITOR + 4)]
        assert answers == [200] * MAX_OF_VISITOR + [429] * 4
    # Who closes the page leaves the queue.
    with visitor.client.stream("GET", f"{page.address}{API}/queue/data?session_hash={visitor.session}"):
        pass
    assert wait_until(lambda: visitor.post(f"{API}/queue/join", json=event).status_code == 200, SECONDS)


def test_broken_jobs_of_all_kinds_are_answered(page, visitor):
    path = visitor.upload(frame(0))
    folder = str(Path(path).parent.parent)
    for forged in (
        *("/etc/passwd", f"{path}/../../../../etc/passwd", "frame.png", folder, str(Path(path).parent), f"{path}0"),
        *("http://127.0.0.1:1/x.png", "file:///etc/passwd", "\0", "x" * 10_000, "", None, 7, [path], {"path": path}),
    ):
        joined = visitor.post(f"{API}/queue/join", json=visitor.event("segment", [file_data(forged), *SETTINGS]))
        assert joined.status_code == 403, forged
        video = visitor.event("segment_video", [file_data(forged), 0.5, 0.6])
        assert visitor.post(f"{API}/queue/join", json=video).status_code == 403, forged
        hidden = visitor.event("redraw", [{"deep": [file_data(forged)]}, 0.35, "Overlay"])
        assert visitor.post(f"{API}/queue/join", json=hidden).status_code == 403, forged
    assert Path(path).exists()
    for settings in (["0.5", 0.35, "Overlay"], [0.5, None, "Overlay"], [0.5, 0.35, "<b>"], [1e308, 0.35, "Overlay"]):
        assert "cannot be made" in visitor.call("segment", [file_data(path), *settings])[1]
    assert "cannot be made" in visitor.call("segment_video", [file_data(path), 0.5, "0.6"])[1]
    for data in ([], [None] * 3, ["x", *SETTINGS], [[], *SETTINGS], [7, *SETTINGS]):
        with pytest.raises(RuntimeError):
            visitor.call("segment", data)
    assert "polyps outlined" in visitor.segment(frame(2))


def test_requests_that_the_page_does_not_make_are_refused(page, visitor):
    for path in (
        *("/gradio_api/run/segment", "/gradio_api/run/predict", "/gradio_api/api/segment", "/gradio_api/call/segment"),
        *("/gradio_api/call/v2/segment", "/gradio_api/component_server", "/gradio_api/process_recording", "/login"),
        *("/gradio_api/reset", "/gradio_api/vibe-edit", "/gradio_api/queue/join/", "/gradio_api/upload/", "/x"),
    ):
        # A connection of its own, since a refusal ends it, and no body, of which the refusal leaves some unread.
        assert visitor.post(path, headers={"connection": "close"}).status_code == 404, path
    for path in (
        *("/monitoring", "/monitoring/summary", "/gradio_api/deep_link?session_hash=x", "/gradio_api/runs", "/docs"),
        *(
            "/gradio_api/queue/status",
            "/gradio_api/proxy=https://x.hf.space/",
            "/gradio_api/dev/reload",
            "/openapi.json",
        ),
        *("/gradio_api/openapi.json", "/gradio_api/file/etc/passwd", "/gradio_api/stream/a/b/c/playlist.m3u8"),
    ):
        assert visitor.get(path).status_code == 404, path
    for file in ("/etc/passwd", "https://127.0.0.1:1/x", "http://127.0.0.1:1/x", str(page.temporary), "../app.py"):
        assert visitor.get(f"/gradio_api/file={file}").status_code == 403, file
    assert visitor.client.request("DELETE", page.address).status_code == 404


def test_visitors_without_a_name_share_nothing(page, visitor):
    event = visitor.event("redraw", SETTINGS)
    for session in ("", None, 7, "a b", "../x", "x" * 65, ["x"]):
        joined = visitor.post(f"{API}/queue/join", json={**event, "session_hash": session})
        assert joined.status_code == 400, session
    del event["session_hash"]
    assert visitor.post(f"{API}/queue/join", json=event).status_code == 400
    assert visitor.get(f"{API}/queue/data").status_code == 400
    assert visitor.get(f"{API}/queue/data?session_hash=").status_code == 400
    assert visitor.get(f"{API}/queue/data?session_hash=a&session_hash=").status_code == 400


def test_other_sites_are_refused(page, visitor):
    host = page.address.removeprefix("http://")
    for origin in ("http://evil.example", "null", f"https://{host}.evil.example", "http://127.0.0.1:1"):
        for method, path in (("POST", f"{API}/upload"), ("GET", "/config"), ("OPTIONS", f"{API}/queue/join")):
            headers = {"origin": origin, "access-control-request-method": "POST"}
            answer = visitor.client.request(method, page.address + path, headers=headers)
            assert answer.status_code == 403, (origin, path)
            assert "access-control-allow-origin" not in answer.headers
    nameless = {"origin": "null", "x-forwarded-host": ""}
    assert visitor.get("/config", headers=nameless).status_code == 403
    for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[", "a b"):
        assert visitor.get("/config", headers={"host": name}).status_code in (400, 421), name
    for name in ("localhost", "localhost:9", "127.0.0.1", "192.168.0.7:7860", "[::1]:7860", socket.gethostname()):
        assert visitor.get("/config", headers={"host": name}).status_code == 200, name
    assert visitor.get("/config", headers={"origin": page.address}).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no second address of their own")
def test_connections_without_a_request_shut_nobody_out(page, visitor):
    host, port = page.address.removeprefix("http://").split(":")
    stranger = ("127.0.0.2", 0)
    with ExitStack() as stack:
        for _ in range(600):
            half_open = stack.enter_context(socket.create_connection((host, int(port)), source_address=stranger))
            with suppress(OSError):  # those beyond the bound are ended at once
                half_open.sendall(b"GET / HTTP/1.1\r\n")
        started = time.monotonic()
        assert "polyps outlined" in visitor.segment(frame(3))
        assert time.monotonic() - started < SECONDS


def test_requests_for_functions_and_parts_that_are_not_there_are_refused(page, visitor):
    event = visitor.event("redraw", SETTINGS)
    for number in (-1, 9999, "0", None, True, 1e308):
        joined = visitor.post(f"{API}/queue/join", json={**event, "fn_index": number})
        assert joined.status_code == 400, number
    path = visitor.upload(frame(0))
    parts = ",".join(f"{start}-{start}" for start in range(100))
    assert visitor.get(f"{API}/file={path}", headers={"range": f"bytes={parts}"}).status_code == 416
    assert visitor.get(f"{API}/file={path}", headers={"range": "bytes=0-7"}).content == frame(0)[:8]


def test_only_one_file_is_taken_at_a_time(visitor):
    def files(count: int) -> list[Any]:
        return [("files", (f"{number}.png", b"x")) for number in range(count)]

    for body in (
        {"files": files(2)},
        {"files": files(1000)},
        {"files": files(1), "data": {"more": "x"}},
        {"files": {"other": ("a.png", b"x")}},
        {"files": {"files": (None, bytes(2**20))}},  # a field that is no file, which gradio would keep in memory
        {"json": {}},
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
    ):
        assert refused(visitor, 400, **body), body


def endless(start: bytes = b"") -> Iterator[bytes]:
    """A body that does not end."""
    yield start
    while True:
        yield bytes(2**20)


@pytest.mark.parametrize("path", ["upload", "queue/join", "cancel"])
def test_large_bodies_are_refused(page, visitor, path):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="large.png"\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    with bounds(page):
        assert refused(visitor, 413, path, content=endless(head), headers=headers)
    with bounds(page):
        assert refused(
            visitor, 413, path, files={"files": ("large.png", bytes(MAX_UPLOAD_BYTES))}
        )  # states its length
    assert not [path for path in page.files() if "large" in path.name]


@pytest.mark.parametrize("path", ["queue/join", "cancel"])
def test_what_is_no_event_is_refused(visitor, path):
    for broken in (b"", b"[" * 60_000, b"{", b"7", b"[]", b'{"session_hash": "a", "data": NaN}', b"\xff"):
        assert visitor.post(f"{API}/{path}", content=broken).status_code in (400, 422), broken


def refused(visitor: Visitor, status: int, path: str = "upload", **body: Any) -> bool:
    """Whether a request is refused, be it that the connection is closed before all of it was sent."""
    try:
        return visitor.post(f"{API}/{path}", **body).status_code == status
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        return True


def test_what_stalls_is_ended(page):
    """A body that stops, one that never starts, and a connection that never asks."""
    host, port = page.address.removeprefix("http://").split(":")
    head = f"POST {API}/upload HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    part = '--x\r\nContent-Disposition: form-data; name="files"; filename="stalled.png"\r\n\r\nPNG'
    starts = (f"{head}Content-Length: 9999\r\n\r\n{part}", f"{head}Content-Length: 9\r\n\r\n", "GET / HT", "")
    connections = [socket.create_connection((host, int(port))) for _ in starts]
    started = time.monotonic()
    for connection, start in zip(connections, starts, strict=True):
        connection.sendall(start.encode())
    with bounds(page):
        for connection in connections:
            connection.settimeout(SECONDS)
            answer = connection.recv(100)
            assert not answer or b" 408 " in answer
            assert time.monotonic() - started > STALL_SECONDS / 2
            connection.close()
    assert not [path for path in page.files() if "stalled" in path.name]


def test_a_broken_off_upload_leaves_nothing(page):
    host, port = page.address.removeprefix("http://").split(":")
    before = set(page.files())
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST {API}/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9000000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            'Content-Disposition: form-data; name="files"; filename="half.png"\r\n\r\n'.encode()
            + bytes(4_000_000)
        )
        time.sleep(0.5)
    time.sleep(0.5)
    assert set(page.files()) == before


@pytest.mark.parametrize(
    "name", ["../../evil.png", "..\\..\\evil.png", "/etc/evil.png", ".", "..", "", "\0", "é" * 300]
)
def test_names_of_uploads_cannot_leave_their_folder(page, visitor, name):
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="' + name.encode() + b'"\r\n\r\n'
        b"content\r\n--x--\r\n"
    )
    answer = visitor.post(f"{API}/upload", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    if answer.status_code == 200:
        path = Path(answer.json()[0])
        assert path.read_bytes() == b"content"
        assert path.resolve().parent.parent.parent == page.temporary.resolve()
    else:
        assert answer.status_code == 400


@pytest.mark.slow
def test_requests_of_many_visitors_are_neither_lost_nor_mixed_up(page, add_row):
    """200 requests of 20 visitors, a third of them broken; memory is level after the first 50."""
    after_50: list[float] = []
    done = threading.Semaphore(0)

    def visit(number: int) -> None:
        visitor = Visitor(page.address)
        for turn in range(10):
            width = 40 + 2 * number  # names the visitor in the answer
            if turn % 3 == 2:
                html = visitor.segment(b"broken" * number, f"{number}-{turn}.png")
                assert f"{number}-{turn}.png is " in html
            else:
                buffer = io.BytesIO()
                next(generate(1, (48, width), seed=turn))["image"].save(buffer, "PNG")
                html = visitor.segment(buffer.getvalue(), f"{number}-{turn}.png")
                assert f"{number}-{turn}.png: polyps outlined" in html
                side = visitor.call("redraw", [0.4, 0.35, "Side by side"])[0]
                assert f"{number}-{turn}.png, {width}x48 pixels" in side
            done.release()

    def watch() -> None:
        for count in range(200):
            done.acquire()
            if count >= 50 and count % 10 == 0:
                after_50.append(page.own_megabytes())

    with ThreadPoolExecutor(21) as threads:
        watching = threads.submit(watch)
        list(threads.map(visit, range(20)))
        watching.result(timeout=60)
    print(f"memory after 50 requests {after_50[0]:.0f} MB, after 200 {after_50[-1]:.0f} MB")
    assert max(after_50[-3:]) < after_50[0] + 60
    add_row("page: 200 requests of 20 visitors at once", 200, 0, 0)
