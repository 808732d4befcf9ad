"""The pictures of a benchmark: the contestants, and how time and memory grow. Each function writes one PNG."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from unet_kvasir_seg.benchmarks.measurement import Measurement
from unet_kvasir_seg.reporting.style import BLUE, LABEL, SIZE, VERMILLION, dress, legend, letters, new_figure, save

OURS = "this project"  # how names of this project's contestants begin
MARKS = ((BLUE, "o"), (VERMILLION, "s"))
UNITS = {
    "image size": "side of the image, pixels",
    "batch": "images of a call",
    "width": "channels of the first level",
}


def draw_contest(measurements: Sequence[Measurement], path: Path) -> Figure:
    """Time of an image by contestant: median and quartiles, a panel for each part.

    Args:
        measurements: Of one device.
        path: The PNG to write.
    """
    parts = list(dict.fromkeys(one.part for one in measurements))
    most = max(sum(one.part == part for one in measurements) for part in parts)
    figure = new_figure("Time by contestant", (len(parts) * 5.6, 1.8 + 0.3 * most))
    for axes, part in zip(_panels(figure, 1, len(parts)), parts, strict=True):
        chosen = [one for one in measurements if one.part == part][::-1]
        dress(axes, "ms an image (log scale)", "")
        axes.set_title(part, **letters(LABEL))
        for colour, marker, is_ours in ((*MARKS[0], True), (*MARKS[1], False)):
            places = [place for place, one in enumerate(chosen) if one.name.startswith(OURS) == is_ours]
            quartiles = np.array(
                [1000 * np.percentile(chosen[place].seconds, [25, 50, 75]) / chosen[place].images for place in places]
            ).reshape(-1, 3)
            middle, error = quartiles[:, 1], np.abs(quartiles[:, [0, 2]] - quartiles[:, [1]]).T
            axes.errorbar(middle, places, xerr=error, fmt=marker, color=colour, capsize=3, markersize=6)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(range(len(chosen)), [one.name for one in chosen])
    return save(figure, path)


def draw_growth(measurements: Sequence[Measurement], path: Path) -> Figure:
    """Time above and peak memory below, by image size, batch and width.

    Args:
        measurements: Of one device, all with an axis and a value.
        path: The PNG to write.
    """
    axes_names = [axis for axis in UNITS if any(one.axis == axis for one in measurements)]
    figure = new_figure("Time and memory of a call", (len(axes_names) * 4.2, 6.6))
    panels = iter(_panels(figure, 2, len(axes_names)))
    for label, height in (("seconds (log scale)", _seconds), ("peak memory, GB (log scale)", _gigabytes)):
        for axis in axes_names:
            _lines(next(panels), [one for one in measurements if one.axis == axis], UNITS[axis], label, height)
    return save(figure, path)


def draw_loading(measurements: Sequence[Measurement], path: Path) -> Figure:
    """Images per second by the data loader's workers.

    Args:
        measurements: Of data loading, the value being the number of workers.
        path: The PNG to write.
    """
    figure = new_figure("Data loading", SIZE)
    (axes,) = _panels(figure, 1, 1)
    dress(axes, "worker processes", "images/s")
    workers = [one.value for one in measurements]
    colour, marker = MARKS[0]
    axes.plot(workers, [one.images / one.median for one in measurements], color=colour, marker=marker, linewidth=2.4)
    axes.xaxis.set_major_locator(FixedLocator(workers))
    axes.set_ylim(bottom=0)
    return save(figure, path)


def _lines(
    axes: Axes,
    measurements: Sequence[Measurement],
    x_label: str,
    y_label: str,
    height: Callable[[Measurement], float | None],
) -> None:
    """A line for each part, over the values of one axis."""
    dress(axes, f"{x_label} (log scale)", y_label)
    for (colour, marker), part in zip(MARKS, dict.fromkeys(one.part for one in measurements), strict=False):
        points = [(one.value, height(one)) for one in measurements if one.part == part]
        known = [(value, number) for value, number in points if number is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour, marker=marker, linewidth=2.4, label=part)
            legend(axes)
    values = sorted({one.value for one in measurements if one.value is not None})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _seconds(one: Measurement) -> float:
    return one.median


def _gigabytes(one: Measurement) -> float | None:
    return None if one.peak_bytes is None else one.peak_bytes / 1e9


def _panels(figure: Figure, rows: int, columns: int) -> list[Axes]:
    return list(np.asarray(figure.subplots(rows, columns)).flat)
