"""What an ensemble gains and costs: Dice and speed of each model, and of all of them together, side by side.

    pip install -e ".[evaluation]"
    python benchmarks/ensemble.py --models outputs/seed-0 outputs/seed-1 outputs/seed-2 \\
        --dataset_name path/to/kvasir-seg --split validation
    python benchmarks/ensemble.py --models a.onnx b.onnx --dataset_name me/polyps --split test --document docs/speed.md

Masks are those at the threshold alone, without a peak threshold. The time is that of one image after the other, from
the decoded image to its probability map at its own size, with pre- and post-processing: median over the images.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from unet_kvasir_seg.common.command_line import DataFlags, DeviceFlags, FlagParser, flag
from unet_kvasir_seg.common.errors import UserError, user_errors

if TYPE_CHECKING:
    from unet_kvasir_seg.data.samples import Sample
    from unet_kvasir_seg.inference.prediction import BasePredictor

MARKERS = ("<!-- ensemble: begin -->", "<!-- ensemble: end -->")
HEADER = ("model", "Dice, mean per image", "difference from the best alone", "images a second", "relative time")


@dataclass
class BenchmarkArguments(DeviceFlags, DataFlags):
    """What to compare."""

    models: list[str] | None = flag(None, "Two models or more: folders, ids on the Hub, ONNX files.")
    split: str = flag("validation", "The split that is scored.")
    threshold: float = flag(0.5, "A pixel is polyp if its probability is higher.")
    tta: bool = flag(False, "Average the flips too.")
    resamples: int = flag(10_000, "Resamples of the bootstrap.")
    document: str | None = flag(None, f"A Markdown file with the lines {MARKERS[0]} and {MARKERS[1]}, for the table.")


@dataclass(frozen=True)
class Measured:
    """A model, or all together.

    Attributes:
        name: Of the model.
        dice: (images,), of each image.
        seconds: Median over the images.
    """

    name: str
    dice: np.ndarray
    seconds: float


def measure(
    name: str, predictor: "BasePredictor", samples: Sequence["Sample"], arguments: BenchmarkArguments
) -> Measured:
    """Dice and time of each image."""
    from unet_kvasir_seg.scoring.overlap import mask_dice

    how: dict[str, Any] = {
        "threshold": arguments.threshold,
        "peak_threshold": arguments.threshold,
        "tta": arguments.tta,
    }
    predictor(samples[0].image, **how)  # the first call is slower
    dice, seconds = [], []
    for sample in samples:
        started = time.perf_counter()
        prediction = predictor(sample.image, **how)
        seconds.append(time.perf_counter() - started)
        dice.append(mask_dice(prediction.mask, sample.ground_truth))
    return Measured(name, np.array(dice), float(np.median(seconds)))


def rows_of(measured: Sequence[Measured], resamples: int) -> list[list[str]]:
    """A row for each model, and the last for all together, which is compared with the best model alone."""
    from unet_kvasir_seg.reporting.markdown import interval
    from unet_kvasir_seg.scoring.intervals import compare_paired, mean_and_interval

    *alone, _ = measured
    best = max(alone, key=lambda one: one.dice.mean())
    rows = []
    for one in measured:
        difference = "-"
        if one is measured[-1]:
            paired = compare_paired(one.dice, best.dice, resamples=resamples)
            low, high = paired["ci95"]
            difference = f"{paired['difference']:+.3f} [{low:+.3f}, {high:+.3f}], p = {paired['p_value']:.3f}"
        score = interval(mean_and_interval(one.dice, resamples=resamples))
        rows.append([one.name, score, difference, f"{1 / one.seconds:.1f}", f"{one.seconds / best.seconds:.2f}"])
    return rows


def main(argv: list[str] | None = None) -> None:
    with user_errors("ensemble.py", OSError):
        parser = FlagParser([BenchmarkArguments], program="ensemble.py", description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        if len(arguments.models or []) < 2:
            raise UserError("--models needs two models or more, to compare them with all of them together.")
        from unet_kvasir_seg.data.dataset import choose_split, load_splits
        from unet_kvasir_seg.data.samples import load_sample
        from unet_kvasir_seg.inference.ensemble import Ensemble
        from unet_kvasir_seg.inference.predictor import load_predictor
        from unet_kvasir_seg.reporting.markdown import table
        from unet_kvasir_seg.reporting.tables import parts_around, update_document
        from unet_kvasir_seg.scoring.sources import short_name_of

        document = None if arguments.document is None else Path(arguments.document)
        if document is not None:
            parts_around(document, MARKERS)  # one without a place for the table is named before the work
        predictors = [load_predictor(name, None, arguments.device, arguments.dtype) for name in arguments.models]
        ensemble = Ensemble(predictors, arguments.models)
        rows = choose_split(load_splits(**arguments.source, needed_splits=[arguments.split]), arguments.split)
        samples = [load_sample(row, arguments.mask_rules) for row in rows]
        named = zip([*map(short_name_of, arguments.models), "all together"], [*predictors, ensemble], strict=True)
        measured = [measure(name, predictor, samples, arguments) for name, predictor in named]
        text = (
            f"{len(samples)} images of the {arguments.split} split, on {ensemble.runtime}; in brackets 95 % intervals:"
            f"\n\n{table(HEADER, rows_of(measured, arguments.resamples))}"
        )
        print(text)
        if document is not None:
            update_document(document, text, MARKERS)


if __name__ == "__main__":
    main()
