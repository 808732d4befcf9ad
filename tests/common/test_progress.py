"""Progress on a terminal and in a log."""

import fcntl
import os
import pty
import re
import struct
import termios

import pytest
from unet_kvasir_seg.common import progress
from unet_kvasir_seg.common.progress import show_progress

CLOCK = r"\d\d:\d\d"


def test_a_log_has_lines_with_total_speed_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with show_progress("clip.mp4", "frame") as shown:
        shown.update()
        shown.total = 3
        shown.update()
        shown.update()
        shown.update()  # the file stated too few
    log = capsys.readouterr().err
    first, *lines, last = log.splitlines()
    assert re.fullmatch(rf"clip\.mp4: 1 frames \[{CLOCK}, .*\]", first)
    for line, start in zip(lines, (" 67% 2/3", "100% 3/3"), strict=True):
        assert re.fullmatch(rf"clip\.mp4: {start} \[{CLOCK}<{CLOCK}, .*frame/s\]", line)
    assert re.fullmatch(rf"clip\.mp4: 4 frames \[{CLOCK}, .*\]", last)
    assert "\r" not in log


def test_a_log_has_few_lines(capsys):
    with show_progress("Images", "image", 1000) as shown:
        for _ in range(1000):
            shown.update()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Images: 100% 1000/1000 [00:00<00:00, ")


def test_what_was_done_before_does_not_count_for_the_speed(capsys):
    with show_progress("Images", "image", 2) as shown:
        for _ in range(2):
            shown.initial += True
            shown.update()
    assert capsys.readouterr().err == "Images: 100% 2/2 [00:00<?, ?image/s]\n"


def test_without_a_step_a_log_has_no_line(capsys):
    with show_progress("clip.mp4", "frame"):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_there", [True, False])
def test_nothing_is_shown_where_it_is_not_wanted_or_cannot_be(capsys, monkeypatch, is_there):
    if not is_there:
        monkeypatch.setattr("sys.stderr", None)
    with show_progress("Images", "image", 2, shown=not is_there) as shown:
        shown.initial += 1
        shown.update()
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(monkeypatch):
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        with show_progress("clip.mp4", "frame") as shown:
            shown.total = 2
            shown.update()
            shown.update()
        stderr.flush()
        written = os.read(master, 10_000).decode()
    os.close(master)
    assert re.search(rf"\rclip\.mp4: 100%\|█+\| 2/2 \[{CLOCK}<{CLOCK}, .*frame/s\]", written)
