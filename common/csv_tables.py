"""CSV tables with names of files in them, of which a spreadsheet runs none as a formula."""

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from .files import atomic_file

# How a cell begins that a spreadsheet takes for a formula, also after white space, and in Japanese full-width letters.
FORMULA = re.compile(r"[\s\x00-\x1f]*[=+\-@＝＋－＠]|[\t\r\n]")  # noqa: RUF001
# Where a comma is the decimal sign, spreadsheets take these for the ends of cells that are not in quotes.
OTHER_SEPARATORS = re.compile(r"[;\t|]")


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[TextIO]:
    """A CSV file to write, atomically; names of files may hold bytes that are not UTF-8."""
    with (
        atomic_file(path) as file,
        io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="") as text,
    ):
        yield text


def write_row(table: TextIO, cells: Sequence[Any], line_end: str = "\r\n") -> None:
    """Write one row. A name that a spreadsheet would take for a formula gets "./" in front: it is the same path."""
    texts = [_as_text(cell) for cell in cells]
    needs_quotes = any(map(OTHER_SEPARATORS.search, texts))
    writer = csv.writer(table, quoting=csv.QUOTE_ALL if needs_quotes else csv.QUOTE_MINIMAL, lineterminator=line_end)
    writer.writerow(texts)


def _as_text(cell: Any) -> str:
    text = str(cell)
    return f"./{text}" if FORMULA.match(text) and not is_number(text) else text


def is_number(text: str) -> bool:
    """Whether a text is a number as Python writes it, "nan" and "inf" included."""
    try:
        float(text)
    except ValueError:
        return False
    return True
