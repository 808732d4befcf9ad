"""Segments many images, from their files to the files of their outputs.

    report = Report()
    segment_images(sources, ImageRun(predictor, OutputFolder(Path("out"))), report)

Reading, inference and writing overlap, with bounded prefetching. Images that have all their outputs are skipped.
"""

import hashlib
import io
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..common.errors import UserError, counted, describe_error, printable, some
from ..common.files import IMAGE_FORMATS, image_from_bytes, open_regular, read_file, to_rgb
from ..common.prefetch import prefetch_map
from ..common.processors import usable_processors
from ..common.progress import show_progress
from ..field_of_view_unet import NO_PICTURE, is_black
from .frame_statistics import measure_frame, measure_prediction
from .inputs import IMAGE_OUTPUT, MASKS, OVERLAYS, PROBABILITIES, UNCERTAINTIES, Failure, Source
from .output_folder import RECORD, SCORES, OutputFolder, make_record, read_record, refuse_mismatch, video_targets
from .overlay import draw_numbers, draw_overlay
from .prediction import BasePredictor, Prediction, PreparedImage

# Number of threads that read, and of those that write; the network needs cores too.
THREADS = max(2, min(4, usable_processors() // 2))
READ_PIXELS = 2**26  # bound of the images that are read ahead; while it is decoded, a pixel takes up to 12 bytes
WRITE_PIXELS = 2**26  # and of those that wait to be written, with mask, probabilities and overlay: up to 14 bytes
BAND = 256  # rows that are computed together where all would take memory
BATCH_PIXELS = 2**25  # bound of a batch's images at their original sizes; the probability maps take 4 bytes a pixel


@dataclass(frozen=True)
class Frame:
    """An image that was read.

    Attributes:
        source: Where it comes from.
        digest: Hash of its file.
        prepared: As the network takes it.
        image: The upright image, if an overlay is to be drawn; otherwise None.
        measures: Of `measure_frame`.
    """

    source: Source
    digest: str
    prepared: PreparedImage
    image: Image.Image | None
    measures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """An image or a video whose outputs are complete.

    Attributes:
        source: The input.
        by_earlier_run: Whether they were there before this run.
    """

    source: Source
    by_earlier_run: bool


@dataclass
class Report:
    """What a run did.

    Attributes:
        done: The inputs whose outputs are complete.
        seconds: Time for the images.
        failures: Inputs that were not done, or not completely.
    """

    done: list[Done] = field(default_factory=list)
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """Add the share of another process, which ran at the same time."""
        self.done += other.done
        self.seconds = max(self.seconds, other.seconds)
        self.failures += other.failures

    def count(self, *, videos: bool, by_earlier_run: bool) -> int:
        """How many images or videos this run, or an earlier one, has done."""
        return sum(done.source.is_video == videos and done.by_earlier_run == by_earlier_run for done in self.done)

    def fail_missing(self, targets: Callable[[Source], Iterable[Path]]) -> None:
        """Take inputs whose outputs are no longer there for failures.

        Args:
            targets: Gives the outputs of an input.
        """
        done, self.done = self.done, []
        for each in done:
            gone = [target for target in targets(each.source) if not target.is_file()]
            if gone:
                reason = f"{gone[0]} was removed while this ran: run the same command again to do it anew"
                self.failures.append(Failure(each.source.path, reason))
            else:
                self.done.append(each)


def print_report(report: Report, ignored: Sequence[str], output_dir: str) -> None:
    """Print what was done, which other files were ignored, and what was not done on stderr."""
    done = []
    images, images_before = (report.count(videos=False, by_earlier_run=earlier) for earlier in (False, True))
    videos, videos_before = (report.count(videos=True, by_earlier_run=earlier) for earlier in (False, True))
    if images or images_before:
        speed = f" ({images / report.seconds:.2f} a second)" if images else ""
        done.append(f"{counted(images, 'image')}{speed}, {images_before:,} before")
    if videos or videos_before:
        done.append(f"{counted(videos, 'video')}, {videos_before:,} before")
    print(f"Done: {'; '.join(done) or 'nothing'}. Written to {printable(output_dir)}.")
    if ignored:
        print(f"{len(ignored)} other {'files were' if len(ignored) > 1 else 'file was'} ignored: {some(ignored)}.")
    if report.failures:
        print(f"{len(report.failures)} inputs were not done, or not all of them:", file=sys.stderr)
        for failure in sorted(report.failures, key=str):
            print(f"  {failure}", file=sys.stderr)


@dataclass(frozen=True)
class ImageRun:
    """The steps from an image's file to its outputs.

    Attributes:
        predictor: Segments the images.
        output: The output folder.
        batch_size: Images that go through the network together; fewer if they are large.
        overlay, probabilities, uncertainty: Whether to write these too.
        how: Keyword arguments of a call of the predictor: threshold, tta and so on.
        with_scores: Whether images are done again whose mask an earlier version wrote, without all of the `SCORES`.
    """

    predictor: BasePredictor
    output: OutputFolder
    batch_size: int = 8
    overlay: bool = False
    probabilities: bool = False
    uncertainty: bool = False
    how: dict[str, Any] = field(default_factory=dict)
    with_scores: bool = False

    def targets(self, source: Source) -> dict[str, Path]:
        """The files to write for an image, by kind. The mask comes last: if it exists, the image is complete."""
        wanted = {OVERLAYS: self.overlay, PROBABILITIES: self.probabilities, UNCERTAINTIES: self.uncertainty}
        wanted[MASKS] = True
        folder = self.output.path
        return {kind: folder / source.output(kind, IMAGE_OUTPUT) for kind, write in wanted.items() if write}

    def all_targets(self, source: Source) -> list[Path]:
        """The files to write for an image or a video."""
        return video_targets(self.output.path, source) if source.is_video else [*self.targets(source).values()]

    def read(self, source: Source) -> Frame | Done | Failure:
        """Read an image and prepare it for the network, unless it is done already.

        Whatever the error, it is this image's alone: the others are done.
        """
        try:
            return self._read(source)
        except OSError as error:
            return Failure(source.path, f"cannot be read ({error.strerror or error})")
        except Exception as error:
            return Failure(source.path, describe_error(error))

    def _read(self, source: Source) -> Frame | Done | Failure:
        content = read_file(source.path)
        digest = hashlib.sha256(content).hexdigest()
        targets = self.targets(source)
        if targets[MASKS].exists():
            try:
                record = read_record(targets[MASKS])
            except OSError:
                pass  # the mask is damaged, and is made again
            else:
                if refusal := refuse_mismatch(record, digest, targets[MASKS], source):
                    return refusal
                is_known = record is not None and (not self.with_scores or record.keys() >= {*SCORES})
                if is_known and all(target.is_file() for target in targets.values()):
                    return Done(source, by_earlier_run=True)
        image = image_from_bytes(content)
        if self.predictor.field_of_view == "auto" and is_black(np.asarray(to_rgb(image))):
            return Failure(source.path, NO_PICTURE)
        prepared = self.predictor.prepare(image)
        measures = measure_frame(self.predictor, prepared)
        return Frame(source, digest, prepared, image if self.overlay else None, measures)

    def segment(self, items: Iterable[Frame | Done | Failure]) -> Iterator[tuple[Frame, Prediction] | Done | Failure]:
        """Predict for the frames, in batches; other items are passed on."""
        batch: list[Frame] = []
        for item in items:
            if not isinstance(item, Frame):
                yield item
                continue
            sizes = [frame.prepared.size for frame in (*batch, item)]
            if batch and sum(height * width for height, width in sizes) > BATCH_PIXELS:
                yield from self._segment_batch(batch)
                batch = []
            batch.append(item)
            height, width = item.prepared.size
            del item  # else a large image stays in memory until the next one comes
            if len(batch) == self.batch_size or height * width > BATCH_PIXELS:  # no other goes with it
                yield from self._segment_batch(batch)
                batch = []
        if batch:
            yield from self._segment_batch(batch)

    def _segment_batch(self, frames: Sequence[Frame]) -> Iterator[tuple[Frame, Prediction] | Failure]:
        predictions = self._predict(frames)
        if isinstance(predictions, Exception):
            if len(frames) > 1:  # which of them it is, only one by one can show
                for frame in frames:
                    yield from self._segment_batch([frame])
            else:
                yield Failure(frames[0].source.path, describe_error(predictions))
            return
        for frame, prediction in zip(frames, predictions, strict=True):
            if not prediction.is_valid:
                raise UserError(
                    f"The model gives NaN for the image {frame.source.path}. Try --dtype float32; if it is that "
                    "already, the weights are broken."
                )
            yield frame, prediction

    def _predict(self, frames: Sequence[Frame]) -> list[Prediction] | Exception:
        """Predictions for a batch, or the error, as of memory that does not suffice for images of this size."""
        prepared = [frame.prepared for frame in frames]
        how = self.how | {"uncertainty": True} if self.uncertainty else self.how
        try:
            return self.predictor.predict_prepared(prepared, **how)
        except Exception as error:
            return error.with_traceback(None)  # which would keep the batch in memory

    def write(self, item: tuple[Frame, Prediction] | Done | Failure) -> Done | Failure:
        """Write the outputs of an image; other items are passed on.

        Raises:
            UserError: If no file can be written.
        """
        if isinstance(item, Done | Failure):
            return item
        frame, prediction = item
        for kind, target in self.targets(frame.source).items():
            try:
                content = _encode_output(kind, frame, prediction)
            except Exception as error:  # also regions and lesions are found here
                return Failure(frame.source.path, describe_error(error))
            try:
                self.output.write(target, content)
            except OSError as error:
                return Failure(frame.source.path, f"{target} cannot be written ({error.strerror or error})")
        return Done(frame.source, by_earlier_run=False)


def _encode_output(kind: str, frame: Frame, prediction: Prediction) -> bytes:
    """One of the PNG files of an image."""
    if kind == MASKS:
        measures = frame.measures | measure_prediction(prediction)
        record = make_record(frame.source, frame.digest, prediction, measures)
        # A mask consists of runs of one value: run-length encoding alone is faster, and the file smaller.
        mask = prediction.mask.view(np.uint8) * np.uint8(255)
        return encode_png(Image.fromarray(mask), record, compress_type=zlib.Z_RLE)
    if kind == PROBABILITIES:
        return encode_png(Image.fromarray(in_16_bits(prediction.probability)))
    if kind == UNCERTAINTIES:
        assert prediction.spread is not None
        return encode_png(Image.fromarray(in_16_bits(prediction.spread)))
    assert frame.image is not None
    overlay = draw_overlay(frame.image, prediction.mask)
    draw_numbers(overlay, [lesion.box for lesion in prediction.lesions])
    return encode_png(overlay, compress_level=1)  # higher levels hardly shrink photographs


def in_16_bits(probability: np.ndarray) -> np.ndarray:
    """Probabilities (H, W) float32 as (H, W) uint16, where 65535 is 1; band by band, since floats take memory."""
    levels = np.empty(probability.shape, np.uint16)
    for top in range(0, len(levels), BAND):
        levels[top : top + BAND] = (probability[top : top + BAND] * 65535).round()
    return levels


def encode_png(image: Image.Image, record: str | None = None, **compression: int) -> bytes:
    """Encode a PNG file, with a record if given.

    Args:
        image: The image.
        record: As `make_record` gives it.
        **compression: Options of Pillow's PNG writer.
    """
    info = PngInfo()
    if record is not None:
        info.add_text(RECORD, record)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info, **compression)
    return buffer.getvalue()


def pixels_to_read(source: Source) -> int:
    """Number of pixels that an image's file states; 0 if it cannot be read, which `ImageRun.read` reports."""
    try:
        with open_regular(source.path) as file, Image.open(file, formats=IMAGE_FORMATS) as image:
            return image.width * image.height
    except Exception:  # Pillow's readers raise errors of all kinds for damaged files
        return 0


def pixels_to_write(item: tuple[Frame, Prediction] | Done | Failure) -> int:
    """Number of pixels of an image that waits to be written."""
    if isinstance(item, Done | Failure):
        return 0
    height, width = item[0].prepared.size
    return height * width


def segment_images(sources: Sequence[Source], run: ImageRun, report: Report, shown: bool = False) -> None:
    """Segment images and write their outputs.

    Args:
        sources: The images.
        run: Predictor, output folder and options.
        report: The outcome is added to it.
        shown: Whether to show the progress.

    Raises:
        UserError: If no file can be written, or the network gives NaN.
    """
    if not sources:
        return
    started = time.perf_counter()
    frames = prefetch_map(
        run.read, sources, threads=THREADS, ahead=2 * run.batch_size, size=pixels_to_read, largest_sum=READ_PIXELS
    )
    outcomes = prefetch_map(
        *(run.write, run.segment(frames)),
        threads=THREADS,
        ahead=run.batch_size,
        size=pixels_to_write,
        largest_sum=WRITE_PIXELS,
    )
    with (
        show_progress("Images", "image", len(sources), shown=shown) as progress,
        closing(frames),
        closing(outcomes),
    ):
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                report.failures.append(outcome)
            else:
                report.done.append(outcome)
                progress.initial += outcome.by_earlier_run  # does not count for the speed
            progress.update()
    report.seconds = time.perf_counter() - started
