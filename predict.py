"""Segment images, folders and videos: a mask for each image, a picture of it if wanted, and a table of the lesions.

    python predict.py frame.jpg                                    # with the model of this clone
    python predict.py frames/ more/*.png --output_dir out --overlay
    python predict.py "archive/**/*.tif" --model me/unet-kvasir-seg --threshold 0.4 --tta
    python predict.py clip.mp4 --smoothing 0.6
    python predict.py --output_dir out -- -odd-name.png            # after --, names may begin with a dash

INPUT is a file, a folder (with all folders in it), a glob in quotes, or several of them, images and videos mixed.
In the output folder there will be, named and sorted into folders as the images are:

    masks/            a PNG an image, at its size: 255 is polyp, 0 is not. An image without polyp has a black mask.
    predictions.csv   a row a lesion, of all masks in the folder: image, lesion (1 is the image's largest), box in
                      pixels (right and bottom are the first outside), centroid, area in pixels and in per cent of the
                      image, mean probability. An image without polyp has no row here: its black mask tells it from
                      one that was not done.
    overlays/         with --overlay: the images with the polyps drawn in.
    probabilities/    with --probabilities: 16-bit PNG, where 65535 is the probability 1.
    videos/           of each video: an mp4 with the polyps drawn in, without its audio, and a CSV with a row a frame.
    run.json          model and settings. Outputs of others are not mixed in: use another folder for them.

A run that was stopped goes on where it was if it is started again. What cannot be read is listed at the end, the rest
is done, and the exit status is 1 (0: all done; 2: nothing was started, or it could not go on). Several processes share
the inputs: `accelerate launch --num_processes 2 predict.py ...`.
"""

import csv
import hashlib
import io
import json
import os
import sys
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm.auto import tqdm
from unet_kvasir_seg.common.command_line import FlagParser
from unet_kvasir_seg.common.device import choose_runtime, leaving_processes
from unet_kvasir_seg.common.errors import UserError, first_line, require_extra, user_errors
from unet_kvasir_seg.common.files import image_from_bytes, partial_path, write_atomic
from unet_kvasir_seg.common.paths import TRAINED_MODEL
from unet_kvasir_seg.common.prefetch import prefetch_map
from unet_kvasir_seg.inference.inputs import (
    MASKS,
    OUTPUT_FOLDERS,
    OVERLAYS,
    PROBABILITIES,
    VIDEOS,
    Failure,
    Source,
    find_inputs,
)
from unet_kvasir_seg.inference.lesions import COLUMNS, lesion_numbers, lesion_row
from unet_kvasir_seg.inference.overlay import draw_overlay
from unet_kvasir_seg.inference.predictor import Lesion, Prediction, Predictor

RUN_SCHEMA = 1
RECORD = "unet-kvasir-seg"  # the mask's PNG text that says of which image it is, and its lesions
THREADS = max(2, min(4, (os.cpu_count() or 2) // 2))  # that read, and as many that write; the network needs cores too
BATCH_PIXELS = 2**25  # of the images that are held together, whose probability maps take 4 bytes a pixel
LONGEST_WAIT = timedelta(days=7)  # of a process for the others: one may have the long videos


@dataclass
class PredictArguments:
    """With what to segment, and what to write."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "A folder, an id on the Hub, or an .onnx file of export.py; by default the model of this clone."
        },
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of --model on the Hub."})
    output_dir: str = field(default="outputs/predictions", metadata={"help": "Folder of the outputs."})
    overlay: bool = field(default=False, metadata={"help": "Write pictures of the images with the polyps drawn in."})
    probabilities: bool = field(default=False, metadata={"help": "Write the probability maps of the images."})
    threshold: float = field(default=0.5, metadata={"help": "A pixel is polyp if its probability is higher."})
    tta: bool = field(
        default=False,
        metadata={"help": "Average the probabilities of the image and its three flips: better, four times the work."},
    )
    smoothing: float = field(
        default=0.0,
        metadata={
            "help": "Of videos, against flicker: s in S = s * (S of the frame before) + (1 - s) * probability, the "
            "map that --threshold is applied to; from 0, none, to below 1."
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Images that go through the network together."})
    device: str = field(default="auto", metadata={"help": "auto, cuda, mps or cpu."})
    dtype: str = field(default="auto", metadata={"help": "auto, float32, bfloat16 or float16."})
    compile: bool = field(
        default=False, metadata={"help": "Compile the network first: it pays back over thousands of images."}
    )


@dataclass(frozen=True)
class Frame:
    """An image that was read.

    Attributes:
        source: Where it is from.
        digest: Hash of its file.
        pixel_values: (1, 3, h, w), for the network.
        size: Its own height and width.
        image: The image upright, if an overlay is wanted.
    """

    source: Source
    digest: str
    pixel_values: Tensor
    size: tuple[int, int]
    image: Image.Image | None


@dataclass(frozen=True)
class Done:
    """An image whose outputs are there."""

    was_there: bool  # from a run before


@dataclass
class Report:
    """What a run did."""

    images: int = 0
    images_before: int = 0
    seconds: float = 0.0  # for the images
    videos: int = 0
    videos_before: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """Count another process's share in, which ran at the same time."""
        self.images += other.images
        self.images_before += other.images_before
        self.seconds = max(self.seconds, other.seconds)
        self.videos += other.videos
        self.videos_before += other.videos_before
        self.failures += other.failures


def predict(inputs: Sequence[str], arguments: PredictArguments) -> Report:
    """Segment the inputs, and write what the command writes.

    Returns:
        What all processes did together.

    Raises:
        UserError: For what a user can mend. What was written till then is kept.
    """
    check_arguments(arguments)
    output = Path(arguments.output_dir)
    sources, failures = find_inputs(inputs, output)
    videos = [source for source in sources if source.is_video]
    images = [source for source in sources if not source.is_video]
    if videos:
        require_extra("video", "av")
    runtime = choose_runtime(arguments.device, arguments.dtype, arguments.compile)
    processes = PartialState(cpu=runtime.device.type == "cpu", timeout=LONGEST_WAIT)
    predictor = Predictor.load(arguments.model or str(TRAINED_MODEL), arguments.model_revision, runtime)
    error = None
    if processes.is_main_process:
        try:
            open_output(output, describe_settings(predictor, arguments))
        except UserError as raised:
            error = raised
    # Until it is open none may write: the main process would take the masks for those of another program.
    for failure in gather_object([error]):
        if failure is not None:
            raise failure

    share = slice(processes.process_index, None, processes.num_processes)
    report = Report(failures=failures if processes.is_main_process else [])
    try:
        segment_images(images[share], ImageRun(predictor, output, arguments), report, processes.is_main_process)
        for video in videos[share]:
            segment_one_video(video, predictor, output, arguments, report, processes.is_main_process)
    except UserError as raised:
        error = raised
    total = Report()
    for part, failure in gather_object([(report, error)]):
        if failure is not None:
            raise failure
        total.add(part)
    if processes.is_main_process:
        write_table(output)
    return total


def check_arguments(arguments: PredictArguments) -> None:
    """Refuse values that cannot be, before any work.

    Raises:
        UserError: The message says what was given and what to do.
    """
    if not 0 <= arguments.threshold <= 1:
        raise UserError(f"--threshold {arguments.threshold} is no probability: expected 0 to 1.")
    if not 0 <= arguments.smoothing < 1:
        raise UserError(f"--smoothing {arguments.smoothing} cannot be: expected 0, for none, to below 1.")
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size {arguments.batch_size} is too few: expected 1 or more.")


def describe_settings(predictor: Predictor, arguments: PredictArguments) -> dict[str, Any]:
    """All that the masks depend on, images apart."""
    processor = predictor.processor.to_dict()
    shaping = ("size", "resample", "do_resize", "do_rescale", "rescale_factor", "do_normalize")
    return {
        "schema_version": RUN_SCHEMA,
        "model": predictor.identity,
        "image_processor": {name: processor.get(name) for name in (*shaping, "image_mean", "image_std")},
        "threshold": arguments.threshold,
        "tta": arguments.tta,
        "smoothing": arguments.smoothing,
        "dtype": str(predictor.runtime.dtype).removeprefix("torch."),
    }


def open_output(output: Path, settings: dict[str, Any]) -> None:
    """Make the output folder, or check that what it holds is of the same model and settings.

    Raises:
        UserError: If it holds other outputs, or cannot be written to.
    """
    remedy = "Choose another --output_dir, or remove what is there."
    file = output / "run.json"
    settings = json.loads(json.dumps(settings, default=str))  # as they are read back
    try:
        output.mkdir(parents=True, exist_ok=True)
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            differing = [name for name in settings if before.get(name) != settings[name]]
            if "model" in differing or "image_processor" in differing:
                raise UserError(f"{output} holds the outputs of another model. {remedy}")
            if differing:
                values = ", ".join(f"{name} {before.get(name)} and not {settings[name]}" for name in differing)
                raise UserError(f"{output} holds outputs of other settings: {values}. {remedy}")
        elif taken := [name for name in (*OUTPUT_FOLDERS, "predictions.csv") if _is_taken(output / name)]:
            raise UserError(f"{output} holds {', '.join(taken)} that no run of this command wrote. {remedy}")
        write_atomic(file, (json.dumps(settings, indent=2) + "\n").encode())
        (output / MASKS).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {output} cannot be written to: {error.strerror}.") from error
    except (ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is not the run.json of this command ({error}). {remedy}") from error


def _is_taken(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


class ImageRun:
    """The steps from an image's file to its outputs.

    Args:
        predictor: The network.
        output: The output folder.
        arguments: What to write.
    """

    def __init__(self, predictor: Predictor, output: Path, arguments: PredictArguments):
        self.predictor = predictor
        self.output = output
        self.arguments = arguments

    def targets(self, source: Source) -> dict[str, Path]:
        """The files to write for an image; its mask last, for with it the image is done."""
        wanted = {OVERLAYS: self.arguments.overlay, PROBABILITIES: self.arguments.probabilities, MASKS: True}
        return {kind: self.output / source.output(kind, ".png") for kind, write in wanted.items() if write}

    def read(self, source: Source) -> Frame | Done | Failure:
        """Read an image and prepare it for the network, unless it is done already."""
        try:
            content = Path(source.path).read_bytes()
        except OSError as error:
            return Failure(source.path, f"cannot be read ({error.strerror})")
        digest = hashlib.sha256(content).hexdigest()
        targets = self.targets(source)
        if targets[MASKS].exists():
            try:
                record = read_record(targets[MASKS])
            except OSError:
                pass  # a mask that is damaged is made once more
            else:
                if refusal := refuse_mismatch(record, digest, targets[MASKS], source):
                    return refusal
                if all(target.exists() for target in targets.values()):
                    return Done(was_there=True)
        try:
            image = image_from_bytes(content)
            pixel_values, size = self.predictor.prepare(image)
        except ValueError as error:
            return Failure(source.path, first_line(error))
        return Frame(source, digest, pixel_values, size, image if self.arguments.overlay else None)

    def segment(self, items: Iterable[Frame | Done | Failure]) -> Iterator[tuple[Frame, Prediction] | Done | Failure]:
        """Put predictions beside the frames, a batch at a time."""
        batch: list[Frame] = []
        for item in items:
            if not isinstance(item, Frame):
                yield item
                continue
            pixels = sum(height * width for height, width in (frame.size for frame in (*batch, item)))
            if batch and pixels > BATCH_PIXELS:
                yield from self._segment_batch(batch)
                batch = []
            batch.append(item)
            if len(batch) == self.arguments.batch_size:
                yield from self._segment_batch(batch)
                batch = []
        if batch:
            yield from self._segment_batch(batch)

    def _segment_batch(self, frames: Sequence[Frame]) -> Iterator[tuple[Frame, Prediction]]:
        predictions = self.predictor.from_pixels(
            torch.cat([frame.pixel_values for frame in frames]),
            [frame.size for frame in frames],
            threshold=self.arguments.threshold,
            tta=self.arguments.tta,
        )
        for frame, prediction in zip(frames, predictions, strict=True):
            if not prediction.is_valid:
                raise UserError(
                    f"The model gives NaN for the image {frame.source.path}. Try --dtype float32; if it is that "
                    "already, the weights are broken."
                )
            yield frame, prediction

    def write(self, item: tuple[Frame, Prediction] | Done | Failure) -> Done | Failure:
        """Write an image's outputs.

        Raises:
            UserError: If a file cannot be written.
        """
        if isinstance(item, Done | Failure):
            return item
        frame, prediction = item
        for kind, target in self.targets(frame.source).items():
            content = self._content(kind, frame, prediction)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(target, content)
            except OSError as error:
                raise cannot_write(target, error) from error
        return Done(was_there=False)

    def _content(self, kind: str, frame: Frame, prediction: Prediction) -> bytes:
        """One of the PNG files of an image."""
        if kind == MASKS:
            record = make_record(frame.source, frame.digest, prediction.lesions)
            # Runs of one value are what a mask is made of: looking for nothing else is quicker, and smaller.
            return encode_png(
                Image.fromarray(prediction.mask.astype(np.uint8) * 255), record, compress_type=zlib.Z_RLE
            )
        if kind == PROBABILITIES:
            return encode_png(Image.fromarray((prediction.probability * 65535).round().astype(np.uint16)))
        assert frame.image is not None
        # Of a photograph, more effort gains little.
        return encode_png(draw_overlay(frame.image, prediction.mask), compress_level=1)


def cannot_write(target: Path, error: OSError) -> UserError:
    return UserError(
        f"{target} cannot be written: {error.strerror or error}. What was done is kept: mend that, and run the same "
        "command again to go on."
    )


def encode_png(image: Image.Image, text: str | None = None, **compression: int) -> bytes:
    """A PNG file, with a text in it if given, compressed as Pillow's options say."""
    info = PngInfo()
    if text is not None:
        info.add_text(RECORD, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info, **compression)
    return buffer.getvalue()


def make_record(source: Source, digest: str, lesions: Sequence[Lesion]) -> str:
    """What a mask's file says of itself; with it, mask and lesions are there together or not at all."""
    rows = [lesion_numbers(lesion) for lesion in lesions]
    return json.dumps({"image": source.name, "digest": digest, "lesions": rows})


def read_record(mask: Path) -> dict[str, Any] | None:
    """What `make_record` said; None for a PNG of another program.

    Raises:
        OSError: If the file is no image.
    """
    with Image.open(mask) as image:
        text = image.info.get(RECORD)
    return None if text is None else json.loads(text)


def refuse_mismatch(record: dict[str, Any] | None, digest: str, target: Path, source: Source) -> Failure | None:
    """Whether an output that is there is not this input's, and must not be replaced."""
    if not record:
        return Failure(source.path, f"not done, since {target} is there and not from this command: move it away")
    if record["digest"] != digest:
        return Failure(
            source.path,
            f"not done, since {target} is there, of another file of that name or of this one before it was changed: "
            "remove that, or choose another --output_dir",
        )
    return None


def segment_images(sources: Sequence[Source], run: ImageRun, report: Report, show: bool) -> None:
    """Segment images; reading, network and writing overlap, a few images ahead of each other."""
    if not sources:
        return
    started = time.perf_counter()
    batch = run.arguments.batch_size
    frames = prefetch_map(run.read, sources, threads=THREADS, ahead=2 * batch)
    outcomes = prefetch_map(run.write, run.segment(frames), threads=THREADS, ahead=batch)
    # Smoothing 0: the images per second of all of the run.
    with (
        tqdm(total=len(sources), desc="Images", unit="image", smoothing=0, disable=not show) as progress,
        closing(outcomes),
    ):
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                report.failures.append(outcome)
            elif outcome.was_there:
                report.images_before += 1
                progress.initial += 1  # took no time to speak of
            else:
                report.images += 1
            progress.update()
    report.seconds = time.perf_counter() - started


def segment_one_video(
    source: Source, predictor: Predictor, output: Path, arguments: PredictArguments, report: Report, show: bool
) -> None:
    """Segment a video, unless it is done already.

    Raises:
        UserError: If a file cannot be written.
    """
    # Here, so that images need no video library.
    from unet_kvasir_seg.inference.video import VideoError, segment_video

    overlay, table, record = (output / source.output(VIDEOS, suffix) for suffix in (".mp4", ".csv", ".json"))
    try:
        digest = file_digest(source.path)
    except OSError as error:
        report.failures.append(Failure(source.path, f"cannot be read ({error.strerror})"))
        return
    if overlay.exists():
        before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        if refusal := refuse_mismatch(before, digest, overlay, source):
            report.failures.append(refusal)
            return
        report.videos_before += 1
        if before["problem"]:
            report.failures.append(Failure(source.path, f"{before['problem']}; what was read is kept"))
        return
    unfinished = partial_path(overlay), partial_path(table)
    try:
        overlay.parent.mkdir(parents=True, exist_ok=True)
        with tqdm(desc=source.name, unit="frame", smoothing=0, disable=not show) as progress:
            done = segment_video(
                source.path,
                *unfinished,
                predictor,
                threshold=arguments.threshold,
                tta=arguments.tta,
                smoothing=arguments.smoothing,
                batch_size=arguments.batch_size,
                on_frame=progress.update,
            )
        summary = {"video": source.name, "digest": digest, "frames": done.frames, "problem": done.problem}
        write_atomic(record, (json.dumps(summary, indent=2) + "\n").encode())
        os.replace(unfinished[1], table)
        os.replace(unfinished[0], overlay)  # last: with it the video is done
    except VideoError as error:
        report.failures.append(Failure(source.path, first_line(error)))
        return
    except OSError as error:
        raise cannot_write(overlay, error) from error
    finally:
        for file in unfinished:
            file.unlink(missing_ok=True)
    report.videos += 1
    tqdm.write(f"{source.path}: {done}.")
    if done.problem:
        report.failures.append(Failure(source.path, f"{done.problem}; what was read is kept"))


def file_digest(path: str) -> str:
    """Hash of a file of any length."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def write_table(output: Path) -> None:
    """Write `predictions.csv` from what the masks say of themselves, and print what is in it."""
    file = output / "predictions.csv"
    unfinished = partial_path(file)
    images = empty = lesions = 0
    # File names may hold bytes that are no UTF-8.
    with open(unfinished, "w", newline="", encoding="utf-8", errors="surrogateescape") as table:
        rows = csv.writer(table)
        rows.writerow(COLUMNS)
        for mask in _masks(output / MASKS):
            try:
                record = read_record(mask)
            except OSError:
                continue
            if record is None:
                continue
            images += 1
            empty += not record["lesions"]
            lesions += len(record["lesions"])
            for number, numbers in enumerate(record["lesions"], start=1):
                rows.writerow(lesion_row(record["image"], number, numbers))
    os.replace(unfinished, file)
    if images:
        print(f"{file}: {lesions} lesions in {images - empty} of {images} images; {empty} are without polyp.")


def _masks(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(files) if name.endswith(".png"))


def print_report(report: Report, output_dir: str) -> None:
    """Say what was done, and, on stderr, what was not."""
    done = []
    if report.images or report.images_before:
        speed = f" ({report.images / report.seconds:.2f} a second)" if report.images else ""
        done.append(f"{report.images} images{speed}, {report.images_before} before")
    if report.videos or report.videos_before:
        done.append(f"{report.videos} videos, {report.videos_before} before")
    print(f"Done: {'; '.join(done) or 'nothing'}. Written to {output_dir}.")
    if report.failures:
        print(f"{len(report.failures)} inputs were not done, or not all of them:", file=sys.stderr)
        for failure in sorted(report.failures, key=str):
            print(f"  {failure}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    transformers.utils.logging.disable_progress_bar()  # of loading weights, which takes no time
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what it warns of is refused
    with leaving_processes():
        with user_errors("predict.py"):
            parser = FlagParser(
                [PredictArguments], program="predict.py", description=__doc__, usage="%(prog)s INPUT... [flags]"
            )
            flags, inputs = parser.separate(sys.argv[1:] if argv is None else argv)
            (arguments,) = parser.parse(flags)
            if not inputs:
                raise UserError("No input: name images, folders, globs or videos; see --help.")
            report = predict(inputs, arguments)
        processes = PartialState()
        if processes.is_main_process:
            print_report(report, arguments.output_dir)
        # Launchers end the others when one has ended: not before the main process has written.
        processes.wait_for_everyone()
        if report.failures:
            sys.exit(1)


if __name__ == "__main__":
    main()
