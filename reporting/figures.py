"""The pictures of an evaluation: each function writes one PNG and returns its figure.

    dice_histogram(dice, "dice_histogram.png")

A card shows them some 400 pixels wide, so lettering is large; colours are those of Okabe and Ito, which readers with
any colour blindness tell apart, and lines differ in dashes or markers too. The same input gives the same bytes with
the same matplotlib. Figures are made without pyplot: nothing is kept, and threads do not disturb each other.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from PIL import Image, ImageDraw, ImageOps

from ..common.files import to_rgb
from ..inference.overlay import (
    GROUND_TRUTH_COLOUR,
    HALO_COLOUR,
    PREDICTION_COLOUR,
    contour_width,
    draw_overlay,
)
from ..losses_unet import LOSSES

# Training loss by epoch as stated by the model card whose recipe is this project's default (width 64, batch 4).
CARD_LOSS = "bce_dice"
CARD_LOSSES = ((1, 1.10), (10, 0.90), (20, 0.70), (30, 0.51), (40, 0.19), (50, 0.075))

BLUE, VERMILLION = "#0072B2", "#D55E00"  # of Okabe and Ito's palette
PALE_BLUE, INK, GREY, PALE_GREY = "#9CC9E3", "#222222", "#767676", "#E4E4E4"
PROBABILITY_COLOURS = "viridis"  # perceptually uniform

SIZE, DOTS_PER_INCH = (5.0, 3.6), 150
FONT = "DejaVu Sans"  # comes with matplotlib, so it is the same everywhere
TITLE, LABEL, TICK = 12, 11, 10  # points

PAIRS_SHOWN = 12

Numbers = Sequence[float] | np.ndarray
Case = tuple[str, Image.Image, np.ndarray, np.ndarray, np.ndarray]
Pair = tuple[str, Image.Image, Image.Image]


def dice_histogram(dice: Numbers, path: str | Path) -> Figure:
    """How many images have which Dice, with mean and median.

    Args:
        dice: (N,) per-image Dice at original size.
        path: The PNG to write.

    Raises:
        ValueError: If there are no values, or not all of them are numbers from 0 to 1.
    """
    scores = _shares("dice", dice)
    figure = _figure(f"Distribution of Dice, n = {_number(len(scores), 'image')}")
    axes = _axes(figure, "Dice of an image at its original size", "number of images")
    counts, edges = np.histogram(scores, bins=20, range=(0, 1))
    _bars(axes, edges[:-1], counts, np.diff(edges))
    mean, median = float(scores.mean()), float(np.median(scores))
    axes.axvline(mean, color=VERMILLION, linewidth=2.4, label=f"mean {mean:.3f}")
    axes.axvline(median, color=INK, linewidth=2.4, linestyle="--", label=f"median {median:.3f}")
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    _legend(axes)
    return _save(figure, path)


def dice_by_size(
    dice: Numbers, area_share: Numbers, path: str | Path, small_below: float, large_from: float
) -> Figure:
    """The Dice of each image against the size of its polyps, with the means of small, medium and large ones.

    Args:
        dice: (N,) per-image Dice at original size, of images with polyp only.
        area_share: (N,) share of the image's area that is polyp, above 0.
        path: The PNG to write.
        small_below: An area share below it is small.
        large_from: An area share of it or above is large.

    Raises:
        ValueError: If there are no values, their numbers differ, or they are out of range.
    """
    scores, shares = _shares("dice", dice), _shares("area_share", area_share)
    _same_length("dice", scores, "area_share", shares)
    if not shares.all():
        raise ValueError(f"{(shares == 0).sum()} values of area_share are 0; leave out images without polyp.")
    figure = _figure(f"Dice by polyp size, n = {_number(len(scores), 'image')}")
    axes = _axes(figure, "polyp, % of the image's area (log scale)", "Dice at original size")
    axes.scatter(100 * shares, scores, s=26, facecolor=BLUE, edgecolor="white", linewidth=0.5, alpha=0.75)
    axes.set_xscale("log")

    cuts = (100 * small_below, 100 * large_from)
    low, high = min(100 * shares.min(), cuts[0] / 2) / 1.15, max(100 * shares.max(), cuts[1] * 2) * 1.15
    bounds = (low, *cuts, high)
    groups = np.digitize(shares, (small_below, large_from))
    label = "mean"
    for group, name in enumerate(("small", "medium", "large")):
        left, right, members = bounds[group], bounds[group + 1], scores[groups == group]
        text = f"{name}\nn = {len(members)}"
        axes.text(np.sqrt(left * right), 1.05, text, horizontalalignment="center", **_letters(TICK))
        if len(members):
            axes.plot((left, right), [members.mean()] * 2, color=VERMILLION, linewidth=2.4, label=label)
            label = "_"  # matplotlib keeps it out of the legend
    for cut, label in zip(cuts, (f"cuts: {cuts[0]:g} %, {cuts[1]:g} %", "_"), strict=True):
        axes.axvline(cut, color=INK, linewidth=1.4, linestyle="--", label=label)

    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(_log_ticks(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(-0.04, 1.27)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
    _legend(axes)
    return _save(figure, path)


def threshold_curve(
    thresholds: Numbers, dice: Numbers, used: float, path: str | Path, images: int | None = None
) -> Figure:
    """The mean per-image Dice by threshold, with the threshold used and the best one (of equals, that nearest 0.5).

    Args:
        thresholds: (T,) ascending, from 0 to 1.
        dice: (T,) mean per-image Dice at original size.
        used: The threshold of the reported scores.
        path: The PNG to write.
        images: How many images the means are of, for the title.

    Raises:
        ValueError: If there are no values, their numbers differ, or they are out of range.
    """
    levels, scores = _shares("thresholds", thresholds), _shares("dice", dice)
    _same_length("thresholds", levels, "dice", scores)
    equals = np.flatnonzero(scores == scores.max())
    best = equals[np.abs(levels[equals] - 0.5).argmin()]
    used_dice = float(np.interp(used, levels, scores))
    figure = _figure("Dice by threshold" + (f", n = {_number(images, 'image')}" if images is not None else ""))
    axes = _axes(figure, "threshold on the probability of polyp", "mean Dice at original size")
    axes.plot(levels, scores, color=BLUE, linewidth=2.4)
    axes.axvline(used, color=INK, linewidth=1.4, linestyle="--")
    # A ring, so that the best threshold's mark is seen inside it if they are one.
    ring: dict[str, Any] = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "markeredgewidth": 2}
    label = f"used {used:.3g}: Dice {used_dice:.3f}"
    axes.plot([used], [used_dice], color=INK, linestyle="none", label=label, **ring)
    label = f"best {levels[best]:.3g}: Dice {scores[best]:.3f}"
    axes.plot(
        [levels[best]], [scores[best]], color=VERMILLION, marker="D", markersize=7, linestyle="none", label=label
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05)
    _legend(axes)
    return _save(figure, path)


def reliability_diagram(bins: Sequence[Mapping[str, Any]], ece: float, path: str | Path) -> Figure:
    """How often pixels of a predicted probability are polyp; below, how many pixels there are of it.

    Args:
        bins: Each with "low", "high", "pixels", "mean_probability" and "polyp_share", the last two None if empty.
        ece: The expected calibration error.
        path: The PNG to write.

    Raises:
        ValueError: If all bins are empty.
    """
    filled = [row for row in bins if row["pixels"]]
    if not filled:
        raise ValueError(f"None of the {len(bins)} bins holds a pixel, so there is no calibration to show.")
    lows, highs, pixels, means, shares = (
        np.array([row[key] for row in filled], dtype=np.float64)
        for key in ("low", "high", "pixels", "mean_probability", "polyp_share")
    )
    figure = _figure(f"Calibration, n = {_short(pixels.sum())} pixels")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    _dress(upper, "", "share that is polyp")
    _dress(lower, "predicted probability of polyp", "pixels")
    upper.plot((0, 1), (0, 1), color=GREY, linewidth=1.6, linestyle="--", label="perfect")
    upper.plot(means, shares, color=BLUE, linewidth=2.2, marker="o", markersize=6, label=f"measured, ECE {ece:.3f}")
    upper.set_ylim(-0.03, 1.03)
    upper.tick_params(labelbottom=False)
    _bars(lower, lows, pixels, highs - lows)
    lower.set_yscale("log")
    powers = np.arange(np.floor(np.log10(pixels.min())), np.log10(pixels.max()) + 1e-9)
    lower.set_ylim(10 ** powers[0] / 2, pixels.max() * 2)
    lower.yaxis.set_major_locator(FixedLocator((10 ** powers[:: -(-len(powers) // 3)]).tolist()))
    lower.yaxis.set_minor_locator(NullLocator())
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    lower.set_xlim(0, 1)
    figure.align_ylabels()
    _legend(upper)
    return _save(figure, path)


def loss_curve(losses: Sequence[Sequence[float]], path: str | Path, loss: str = CARD_LOSS) -> Figure:
    """The mean training loss by epoch, beside what the model card of the default recipe states of its loss.

    Args:
        losses: Pairs of epoch and loss.
        path: The PNG to write.
        loss: Which loss it is, as `UNetConfig` names it.

    Raises:
        ValueError: If there are no pairs.
    """
    if not losses:
        raise ValueError("There are no training losses to show; leave the picture out.")
    epochs, values = zip(*losses, strict=True)
    figure = _figure(f"Training loss, n = {_number(epochs[-1], 'epoch')}")
    axes = _axes(figure, "epoch", f"mean loss ({LOSSES[loss].short_name})")
    marker = "o" if len(values) < 30 else None
    axes.plot(epochs, values, color=BLUE, linewidth=2.4, marker=marker, markersize=5, label="this training")
    if loss == CARD_LOSS:
        card: dict[str, Any] = {"color": VERMILLION, "linewidth": 1.4, "linestyle": "--", "marker": "s"}
        axes.plot(*zip(*CARD_LOSSES, strict=True), **card, markersize=7, label="origin's card, width 64")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    _legend(axes)
    return _save(figure, path)


def example_grid(cases: Sequence[Case], path: str | Path) -> Figure:
    """A row a case: image, ground truth, predicted probability, and the image with both contours.

    Args:
        cases: Title such as "best: 0.98", image, ground truth (H, W) bool, probability (H, W) float, mask (H, W) bool.
            Only thumbnails of one height are kept, so images may be of different and of large sizes.
        path: The PNG to write.

    Raises:
        ValueError: If there are no cases, or an array's size is not its image's.
    """
    if not cases:
        raise ValueError("There are no cases to show; leave the picture out.")
    cell = _cell_size([image for _, image, *_ in cases])
    rows: list[list[_Group]] = []
    for title, image, ground_truth, probability, mask in cases:
        if probability.shape != (image.height, image.width):
            raise ValueError(
                f"{title}: the probability map has the shape {probability.shape} and its image, of "
                f"{image.width}x{image.height} pixels, {(image.height, image.width)}; expected one size."
            )
        # Twice the usual width, since it is made small. This checks the masks.
        overlay = draw_overlay(image, mask, ground_truth, width=2 * contour_width(image.size))
        pictures = (to_rgb(image), Image.fromarray(ground_truth), _in_colours(probability), overlay)
        rows.append([(title, [_thumbnail(picture, cell) for picture in pictures])])
    headings = ("image", "ground truth", "prediction", "contours")
    sheet = _grid(f"Image, ground truth and prediction, n = {_number(len(cases), 'image')}", rows, headings)
    _explain_colours(sheet)
    return _save(sheet.figure(), path)


def pair_grid(pairs: Sequence[Pair], path: str | Path, total: int | None = None) -> Figure:
    """Near-duplicate frames side by side, two pairs a row; of more than 12 pairs the first 12.

    Args:
        pairs: Title, first image, second image; a title may have several lines.
        path: The PNG to write.
        total: How many pairs there are, if `pairs` are not all of them.

    Raises:
        ValueError: If there are no pairs.
    """
    if not pairs:
        raise ValueError("There are no pairs to show; leave the picture out.")
    shown = pairs[:PAIRS_SHOWN]
    cell = _cell_size([image for _, *images in shown for image in images])
    groups: list[_Group] = [(title, [_thumbnail(to_rgb(image), cell) for image in images]) for title, *images in shown]
    rows = [groups[start : start + 2] for start in range(0, len(groups), 2)]
    number = _number(total or len(pairs), "pair")
    title = f"Near-duplicates, n = {number}" + (f", {len(shown)} shown" if len(shown) < (total or len(pairs)) else "")
    return _save(_grid(title, rows, points=8).figure(), path)


def _shares(name: str, values: Numbers) -> np.ndarray:
    """The values as (N,) float64, at least one, all from 0 to 1."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} has the shape {array.shape}; expected (N,) with at least one value.")
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        raise ValueError(
            f"{name} holds {array[wrong][0]:g} at index {wrong.argmax()}; expected numbers from 0 to 1. "
            "Find out why that one went wrong: a picture without it would mislead."
        )
    return array


def _same_length(first_name: str, first: np.ndarray, second_name: str, second: np.ndarray) -> None:
    if len(first) != len(second):
        raise ValueError(
            f"{first_name} has {len(first)} values and {second_name} {len(second)}; expected as many of both."
        )


def _figure(title: str) -> Figure:
    figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.02, horizontalalignment="left", fontweight="bold", **_letters(TITLE))
    return figure


def _letters(points: int) -> dict[str, Any]:
    return {"fontfamily": FONT, "fontsize": points, "color": INK}


def _axes(figure: Figure, x_label: str, y_label: str) -> Axes:
    axes = figure.subplots()
    _dress(axes, x_label, y_label)
    return axes


def _dress(axes: Axes, x_label: str, y_label: str) -> None:
    """Give axes the one look that all have, whatever the user's settings of matplotlib."""
    axes.set_facecolor("white")
    axes.set_xlabel(x_label, **_letters(LABEL))
    axes.set_ylabel(y_label, **_letters(LABEL))
    axes.tick_params(labelsize=TICK, labelfontfamily=FONT, labelcolor=INK, color=INK, length=3)
    axes.grid(True, color=PALE_GREY, linewidth=0.8, linestyle="-")
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=INK, linewidth=0.8)


def _bars(axes: Axes, lefts: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> None:
    axes.bar(lefts, heights, width=widths, align="edge", color=PALE_BLUE, edgecolor=BLUE, linewidth=0.8)


def _legend(axes: Axes) -> None:
    """A line between title and axes, where it hides no data."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        frameon=False,
        borderaxespad=0.2,
        borderpad=0.2,
        columnspacing=1.4,
        handlelength=1.8,
        labelcolor=INK,
        prop={"family": FONT, "size": TICK},
    )


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range, few enough to be legible."""
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [tick for power in range(-6, 3) for step in steps if low <= (tick := step * 10.0**power) <= high]
        if len(ticks) <= 7:
            break
    return ticks


def _number(count: float, name: str) -> str:
    return f"{count:,.10g} {name}" + ("" if count == 1 else "s")


def _short(count: float) -> str:
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:g}"


def _save(figure: Figure, path: str | Path) -> Figure:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Not `savefig`: it writes matplotlib's version into the file, and a fourth channel.
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(path, format="PNG", optimize=True)
    return figure


# Grids are laid out in pixels from the upper left corner.

GRID_DOTS_PER_INCH = 200  # more than in the other figures, since frames have details
GRID_TEXT = 9  # points
CELL_WIDTH, CELL_ASPECTS = 236, (0.6, 1.8)  # the range of its width to height; strips are fitted in
MARGIN, GAP, GROUP_GAP, ROW_GAP = 12, 6, 30, 16
TITLE_LINE, LINE = 60, 32

_Group = tuple[str, list[Image.Image]]  # a title, and below it thumbnails side by side


@dataclass
class _Sheet:
    """A page under work: pictures are pasted at once, texts are noted for matplotlib to set."""

    image: Image.Image
    texts: list[tuple[float, float, str, dict[str, Any]]] = field(default_factory=list)

    def write(self, x: float, y: float, text: str, **look: Any) -> None:
        """Note a text whose upper left corner is at (x, y), unless `look` says otherwise."""
        self.texts.append((x, y, text, _letters(GRID_TEXT) | {"verticalalignment": "top"} | look))

    def extend(self, rows: int) -> int:
        """Add rows of pixels at the foot; returns where they begin."""
        width, height = self.image.size
        longer = Image.new("RGB", (width, height + rows), "white")
        longer.paste(self.image)
        self.image = longer
        return height

    def figure(self) -> Figure:
        width, height = self.image.size
        # Half a pixel more, since matplotlib rounds down to whole pixels.
        inches = ((width + 0.5) / GRID_DOTS_PER_INCH, (height + 0.5) / GRID_DOTS_PER_INCH)
        figure = Figure(figsize=inches, dpi=GRID_DOTS_PER_INCH, facecolor="white")
        figure.figimage(np.asarray(self.image), origin="upper")
        for x, y, text, look in self.texts:
            figure.text(x / width, 1 - y / height, text, **look)
        return figure


def _grid(title: str, rows: list[list[_Group]], headings: Sequence[str] = (), points: int = GRID_TEXT) -> _Sheet:
    """Lay out rows of groups, their titles in letters of `points`, under a title and the headings of columns."""
    columns = len(rows[0][0][1])
    group_width = columns * CELL_WIDTH + (columns - 1) * GAP
    letters = int(group_width / (0.58 * points * GRID_DOTS_PER_INCH / 72))  # a letter of DejaVu is 0.58 em wide
    names = [[_wrapped(name, letters) for name, _ in row] for row in rows]
    name_heights = [6 + round(3.3 * points) * max(1 + name.count("\n") for name in row) for row in names]
    cell_height = rows[0][0][1][0].height
    top = MARGIN + TITLE_LINE + (LINE if headings else 0)
    width = 2 * MARGIN + len(rows[0]) * (group_width + GROUP_GAP) - GROUP_GAP
    height = top + sum(name_heights) + len(rows) * (cell_height + ROW_GAP)
    sheet = _Sheet(Image.new("RGB", (width, height), "white"))
    sheet.write(MARGIN, MARGIN, title, fontsize=LABEL, fontweight="bold")
    for column, heading in enumerate(headings):
        middle = _left(column) + CELL_WIDTH / 2
        sheet.write(middle, MARGIN + TITLE_LINE, heading, horizontalalignment="center", color=GREY)
    for row, row_names, name_height in zip(rows, names, name_heights, strict=True):
        for group, (name, (_, thumbnails)) in enumerate(zip(row_names, row, strict=True)):
            indent = group * (group_width + GROUP_GAP)
            sheet.write(MARGIN + indent, top, name, fontsize=points)
            for column, thumbnail in enumerate(thumbnails):
                sheet.image.paste(thumbnail, (indent + _left(column), top + name_height))
        top += name_height + cell_height + ROW_GAP
    return sheet


def _wrapped(text: str, letters: int) -> str:
    """The text with lines of at most so many letters, and the line breaks that it had."""
    return "\n".join(line for part in text.splitlines() for line in textwrap.wrap(part, letters))


def _left(column: int) -> int:
    return MARGIN + column * (CELL_WIDTH + GAP)


def _cell_size(images: Sequence[Image.Image]) -> tuple[int, int]:
    """Width and height of the cells in which thumbnails of these images have one height."""
    aspect = np.clip(max(image.width / image.height for image in images), *CELL_ASPECTS)
    return CELL_WIDTH, round(CELL_WIDTH / aspect)


def _thumbnail(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """The picture, its aspect kept, in the middle of a white cell."""
    return ImageOps.pad(picture.convert("RGB"), cell, Image.Resampling.LANCZOS, color="white")


def _in_colours(probability: np.ndarray) -> Image.Image:
    return Image.fromarray(matplotlib.colormaps[PROBABILITY_COLOURS](probability, bytes=True)[..., :3])


def _explain_colours(sheet: _Sheet) -> None:
    """At the foot of an example grid, say what the colours of its last two columns mean."""
    top = sheet.extend(2 * LINE + MARGIN)
    left, below, length = _left(2), top + LINE, CELL_WIDTH - 24
    ramp = _in_colours(np.linspace(0, 1, length)[None, :].repeat(LINE // 2, axis=0))
    sheet.image.paste(ramp, (left, top + LINE // 4))
    sheet.write(left, below, "0")
    sheet.write(left + length / 2, below, "probability", horizontalalignment="center")
    sheet.write(left + length, below, "1", horizontalalignment="right")
    draw = ImageDraw.Draw(sheet.image)
    left = _left(3)
    for name, colour, dash, y in (
        ("prediction", PREDICTION_COLOUR, 60, top),
        ("ground truth", GROUND_TRUTH_COLOUR, 12, below),
    ):
        for start in range(left, left + 60, 2 * dash):
            draw.rectangle((start, y + 11, start + dash, y + 20), HALO_COLOUR)
            draw.rectangle((start, y + 13, start + dash, y + 18), colour)
        sheet.write(left + 72, y, name)
