"""A video to the same video with its polyps drawn in, and a table with a row a frame.

    report = segment_video("clip.mp4", "overlay.mp4", "overlay.csv", predictor)
    print(report)    # 900 frames, 23.1 frames per second of 25 needed

Frames keep their size, their times and with them the length, constant rate or not; a rotation that the file asks
players for is applied. Audio is dropped. Decoding, network, drawing and encoding overlap, a few frames ahead of each
other, so that memory does not grow with the video.
"""

import csv
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import torch
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from ..common.errors import UserError
from ..common.prefetch import prefetch, prefetch_map
from .overlay import draw_overlay
from .predictor import Prediction, Predictor

COLUMNS = ("frame", "seconds", "lesions", "area_percent", "max_probability", "mean_probability")

# In order of preference; builds of FFmpeg differ in what they hold.
ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "18"},
    "libopenh264": {},
    "mpeg4": {},
}
BITS_PER_PIXEL = 0.2  # of the encoders that are given a bit rate in place of a quality

BATCH_PIXELS = 2**23  # of the frames that are in one stage together: 4 of 1920x1080
THREADS = 2  # of each stage that can take frames side by side

UNSPECIFIED = 2  # in H.273, of colour matrix, primaries and transfer
KNOWN_MATRICES = (1, 5, 6, 9)  # BT.709, BT.601 for 625 and for 525 lines, BT.2020, by their numbers in H.273
LIMITED_RANGE = 1


class VideoError(ValueError):
    """The video cannot be used; the message says why."""


@dataclass(frozen=True)
class VideoReport:
    """What became of a video.

    Attributes:
        frames: Frames that were segmented.
        seconds: The time it took.
        rate: Frames per second of the video.
        notes: Where the overlay differs from the video in more than the overlay.
        problem: Why the frames are not all of the video's; None if they are.
    """

    frames: int
    seconds: float
    rate: float
    notes: list[str]
    problem: str | None

    def __str__(self) -> str:
        speed = f"{self.frames} frames, {self.frames / self.seconds:.1f} frames per second of {self.rate:.4g} needed"
        return "; ".join([speed, *self.notes])


@dataclass(frozen=True)
class Frame:
    """A frame as it is to be seen.

    Attributes:
        index: Its number, from 0.
        ticks, duration: When it is shown and for how long, in the video's time base, from the first frame on.
        seconds: When it is shown.
        image: RGB.
    """

    index: int
    ticks: int
    duration: int
    seconds: float
    image: Image.Image


@dataclass(frozen=True)
class Drawn:
    """An overlay, and its frame's row of the table."""

    frame: Frame
    pixels: np.ndarray  # (H, W, 3) uint8, both sides even
    row: tuple[Any, ...]


def segment_video(
    source: str | Path,
    overlay: str | Path,
    table: str | Path,
    predictor: Predictor,
    *,
    threshold: float = 0.5,
    tta: bool = False,
    smoothing: float = 0.0,
    batch_size: int = 8,
    on_frame: Callable[[], Any] = lambda: None,
) -> VideoReport:
    """Segment a video frame by frame.

    The table has the columns `COLUMNS`: when the frame is shown in seconds, how many lesions its mask has, their area
    in per cent of the frame, the highest probability in the frame, and the mean probability in the mask, which is
    left empty where there is no lesion.

    Args:
        source: The video.
        overlay: The mp4 file to write, replaced if it is there.
        table: The CSV file to write, replaced if it is there.
        predictor: Computes the probability map P of each frame.
        threshold, tta: As for a call of the predictor.
        smoothing: s of S = s * (S of the frame before) + (1 - s) * P, the map that is thresholded, in [0, 1); the
            first frame's S is its P. It counts frames, not seconds.
        batch_size: Frames that go through the network together, fewer if they are large.
        on_frame: Called after each frame.

    Raises:
        VideoError: If no frame can be read. Where reading fails later, what was read is kept, and reported.
        UserError: If the network gives no number somewhere.
        OSError: If `overlay` or `table` cannot be written.
    """
    started = time.perf_counter()
    with VideoReader(source) as video:
        together = max(1, min(batch_size, BATCH_PIXELS // (video.width * video.height)))
        options = {"threshold": threshold, "tta": tta}

        def prepare(frame: Frame) -> tuple[Frame, Tensor]:
            return frame, predictor.prepare(frame.image)[0]

        def predicted(prepared: Iterable[tuple[Frame, Tensor]]) -> Iterator[tuple[Frame, Prediction]]:
            for batch in _batches(prepared, together):
                pixel_values = torch.cat([pixels for _, pixels in batch])
                sizes = [(video.height, video.width)] * len(batch)
                predictions = predictor.from_pixels(pixel_values, sizes, **options)  # type: ignore[arg-type]
                for (frame, _), prediction in zip(batch, predictions, strict=True):
                    if not prediction.is_valid:
                        raise UserError(
                            f"The model gives NaN for frame {frame.index} of {source}. Try --dtype float32; if it is "
                            "that already, the weights are broken."
                        )
                    yield frame, prediction

        with VideoWriter(overlay, video) as writer, open(table, "w", newline="", encoding="utf-8") as file:

            def encode(drawn: Drawn) -> Drawn:
                writer.encode(drawn.frame, drawn.pixels)
                return drawn

            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            # Their threads must end before the files that they read and write are closed, also after an error.
            with closing(prefetch(video.frames(), ahead=together)) as frames:
                prepared = prefetch_map(prepare, frames, threads=THREADS, ahead=together)
                smooth = smoothed(predicted(prepared), smoothing)
                drawn = prefetch_map(lambda pair: draw(*pair), smooth, threads=THREADS, ahead=together)
                with closing(prefetch_map(encode, drawn, threads=1, ahead=together)) as encoded:
                    for done in encoded:
                        rows.writerow(done.row)
                        on_frame()
        return VideoReport(
            frames=video.decoded,
            seconds=time.perf_counter() - started,
            rate=float(video.rate),
            notes=[*video.notes, *writer.notes],
            problem=video.problem,
        )


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def smoothed(predictions: Iterable[tuple[Frame, Prediction]], smoothing: float) -> Iterator[tuple[Frame, Prediction]]:
    """Replace each probability map P by S = smoothing * (S before) + (1 - smoothing) * P."""
    before: np.ndarray | None = None
    for frame, prediction in predictions:
        if smoothing and before is not None:
            now = smoothing * before + (1 - smoothing) * prediction.probability
            prediction = replace(prediction, probability=now.astype(np.float32))
        before = prediction.probability
        yield frame, prediction


def draw(frame: Frame, prediction: Prediction) -> Drawn:
    """The overlay of a frame, and its row."""
    mask = prediction.mask
    pixels = np.asarray(draw_overlay(frame.image, mask))
    height, width = mask.shape
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    area = int(mask.sum())
    row = (
        frame.index,
        f"{frame.seconds:.6f}",
        len(prediction.lesions),
        f"{100 * area / mask.size:.4f}",
        f"{prediction.probability.max():.6f}",
        f"{prediction.probability[mask].mean():.6f}" if area else "",
    )
    return Drawn(frame, pixels, row)


class VideoReader:
    """The frames of a video, upright.

    Attributes:
        width, height: Of an upright frame, in pixels.
        rate: Frames per second, on the average.
        time_base: Seconds of a tick.
        matrix: Number of the colour matrix in H.273; None if it is not told.
        frames_told: Frames that the file says it has; None if it does not say.
        decoded: Frames that were read so far.
        problem: Why they are not all, known when the last one was read.
        notes: What of the file has no part in the overlay.

    Raises:
        VideoError: If there is no frame to be read.
    """

    def __init__(self, path: str | Path):
        try:
            # With the protocol's name a colon in the file's name is just that.
            self.container = av.open(f"file:{path}")
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(f"is no video that can be read ({describe(error)})") from error
        try:
            self._open_stream()
        except BaseException:
            self.container.close()
            raise

    def _open_stream(self) -> None:
        if not self.container.streams.video:
            raise VideoError("holds no video")
        self.stream: VideoStream = self.container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.rate = _fraction(self.stream.average_rate) or _fraction(self.stream.guessed_rate) or Fraction(25)
        self.time_base = _fraction(self.stream.time_base) or 1 / self.rate
        matrix = self.stream.codec_context.colorspace
        self.matrix = matrix if matrix in KNOWN_MATRICES else None
        self.frames_told = self.stream.frames or None
        self.notes = ["audio dropped"] if self.container.streams.audio else []
        self.problem: str | None = None
        self.decoded = 0
        self.damaged = 0
        self.raw_frames = self._decode()
        first = next(self.raw_frames, None)
        if first is None:
            raise VideoError(f"has no frame that can be read ({self.problem or 'it is empty'})")
        self.first_frame = first
        # Frames of another size later on are scaled to the first one's.
        self.raw_size = (first.width, first.height)
        self.turns = round(first.rotation / 90) % 4  # quarters, counterclockwise
        self.width, self.height = self.raw_size[::-1] if self.turns % 2 else self.raw_size

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def frames(self) -> Iterator[Frame]:
        """Each frame once; sets `problem` after the last one."""
        step = max(1, round(1 / self.rate / self.time_base))
        start = last = duration = None
        longest = step
        raw: av.VideoFrame | None = self.first_frame
        while raw is not None:
            # Streams without times, or with times that go back, get the rate's.
            start = start if start is not None else raw.pts or 0
            ticks = 0 if last is None else raw.pts - start if raw.pts is not None else last + (duration or step)
            ticks = ticks if last is None else max(ticks, last + 1)
            longest = max(longest, ticks - (last or 0))
            last = ticks
            duration = raw.duration or step
            image = Image.fromarray(self._to_rgb(raw))
            if self.turns:
                image = image.transpose(Image.Transpose(Image.Transpose.ROTATE_90 + self.turns - 1))
            self.decoded += 1
            yield Frame(self.decoded - 1, last, duration, float(last * self.time_base), image)
            raw = next(self.raw_frames, None)
        self.problem = self.problem or self._describe_missing(last or 0, 2 * max(longest, duration or step))

    def _to_rgb(self, raw: av.VideoFrame) -> np.ndarray:
        width, height = self.raw_size
        return raw.to_ndarray(format="rgb24", width=width, height=height, src_colorspace=self.matrix)

    def _decode(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self.container.demux(self.stream):
                try:
                    yield from packet.decode()  # type: ignore[misc]
                except av.error.InvalidDataError as error:
                    # A player would go on after a damaged packet too.
                    self.damaged += 1
                    self.problem = f"{self.damaged} packets cannot be decoded ({describe(error)})"
        except (av.error.FFmpegError, OSError) as error:
            self.problem = f"reading it failed after {self.decoded} frames ({describe(error)})"

    def _describe_missing(self, last: int, tolerance: int) -> str | None:
        """Whether the file says that it goes on for longer than the tolerance after the last frame, both in ticks."""
        told, seconds = self._seconds_told(), float(last * self.time_base)
        # An edit list may leave frames out on purpose, and a last frame may be shown for long: only where neither
        # explains the difference the file is cut off.
        if told <= 1.01 * seconds + float(tolerance * self.time_base) or (
            self.frames_told is not None and self.decoded >= self.frames_told
        ):
            return None
        return f"it is cut off: {seconds:.2f} of {told:.2f} seconds could be read"

    def _seconds_told(self) -> float:
        if self.stream.duration is not None:
            return float(self.stream.duration * self.time_base)
        matroska = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", self.stream.metadata.get("DURATION", ""))
        if matroska:
            hours, minutes, seconds = map(float, matroska.groups())
            return 3600 * hours + 60 * minutes + seconds
        if self.container.duration is not None and len(self.container.streams) == 1:
            return self.container.duration / av.time_base
        return 0.0


class VideoWriter:
    """An mp4 file with the times, the colours and the pixel shape of another video.

    Attributes:
        notes: Where it differs from the other video.
    """

    def __init__(self, path: str | Path, like: VideoReader):
        self.time_base = like.time_base
        self.notes: list[str] = []
        name = next(name for name in ENCODERS if _has_encoder(name))
        if name == "mpeg4":
            self.notes.append("encoded as MPEG-4 part 2, since this FFmpeg has no H.264 encoder")
        width, height = like.width + like.width % 2, like.height + like.height % 2
        if (width, height) != (like.width, like.height):
            self.notes.append(
                f"padded from {like.width}x{like.height} to {width}x{height}, since H.264 needs even sides"
            )
        self.container = av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"})
        try:
            self.stream: VideoStream = self.container.add_stream(name, rate=like.rate)  # type: ignore[assignment]
            self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
            context: VideoCodecContext = self.stream.codec_context
            context.options = dict(ENCODERS[name])
            context.time_base = self.time_base
            if not ENCODERS[name]:
                self.stream.bit_rate = round(width * height * float(like.rate) * BITS_PER_PIXEL)
            theirs = like.stream.codec_context
            self.matrix = like.matrix
            context.colorspace = like.matrix or UNSPECIFIED
            context.color_primaries, context.color_trc = theirs.color_primaries, theirs.color_trc
            context.color_range = LIMITED_RANGE
            shape = _fraction(theirs.sample_aspect_ratio)
            if shape:
                context.sample_aspect_ratio = 1 / shape if like.turns % 2 else shape
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.container.mux(self.stream.encode())
        finally:
            self.container.close()

    def encode(self, frame: Frame, pixels: np.ndarray) -> None:
        """Append an overlay.

        Args:
            frame: Says when it is shown.
            pixels: (H, W, 3) uint8, both sides even.
        """
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=self.matrix, dst_color_range=LIMITED_RANGE
        )
        picture.pts, picture.duration, picture.time_base = frame.ticks, frame.duration, self.time_base
        self.container.mux(self.stream.encode(picture))


def _has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:
        return False
    return True


def _fraction(value: Any) -> Fraction | None:
    """A ratio of any version of PyAV; None if it is not set."""
    return Fraction(value.numerator, value.denominator) if value else None


def describe(error: Exception) -> str:
    """What FFmpeg says, without the number and the file's name, which it adds."""
    return getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
