"""A picture of how predictions of validation samples change during a training. It shows frames, and stays local."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from transformers import TrainerCallback

from ..common.files import atomic_file, to_rgb
from ..common.mask_rules import MaskRules
from ..data.transforms import load_seen_sample
from ..image_processing_unet import UNetImageProcessor
from ..inference.overlay import draw_overlay
from .failures import write_errors_explained

GRID_FOLDER = "predictions_by_epoch"
GRID_FILE = "grid.png"
COLUMNS_SHOWN = 10  # of the grid; each validation has a file of its own beside it
CELL_SIDE, GAP, HEAD, POINTS = 192, 4, 20, 13  # pixels
CONTOUR = 2


class PredictionGrid(TrainerCallback):
    """Draws, after each validation, a column of predictions, and the grid of these columns.

    Columns of a resumed run's earlier validations are taken from the folder of the run. The network is only evaluated:
    the training is the same as without.

    Args:
        rows: The validation split, as `load_splits` gives it.
        processor: The run's.
        mask_rules: How masks are read.
        count: How many samples are shown, evenly spread over the split.
        folder: Of the run.
    """

    def __init__(self, rows: Any, processor: UNetImageProcessor, mask_rules: MaskRules, count: int, folder: Path):
        self.rows = rows
        self.processor = processor
        self.mask_rules = mask_rules
        self.count = min(count, len(rows))
        self.run_folder = folder
        self.folder = folder / GRID_FOLDER
        self.samples: list[_Shown] = []  # during the training, in the main process

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if not state.is_world_process_zero:
            return
        chosen = [number * len(self.rows) // self.count for number in range(self.count)]
        self.samples = [_Shown(self.rows[index], self.processor, self.mask_rules) for index in chosen]
        for step, file in self._columns():
            if step > state.global_step or not _is_picture(file):  # of validations that come again, or damaged
                file.unlink(missing_ok=True)

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        if not self.samples:
            return
        overlays = [sample.overlay(kwargs["model"], self.processor) for sample in self.samples]
        with write_errors_explained(self.folder, self.run_folder):
            self.folder.mkdir(exist_ok=True)
            save_png(
                column(f"epoch {state.epoch or 0:.4g}", overlays), self.folder / f"step-{state.global_step:08}.png"
            )
            files = evenly_spread([file for _, file in self._columns()], COLUMNS_SHOWN)
            images = [column("image", [sample.image for sample in self.samples]), *map(_read, files)]
            save_png(side_by_side(images), self.folder / GRID_FILE)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.samples = []  # the evaluation after the training has no column

    def _columns(self) -> list[tuple[int, Path]]:
        """Step and file of each column in the folder, in order."""
        found = ((file.stem.removeprefix("step-"), file) for file in self.folder.glob("step-*.png"))
        return sorted((int(step), file) for step, file in found if step.isdecimal())


class _Shown:
    """A sample as it is shown, and what the network takes of it."""

    def __init__(self, row: Any, processor: UNetImageProcessor, mask_rules: MaskRules):
        sample = load_seen_sample(row, processor, mask_rules)
        self.pixel_values = processor.preprocess(sample.image, return_tensors="pt", field_of_view="none")[
            "pixel_values"
        ]
        self.image = ImageOps.contain(to_rgb(sample.image), (CELL_SIDE, CELL_SIDE))
        self.ground_truth = np.asarray(
            Image.fromarray(sample.ground_truth).resize(self.image.size, Image.Resampling.NEAREST)
        )

    @torch.no_grad()
    def overlay(self, model: Any, processor: UNetImageProcessor) -> Image.Image:
        """The image with the contours of the prediction and, dashed, of the ground truth."""
        was_training = model.training
        model.eval()
        outputs = model(self.pixel_values.to(model.device))
        model.train(was_training)
        size = (self.image.height, self.image.width)
        (mask,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[size], fields_of_view=[None])
        return draw_overlay(self.image, mask.cpu().numpy() == 1, self.ground_truth, width=CONTOUR)


def column(title: str, pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, under a title."""
    heights = [HEAD, *(picture.height + GAP for picture in pictures)]
    canvas = Image.new("RGB", (CELL_SIDE, sum(heights)), "white")
    ImageDraw.Draw(canvas).text((0, 0), title, fill="black", font=ImageFont.load_default(POINTS))
    for number, picture in enumerate(pictures, start=1):
        canvas.paste(picture, (0, sum(heights[:number])))
    return canvas


def side_by_side(columns: Sequence[Image.Image]) -> Image.Image:
    """Columns from left to right."""
    step = CELL_SIDE + GAP
    canvas = Image.new("RGB", (step * len(columns), max(one.height for one in columns)), "white")
    for number, one in enumerate(columns):
        canvas.paste(one, (number * step, 0))
    return canvas


def evenly_spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, at least two, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def save_png(picture: Image.Image, path: Path) -> None:
    with atomic_file(path) as file:
        picture.save(file, format="PNG")


def _is_picture(file: Path) -> bool:
    try:
        _read(file)
    except OSError:
        return False
    return True


def _read(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")
