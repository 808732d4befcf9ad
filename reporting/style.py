"""The one look of all figures, also of the benchmarks'.

A model card shows figures some 400 pixels wide, so lettering is large. Colours are those of Okabe and Ito, which can
be told apart with any colour blindness; lines differ in dashes or markers too. Everything is set explicitly: a user's
settings of matplotlib change nothing, and the same input gives the same bytes with the same matplotlib. Figures are
made without pyplot: nothing is kept, and threads do not disturb each other.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..common.files import atomic_file

BLUE, VERMILLION = "#0072B2", "#D55E00"  # of Okabe and Ito's palette
PALE_BLUE, INK, GREY, PALE_GREY = "#9CC9E3", "#222222", "#767676", "#E4E4E4"
SIZE, DOTS_PER_INCH = (5.0, 3.6), 150
FONT = "DejaVu Sans"  # comes with matplotlib, so it is the same everywhere
TITLE, LABEL, TICK = 12, 11, 10  # points


def new_figure(title: str, size: tuple[float, float] = SIZE, dots_per_inch: int = DOTS_PER_INCH) -> Figure:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=size, dpi=dots_per_inch, facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.02, horizontalalignment="left", fontweight="bold", **letters(TITLE))
    return figure


def letters(points: int) -> dict[str, Any]:
    """Arguments of a text of that size."""
    return {"fontfamily": FONT, "fontsize": points, "color": INK}


def dress(axes: Axes, x_label: str, y_label: str) -> None:
    """Label axes, and draw their ticks, grid and spines."""
    axes.set_facecolor("white")
    axes.set_xlabel(x_label, **letters(LABEL))
    axes.set_ylabel(y_label, **letters(LABEL))
    axes.tick_params(labelsize=TICK, labelfontfamily=FONT, labelcolor=INK, color=INK, length=3)
    axes.grid(True, color=PALE_GREY, linewidth=0.8, linestyle="-")
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=INK, linewidth=0.8)


def legend(axes: Axes, **placement: Any) -> None:
    """A legend, where `placement` says so."""
    axes.legend(frameon=False, labelcolor=INK, prop={"family": FONT, "size": TICK}, **placement)


def save(figure: Figure, path: str | Path) -> Figure:
    """Write a figure as PNG: RGB, and nothing but pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Not `savefig`: it writes matplotlib's version into the file, and a fourth channel.
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    with atomic_file(Path(path)) as file:
        picture.save(file, format="PNG", optimize=True)
    return figure
