"""Pictures that show frames: examples with their predictions, and pairs of near-duplicates. They may be patients'.

Each function writes one PNG and returns its figure.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from PIL import Image

from ..common.files import to_rgb
from ..inference.overlay import (
    GROUND_TRUTH_COLOUR,
    HALO_COLOUR,
    PREDICTION_COLOUR,
    Colour,
    contour_width,
    draw_overlay,
)
from .style import FONT, GREY, INK, letters, new_figure, save

PROBABILITY_COLOURS = "viridis"  # perceptually uniform
PAIRS_SHOWN = 12

CELL_WIDTH, CELL_ASPECTS = 1.2, (0.6, 1.8)  # inches; the range of a cell's width to its height
TITLE_HEIGHT, LINE_HEIGHT = 0.35, 0.24  # inches
DOTS_PER_INCH = 200  # more than in the charts, since frames have details
LARGEST_SIDE = 480  # pixels of what is kept of a frame: twice a cell's width
TEXT, SMALL_TEXT = 9, 8  # points

Case = tuple[str, Image.Image, np.ndarray, np.ndarray, np.ndarray]
Pair = tuple[str, Image.Image, Image.Image]


def example_grid(cases: Sequence[Case], path: str | Path) -> Figure:
    """A row for each case: image, ground truth, predicted probability, and the image with both contours.

    Args:
        cases: Title such as "best: 0.98", image, ground truth (H, W) bool, probability (H, W) float, mask (H, W) bool.
            Images may be of different and of large sizes.
        path: The PNG to write.

    Raises:
        ValueError: If there are no cases, or an array's size is not its image's.
    """
    if not cases:
        raise ValueError("There are no cases to show; leave the picture out.")
    headings = ("image", "ground truth", "prediction", "contours")
    cell_height = _cell_height([image for _, image, *_ in cases])
    heights = [LINE_HEIGHT + cell_height] * len(cases) + [2 * LINE_HEIGHT]
    heights[0] += LINE_HEIGHT  # of the headings
    size = (len(headings) * CELL_WIDTH + 0.3, TITLE_HEIGHT + sum(heights))
    number = f"{len(cases)} image" + ("" if len(cases) == 1 else "s")
    figure = new_figure(f"Image, ground truth and prediction, n = {number}", size, DOTS_PER_INCH)
    *rows, foot = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for row, case in zip(rows, cases, strict=True):
        _show(row, case[0], _pictures(case), headings if row is rows[0] else ())
    _explain_colours(foot, len(headings))
    return save(figure, path)


def pair_grid(pairs: Sequence[Pair], path: str | Path, total: int | None = None) -> Figure:
    """Near-duplicate frames side by side, two pairs in a row; of more than 12 pairs the first 12.

    Args:
        pairs: Title, first image, second image; a title may have several lines.
        path: The PNG to write.
        total: How many pairs there are, if `pairs` are not all of them.

    Raises:
        ValueError: If there are no pairs.
    """
    if not pairs:
        raise ValueError("There are no pairs to show; leave the picture out.")
    shown, total = pairs[:PAIRS_SHOWN], total or len(pairs)
    titles = [_wrapped(title, letters_a_line=int(2 * CELL_WIDTH * 72 / (0.6 * SMALL_TEXT))) for title, *_ in shown]
    lines = max(title.count("\n") + 1 for title in titles)
    rows = -(-len(shown) // 2)
    height = _cell_height([image for _, *images in shown for image in images]) + lines * 0.7 * LINE_HEIGHT + 0.1
    figure = new_figure(
        f"Near-duplicates, n = {total:,} pair"
        + ("" if total == 1 else "s")
        + (f", {len(shown)} shown" if len(shown) < total else ""),
        (4 * CELL_WIDTH + 0.6, TITLE_HEIGHT + rows * height),
        DOTS_PER_INCH,
    )
    places = figure.subfigures(rows, 2, squeeze=False, wspace=0.04).flat
    for place, title, (_, *images) in zip(places, titles, shown, strict=False):
        _show(place, title, [_reduced(to_rgb(image)) for image in images], points=SMALL_TEXT)
    return save(figure, path)


def _pictures(case: Case) -> list[np.ndarray]:
    title, image, ground_truth, probability, mask = case
    if probability.shape != (image.height, image.width):
        raise ValueError(
            f"{title}: the probability map has the shape {probability.shape} and its image, of "
            f"{image.width}x{image.height} pixels, {(image.height, image.width)}; expected one size."
        )
    # Contours twice as wide as usual, since the picture is made small. This checks the masks.
    overlay = draw_overlay(image, mask, ground_truth, width=2 * contour_width(image.size))
    pictures = (
        to_rgb(image),
        Image.fromarray(ground_truth).convert("L"),
        Image.fromarray(probability.astype(np.float32)),
        overlay,
    )
    return [_reduced(picture) for picture in pictures]


def _reduced(picture: Image.Image) -> np.ndarray:
    """The picture at no more pixels than a figure shows, so that memory does not grow with the frames."""
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    return np.asarray(picture)


def _show(
    place: FigureBase, title: str, pictures: Sequence[np.ndarray], headings: Sequence[str] = (), points: int = TEXT
) -> None:
    """Pictures side by side under a title, and under headings if there are any."""
    place.suptitle(title, x=0.02, horizontalalignment="left", **letters(points))
    for column, (axes, picture) in enumerate(zip(_cells(place, len(pictures)), pictures, strict=True)):
        is_probability = picture.dtype == np.float32
        axes.imshow(
            picture,
            cmap=PROBABILITY_COLOURS if is_probability else "gray",
            vmin=0,
            vmax=1 if is_probability else 255,
            origin="upper",
            interpolation="antialiased",
            aspect="equal",
        )
        if headings:
            axes.set_title(headings[column], **letters(points) | {"color": GREY})


def _cells(place: FigureBase, columns: int) -> list[Any]:
    cells = list(place.subplots(1, columns, squeeze=False)[0])
    for axes in cells:
        axes.set_axis_off()
    return cells


def _cell_height(images: Sequence[Image.Image]) -> float:
    """Inches of the cells in which these images have one height."""
    aspect = np.clip(max(image.width / image.height for image in images), *CELL_ASPECTS)
    return CELL_WIDTH / float(aspect)


def _wrapped(text: str, letters_a_line: int) -> str:
    """The text with lines of at most so many letters, and the line breaks that it had."""
    return "\n".join(line for part in text.splitlines() for line in textwrap.wrap(part, letters_a_line))


def _explain_colours(foot: FigureBase, columns: int) -> None:
    """At the foot of an example grid, say what the colours of its last two columns mean."""
    cells = _cells(foot, columns)
    ramp = cells[-2].inset_axes((0.05, 0.6, 0.9, 0.3))
    bar = foot.colorbar(ScalarMappable(Normalize(0, 1), PROBABILITY_COLOURS), cax=ramp, orientation="horizontal")
    bar.set_ticks([0, 0.5, 1], labels=["0", "probability", "1"])
    bar.ax.tick_params(labelsize=SMALL_TEXT, labelfontfamily=FONT, labelcolor=INK, length=0)
    bar.outline.set_visible(False)
    cells[-1].legend(
        handles=[_line(PREDICTION_COLOUR, "-", "prediction"), _line(GROUND_TRUTH_COLOUR, (0, (2, 1)), "ground truth")],
        loc="center",
        frameon=False,
        borderpad=0,
        labelcolor=INK,
        prop={"family": FONT, "size": SMALL_TEXT},
    )


def _line(colour: Colour, dashes: Any, label: str) -> Line2D:
    """A contour as `draw_overlay` draws it, for the legend."""
    red, green, blue = (channel / 255 for channel in colour)
    halo = Stroke(linewidth=4, foreground=tuple(channel / 255 for channel in HALO_COLOUR))
    line = Line2D([], [], color=(red, green, blue), linewidth=2, linestyle=dashes, label=label)
    line.set_path_effects([halo, Normal()])
    return line
