"""`predict.py`: two at once, an output folder that vanishes or is full, names at the limit, interruptions."""

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import ROOT, peak_megabytes
from processes import contents, finish, start, unfinished, wait_until
from unet_kvasir_seg import predict
from unet_kvasir_seg.common.output_lock import output_lock
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.image_run import Done, Report, in_16_bits
from unet_kvasir_seg.inference.inputs import Source
from unet_kvasir_seg.inference.output_folder import OutputFolder, open_output, restore_settings
from unet_kvasir_seg.inference.predictor import load_predictor
from unet_kvasir_seg.inference.video_run import segment_video_file

PROGRAM = "predict.py"
FP32 = ("--device", "cpu", "--dtype", "float32", "--batch_size", "1")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder "in" with 400 frames, most of them links."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index, pair in enumerate(generate(4, (288, 384), seed=1)):
        pair["image"].save(folder / f"{index:03}.png")
    for index in range(4, 400):
        os.link(folder / f"{index % 4:03}.png", folder / f"{index:03}.png")
    return folder


@pytest.fixture
def run(run_command, model):
    def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess:
        return run_command(predict.main, *arguments, "--model", model, *FP32, status=status)

    return run


@pytest.fixture
def running(folder, model, tmp_path) -> Iterator[subprocess.Popen]:
    """A command that segments the folder into "out" and has begun."""
    process = start(PROGRAM, "in", "--output_dir", "out", "--model", model, *FP32, cwd=tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("out/masks/*.png"))) > 4, process)
    yield process
    process.kill()
    process.communicate()


def few(folder: Path) -> list[Path]:
    """Its first four frames."""
    return [folder / f"{index:03}.png" for index in range(4)]


def lines_of_failures(done: subprocess.CompletedProcess) -> list[str]:
    return [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]


def write_video(path: Path, size: tuple[int, int] = (64, 48), frames: int = 5) -> None:
    """A video of noise, of which a picture takes about as many bytes as it has pixels."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            pixels = noise.integers(0, 255, (size[1], size[0], 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_a_second_run_is_refused_and_a_signal_ends_the_first_with_one_line(running, run, folder, tmp_path):
    done = run(few(folder)[0], "--output_dir", "out", status=2)
    assert re.search(rf"out is in use by predict\.py \(process {running.pid}, started 20", done.stderr)
    running.send_signal(signal.SIGTERM)
    output = finish(running, status=128 + signal.SIGTERM)
    kept = "predict.py: SIGTERM. What was done is kept. Run the same command again to go on."
    assert output.splitlines()[-1] == kept
    assert unfinished(tmp_path / "out") == []
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/masks/*.png")}
    assert "4 before" in run(*few(folder), "--output_dir", "out").stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_folder_that_is_removed_meanwhile_ends_the_run_and_the_next_does_all(running, run, folder, tmp_path):
    shutil.rmtree(tmp_path / "out", ignore_errors=True)  # files may be written into it while it is removed
    assert "out was removed, moved or made anew while this ran" in finish(running, status=2)
    before = {path.stem for path in tmp_path.glob("out/masks/*.png")}
    done = run(*few(folder), "--output_dir", "out")
    assert f"{sum(path.stem in before for path in few(folder))} before" in done.stdout
    assert {path.name for path in few(folder)} <= {path.name for path in tmp_path.glob("out/masks/*.png")}


def test_a_folder_that_was_half_removed_is_not_refused(run, folder, tmp_path):
    first = few(folder)[0]
    run(first, "--output_dir", "out")
    settings = tmp_path / "out" / "run.json"
    before = settings.read_bytes()
    settings.unlink()
    assert "that no run of this command wrote" in run(first, "--output_dir", "out", status=2).stderr
    restore_settings(tmp_path / "out", {"schema_version": 1}, PROGRAM)
    assert settings.read_text().split() == ["{", '"schema_version":', "1", "}"]
    settings.unlink()
    with output_lock(tmp_path / "out", "another.py"):  # which has taken the folder since
        restore_settings(tmp_path / "out", {"schema_version": 1}, PROGRAM)
    assert not settings.exists()
    for path in (tmp_path / "out").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    restore_settings(tmp_path / "out", {"schema_version": 1}, PROGRAM)
    assert not settings.exists()
    run(first, "--output_dir", "out")
    assert settings.read_bytes() == before


def test_what_is_counted_as_done_exists(tmp_path):
    report = Report()
    for name in ("a", "b"):
        report.done.append(Done(Source(f"{name}.jpg", f"{name}.jpg"), by_earlier_run=name == "a"))
    (tmp_path / "b.jpg").touch()
    report.fail_missing(lambda source: [tmp_path / source.name])
    assert [done.source.name for done in report.done] == ["b.jpg"]
    assert report.count(videos=False, by_earlier_run=False) == 1
    assert report.count(videos=False, by_earlier_run=True) == 0
    (failure,) = report.failures
    assert failure.path == "a.jpg"
    assert "a.jpg was removed while this ran" in failure.reason


def test_a_video_whose_table_was_removed_is_done_again(run, tmp_path):
    write_video(tmp_path / "clip.mp4")
    run("clip.mp4", "--output_dir", "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "videos" / "clip.csv").unlink()
    assert "1 video, 0 before" in run("clip.mp4", "--output_dir", "out").stdout
    assert contents(tmp_path / "out") == before


def test_a_video_that_changes_while_it_is_read_is_not_counted_as_done(model, tmp_path):
    """As one that is still being copied; the next run would refuse what was made of a part of it."""
    write_video(tmp_path / "clip.mp4")
    whole = (tmp_path / "clip.mp4").read_bytes()
    report = Report()
    predictor, source = load_predictor(str(model)), Source(str(tmp_path / "clip.mp4"), "clip.mp4")

    class Growing:
        """The predictor, while somebody writes to the video."""

        def __getattr__(self, name: str) -> object:
            (tmp_path / "clip.mp4").write_bytes(whole + b"more")
            return getattr(predictor, name)

    open_output(tmp_path / "out", {})
    segment_video_file(source, Growing(), OutputFolder(tmp_path / "out"), report)
    (failure,) = report.failures
    assert "clip.mp4: was changed while it was read" in str(failure)
    assert (report.done, list((tmp_path / "out" / "videos").iterdir())) == ([], [])


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 64 KiB in a folder of that name."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("free", [0, 4, 8, 12, 16, 24, 32])
def test_a_full_disk_is_one_line_and_a_run_goes_on_when_there_is_room(run, folder, disk, tmp_path, free):
    write_video(tmp_path / "clip.mp4", (320, 240))
    inputs = (*few(folder)[:2], "clip.mp4", "--output_dir", disk / "out")
    (disk / "other").write_bytes(bytes((64 - free) * 1024))
    done = run(*inputs, status=2)
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert re.search(r"cannot be written.*No space left on device", line)
    assert unfinished(disk) == []
    (disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
    assert "1 video, 0 before" in run(*inputs).stdout
    assert {path.suffix for path in (disk / "out" / "videos").iterdir()} == {".mp4", ".csv", ".json"}


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("images.csv", "out/predictions.csv, images.csv or tracks.csv cannot be written: .* directory"),
        ("tracks.csv", "out/predictions.csv, images.csv or tracks.csv cannot be written: .* directory"),
        ("inputs.json", "out/inputs.json cannot be written: .* directory"),
        ("report.html", "out/report.html is there and not from this command: move it away"),
    ],
)
def test_tables_and_pages_that_cannot_be_written_are_named(run, folder, tmp_path, name, named):
    run(few(folder)[0], "--output_dir", "out", "--report")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / name).mkdir()
    done = run(few(folder)[0], "--output_dir", "out", "--report", status=2)
    assert re.search(named, done.stderr)
    assert unfinished(tmp_path / "out") == []
    (tmp_path / "out" / name).rmdir()
    run(few(folder)[0], "--output_dir", "out", "--report")
    assert contents(tmp_path / "out") == before


def test_names_at_the_limit_are_shortened_and_complete_in_the_tables(run, folder, tmp_path):
    frame = few(folder)[0]
    long = tmp_path / "long" / ("d" * 255)
    long.mkdir(parents=True)
    names = ["x" * 251 + ".png", "y" * 251 + ".png", "ä" * 127 + "1", "ä" * 127 + "2"]
    for name in names:
        shutil.copy(frame, long / name)
    films = ["z" * 251 + ".mp4", "z" * 252 + ".ts", "z" * 252 + ".qt"]
    for name in films:
        write_video(long / name)
    assert "4 images" in run("long", "--output_dir", "out").stdout
    with open(tmp_path / "out" / "images.csv", newline="", encoding="utf-8") as file:
        assert {row["image"] for row in csv.DictReader(file)} == {f"{long.name}/{name}" for name in names}
    masks = {path.name for path in (tmp_path / "out" / "masks").rglob("*.png")}
    assert len(masks) == 4
    assert {*names[:2]} <= masks  # which fit
    assert len(list((tmp_path / "out" / "videos").rglob("*.mp4"))) == 3
    assert "0 images, 4 before; 0 videos, 3 before" in run("long", "--output_dir", "out").stdout


def test_names_are_shortened_as_the_file_system_needs_it():
    source = Source("in/abc.jpg", "abc.jpg", name_bytes=24)
    assert source.output("masks", ".png") == "masks/abc.png"
    long = [Source(name, name, name_bytes=24) for name in ("d" * 25 + "/a" * 1 + "ä" * 11 + ".jpg", "ä" * 12 + ".png")]
    outputs = [source.output("masks", ".png") for source in long]
    for output in outputs:
        assert all(len(os.fsencode(part)) <= 24 for part in output.split("/"))
    assert outputs[1] != Source("", "ä" * 12 + ".jpg", name_bytes=24).output("masks", ".png")
    assert outputs[1] == Source("", "ä" * 12 + ".png", name_bytes=24).output("masks", ".png")


def test_an_output_that_cannot_be_written_does_not_keep_others_from_being_done(run, folder, tmp_path):
    deep = tmp_path / "in" / "deep"
    deep.mkdir()
    shutil.copy(few(folder)[0], deep / "a.png")
    write_video(deep / "a.mp4")
    write_video(folder / "good.mp4")
    for path in folder.glob("[1-9]*.png"):
        path.unlink()
    run(few(folder)[0], "--output_dir", "out")
    for kind in ("masks", "videos"):
        (tmp_path / "out" / kind).mkdir(exist_ok=True)
        (tmp_path / "out" / kind / "deep").touch()  # where a folder is needed
    done = run("in", "--output_dir", "out", status=1)
    assert lines_of_failures(done) == [
        "in/deep/a.mp4: out/videos/deep/a.mp4 cannot be written (File exists)",
        "in/deep/a.png: out/masks/deep/a.png cannot be written (File exists)",
    ]
    assert "1 video, 0 before" in done.stdout


def test_pipes_and_sockets_are_one_line_or_ignored(run, folder, tmp_path):
    for name in ("pipe", "pipe.jpg", "pipe.mp4"):
        os.mkfifo(tmp_path / name)
    shutil.copy(few(folder)[0], tmp_path / "frame.png")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)
        server.bind("socket.png")
        shutil.rmtree(folder)
        for path in ("pipe", "pipe.jpg", "pipe.mp4", "socket.png", "/dev/null", "/dev/tty"):
            assert len(lines_of_failures(run(path, "--output_dir", "../out", status=1))) == 1
        done = run(".", "--output_dir", "../out", status=1)
    assert [line.split(": ")[0] for line in lines_of_failures(done)] == ["./pipe.jpg", "./pipe.mp4", "./socket.png"]
    assert "1 image " in done.stdout
    assert "pipe" in done.stdout


def test_probabilities_in_16_bits():
    probability = np.random.default_rng(0).random((600, 5), np.float32)
    np.testing.assert_array_equal(in_16_bits(probability), (probability * 65535).round().astype(np.uint16))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--overlay", "--probabilities"), ("--overlay", "--tta")], ids=" ".join)
def test_memory_is_bounded_by_pixels(tmp_path, flags):
    """Queues of at most 3 GB, on top of what one small frame takes."""
    (tmp_path / "small").mkdir()
    (tmp_path / "large").mkdir()
    frame = next(generate(1, 512, seed=3))["image"]
    frame.save(tmp_path / "small" / "0.jpg")
    frame.resize((10304, 8640)).save(tmp_path / "large" / "0.jpg")  # 89 megapixels
    for index in range(1, 4):
        os.link(tmp_path / "large" / "0.jpg", tmp_path / "large" / f"{index}.jpg")
    small, large = (
        peak_megabytes(tmp_path, PROGRAM, name, "--model", ROOT, *flags, "--output_dir", f"out-{name}")
        for name in ("small", "large")
    )
    assert large - small < 3000
