"""Videos through `predict.py` and `segment_video`: overlays and tables recomputed, and bad input."""

import csv
import io
import json
import os
import re
import struct
import subprocess
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from conftest import peak_megabytes
from hostile_files import black_png
from PIL import Image
from unet_kvasir_seg import predict
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference import video
from unet_kvasir_seg.inference.image_run import Report
from unet_kvasir_seg.inference.inputs import Source
from unet_kvasir_seg.inference.output_folder import OutputFolder, open_output, write_tables
from unet_kvasir_seg.inference.overlay import draw_overlay
from unet_kvasir_seg.inference.prediction import BasePredictor, Prediction, PreparedImage
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.inference.video import VideoError, VideoReader, VideoReport, segment_video
from unet_kvasir_seg.inference.video_run import segment_video_file
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

FRAMES = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """An untrained network whose masks are neither empty nor full, and its image processor."""
    folder = tmp_path_factory.mktemp("models") / "model"
    torch.manual_seed(0)
    model = UNetForSemanticSegmentation(UNetConfig(base_channels=4, depth=2))
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(next(generate(1, 32, seed=9))["image"])).permute(2, 0, 1)[None] / 255
        model.classifier.bias -= model(pixels).logits.median()
    model.save_pretrained(folder)
    UNetImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def predictor(model) -> Predictor:
    return Predictor.from_pretrained(str(model), device="cpu", dtype="float32")


def write_video(
    path: Path,
    size: tuple[int, int] = (64, 48),
    frames: int = FRAMES,
    ticks: list[int] | None = None,
    audio: bool = False,
    codec: str = "libx264",
    matrix: int | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of synthetic frames at 10 a second, or shown at these hundredths of a second.

    Args:
        matrix: Number of the colour matrix, primaries and transfer in H.273.
        options: Of the container.
    """
    images = [np.array(pair["image"].resize(size)) for pair in generate(6, (48, 64), seed=4)]
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv444p" if size[0] % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, 100)
        context.options = {"crf": "8", "g": "4"} if codec == "libx264" else {}
        if matrix is not None:
            context.colorspace = context.color_primaries = context.color_trc = matrix
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        for index in range(frames):
            picture = av.VideoFrame.from_ndarray(images[index % len(images)], format="rgb24")
            picture = picture.reformat(format=stream.pix_fmt, dst_colorspace=matrix)
            picture.pts, picture.time_base = ticks[index] if ticks else 10 * index, Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.start_encoding()  # without frames it would not have begun
        container.mux(stream.encode())
        if sound is not None:
            for index in range(frames):
                noise = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.float32), format="fltp", layout="mono")
                noise.sample_rate, noise.pts, noise.time_base = 8000, 800 * index, Fraction(1, 8000)
                container.mux(sound.encode(noise))
            container.mux(sound.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", audio=True)


@pytest.fixture
def run(run_command, model):
    def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess:
        flags = ("--model", model, "--device", "cpu", "--dtype", "float32", "--batch_size", "5")
        return run_command(predict.main, *flags, *arguments, status=status)

    return run


def segment(source: Path, predictor: Predictor, **options) -> VideoReport:
    """Segment into `overlay.mp4` and `table.csv` beside the video."""
    return segment_video(
        source, source.with_name("overlay.mp4"), source.with_name("table.csv"), predictor, batch_size=5, **options
    )


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def subsampled(picture: np.ndarray) -> np.ndarray:
    """A picture as it is with colours at half the resolution, of which thin contours lose much."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
    return frame.to_ndarray(format="rgb24").astype(int)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def check_table(path: Path, probabilities: list[np.ndarray], predictor: Predictor) -> None:
    found = rows(path)
    assert [int(row["frame"]) for row in found] == list(range(len(probabilities)))
    for row, probability in zip(found, probabilities, strict=True):
        mask = probability > 0.5
        assert float(row["area_percent"]) == pytest.approx(100 * mask.mean(), abs=1e-3)
        assert float(row["max_probability"]) == pytest.approx(probability.max(), abs=1e-5)
        assert float(row["mean_probability"]) == pytest.approx(probability[mask].mean(), abs=1e-5)


def test_an_overlay_of_the_same_size_rate_and_length(run, clip, predictor, tmp_path):
    done = run(clip, "--output_dir", "out", "--alert_seconds", "9")
    out = tmp_path / "out" / "videos"
    assert {path.name for path in out.iterdir()} == {"clip.mp4", "clip.csv", "clip.json"}
    with av.open(str(clip)) as theirs, av.open(str(out / "clip.mp4")) as ours:
        assert len(ours.streams) == 1
        one, other = theirs.streams.video[0], ours.streams.video[0]
        assert (other.width, other.height, other.pix_fmt, other.codec.name) == (64, 48, "yuv420p", "h264")
        assert other.average_rate == one.average_rate == 10
        assert other.frames == FRAMES
        assert other.duration * other.time_base == pytest.approx(float(one.duration * one.time_base))
    assert times(out / "clip.mp4") == pytest.approx(times(clip))
    predictions = [predictor(Image.fromarray(frame)) for frame in decode(clip)]
    for frame, shown, prediction in zip(decode(clip), decode(out / "clip.mp4"), predictions, strict=True):
        expected = subsampled(np.array(draw_overlay(Image.fromarray(frame), prediction.mask)))
        assert np.abs(shown - expected).mean() < 8 < np.abs(frame - expected).mean()
    check_table(out / "clip.csv", [prediction.probability for prediction in predictions], predictor)
    assert [int(row["lesions"]) for row in rows(out / "clip.csv")] == [len(p.lesions) for p in predictions]
    assert [float(row["seconds"]) for row in rows(out / "clip.csv")] == pytest.approx(times(clip))
    assert re.search(
        r"clip.mp4: 12 frames, [\d.]+ a second where the video has 10; 0 alerts among \d+ tracks; audio dropped",
        done.stdout,
    )
    assert "1 video" in done.stdout


def test_a_video_that_is_done_is_not_done_again(run, clip, tmp_path):
    run(clip, "--output_dir", "out")
    overlay = tmp_path / "out" / "videos" / "clip.mp4"
    before = overlay.stat().st_mtime_ns
    assert "0 videos, 1 before" in run(clip, "--output_dir", "out").stdout
    assert overlay.stat().st_mtime_ns == before
    overlay.unlink()
    assert "1 video, 0 before" in run(clip, "--output_dir", "out").stdout
    other = write_video(tmp_path / "clip.mp4", frames=3)
    before = overlay.read_bytes()
    assert "of another file of that name" in run(other, "--output_dir", "out", status=1).stderr
    assert overlay.read_bytes() == before


def test_images_and_videos_of_a_folder_are_done_together(run, clip, tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a b:1.mp4").write_bytes(clip.read_bytes())
    Image.new("RGB", (20, 10)).save(tmp_path / "in" / "sub" / "a b:1.png")
    run("in", "--output_dir", "out")
    assert (tmp_path / "out" / "videos" / "sub" / "a b:1.mp4").exists()
    assert (tmp_path / "out" / "masks" / "sub" / "a b:1.png").exists()


def test_smoothing_by_hand(clip, predictor, tmp_path):
    source = tmp_path / "clip.mp4"
    source.write_bytes(clip.read_bytes())
    segment(source, predictor, smoothing=0.75)
    expected, before = [], None
    for frame in decode(source):
        probability = predictor(Image.fromarray(frame)).probability
        before = probability if before is None else 0.75 * before + 0.25 * probability
        expected.append(before)
    assert not np.allclose(expected[5], predictor(Image.fromarray(decode(source)[5])).probability, atol=1e-3)
    check_table(tmp_path / "table.csv", expected, predictor)


def test_the_peak_threshold_is_applied_after_smoothing(clip, predictor, tmp_path):
    source = tmp_path / "clip.mp4"
    source.write_bytes(clip.read_bytes())
    smoothed, before = [], None
    for frame in decode(source):
        probability = predictor(Image.fromarray(frame)).probability
        before = probability if before is None else 0.75 * before + 0.25 * probability
        smoothed.append((probability, before))
    highest = sorted(after.max() for _, after in smoothed)
    peak = float(highest[len(highest) // 2])
    expected = [bool(after.max() >= peak) for _, after in smoothed]
    # Applied before smoothing, it would give other rows.
    assert expected != [bool(probability.max() >= peak) for probability, _ in smoothed]
    segment(source, predictor, smoothing=0.75, peak_threshold=peak)
    assert [row["lesions"] != "0" for row in rows(tmp_path / "table.csv")] == expected


def test_a_frame_without_polyp_has_an_empty_row(clip, predictor, tmp_path):
    source = tmp_path / "clip.mp4"
    source.write_bytes(clip.read_bytes())
    segment(source, predictor, threshold=1.0)
    for row in rows(tmp_path / "table.csv"):
        assert (row["lesions"], float(row["area_percent"]), row["mean_probability"]) == ("0", 0.0, "")
    for frame, shown in zip(decode(source), decode(tmp_path / "overlay.mp4"), strict=True):
        assert np.abs(frame.astype(int) - shown).mean() < 4


def test_times_of_a_variable_rate_are_kept(predictor, tmp_path):
    ticks = [0, 10, 13, 40, 41, 90, 100, 103, 150, 151, 152, 200]
    source = write_video(tmp_path / "uneven.mp4", ticks=ticks)
    segment(source, predictor)
    expected = [tick / 100 for tick in ticks]
    assert times(tmp_path / "overlay.mp4") == pytest.approx(expected)
    assert [float(row["seconds"]) for row in rows(tmp_path / "table.csv")] == pytest.approx(expected)


def test_odd_sizes_are_padded_by_a_pixel(predictor, tmp_path):
    source = write_video(tmp_path / "odd.mp4", size=(63, 47))
    report = segment(source, predictor, alert_seconds=9)
    assert report.problem is None
    assert "padded from 63x47 to 64x48, since H.264 needs even sides" in report.notes
    for frame, shown in zip(decode(source), decode(tmp_path / "overlay.mp4"), strict=True):
        assert shown.shape == (48, 64, 3)
        expected = np.array(draw_overlay(Image.fromarray(frame), predictor(Image.fromarray(frame)).mask))
        padded = subsampled(np.pad(expected, ((0, 1), (0, 1), (0, 0)), mode="edge"))
        assert np.abs(shown - padded).mean() < 8


def set_display_matrix(path: Path, a: float, b: float, c: float, d: float) -> None:
    """Ask players to show the pixel (x, y) of an mp4 file at (ax + cy, bx + dy), by its track header."""

    def matrix(*values: float) -> bytes:
        return b"".join(round(value * 2**16).to_bytes(4, "big", signed=True) for value in values)

    content = path.read_bytes()
    upright = matrix(1, 0, 0, 0, 1, 0, 0, 0, 2**14)
    start = content.index(upright, content.index(b"tkhd"))
    turned = matrix(a, b, 0, c, d, 0, 0, 0, 2**14)
    path.write_bytes(content[:start] + turned + content[start + len(turned) :])


def test_a_rotation_is_applied(predictor, tmp_path):
    source = write_video(tmp_path / "phone.mp4")
    set_display_matrix(source, 0, 1, -1, 0)  # by 90 degrees clockwise
    segment(source, predictor, threshold=1.0)
    for frame, shown in zip(decode(source), decode(tmp_path / "overlay.mp4"), strict=True):
        assert shown.shape == (64, 48, 3)
        assert np.abs(np.rot90(frame, -1).astype(int) - shown).mean() < 4
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def placed(frame: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Each pixel (x, y) of a frame at (ax + cy, bx + dy), with the least of these at 0."""
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
    columns, rows = a * x + c * y, b * x + d * y
    columns, rows = columns - columns.min(), rows - rows.min()
    shown = np.zeros((rows.max() + 1, columns.max() + 1, 3), np.uint8)
    shown[rows, columns] = frame[y, x]
    return shown


QUARTERS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
MIRRORED = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("matrix", [*QUARTERS, *MIRRORED])
def test_frames_are_turned_and_mirrored_as_the_matrix_says(tmp_path, matrix):
    source = write_video(tmp_path / "phone.mp4", frames=1)
    set_display_matrix(source, *matrix)
    with VideoReader(source) as reader:
        (frame,) = reader.frames()
        np.testing.assert_array_equal(np.asarray(frame.image), placed(decode(source)[0], *matrix))
        assert (reader.width, reader.height) == frame.image.size
        assert reader.notes == []


@pytest.mark.parametrize(
    ("matrix", "shown_as", "note"),
    [
        ((0.5, 0.866, -0.866, 0.5), (0, 1, -1, 0), ["turned by the nearest quarter turn to the file's angle"]),
        ((-0.866, 0.5, 0.5, 0.866), (-1, 0, 0, 1), ["turned by the nearest quarter turn to the file's angle"]),
        ((0, 0, 0, 0), (1, 0, 0, 1), ["not turned, since the file does not say clearly how"]),
        ((1, 0, 0, 0), (1, 0, 0, 1), ["not turned, since the file does not say clearly how"]),
        ((2, 0, 0, -1), (1, 0, 0, -1), []),  # a pixel of another shape
    ],
)
def test_a_matrix_of_no_quarter_turn_is_told(tmp_path, matrix, shown_as, note):
    source = write_video(tmp_path / "phone.mp4", frames=1)
    set_display_matrix(source, *matrix)
    with VideoReader(source) as reader:
        (frame,) = reader.frames()
        np.testing.assert_array_equal(np.asarray(frame.image), placed(decode(source)[0], *shown_as))
        assert reader.notes == note


@pytest.mark.parametrize("matrix", [1, 5, 6])
def test_colours_are_kept(predictor, tmp_path, matrix):
    source = write_video(tmp_path / "colours.mp4", matrix=matrix)
    segment(source, predictor, threshold=1.0)
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (matrix, matrix, matrix)
    with av.open(str(source)) as theirs, av.open(str(tmp_path / "overlay.mp4")) as ours:
        for frame, shown in zip(theirs.decode(video=0), ours.decode(video=0), strict=True):
            for plane, shown_plane in zip(frame.planes, shown.planes, strict=True):
                means = [np.frombuffer(bytes(data), np.uint8).mean() for data in (plane, shown_plane)]
                assert means[0] == pytest.approx(means[1], abs=1)


def write_streams(path: Path, *streams: tuple[tuple[int, int], int, Disposition]) -> Path:
    """Several videos in one file, one after the other: size, number of frames, disposition of each."""
    with av.open(str(path), "w") as container:
        made = []
        for size, _, disposition in streams:
            codec = "mjpeg" if disposition & Disposition.attached_pic else "mpeg4"
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            made.append(stream)
        for stream, (size, frames, _) in zip(made, streams, strict=True):
            for index in range(frames):
                picture = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), np.uint8), format="rgb24")
                picture.pts = index
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    return path


NONE, DEFAULT, COVER = Disposition(0), Disposition.default, Disposition.attached_pic
SMALL, LARGE = (32, 16), (64, 48)


@pytest.mark.parametrize(
    ("name", "streams", "size", "frames", "note"),
    [
        ("picture.mkv", [(LARGE, 1, NONE), (SMALL, 9, NONE)], SMALL, 9, "stream 2 of 2 taken (32x16)"),
        ("shown.mkv", [(LARGE, 1, DEFAULT), (SMALL, 9, NONE)], SMALL, 9, "stream 2 of 2 taken (32x16)"),
        ("thumbnails.mp4", [(LARGE, 3, DEFAULT), (SMALL, 9, NONE)], SMALL, 9, "stream 2 of 2 taken (32x16)"),
        ("larger.mkv", [(SMALL, 9, NONE), (LARGE, 9, NONE)], LARGE, 9, "stream 2 of 2 taken (64x48)"),
        ("default.mkv", [(SMALL, 9, DEFAULT), (LARGE, 9, NONE)], SMALL, 9, "stream 1 of 2 taken (32x16)"),
        ("equal.ts", [(SMALL, 9, NONE)] * 3, SMALL, 9, "stream 1 of 3 taken (32x16)"),
        ("stills.mkv", [(SMALL, 1, NONE), (LARGE, 1, NONE)], LARGE, 1, "stream 2 of 2 taken (64x48)"),
        ("cover.mp4", [(SMALL, 9, NONE), (LARGE, 1, COVER)], SMALL, 9, "stream 1 of 2 taken (32x16)"),
        ("one.mkv", [(SMALL, 9, NONE)], SMALL, 9, None),
    ],
)
def test_the_main_video_of_a_file_is_taken_and_others_told(tmp_path, name, streams, size, frames, note):
    with VideoReader(write_streams(tmp_path / name, *streams)) as reader:
        assert [frame.image.size for frame in reader.frames()] == [size] * frames
        assert (reader.problem, reader.notes) == (None, [f"video {note}, the rest dropped"] if note else [])


def test_the_cover_of_a_sound_file_is_no_video(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = *SMALL, "yuvj420p", COVER
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), format="rgb24")
        container.mux([*cover.encode(picture), *cover.encode()])
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        noise.sample_rate = 8000
        container.mux([*sound.encode(noise), *sound.encode()])
    with pytest.raises(VideoError, match=r"^holds no video but a still picture, such as a cover$"):
        VideoReader(tmp_path / "song.mp4")


def test_a_codec_that_is_not_known_is_named_and_another_stream_taken(tmp_path):
    for name, streams in (("one.mkv", [(LARGE, 9, NONE)]), ("two.mkv", [(LARGE, 9, NONE), (SMALL, 1, NONE)])):
        content = write_streams(tmp_path / name, *streams).read_bytes()
        (tmp_path / name).write_bytes(content.replace(b"V_MPEG4/ISO/ASP", b"V_OTHER/ISO/ASP", 1))
    with pytest.raises(VideoError, match=r"^holds a video in a codec that is not known here\. Convert it"):
        VideoReader(tmp_path / "one.mkv")
    with VideoReader(tmp_path / "two.mkv") as reader:
        assert [frame.image.size for frame in reader.frames()] == [SMALL]


def test_an_image_with_the_ending_of_a_video_is_named(tmp_path):
    Image.new("RGB", SMALL).save(tmp_path / "frame.mp4", "JPEG")
    with pytest.raises(VideoError, match=r"^holds an image in JPEG: expected a video\. Rename it to end in \.jpg$"):
        VideoReader(tmp_path / "frame.mp4")


@pytest.mark.parametrize(
    ("suffix", "container", "codec"),
    [
        *[("3gp", "3gp", "mpeg4"), ("asf", "asf", "mpeg4"), ("qt", "mov", "mpeg4"), ("MTS", "ts", "libx264")],
        *[("vob", "vob", "mpeg2video"), ("m2v", "m2v", "mpeg2video")],
    ],
)
def test_other_endings(tmp_path, suffix, container, codec):
    assert Source("", f"clip.{suffix}").is_video
    source = write_video(tmp_path / f"written.{container}", codec=codec)
    with VideoReader(source.rename(tmp_path / f"clip.{suffix}")) as reader:
        assert (len(list(reader.frames())), reader.problem) == (FRAMES, None)


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("avi", "mpeg4"), ("ts", "libx264")])
def test_other_containers(predictor, tmp_path, suffix, codec):
    source = write_video(tmp_path / f"clip.{suffix}", codec=codec)
    report = segment(source, predictor)
    assert (report.frames, report.problem) == (FRAMES, None)
    # A transport stream does not begin at 0.
    start = times(source)[0]
    assert times(tmp_path / "overlay.mp4") == pytest.approx([time - start for time in times(source)], abs=1e-3)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_frames_before_the_cut_of_a_cut_off_video_are_kept(run, tmp_path, name):
    source = write_video(tmp_path / name, frames=60, options={"movflags": "faststart"} if name == "cut.mp4" else None)
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    for _ in range(2):  # the second run says so again
        done = run(name, "--output_dir", "out", status=1)
        assert re.search(rf"  {name}: .*(cut off|decoded|failed).*; what was read is kept", done.stderr)
    found = decode(tmp_path / "out" / "videos" / "cut.mp4")
    assert 10 < len(found) < 50
    assert len(rows(tmp_path / "out" / "videos" / "cut.csv")) == len(found)


def test_a_damaged_packet_does_not_end_a_video(run, tmp_path):
    source = write_video(tmp_path / "damaged.mp4", frames=40)
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    content = bytearray(source.read_bytes())
    for packet in packets[17:19]:
        content[packet.pos : packet.pos + packet.size] = os.urandom(packet.size)
    source.write_bytes(content)
    done = run("damaged.mp4", "--output_dir", "out", status=1)
    assert re.search(r"damaged.mp4: \d packets cannot be decoded", done.stderr)
    assert len(decode(tmp_path / "out" / "videos" / "damaged.mp4")) >= 36


def test_videos_without_frames_are_named(run, clip, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.avi").write_bytes(b"")
    content = clip.read_bytes()
    (tmp_path / "headless.mp4").write_bytes(content[: len(content) // 2])  # its index is at the end
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        noise.sample_rate = 8000
        container.mux(sound.encode(noise))
        container.mux(sound.encode())
    write_video(tmp_path / "none.avi", frames=0, codec="mpeg4")
    names = ["empty.avi", "headless.mp4", "none.avi", "sound.mp4", "text.mp4"]
    done = run(*names, clip, "--output_dir", "out", status=1)
    lines = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert [line.split(":")[0] for line in lines] == names
    assert "headless.mp4: begins as a video in MP4, but is damaged or cut off (" in lines[1]
    assert lines[3] == "sound.mp4: holds no video but sound"
    assert "text.mp4: is no video that can be read (" in lines[4]
    assert {path.name for path in (tmp_path / "out" / "videos").iterdir()} == {"clip.mp4", "clip.csv", "clip.json"}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(model, tmp_path):
    size = (512, 384)
    flags = ("--model", model, "--device", "cpu", "--dtype", "float32", "--batch_size", "5")
    peaks = []
    for frames in (30, 150):
        video = write_video(tmp_path / f"{frames}.mp4", size=size, frames=frames)
        peaks.append(peak_megabytes(tmp_path, "predict.py", video, *flags, "--output_dir", frames))
    # Picture and probability map of 120 frames more would be 160 MB.
    assert peaks[1] - peaks[0] < 40


def test_without_the_video_extra_the_message_says_how_to_get_it(run, clip, monkeypatch, tmp_path):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "av" else find_spec(name))
    done = run(clip, "--output_dir", "out", status=2)
    assert 'av is not installed; this needs pip install -e ".[video]"' in done.stderr
    assert not (tmp_path / "out").exists()


def video_of_pngs(path: Path, sizes: list[tuple[int, int]]) -> Path:
    """Black frames of these widths and heights, each in PNG; the container states 64x48."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "monob"
        container.start_encoding()
        for index, size in enumerate(sizes):
            packet = av.Packet(black_png(*size))
            packet.stream, packet.time_base = stream, Fraction(1, 10)
            packet.pts = packet.dts = index
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((16_000, 16_000), "reading it failed after . frames .*more than 33.6 million pixels"),
        ((64, 20_000), r"the next is too large \(64x20000 pixels\): each side may have at most 16384"),
    ],
)
def test_frames_that_grow_are_not_used_and_those_before_are_kept(run, predictor, tmp_path, size, reason):
    source = video_of_pngs(tmp_path / "grows.avi", [(64, 48)] * 6 + [size] * 6)
    report = segment(source, predictor)
    assert 0 < report.frames <= 6  # FFmpeg's threads hand over some frames later than the error
    assert re.search(reason, report.problem)
    done = run("grows.avi", "--output_dir", "out", status=1)
    assert re.search(f"  grows.avi: .*{reason.split('frames')[-1]}.*; what was read is kept", done.stderr)


def test_a_video_that_begins_too_large_is_refused(run, tmp_path):
    video_of_pngs(tmp_path / "large.avi", [(16_000, 16_000)])
    video_of_pngs(tmp_path / "long.avi", [(1, 262_144)])
    done = run("large.avi", "long.avi", "--output_dir", "out", status=1)
    large, long = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert re.search("large.avi: has no frame that can be read .*more than 33.6 million pixels", large)
    assert re.search(r"long.avi: .* is too large \(1x262144 pixels\): each side may have at most 16384", long)
    assert not list((tmp_path / "out" / "videos").iterdir())


def test_a_video_that_names_other_files_is_refused(clip, tmp_path):
    (tmp_path / "secret.mp4").write_bytes(clip.read_bytes())
    contents = {
        "list.mp4": "ffconcat version 1.0\nfile secret.mp4\n",
        "playlist.ts": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "addresses.mkv": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1/x.ts\n#EXT-X-ENDLIST\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(VideoError, match="of another format than asf, avi"), VideoReader(tmp_path / name):
            pass


def test_whatever_the_error_of_a_video_the_others_are_done(run, clip, predictor, tmp_path, monkeypatch):
    """As of an encoder that refuses the size."""
    (tmp_path / "bad.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "good.mp4").write_bytes(clip.read_bytes())
    segment_it = segment_video

    def fail_once(source, *arguments, **options):
        if "bad" in source:
            raise MemoryError
        return segment_it(source, *arguments, **options)

    monkeypatch.setattr("unet_kvasir_seg.inference.video_run.segment_video", fail_once)
    done = run("bad.mp4", "good.mp4", "--output_dir", "out", status=1)
    assert [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")] == ["bad.mp4: MemoryError"]
    written = {path.name for path in (tmp_path / "out" / "videos").iterdir()}
    assert written == {"good.mp4", "good.csv", "good.json"}


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", "[" * 100_000])
def test_a_record_that_was_damaged_is_one_line(run, clip, tmp_path, text):
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    run("clip.mp4", "--output_dir", "out")
    (tmp_path / "out" / "videos" / "clip.json").write_text(text)
    done = run("clip.mp4", "--output_dir", "out", status=1)
    (line,) = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert line.startswith("clip.mp4: not done, since out/videos/clip.mp4 is there and not from this command")


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_frames_that_a_damage_within_the_file_took_away_are_told(tmp_path, codec):
    """FFmpeg reads on after the damage without an error, and marks the frame that it made of what was left."""
    source = write_video(tmp_path / "damaged.ts", frames=40, codec=codec)
    content = source.read_bytes()
    middle, part = len(content) // 2, len(content) // 10
    noise = np.random.default_rng(0).bytes(part)
    with VideoReader(source) as reader:
        assert (sum(1 for _ in reader.frames()), reader.problem) == (40, None)
    source.write_bytes(content[:middle] + noise + content[middle + part :])
    with VideoReader(source) as reader:
        assert 30 <= sum(1 for _ in reader.frames()) < 40
        assert re.match(r"\d of its frames are damaged, and others near them may be missing", reader.problem or "")


def test_a_video_without_end_of_damaged_packets_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_DAMAGED_IN_A_ROW", 10)
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    content = file.getvalue()
    movie, index = content.index(b"movi"), content.index(b"idx1")
    packets = content[movie:index] + 500 * b"00dc\x02\0\0\0ab"
    avi = bytearray(content[: movie - 4] + struct.pack("<I", len(packets)) + packets)
    avi[4:8] = struct.pack("<I", len(avi) - 8)
    (tmp_path / "damaged.avi").write_bytes(avi)
    with VideoReader(tmp_path / "damaged.avi") as reader:
        list(reader.frames())
        assert (reader.decoded, reader.damaged) == (1, 10)


class Brightness(BasePredictor):
    """Gives the brightness of each pixel as its probability, so that tracks can be worked out by hand."""

    model, processor, identity = None, None, "brightness"
    runtime = SimpleNamespace(dtype="float32")
    processor_settings: ClassVar[dict] = {}

    def prepare(self, image, field_of_view=None):
        return PreparedImage(np.asarray(image.convert("L"), np.float32) / 255, image.size[::-1])

    def grey_levels(self, prepared, rows):
        return (255 * prepared.pixels[rows, :, None].repeat(3, axis=2)).astype(np.uint8)

    def flip_maps(self, prepared, axes):
        return [(image.pixels, image.pixels) for image in prepared]


def write_squares(path: Path, squares: list[list[tuple[int, int]]], ticks: list[int] | None = None) -> Path:
    """A dark video of 160x96 pixels, with bright squares of 16x16 whose left and top are given for each frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        stream.codec_context.options = {"crf": "1"}
        for index, places in enumerate(squares):
            pixels = np.zeros((96, 160, 3), np.uint8)
            for left, top in places:
                pixels[top : top + 16, left : left + 16] = 240
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = ticks[index] if ticks else 10 * index, Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


# One that moves right by 4 pixels a frame, is hidden in frame 3, and is seen for 0.9 s; one that is seen for 0.2 s.
MOVING = [[(8 + 4 * index, 8)] * (index != 3) + [(120, 64)] * (2 <= index <= 4) for index in range(10)]


def segment_brightness(source: Path, output: Path, **options) -> Report:
    """Segment a video as `predict.py` does, by its brightness, and write the tables."""
    open_output(output, {})
    report = Report()
    segment_video_file(Source(str(source), source.name), Brightness(), OutputFolder(output), report, **options)
    write_tables(output)
    return report


def test_tracks_and_alerts_of_squares_worked_out_by_hand(tmp_path):
    source = write_squares(tmp_path / "=squares.mp4", MOVING)
    report = segment_brightness(source, tmp_path / "out")
    assert (report.failures, len(report.done)) == ([], 1)
    first, second = rows(tmp_path / "out" / "tracks.csv")
    assert first["video"] == second["video"] == "./=squares.mp4"  # no formula
    assert (first["track"], first["alert"], first["frames"]) == ("1", "1", "9")
    assert (float(first["first_seconds"]), float(first["last_seconds"])) == (0.0, 0.9)
    assert (second["track"], second["alert"], second["frames"]) == ("2", "0", "3")
    assert (float(second["first_seconds"]), float(second["last_seconds"])) == (0.2, 0.4)
    for row in (first, second):
        assert float(row["largest_area_percent"]) == pytest.approx(100 * 256 / (96 * 160), abs=0.01)
        assert float(row["mean_probability"]) == pytest.approx(240 / 255, abs=0.01)
        assert float(row["highest_probability"]) >= float(row["mean_probability"])
    best = 8 + 4 * int(first["best_frame"])
    assert [int(first[side]) for side in ("left", "top", "right", "bottom")] == [best, 8, best + 16, 24]
    assert [int(second[side]) for side in ("left", "top", "right", "bottom")] == [120, 64, 136, 80]
    # An alert from the frame at 0.5 seconds on.
    table = rows(tmp_path / "out" / "videos" / "=squares.csv")
    assert [int(row["alerts"]) for row in table] == [0] * 5 + [1] * 5
    assert [int(row["lesions"]) for row in table] == [1, 1, 2, 1, 2, 1, 1, 1, 1, 1]
    assert [float(row["presence"]) for row in table] == [float(row["max_probability"]) for row in table]
    left = [8 + 4 * frame for frame in range(10)]
    moving = [f"{x} 8 {x + 16} 24" for x in left]
    still = "120 64 136 80"
    boxes = [*moving[:2], f"{moving[2]}; {still}", still, f"{moving[4]}; {still}", *moving[5:]]
    assert [set(row["boxes"].split("; ")) for row in table] == [set(each.split("; ")) for each in boxes]


def test_boxes_are_those_of_the_largest_regions(tmp_path):
    """The larger first; a frame without regions has none; of very many not all are listed."""
    mask = np.zeros((200, 400), np.float32)
    mask[2:4, 10:12] = 1
    mask[50:60, 30:34] = 1
    frame = video.Frame(0, 0, 1, 0.0, Image.new("RGB", (400, 200)))
    prediction = Prediction(mask, mask, 0.5)
    assert video.draw(frame, prediction, []).row[-1] == "30 50 34 60; 10 2 12 4"
    assert video.draw(frame, Prediction(0 * mask, mask, 0.5), []).row[-1] == ""
    mask[::2, ::2] = 1
    assert len(video.draw(frame, Prediction(mask, mask, 0.5), []).row[-1].split("; ")) == 64


def test_the_progress_of_a_video_has_a_total_where_the_file_states_one(run, clip, tmp_path):
    """In a log: a line at least at the end."""
    assert re.search(r"^clip\.mp4: 100% 12/12 \[\d\d:\d\d<00:00, .*frame/s\]$", run(clip).stderr, re.MULTILINE)
    stream = write_video(tmp_path / "stream.mkv", options={"live": "1"})
    with VideoReader(stream) as reader, VideoReader(clip) as stated:
        assert (reader.frames_expected, stated.frames_expected) == (None, FRAMES)
    assert "stream.mkv: 100% 12/12 [" in run(stream).stderr  # known in the end
    matroska = write_video(tmp_path / "length.mkv")
    with VideoReader(matroska) as reader:
        assert (reader.frames_stated, reader.frames_expected) == (None, FRAMES)


def test_flags_of_images_are_refused_where_there_are_videos_alone(run, clip, tmp_path):
    for flags, named in (
        (["--overlay"], "--overlay has no effect on videos"),
        (["--probabilities", "--overlay"], "--overlay and --probabilities have no effect on videos"),
    ):
        assert f"{named}, and there is no image among the inputs" in run(clip, *flags, status=2).stderr
    assert not (tmp_path / "outputs").exists()
    next(generate(1, 48, seed=1))["image"].save(tmp_path / "frame.png")
    done = run(clip, clip.with_name("clip.mp4"), "frame.png", "--overlay")
    assert done.stdout.count("--overlay has no effect on videos, which are 1 of the inputs") == 1
    assert (tmp_path / "outputs" / "predictions" / "overlays" / "frame.png").is_file()


def test_a_folder_takes_images_and_videos_one_after_the_other(run, clip, tmp_path):
    """As the README does. Settings of videos count for videos alone."""
    next(generate(1, 48, seed=1))["image"].save(tmp_path / "frame.png")
    outputs = tmp_path / "outputs"
    run("frame.png")
    before = (outputs / "predictions" / "masks" / "frame.png").stat().st_mtime_ns
    assert "Written to outputs/predictions." in run(clip, "--smoothing", "0.6").stdout
    settings = json.loads((outputs / "predictions" / "run.json").read_text())
    assert (settings["smoothing"], settings["alert_seconds"]) == (0.6, 0.5)
    assert "0 images, 1 before. Written to outputs/predictions." in run("frame.png").stdout
    assert json.loads((outputs / "predictions" / "run.json").read_text()) == settings
    assert (outputs / "predictions" / "masks" / "frame.png").stat().st_mtime_ns == before
    done = run(clip, "--smoothing", "0.3")
    assert done.stdout.startswith(
        "outputs/predictions holds outputs of other settings: smoothing 0.6 and not 0.3. "
        "So outputs/predictions-2 is taken.\n"
    )
    for smoothing, folder in (("0.6", "predictions"), ("0.3", "predictions-2")):
        done = run(clip, "--smoothing", smoothing)
        assert f"0 videos, 1 before. Written to outputs/{folder}." in done.stdout
    # An image goes where images are, although the other folder was used last; both together go where both fit.
    assert "0 images, 1 before. Written to outputs/predictions." in run("frame.png").stdout
    assert "1 before. Written to outputs/predictions-2." in run("frame.png", clip, "--smoothing", "0.3").stdout
    # The other way round, and in a folder that is named.
    run(clip, "--smoothing", "0.6", "--output_dir", "out")
    run("frame.png", "--output_dir", "out")
    refusal = run("frame.png", clip, "--output_dir", "out", status=2).stderr
    assert "out holds outputs of other settings: smoothing 0.6 and not 0.0" in refusal


def test_alerts_are_framed_in_the_overlay_and_other_regions_are_not(tmp_path):
    source = write_squares(tmp_path / "squares.mp4", MOVING)
    segment_brightness(source, tmp_path / "out")
    for index, shown in enumerate(decode(tmp_path / "out" / "videos" / "squares.mp4")):
        left = 8 + 4 * index
        # Beside the moving square, where its frame is: three pixels outside, between two lines of halo.
        assert (shown[12:20, left - 3].mean() > 150) == (index >= 5)
        assert shown[68:76, 120 - 3].mean() < 60
        assert shown[68:76, 120 + 18].mean() < 60


@pytest.mark.parametrize(
    ("seconds", "alerts"), [(0.0, ["1", "1"]), (0.2, ["1", "1"]), (0.9, ["1", "0"]), (1, ["0"] * 2)]
)
def test_the_time_of_an_alert_is_stated(tmp_path, seconds, alerts):
    source = write_squares(tmp_path / "squares.mp4", MOVING)
    segment_brightness(source, tmp_path / "out", alert_seconds=seconds)
    assert [row["alert"] for row in rows(tmp_path / "out" / "tracks.csv")] == alerts


def test_alerts_go_by_time_where_the_frame_rate_varies(tmp_path):
    """Four frames of a square that rests: three within 0.02 s, and one after a pause of 0.5 s."""
    source = write_squares(tmp_path / "uneven.mp4", [[(8, 8)]] * 4, ticks=[0, 1, 2, 52])
    segment_brightness(source, tmp_path / "out")
    (track,) = rows(tmp_path / "out" / "tracks.csv")
    assert (track["alert"], track["frames"], float(track["last_seconds"])) == ("1", "4", 0.52)
    assert [row["alerts"] for row in rows(tmp_path / "out" / "videos" / "uneven.csv")] == ["0", "0", "0", "1"]


def test_frames_without_times_get_them_from_a_rate(tmp_path):
    """A bare stream of MPEG-2 states no times; 25 a second."""
    with av.open(str(tmp_path / "bare.m2v"), "w", format="mpeg2video") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        pixels = np.zeros((96, 160, 3), np.uint8)
        pixels[40:72, 40:72] = 240
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    segment_brightness(tmp_path / "bare.m2v", tmp_path / "out")
    (track,) = rows(tmp_path / "out" / "tracks.csv")
    assert (track["alert"], track["frames"], float(track["last_seconds"])) == ("1", "20", pytest.approx(19 / 25))


@pytest.mark.parametrize(("seconds", "alert"), [(0.5, "0"), (0.0, "1")])
def test_a_video_of_one_frame_has_tracks(tmp_path, seconds, alert):
    source = write_squares(tmp_path / "one.mp4", [[(8, 8), (100, 60)]])
    report = segment_brightness(source, tmp_path / "out", alert_seconds=seconds)
    assert report.failures == []
    found = rows(tmp_path / "out" / "tracks.csv")
    assert [(row["track"], row["alert"], row["frames"]) for row in found] == [("1", alert, "1"), ("2", alert, "1")]
    assert all(float(row["first_seconds"]) == float(row["last_seconds"]) == 0 for row in found)


def test_tracks_are_of_all_videos_in_the_folder(tmp_path):
    """Also where one is called as the other's tracks might be, and in folders."""
    output = tmp_path / "out"
    for name in ("clip.mp4", "clip-tracks.mp4", "clip.tracks.mp4"):
        segment_brightness(write_squares(tmp_path / name, MOVING), output)
    names = [row["video"] for row in rows(output / "tracks.csv")]
    assert names == ["clip-tracks.mp4"] * 2 + ["clip.mp4"] * 2 + ["clip.tracks.mp4"] * 2
    (output / "videos" / "clip.mp4").unlink()  # with its record left
    write_tables(output)
    assert {row["video"] for row in rows(output / "tracks.csv")} == {"clip-tracks.mp4", "clip.tracks.mp4"}


def test_a_video_of_an_earlier_version_is_kept_and_told(tmp_path, capsys):
    source, output = write_squares(tmp_path / "squares.mp4", MOVING), tmp_path / "out"
    segment_brightness(source, output)
    written = rows(output / "tracks.csv")
    record, overlay = output / "videos" / "squares.json", output / "videos" / "squares.mp4"
    old = json.loads(record.read_text())
    del old["tracks"]
    record.write_text(json.dumps(old, indent=2))
    before = overlay.stat().st_mtime_ns
    capsys.readouterr()
    report = segment_brightness(source, output)
    assert (report.count(videos=True, by_earlier_run=True), report.failures) == (1, [])
    assert f"without tracks and alerts. To get them, remove {overlay}" in capsys.readouterr().out
    assert overlay.stat().st_mtime_ns == before
    assert rows(output / "tracks.csv") == []
    overlay.unlink()
    assert segment_brightness(source, output).count(videos=True, by_earlier_run=False) == 1
    assert rows(output / "tracks.csv") == written


@pytest.mark.parametrize("tracks", ["none", [1], [[1]], [["1"] * 12], [[float("nan")] * 12], {}])
def test_tracks_that_were_damaged_are_one_line(tmp_path, tracks):
    source, output = write_squares(tmp_path / "squares.mp4", MOVING[:3]), tmp_path / "out"
    segment_brightness(source, output)
    record = output / "videos" / "squares.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"tracks": tracks}))
    (failure,) = segment_brightness(source, output).failures
    assert "is there and not from this command" in failure.reason
    assert rows(output / "tracks.csv") == []


def test_the_time_of_alerts_is_a_setting_of_the_outputs(run, tmp_path):
    write_squares(tmp_path / "clip.mp4", MOVING)
    run("clip.mp4", "--output_dir", "out", "--alert_seconds", "0.2")
    settings = json.loads((tmp_path / "out" / "run.json").read_text())
    assert settings["alert_seconds"] == 0.2
    refusal = run("clip.mp4", "--output_dir", "out", status=2).stderr
    assert "out holds outputs of other settings: alert_seconds 0.2 and not 0.5" in refusal
    del settings["alert_seconds"]  # as earlier versions wrote it
    (tmp_path / "out" / "run.json").write_text(json.dumps(settings))
    assert "0 videos, 1 before" in run("clip.mp4", "--output_dir", "out").stdout
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == settings | {"alert_seconds": 0.5}
