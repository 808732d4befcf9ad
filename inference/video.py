"""Segments a video: writes it with its polyps drawn in, a table with one row per frame, and gives its tracks.

    report = segment_video("clip.mp4", "overlay.mp4", "overlay.csv", predictor)
    print(report)    # 900 frames, 23.1 frames per second of 25 needed; 2 alerts among 7 tracks
    report.tracks    # one for each lesion that was seen for some time

Frames keep their size and their times, also at a variable frame rate. A rotation or mirror that is stored in the file
is applied. Of several videos in a file the main one is taken; audio is dropped. Decoding, network, drawing and
encoding run in parallel and prefetch a few frames, so memory does not grow with the length of the video.
"""

import contextlib
import csv
import errno
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from PIL import Image

from ..common.batches import batches
from ..common.errors import UserError, counted
from ..common.files import check_sides, recognise_file
from ..common.prefetch import prefetch, prefetch_map
from ..field_of_view_unet import FRAMES, NO_PICTURE, Box, brightest, choose_box, is_black
from .frame_statistics import FilmSample
from .overlay import draw_alert, draw_overlay
from .prediction import BasePredictor, Prediction, PreparedImage
from .tracks import ALERT_SECONDS, MAX_REGIONS, Track, Tracker

# FFmpeg's demuxers of the suffixes in inputs.py. A file's content chooses the demuxer, and others read further files
# and addresses that the content names (HLS, DASH, concat).
DEMUXERS = ("asf", "avi", "m4v", "matroska", "mov", "mpeg", "mpegts", "mpegvideo")
MAX_DAMAGED_IN_A_ROW = 10_000  # packets: seven minutes without a picture, in a second or so
MAX_FRAME_PIXELS = 2**25  # 8K UHD has 33 million; FFmpeg refuses larger frames before it decodes them

COLUMNS = (
    *("frame", "seconds", "lesions", "area_percent", "max_probability", "mean_probability", "presence", "alerts"),
    "boxes",
)

# In order of preference, with options; builds of FFmpeg have different encoders.
ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "18"},
    "libopenh264": {},
    "mpeg4": {},
}
BITS_PER_PIXEL = 0.2  # bit rate for encoders that have no quality option

BATCH_PIXELS = 2**23  # frames of this many pixels are prefetched in each stage: 4 of 1920x1080
THREADS = 2  # of each stage that can process frames in parallel

UNSPECIFIED = 2  # in H.273, for colour matrix, primaries and transfer
KNOWN_MATRICES = (1, 5, 6, 9)  # in H.273: BT.709, BT.601 for 625 and for 525 lines, BT.2020
LIMITED_RANGE = 1

# Pictures beside a film: covers and the thumbnails of a player's time line.
NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
FILM_PACKETS = 5  # a video stream with fewer is no film if another has as many
MAX_COUNTED_PACKETS = 2000  # of all video streams, to find that out

# What turns a frame upright, by the signs of a, b, c, d of its display matrix: (x, y) is shown at (ax + cy, bx + dy),
# where y points down.
TRANSPOSES = {
    (1, 0, 0, 1): None,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,  # counterclockwise
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
SIDEWAYS = [transpose for (a, _, _, _), transpose in TRANSPOSES.items() if a == 0]


class VideoError(ValueError):
    """A video that cannot be used; the message says why."""


@dataclass(frozen=True)
class VideoReport:
    """What `segment_video` did.

    Attributes:
        frames: Number of frames that were segmented.
        seconds: The time it took.
        rate: Frames per second of the video.
        tracks: Its lesions, each followed through the frames.
        notes: Differences between the written video and its source, overlays apart.
        problem: Why some frames are missing; None if all were segmented.
        measures: Of a `FilmSample` of its frames.
    """

    frames: int
    seconds: float
    rate: float
    tracks: list[Track]
    notes: list[str]
    problem: str | None
    measures: list[dict[str, float]] = field(default_factory=list)

    def __str__(self) -> str:
        frames_a_second = self.frames / self.seconds
        speed = f"{counted(self.frames, 'frame')}, {frames_a_second:.1f} a second where the video has {self.rate:.4g}"
        alerts = counted(sum(track.is_alert for track in self.tracks), "alert")
        return "; ".join([speed, f"{alerts} among {counted(len(self.tracks), 'track')}", *self.notes])


@dataclass(frozen=True)
class Frame:
    """A decoded frame, upright.

    Attributes:
        index: Its number, from 0.
        ticks, duration: When it is shown, counted from the first frame, and for how long; in the video's time base.
        seconds: When it is shown, in seconds.
        image: RGB.
    """

    index: int
    ticks: int
    duration: int
    seconds: float
    image: Image.Image


@dataclass(frozen=True)
class Alert:
    """An alert as it is seen in a frame.

    Attributes:
        number: Of its track.
        box: First column, first row, and column and row after the last, in pixels.
    """

    number: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Drawn:
    """A frame's overlay and row of the table.

    Attributes:
        frame: The frame.
        pixels: (H, W, 3) uint8, the overlay; H and W are even.
        row: Values of the table's `COLUMNS`.
    """

    frame: Frame
    pixels: np.ndarray
    row: tuple[Any, ...]


def segment_video(
    source: str | Path,
    overlay: str | Path,
    table: str | Path,
    predictor: BasePredictor,
    *,
    smoothing: float = 0.0,
    alert_seconds: float = ALERT_SECONDS,
    batch_size: int = 8,
    on_start: Callable[[int | None], Any] = lambda frames: None,
    on_frame: Callable[[], Any] = lambda: None,
    **how: Any,
) -> VideoReport:
    """Segment a video frame by frame.

    Columns of the table: the frame's number, its time in seconds, the number of lesions in its mask, their area in per
    cent of the frame, the highest probability in the frame, the mean probability in the mask (empty if there is no
    lesion), presence (`Prediction.presence`), the number of alerts, which the overlay frames with a box, and the boxes
    of the lesions, the largest first: left, top, right and bottom of each in pixels, as in "4 10 20 18; 30 0 34 6".
    Right and bottom are the first outside. Of more than `MAX_REGIONS` lesions, these are the boxes of the largest.

    The field of view is found once: in the pixelwise maximum of the first `FRAMES` frames that are not black.

    Args:
        source: The video.
        overlay: The mp4 file to write; an existing file is replaced.
        table: The CSV file to write; an existing file is replaced.
        predictor: Computes the probability map P of each frame.
        smoothing: s in [0, 1). The map that both thresholds are applied to is S = s * (S of the previous frame) +
            (1 - s) * P, and P for the first frame. The effect depends on the number of frames, not on seconds.
        alert_seconds: A track is an alert from the frame on in which it has been seen for so long.
        batch_size: Frames that go through the network together; fewer if they are large.
        on_start: Called once before the first frame, with the `frames_expected` of the video.
        on_frame: Called after each frame.
        how: Keyword arguments of a call of the predictor: threshold, tta and so on, field_of_view apart.

    Raises:
        VideoError: If no frame can be read, or the field of view does not lie within the frames, or is to be found in
            frames that are all black. If reading fails later, the frames before are kept and `VideoReport.problem`
            says why.
        UserError: If the network gives NaN.
        OSError: If `overlay` or `table` cannot be written.
    """
    started = time.perf_counter()
    tracker, sample = Tracker(alert_seconds), FilmSample()
    seen = find_field(source, predictor) or "none"
    with VideoReader(source) as video:
        on_start(video.frames_expected)
        together = max(1, min(batch_size, BATCH_PIXELS // (video.width * video.height)))

        def prepare(frame: Frame) -> tuple[Frame, PreparedImage]:
            return frame, predictor.prepare(frame.image, field_of_view=seen)

        def predict(batch: Sequence[tuple[Frame, PreparedImage]]) -> list[tuple[Frame, Prediction]]:
            for frame, image in batch:
                sample.add(frame.seconds, predictor, image)
            frames, images = zip(*batch, strict=True)
            predictions = predictor.predict_prepared(images, **how)
            return [_checked(frame, prediction, source) for frame, prediction in zip(frames, predictions, strict=True)]

        with VideoWriter(overlay, video) as writer, open(table, "w", newline="", encoding="utf-8") as file:

            def encode(drawn: Drawn) -> Drawn:
                writer.encode(drawn.frame, drawn.pixels)
                return drawn

            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            # `closing` ends the threads before the files that they read and write are closed, also after an error.
            with contextlib.closing(prefetch(video.frames(), ahead=together)) as frames:
                prepared = prefetch_map(prepare, frames, threads=THREADS, ahead=together)
                predicted = chain.from_iterable(predict(batch) for batch in batches(prepared, together))
                smooth = smoothed(predicted, smoothing)
                measured = prefetch_map(_with_lesions, smooth, threads=THREADS, ahead=together)
                tracked = _with_alerts(measured, tracker)
                drawn = prefetch_map(lambda items: draw(*items), tracked, threads=THREADS, ahead=together)
                with contextlib.closing(prefetch_map(encode, drawn, threads=1, ahead=together)) as encoded:
                    for done in encoded:
                        rows.writerow(done.row)
                        on_frame()
        return VideoReport(
            frames=video.decoded,
            seconds=time.perf_counter() - started,
            rate=float(video.rate),
            tracks=tracker.tracks,
            notes=[*video.notes, *writer.notes],
            problem=video.problem,
            measures=sample.measures,
        )


def find_field(source: str | Path, predictor: BasePredictor) -> Box | None:
    """The rectangle of a video's frames that the network sees, by `predictor.field_of_view`; None: all of them.

    Raises:
        VideoError: If no frame can be read, the rectangle does not lie within the frames, or all of them are black
            where it is to be found.
    """
    if predictor.field_of_view is None:
        return None
    # Read apart from the frames that are segmented, so that they need not be held in memory.
    with VideoReader(source) as video:
        frames = (np.asarray(frame.image) for frame in video.frames())
        if predictor.field_of_view == "auto":  # videos often begin black
            total = brightest(islice((frame for frame in frames if not is_black(frame)), FRAMES))
        else:
            total = next(frames)
    if total is None:
        raise VideoError(NO_PICTURE)
    try:
        return choose_box(predictor.field_of_view, total)
    except ValueError as error:
        raise VideoError(str(error)) from error


def _checked(frame: Frame, prediction: Prediction, source: str | Path) -> tuple[Frame, Prediction]:
    if not prediction.is_valid:
        raise UserError(
            f"The model gives NaN for frame {frame.index} of {source}. Try --dtype float32; if it is that already, "
            "the weights are broken."
        )
    return frame, prediction


def smoothed(predictions: Iterable[tuple[Frame, Prediction]], smoothing: float) -> Iterator[tuple[Frame, Prediction]]:
    """Replace each probability map P by S = smoothing * (previous S) + (1 - smoothing) * P."""
    before: np.ndarray | None = None
    for frame, prediction in predictions:
        if smoothing and before is not None:
            now = smoothing * before + (1 - smoothing) * prediction.probability
            prediction = replace(prediction, probability=now.astype(np.float32))
        before = prediction.probability
        yield frame, prediction


def _with_lesions(pair: tuple[Frame, Prediction]) -> tuple[Frame, Prediction]:
    """Find the lesions of a frame, which the prediction keeps; in a thread, while the network computes."""
    _ = pair[1].lesions
    return pair


def _with_alerts(
    predictions: Iterable[tuple[Frame, Prediction]], tracker: Tracker
) -> Iterator[tuple[Frame, Prediction, list[Alert]]]:
    """Link the lesions of the frames to tracks, and add the alerts that are seen in each frame."""
    for frame, prediction in predictions:
        tracks = dict.fromkeys(tracker.add(frame.index, frame.seconds, prediction.lesions))  # each once
        yield frame, prediction, [Alert(track.number, track.box) for track in tracks if track.is_alert]


def draw(frame: Frame, prediction: Prediction, alerts: Sequence[Alert]) -> Drawn:
    """Draw the overlay of a frame and compute its row of the table."""
    mask = prediction.mask
    picture = draw_overlay(frame.image, mask)
    for alert in alerts:
        draw_alert(picture, alert.box, alert.number)
    pixels = np.asarray(picture)
    height, width = mask.shape
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    area = int(mask.sum())
    row = (
        frame.index,
        f"{frame.seconds:.6f}",
        len(prediction.lesions),
        f"{100 * area / mask.size:.4f}",
        f"{prediction.peak:.6f}",
        f"{prediction.probability[mask].mean():.6f}" if area else "",
        f"{prediction.presence:.6f}",
        len(alerts),
        "; ".join(" ".join(map(str, lesion.box)) for lesion in prediction.lesions[:MAX_REGIONS]),
    )
    return Drawn(frame, pixels, row)


class VideoReader:
    """The frames of a video, upright.

    Attributes:
        width, height: Of an upright frame, in pixels.
        rate: Average number of frames per second.
        time_base: Seconds per tick.
        matrix: Number of the colour matrix in H.273; None if the file does not state one.
        frames_stated: Number of frames that the file states; None if it states none.
        decoded: Number of frames that were read so far.
        problem: Why frames are missing; set after the last frame was read, None if none are missing.
        notes: Parts of the file that are dropped, such as audio.

    Raises:
        VideoError: If no frame can be read.
    """

    def __init__(self, path: str | Path):
        self.container = _open_container(path)
        try:
            films = _films(self.container)
            index = films[0].index
            if len(films) > 1:
                index = _main_film(self.container, films)
                self.container.close()  # of which packets were read
                self.container = _open_container(path)
            self._open_stream(index)
        except BaseException:
            self.container.close()
            raise

    def _open_stream(self, index: int) -> None:
        self.stream: VideoStream = self.container.streams[index]  # type: ignore[assignment]
        self.stream.thread_type = "AUTO"
        self.stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        self.rate = _fraction(self.stream.average_rate) or _fraction(self.stream.guessed_rate) or Fraction(25)
        self.time_base = _fraction(self.stream.time_base) or 1 / self.rate
        matrix = self.stream.codec_context.colorspace
        self.matrix = matrix if matrix in KNOWN_MATRICES else None
        self.frames_stated = self.stream.frames or None
        self.notes = self._describe_dropped()
        self.problem: str | None = None
        self.decoded = 0
        self.damaged = self.damaged_frames = 0
        self.raw_frames = self._decode()
        first = next(self.raw_frames, None)
        if first is None:
            raise VideoError(f"has no frame that can be read ({self.problem or 'it is empty or cut off'})")
        self.first_frame = first
        # Later frames of another size are scaled to this one, if they are not too large.
        self.raw_size = (first.width, first.height)
        self.transpose, note = _upright(first)
        self.notes += note
        self.is_on_its_side = self.transpose in SIDEWAYS
        self.width, self.height = self.raw_size[::-1] if self.is_on_its_side else self.raw_size

    def _describe_dropped(self) -> list[str]:
        streams = self.container.streams
        notes = ["audio dropped"] if streams.audio else []
        others = len(streams.video) - 1
        if others:
            number, size = streams.video.index(self.stream) + 1, f"{self.stream.width}x{self.stream.height}"
            notes.append(f"video stream {number} of {others + 1} taken ({size}), the rest dropped")
        return notes

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def frames(self) -> Iterator[Frame]:
        """Decode each frame once; sets `problem` after the last one."""
        step = max(1, round(1 / self.rate / self.time_base))
        start = last = duration = None
        longest = step
        raw: av.VideoFrame | None = self.first_frame
        while raw is not None:
            # Frames without a time, or with one before the previous frame's, get times from the frame rate.
            start = start if start is not None else raw.pts or 0
            ticks = 0 if last is None else raw.pts - start if raw.pts is not None else last + (duration or step)
            ticks = ticks if last is None else max(ticks, last + 1)
            longest = max(longest, ticks - (last or 0))
            last = ticks
            duration = raw.duration or step
            image = Image.fromarray(self._to_rgb(raw))
            if self.transpose is not None:
                image = image.transpose(self.transpose)
            self.decoded += 1
            yield Frame(self.decoded - 1, last, duration, float(last * self.time_base), image)
            raw = next(self.raw_frames, None)
        self.problem = self.problem or self._describe_missing(last or 0, 2 * max(longest, duration or step))

    def _to_rgb(self, raw: av.VideoFrame) -> np.ndarray:
        width, height = self.raw_size
        return raw.to_ndarray(format="rgb24", width=width, height=height, src_colorspace=self.matrix)

    def _decode(self) -> Iterator[av.VideoFrame]:
        damaged_in_a_row = 0
        try:
            for packet in self.container.demux(self.stream):
                try:
                    for frame in packet.decode():
                        damaged_in_a_row = 0
                        check_sides(frame.width, frame.height)  # type: ignore[union-attr]
                        self.damaged_frames += frame.is_corrupt  # decoded from what is left of it
                        yield frame  # type: ignore[misc]
                except av.error.InvalidDataError as error:
                    # Go on after a damaged packet, as players do.
                    self.damaged += 1
                    self.problem = f"{self.damaged} packets cannot be decoded ({describe(error)})"
                    damaged_in_a_row += 1
                    if damaged_in_a_row == MAX_DAMAGED_IN_A_ROW:
                        return
        except (av.error.FFmpegError, OSError) as error:
            reason = describe(error)
            if getattr(error, "errno", None) == errno.EINVAL:
                reason += f", or a frame of more than {MAX_FRAME_PIXELS / 1e6:.1f} million pixels"
            self.problem = f"reading it failed after {self.decoded} frames ({reason})"
        except ValueError as error:
            self.problem = f"reading it stopped after {self.decoded} frames: the next {error}"

    def _describe_missing(self, last: int, tolerance: int) -> str | None:
        """Say if the file is damaged or cut off; None if it is complete.

        Args:
            last: Time of the last frame, in ticks.
            tolerance: The stated length may exceed it by so many ticks, since the last frame may be shown for long.
        """
        if self.damaged_frames:
            return f"{self.damaged_frames} of its frames are damaged, and others near them may be missing"
        stated, seconds = self._seconds_stated(), float(last * self.time_base)
        # An edit list may leave out frames on purpose: then the number of frames is complete, but not the seconds.
        if stated <= 1.01 * seconds + float(tolerance * self.time_base) or (
            self.frames_stated is not None and self.decoded >= self.frames_stated
        ):
            return None
        return f"it is cut off: {seconds:.2f} of {stated:.2f} seconds could be read"

    @property
    def frames_expected(self) -> int | None:
        """Number of frames that the file states, or that its length gives at its rate; None if it states neither."""
        length = self.container.duration or 0  # of the longest stream
        seconds = self._seconds_stated() or length / av.time_base
        return self.frames_stated or max(0, round(seconds * self.rate)) or None

    def _seconds_stated(self) -> float:
        """Length of the video according to the file; 0 if it states none."""
        if self.stream.duration is not None:
            return float(self.stream.duration * self.time_base)
        matroska = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", self.stream.metadata.get("DURATION", ""))
        if matroska:
            hours, minutes, seconds = map(float, matroska.groups())
            return 3600 * hours + 60 * minutes + seconds
        if self.container.duration is not None and len(self.container.streams) == 1:
            return self.container.duration / av.time_base
        return 0.0


def _open_container(path: str | Path) -> InputContainer:
    """Open a file of one of the `DEMUXERS`.

    Raises:
        VideoError: If it is none.
    """
    bounds = {
        "format_whitelist": ",".join(DEMUXERS),
        "protocol_whitelist": "file",
        "max_pixels": str(MAX_FRAME_PIXELS),
    }
    try:
        # Without "file:", FFmpeg takes what stands before a colon in the file's name for a protocol.
        return av.open(f"file:{path}", options=bounds)
    except (av.error.FFmpegError, OSError) as error:
        kind = None
        with contextlib.suppress(OSError, ValueError):
            kind = recognise_file(path)
        if kind and not kind.is_video:
            raise VideoError(f"holds {kind}: expected a video. {kind.renaming}") from error
        if kind and kind.suffix:
            raise VideoError(f"begins as {kind}, but is damaged or cut off ({describe(error)})") from error
        raise VideoError(
            f"is no video that can be read ({describe(error)}), or of another format than {', '.join(DEMUXERS)}"
        ) from error


def _films(container: InputContainer) -> list[VideoStream]:
    """The video streams that can be decoded, without pictures such as a cover.

    Raises:
        VideoError: If there are none.
    """
    streams = container.streams.video
    films = [stream for stream in streams if not stream.disposition & NO_FILM]
    decodable = [film for film in films if film.codec_context is not None]
    if films and not decodable:
        raise VideoError("holds a video in a codec that is not known here. Convert it to H.264 in MP4")
    if not films:
        if streams:
            raise VideoError("holds no video but a still picture, such as a cover")
        raise VideoError("holds no video but sound" if container.streams.audio else "holds no video, or is cut off")
    return decodable


def _main_film(container: InputContainer, films: Sequence[VideoStream]) -> int:
    """Index of the film among several: no single picture; the one that players show; the largest; the first."""
    packets: Counter[int] = Counter()
    try:
        for packet in islice(container.demux(films), MAX_COUNTED_PACKETS):
            packets[packet.stream.index] += bool(packet.size)
            if all(packets[film.index] >= FILM_PACKETS for film in films):
                break
    except (av.error.FFmpegError, OSError):
        pass  # the frames are read again, and what fails is told then

    def rank(film: VideoStream) -> tuple[int, bool, int]:
        is_default = bool(film.disposition & Disposition.default)
        return min(packets[film.index], FILM_PACKETS), is_default, film.width * film.height

    return max(films, key=rank).index


def _upright(frame: av.VideoFrame) -> tuple[Image.Transpose | None, list[str]]:
    """What turns a frame upright, by its display matrix, and a note if that is not all that the matrix says."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None, []
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    straight, sideways = abs(a) + abs(d), abs(b) + abs(c)
    if sideways > straight:
        a = d = 0
    else:
        b = c = 0
    signs = tuple(np.sign([a, b, c, d]).tolist())
    if signs not in TRANSPOSES:
        return None, ["not turned, since the file does not say clearly how"]
    is_exact = 100 * min(straight, sideways) < max(straight, sideways)
    return TRANSPOSES[signs], [] if is_exact else ["turned by the nearest quarter turn to the file's angle"]


class VideoWriter:
    """Writes an mp4 file with the times, colours and pixel aspect ratio of another video.

    Args:
        path: The file to write.
        like: The other video.

    Attributes:
        notes: Differences from the other video.
        error: Why a picture could not be written; None if all could.
    """

    def __init__(self, path: str | Path, like: VideoReader):
        self.time_base = like.time_base
        self.notes: list[str] = []
        self.error: Exception | None = None  # once a picture could not be written
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
                context.sample_aspect_ratio = 1 / shape if like.is_on_its_side else shape
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(Exception):  # a full disk fails here too; what it was that failed is raised
                self.container.close()
            return
        try:
            self.container.mux(self.stream.encode())
        finally:
            self.container.close()

    def encode(self, frame: Frame, pixels: np.ndarray) -> None:
        """Append a picture.

        Args:
            frame: The frame whose time it is shown at.
            pixels: (H, W, 3) uint8; H and W are even.

        Raises:
            OSError, av.error.FFmpegError: If it cannot be written, or an earlier one could not.
        """
        if self.error is not None:
            raise self.error  # FFmpeg crashes if it goes on after its header could not be written
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=self.matrix, dst_color_range=LIMITED_RANGE
        )
        picture.pts, picture.duration, picture.time_base = frame.ticks, frame.duration, self.time_base
        try:
            self.container.mux(self.stream.encode(picture))
        except Exception as error:
            self.error = error
            raise


def _has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:
        return False
    return True


def _fraction(value: Any) -> Fraction | None:
    """A ratio as a Fraction, whatever type this version of PyAV gives; None if it is not set."""
    return Fraction(value.numerator, value.denominator) if value else None


def describe(error: Exception) -> str:
    """FFmpeg's message without the error number and the file's name."""
    return getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
