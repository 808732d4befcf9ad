"""What the field of view does: whether the rectangle is found, what it gains and costs.

    python benchmarks/field_of_view.py --dataset_name path/to/kvasir-seg    # the weights of this clone
    python benchmarks/field_of_view.py --dataset_name path/to/kvasir-seg --layouts 20 --rounds 3    # quicker

Prints three tables: how many rectangles are found in synthetic layouts of endoscopy systems; Dice of the validation
split as it is and with a black border and a text panel, each with and without `auto`; and how long `Predictor` takes.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from unet_kvasir_seg.common.errors import UserError, user_errors

PROGRAM, KEPT = "field_of_view.py", "No measurement is kept: run the same command again."

with user_errors(PROGRAM, kept=KEPT):  # large libraries: Ctrl-C is answered while they are imported, too
    import numpy as np
    from PIL import Image
    from tqdm.auto import tqdm
    from unet_kvasir_seg.benchmarks.layouts import Layout, draw_layout, with_panel
    from unet_kvasir_seg.common.command_line import DataFlags, DeviceFlags, FlagParser, ModelFlags, flag
    from unet_kvasir_seg.common.files import to_rgb
    from unet_kvasir_seg.common.paths import TRAINED_MODEL
    from unet_kvasir_seg.data.dataset import choose_split, load_splits
    from unet_kvasir_seg.data.samples import Sample, load_sample
    from unet_kvasir_seg.field_of_view_unet import Box, find_field_of_view, in_whole_frame
    from unet_kvasir_seg.inference.prediction import BasePredictor
    from unet_kvasir_seg.inference.predictor import load_predictor
    from unet_kvasir_seg.reporting.markdown import interval, table
    from unet_kvasir_seg.scoring.intervals import mean_and_interval
    from unet_kvasir_seg.scoring.overlap import mask_dice

TOLERANCE = 0.02  # of the frame's sides
TIMED_SIZES = ((640, 512), (1920, 1080))


@dataclass
class FieldOfViewArguments(DeviceFlags, ModelFlags, DataFlags):
    """What is measured."""

    layouts: int = flag(200, "Number of synthetic layouts.")
    first_layout: int = flag(0, "Seed of the first of them.")
    rounds: int = flag(20, "Times that each frame is predicted with and without auto, in turn.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("layouts", 1), ("first_layout", 0), ("rounds", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)} is too few: expected {least} or more.")


def worst_error(layout: Layout) -> float:
    """The largest distance between a side of the rectangle found and the true one, as a share of the frame's side."""
    height, width = layout.frame.shape[:2]
    found = find_field_of_view(layout.frame) or (0, 0, width, height)
    sides = zip(found, layout.box, (width, height, width, height), strict=True)
    return max(abs(side - true) / length for side, true, length in sides)


def measure_layouts(first: int, count: int) -> str:
    """The first table."""
    misses, errors = [], []
    for seed in tqdm(range(first, first + count), unit="layout"):
        layout = draw_layout(seed)
        errors.append(worst_error(layout))
        if errors[-1] > TOLERANCE:
            misses.append(f"{seed} ({layout.description})")
    share = np.mean(np.array(errors) <= TOLERANCE)
    row = [f"{count - len(misses)} of {count}: {share:.3f}", f"{np.median(errors):.4f}", f"{max(errors):.4f}"]
    columns = (f"within {TOLERANCE:.0%} of the sides", "median of the worst side", "largest")
    return table(columns, [row]) + "".join(f"\nmissed: {miss}" for miss in misses)


def with_ground_truth(sample: Sample, seed: int) -> Sample:
    """A sample with a black border and a text panel of 30 % of the width."""
    image, box = with_panel(to_rgb(sample.image), seed=seed)
    return replace(
        sample, image=image, ground_truth=in_whole_frame(sample.ground_truth, box, image.height, image.width)
    )


def score(predictor: BasePredictor, samples: Sequence[Sample], setting: str) -> tuple[np.ndarray, list[Box | None]]:
    """Dice of each sample at its original size, and the rectangles that the network saw."""
    predictions = [predictor(sample.image, field_of_view=setting) for sample in tqdm(samples, unit="frame")]
    pairs = zip(predictions, samples, strict=True)
    dice = np.array([mask_dice(prediction.mask, sample.ground_truth) for prediction, sample in pairs])
    return dice, [prediction.field_of_view for prediction in predictions]


def measure_dice(predictor: BasePredictor, samples: Sequence[Sample]) -> str:
    """The second table."""
    bordered = [with_ground_truth(sample, seed) for seed, sample in enumerate(samples)]
    frames = {"as they are": samples, "with border and panel": bordered}
    plain, rows = None, []
    for name, images in frames.items():
        for setting in ("none", "auto"):
            dice, boxes = score(predictor, images, setting)
            plain = dice if plain is None else plain
            cropped = sum(box is not None for box in boxes)
            values = interval(mean_and_interval(dice)), interval(mean_and_interval(dice - plain))
            rows.append([name, setting, f"{cropped} of {len(dice)}", *values])
    return table(("frames", "field of view", "cropped", "Dice", "difference from the first row, paired"), rows)


def bordered_frame(width: int, height: int) -> Image.Image:
    """A smooth picture with a black border and a text panel, in all of this size."""
    levels = np.random.default_rng(0).integers(60, 200, (36, 48, 3), np.uint8)
    picture = Image.fromarray(levels).resize((width * 2 // 3, height * 9 // 10), Image.Resampling.BICUBIC)
    return with_panel(picture)[0].resize((width, height))


def median_seconds(call: Callable[[], object], rounds: int) -> float:
    """The median time of a call; the first two are slow and not counted."""
    seconds = []
    for _ in range(rounds + 2):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[2:]))


def measure_time(predictor: BasePredictor, rounds: int) -> str:
    """The third table. The search is timed by itself too: with `auto`, less of the frame is resized."""
    rows = []
    for width, height in TIMED_SIZES:
        frame = bordered_frame(width, height)
        pixels = np.asarray(frame)
        seconds: dict[str, list[float]] = {"none": [], "auto": [], "search": []}
        for _ in range(rounds):
            for setting in ("none", "auto"):
                seconds[setting].append(median_seconds(partial(predictor, frame, field_of_view=setting), 1))
            seconds["search"].append(median_seconds(partial(find_field_of_view, pixels), 1))
        none, auto, search = (np.array(times) for times in seconds.values())
        shares = f"{np.median(auto / none) - 1:+.1%}", f"{np.median(search / none):.1%}"
        times = [f"{1000 * np.median(values):.2f}" for values in (none, auto, search)]
        rows.append([f"{width}x{height}", *times, *shares])
    columns = ("frame", "none, ms", "auto, ms", "search alone, ms", "auto against none", "search against none")
    return table(columns, rows)


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM, OSError, kept=KEPT):
        parser = FlagParser([FieldOfViewArguments], program=PROGRAM, description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        model = arguments.model or str(TRAINED_MODEL)
        predictor = load_predictor(model, arguments.model_revision, arguments.device, arguments.dtype)
        splits = load_splits(**arguments.source, needed_splits=["validation"])
        rows = choose_split(splits, "validation")
        samples = [load_sample(row, arguments.mask_rules) for row in rows]
        print(measure_layouts(arguments.first_layout, arguments.layouts), flush=True)
        print(f"\n{measure_dice(predictor, samples)}", flush=True)
        print(f"\n{measure_time(predictor, arguments.rounds)}")


if __name__ == "__main__":
    main()
