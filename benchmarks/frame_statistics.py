"""How often `predict.py` says that frames differ from those of the training: as they are, and changed.

    pip install -e ".[evaluation]"
    python benchmarks/frame_statistics.py --dataset_name path/to/kvasir-seg      # the weights of this clone
    python benchmarks/frame_statistics.py --dataset_name path/to/kvasir-seg --document docs/predicting.md

Each frame of the split is measured under each change. Sets of 3, 10, 30 and 100 frames are drawn at random, without a
frame twice in a set, and each is compared with the statistics that the model keeps. The model has to have them:
`evaluation.py --save_statistics`, and `train.py` at its end, put them there.
"""

import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from unet_kvasir_seg.common.command_line import DataFlags, DeviceFlags, FlagParser, ModelFlags, flag
from unet_kvasir_seg.common.errors import UserError, user_errors
from unet_kvasir_seg.common.paths import TRAINED_MODEL
from unet_kvasir_seg.inference.frame_differences import find_differences
from unet_kvasir_seg.inference.frame_statistics import FrameStatistics, measure_frame, measure_prediction

SIZES = (3, 10, 30, 100)  # frames of a set
BATCH = 8
MARKERS = ("<!-- frame_statistics: begin -->", "<!-- frame_statistics: end -->")
Change = Callable[[Image.Image], Image.Image]
Measures = list[dict[str, float]]


@dataclass
class BenchmarkArguments(DeviceFlags, DataFlags, ModelFlags):
    """What to measure."""

    split: str = flag("validation", "The split whose frames are changed.")
    sets: int = flag(1000, "Random sets of each size.")
    document: str | None = flag(None, f"A Markdown file with the lines {MARKERS[0]} and {MARKERS[1]}, for the table.")


def in_grey(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def as_jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def blurred(radius: float) -> Change:
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius))


def times(*factors: float) -> Change:
    """Each channel times a factor."""
    return lambda image: Image.fromarray(np.clip(np.asarray(image) * np.array(factors), 0, 255).astype(np.uint8))


def with_noise(deviation: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        noise = np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 3))
        return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))

    return change


def downscaled(factor: int) -> Change:
    """Scaled down, and up again."""

    def change(image: Image.Image) -> Image.Image:
        small = (max(image.width // factor, 1), max(image.height // factor, 1))
        return image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)

    return change


def with_panel(share: float) -> Change:
    """With a black panel of text on the left, which takes so much of the whole width."""

    def change(image: Image.Image) -> Image.Image:
        panel = round(image.width * share / (1 - share))
        canvas = Image.new("RGB", (image.width + panel, image.height))
        ImageDraw.Draw(canvas).text((10, 20), "01.01.2020\n12:30:00\nC: 3  S: 2", fill="white")
        canvas.paste(image, (panel, 0))
        return canvas

    return change


def with_hue(shift: int) -> Change:
    """With each hue moved by so many of 256 steps."""

    def change(image: Image.Image) -> Image.Image:
        hue, saturation, value = image.convert("HSV").split()
        moved = Image.fromarray((np.asarray(hue).astype(int) + shift).astype(np.uint8))
        return Image.merge("HSV", (moved, saturation, value)).convert("RGB")

    return change


CHANGES: dict[str, Change] = {
    "as they are": lambda image: image,
    "grey": in_grey,
    "JPEG quality 10": as_jpeg(10),
    "JPEG quality 40": as_jpeg(40),
    "Gaussian blur of 4 pixels": blurred(4),
    "Gaussian blur of 1 pixel": blurred(1),
    "a third of the brightness": times(1 / 3, 1 / 3, 1 / 3),
    "red x 0.7, blue x 1.3": times(0.7, 1.0, 1.3),
    "noise of 30 levels": with_noise(30),
    "noise of 10 levels": with_noise(10),
    "scaled to 1/4 and back": downscaled(4),
    "black panel of 30 % of the width": with_panel(0.30),
    "black panel of 38 % of the width": with_panel(0.38),
    "hue by 16 of 256": with_hue(16),
}


def measure(predictor, images: Sequence[Image.Image]) -> tuple[Measures, float, float]:
    """Measures of each image, and the seconds that measuring and predicting took."""
    measures: Measures = []
    measuring = predicting = 0.0
    for start in range(0, len(images), BATCH):
        began = time.perf_counter()
        prepared = [predictor.prepare(image) for image in images[start : start + BATCH]]
        predictions = predictor.predict_prepared(prepared)
        predicted = time.perf_counter()
        for one, prediction in zip(prepared, predictions, strict=True):
            measures.append(measure_frame(predictor, one) | measure_prediction(prediction))
        measuring += time.perf_counter() - predicted
        predicting += predicted - began
    return measures, measuring, predicting


def warning_rates(statistics: FrameStatistics, measures: Measures, sets: int) -> list[float | None]:
    """The share of random sets of each of the `SIZES` that differ; None where there are too few frames."""
    generator = np.random.default_rng(0)
    rates: list[float | None] = []
    for size in SIZES:
        if size > len(measures):
            rates.append(None)
            continue
        drawn = [generator.permutation(len(measures))[:size] for _ in range(1 if size == len(measures) else sets)]
        warned = [bool(find_differences(statistics, [measures[i] for i in chosen])) for chosen in drawn]
        rates.append(float(np.mean(warned)))
    return rates


def row_of(name: str, statistics: FrameStatistics, measures: Measures, sets: int) -> str:
    rates = warning_rates(statistics, measures, sets)
    found = find_differences(statistics, measures)
    what = ", ".join(f"{one.what} ({one.share:.0%})" for one in found) or "-"
    shown = ["-" if rate is None else f"{rate:.3f}" for rate in rates]
    return f"| {name} | {' | '.join(shown)} | {what} |"


def main(argv: list[str] | None = None) -> None:
    with user_errors("frame_statistics.py", OSError):
        parser = FlagParser([BenchmarkArguments], program="frame_statistics.py", description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        from unet_kvasir_seg.data.dataset import choose_split, load_splits
        from unet_kvasir_seg.data.samples import decode_image
        from unet_kvasir_seg.inference.predictor import load_predictor
        from unet_kvasir_seg.reporting.tables import parts_around, update_document

        document = None if arguments.document is None else Path(arguments.document)
        if document is not None:
            parts_around(document, MARKERS)  # one without a place for the table is named before the work
        model = arguments.model or str(TRAINED_MODEL)
        predictor = load_predictor(model, arguments.model_revision, arguments.device, arguments.dtype)
        statistics = FrameStatistics.from_settings(predictor.processor_settings)
        if statistics is None:
            raise UserError(f"{model} keeps no statistics of frames: make them with evaluation.py --save_statistics.")
        rows = choose_split(load_splits(**arguments.source, needed_splits=[arguments.split]), arguments.split)
        images = [decode_image(row["image"], row["index"]) for row in rows]
        head = [f"sets of {size}" for size in SIZES]
        lines = [f"| {len(images)} frames | {' | '.join(head)} | all of them |", "| --- " * (len(SIZES) + 2) + "|"]
        measuring_seconds = seconds = 0.0
        for name, change in CHANGES.items():
            measures, measuring, predicting = measure(predictor, [change(image) for image in images])
            measuring_seconds += measuring
            seconds += measuring + predicting
            lines.append(row_of(name, statistics, measures, arguments.sets))
            print(lines[-1], file=sys.stderr, flush=True)
        table = "\n".join(lines)
        share = measuring_seconds / seconds
        print(f"{table}\n\nMeasuring took {share:.1%} of the time of preparing, predicting and measuring.")
        if document is not None:
            update_document(document, table, MARKERS)


if __name__ == "__main__":
    main()
