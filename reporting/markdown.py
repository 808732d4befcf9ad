"""Tables in Markdown and for the terminal, and how the figures in them are written."""

import math
from collections.abc import Iterable, Sequence

from .results import Score

# Digits after the point; three for the others.
DIGITS = {"hd95": 1, "mae": 4, "ece": 4}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return table_rows([header, ["---"] * len(header), *rows])


def table_rows(rows: Iterable[Sequence[str]]) -> str:
    """Rows of a Markdown table, without its header."""
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def text_table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows of a table, the header among them, as lines for the terminal, each column as wide as its widest cell."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return [f"  {line}".rstrip() for line in padded]


def interval(score: Score | None, name: str = "") -> str:
    """Value and 95 % interval: "0.712 [0.689, 0.735]"; "-" without a score.

    Args:
        score: With its interval.
        name: Of the score, which decides the number of digits.
    """
    if not score:
        return "-"
    low, high = (number(bound, name) for bound in score["ci95"])
    return f"{number(score['value'], name)} [{low}, {high}]"


def number(value: float, name: str = "") -> str:
    """A value with the digits of the score `name`."""
    return f"{value:.{DIGITS.get(name, 3)}f}" if math.isfinite(value) else "not finite"


def percent(share: float) -> str:
    """A share as "12.3 %"."""
    return f"{100 * share:.3g} %"


def width_x_height(image_size: Sequence[int] | None) -> str:
    """A size (height, width) as "width x height", which is how the Hub and cameras state it."""
    return f"{image_size[1]}x{image_size[0]}" if image_size else ""
