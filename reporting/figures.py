"""The charts of an evaluation: each function writes one PNG and returns its figure.

    dice_histogram(dice, "dice_histogram.png")

`draw_evaluation` draws all that an evaluation has numbers for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ..losses_unet import LOSSES
from .results import ChangedScores, Results, Robustness
from .style import (
    BLUE,
    FONT,
    GREY,
    INK,
    LABEL,
    PALE_BLUE,
    SIZE,
    TICK,
    VERMILLION,
    dress,
    legend,
    letters,
    new_figure,
    save,
)

# Training loss by epoch as stated by the model card whose recipe is this project's default (width 64, batch 4).
CARD_LOSS = "bce_dice"
CARD_LOSSES = ((1, 1.10), (10, 0.90), (20, 0.70), (30, 0.51), (40, 0.19), (50, 0.075))

Numbers = Sequence[float] | np.ndarray


def draw_evaluation(results: Results, dice: np.ndarray, area_shares: np.ndarray, folder: Path) -> list[str]:
    """Draw the charts of an evaluation. They show no frame, so all of them may be published.

    Args:
        results: With the sections "metrics" and "evaluation".
        dice: (images,) Dice of each image.
        area_shares: (images,) share of each image's area that is polyp.
        folder: Where to write them.

    Returns:
        The names of the files.
    """
    evaluation, training = results["evaluation"], results["training"]
    assert evaluation is not None
    dice_histogram(dice, folder / "dice_histogram.png")
    curve = evaluation["threshold_curve"]
    used = evaluation["threshold"]["value"]
    threshold_curve(curve["thresholds"], curve["dice_per_image"], used, folder / "threshold_curve.png", len(dice))
    ece = results["metrics"]["ece_native"]["value"]
    reliability_diagram(evaluation["calibration"]["bins"], ece, folder / "reliability.png")
    drawn = ["dice_histogram.png", "threshold_curve.png", "reliability.png"]
    has_polyp = area_shares > 0
    if has_polyp.any():
        protocol = evaluation["protocol"]
        cuts = (protocol["small_below"], protocol["large_from"])
        dice_by_size(dice[has_polyp], area_shares[has_polyp], folder / "dice_by_size.png", *cuts)
        drawn.append("dice_by_size.png")
    if training and training["loss"]:
        model: Mapping[str, Any] = results["model"]
        validation = training.get("validation_curve", [])
        loss_curve(training["loss"], folder / "loss_curve.png", model["loss"], validation)
        drawn.append("loss_curve.png")
    if robustness := evaluation.get("robustness"):
        robustness_curves(robustness, folder / "robustness.png", len(dice))
        drawn.append("robustness.png")
    return drawn


def dice_histogram(dice: Numbers, path: str | Path) -> Figure:
    """How many images have which Dice, with mean and median.

    Args:
        dice: (N,) per-image Dice at original size.
        path: The PNG to write.

    Raises:
        ValueError: If there are no values, or not all of them are numbers from 0 to 1.
    """
    scores = _shares("dice", dice)
    figure = new_figure(f"Distribution of Dice, n = {_number(len(scores), 'image')}")
    axes = _axes(figure, "Dice of an image at its original size", "number of images")
    counts, edges = np.histogram(scores, bins=20, range=(0, 1))
    _bars(axes, edges[:-1], counts, np.diff(edges))
    mean, median = float(scores.mean()), float(np.median(scores))
    axes.axvline(mean, color=VERMILLION, linewidth=2.4, label=f"mean {mean:.3f}")
    axes.axvline(median, color=INK, linewidth=2.4, linestyle="--", label=f"median {median:.3f}")
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    _legend(axes)
    return save(figure, path)


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
    figure = new_figure(f"Dice by polyp size, n = {_number(len(scores), 'image')}")
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
        axes.text(np.sqrt(left * right), 1.05, text, horizontalalignment="center", **letters(TICK))
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
    return save(figure, path)


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
    figure = new_figure("Dice by threshold" + (f", n = {_number(images, 'image')}" if images is not None else ""))
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
    return save(figure, path)


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
    figure = new_figure(f"Calibration, n = {_short(pixels.sum())} pixels")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    dress(upper, "", "share that is polyp")
    dress(lower, "predicted probability of polyp", "pixels")
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
    return save(figure, path)


def loss_curve(
    losses: Sequence[Sequence[float]],
    path: str | Path,
    loss: str = CARD_LOSS,
    validation: Sequence[Sequence[float]] = (),
) -> Figure:
    """The mean training loss by epoch, beside what the model card of the default recipe states of its loss.

    Args:
        losses: Pairs of epoch and loss.
        path: The PNG to write.
        loss: Which loss it is, as `UNetConfig` names it.
        validation: Epoch, loss and Dice per image of each validation; shown too, the Dice below, if there are any.

    Raises:
        ValueError: If there are no pairs.
    """
    if not losses:
        raise ValueError("There are no training losses to show; leave the picture out.")
    epochs, values = zip(*losses, strict=True)
    number, name = _number(epochs[-1], "epoch"), LOSSES[loss].short_name
    line: dict[str, Any] = {"linewidth": 2.4, "markersize": 5}
    if validation:
        figure = new_figure(f"Loss and validation Dice, n = {number}", (SIZE[0], 1.4 * SIZE[1]))
        axes, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 2)})
        dress(axes, "", f"loss ({name})")
        axes.tick_params(labelbottom=False)
    else:
        figure = new_figure(f"Training loss, n = {number}")
        axes = _axes(figure, "epoch", f"mean loss ({name})")
    axes.plot(epochs, values, color=BLUE, marker=_marker(values, "o"), label="this training", **line)
    if validation:
        _draw_validation(axes, lower, validation, line)
    if loss == CARD_LOSS:
        card: dict[str, Any] = {"color": VERMILLION, "linewidth": 1.4, "linestyle": "--", "marker": "s"}
        axes.plot(*zip(*CARD_LOSSES, strict=True), **card, markersize=7, label="origin's card, width 64")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    figure.align_ylabels()
    _legend(axes)
    return save(figure, path)


def robustness_curves(robustness: Robustness, path: str | Path, images: int) -> Figure:
    """Dice, and if it was measured the share of alarms, by strength: a chart for each change, from 0, no change, on.

    Args:
        robustness: The section of the results.
        path: The PNG to write.
        images: How many images the Dice is of, for the title.
    """
    plain, changes = robustness["plain"], robustness["changes"]
    rows = -(-len(changes) // 2)
    figure = new_figure(f"Robustness, n = {_number(images, 'image')}", (SIZE[0], 0.6 + 1.35 * rows))
    charts = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(charts.flat):
        axes.set_visible(place < len(changes))
    for change, axes in zip(changes, charts.flat, strict=False):
        dress(axes, "", "")
        axes.set_title(change["name"], loc="left", **letters(TICK))
        _draw_change(axes, [plain, *change["strengths"]])
    charts[0, 0].set(ylim=(0, 1.02), xlim=(0, max(len(change["strengths"]) for change in changes)))
    charts[0, 0].yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    charts[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel("strength of the change (0: none)", **letters(LABEL))
    lines = list(charts[0, 0].get_lines())
    labels = [str(line.get_label()) for line in lines]
    look: dict[str, Any] = {"ncols": len(lines), "frameon": False, "labelcolor": INK}
    figure.legend(lines, labels, loc="outside lower center", prop={"family": FONT, "size": TICK}, **look)
    return save(figure, path)


def _draw_change(axes: Axes, scores: Sequence[ChangedScores]) -> None:
    """Lines with their intervals over the strengths, the first of which is no change."""
    dice = [one["dice_per_image_native"] for one in scores]
    alarms = [one["alarm_share"] for one in scores if one["alarm_share"]]
    look = (("mean Dice", BLUE, "o", "-", dice), ("alarms", VERMILLION, "s", "--", alarms))
    for label, colour, marker, dashes, values in look:
        if not values:
            continue
        strengths = range(len(values))
        low, high = zip(*(value["ci95"] for value in values), strict=True)
        axes.fill_between(strengths, low, high, color=colour, alpha=0.2, linewidth=0)
        means = [value["value"] for value in values]
        axes.plot(strengths, means, color=colour, linestyle=dashes, marker=marker, markersize=4, label=label)


def _draw_validation(upper: Axes, lower: Axes, validation: Sequence[Sequence[float]], line: Mapping[str, Any]) -> None:
    """Draw the losses of the validations on the upper axes, their Dice, with the best, on the lower ones."""
    epochs, losses, dice = zip(*validation, strict=True)
    marker = _marker(losses, "^")
    upper.plot(epochs, losses, color=INK, marker=marker, linestyle=":", label="its validation", **line)
    dress(lower, "epoch", "validation Dice")
    lower.plot(epochs, dice, color=INK, marker=marker, linestyle=":", **line)
    best = int(np.argmax(dice))
    label = f"best: {dice[best]:.3f} after {_number(epochs[best], 'epoch')}"
    lower.plot(epochs[best], dice[best], color=VERMILLION, marker="D", markersize=7, linestyle="none", label=label)
    lower.set_ylim(0, 1.05)
    lower.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    _legend(lower)


def _marker(values: Sequence[float], marker: str) -> str | None:
    """Marks on a line of few values only."""
    return marker if len(values) < 30 else None


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


def _axes(figure: Figure, x_label: str, y_label: str) -> Axes:
    axes = figure.subplots()
    dress(axes, x_label, y_label)
    return axes


def _bars(axes: Axes, lefts: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> None:
    axes.bar(lefts, heights, width=widths, align="edge", color=PALE_BLUE, edgecolor=BLUE, linewidth=0.8)


def _legend(axes: Axes) -> None:
    """A line between title and axes, where it hides no data."""
    legend(
        axes,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        borderaxespad=0.2,
        borderpad=0.2,
        columnspacing=1.4,
        handlelength=1.8,
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
