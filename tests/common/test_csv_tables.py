"""Tables whose names of files are no formulas to a spreadsheet."""

import csv
from pathlib import PurePosixPath

import pytest
from unet_kvasir_seg.common.csv_tables import open_table, write_row

FORMULAS = (
    "=1+1.png",
    "+1+1.png",
    "-2+3.png",
    "@SUM(A1).png",
    "=HYPERLINK(0)/x.png",
    " =1+1.png",
    "\t=1+1.png",
    "\n=1+1.png",
    "\x01=1+1.png",
    "\t1.png",
    "＝1+1.png",  # noqa: RUF001
    "－1.png",  # noqa: RUF001
)


def rows_of(path, *rows):
    """Write a table; returns its text, and its rows as a program reads them."""
    with open_table(path) as table:
        for row in rows:
            write_row(table, row)
    text = path.read_bytes().decode(errors="surrogateescape")
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return text, list(csv.reader(file))


@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_is_no_formula_and_stays_the_same_path(tmp_path, name):
    _, [[cell, other]] = rows_of(tmp_path / "table.csv", [name, 1])
    assert cell == f"./{name}"
    assert PurePosixPath(cell) == PurePosixPath(name)
    assert other == "1"


def test_other_cells_are_as_they_are(tmp_path):
    cells = ["a=b.png", "case 1/ä.png", "x,y.png", 'say "a".png', "./x.png", "-1.5", "+3", "-inf", -0.25, "", 7]
    text, [found] = rows_of(tmp_path / "table.csv", cells)
    assert found == [str(cell) for cell in cells]
    assert text.startswith('a=b.png,case 1/ä.png,"x,y.png","say ""a"".png",./x.png,-1.5,')


@pytest.mark.parametrize("name", ["a;=1+1.png", "a\t=1+1.png", "a|=1+1.png"])
def test_where_a_comma_is_the_decimal_sign_no_name_begins_a_cell_within(tmp_path, name):
    text, [found] = rows_of(tmp_path / "table.csv", [name, 5])
    assert found == [name, "5"]
    assert text == f'"{name}","5"\r\n'


def test_names_with_bytes_that_are_not_utf_8_are_written_as_they_are(tmp_path):
    rows_of(tmp_path / "table.csv", ["\udcff.png"])
    assert (tmp_path / "table.csv").read_bytes() == b"\xff.png\r\n"


def test_a_table_that_fails_is_not_there(tmp_path):
    with pytest.raises(TypeError), open_table(tmp_path / "table.csv") as table:
        table.write(b"no text")
    assert list(tmp_path.iterdir()) == []
