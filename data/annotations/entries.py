"""What an annotations file of any format says: images with their regions; and what is wrong with its entries."""

import codecs
import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...common.errors import counted, first_line, printable
from ...common.files import read_file
from ..problems import refuse
from ..samples import DatasetError
from .images import ImageFinder
from .shapes import EntryError, Shape, Size

NO_LABEL = "(none)"  # of regions that have none
LISTED = 20  # problems in one message

Value = TypeVar("Value")


@dataclass(frozen=True)
class Region:
    """A region of an image.

    Attributes:
        entry: What to call it in a message, such as "annotation 17".
        labels: At least one.
        shape: As it was drawn; None: it is no region, but a box, a line or a point around or in one.
        kind: What the program calls it, such as "polygon".
        has_score: It has the score of a model, also if someone has corrected it since.
    """

    entry: str
    labels: Sequence[str]
    shape: Shape | None
    kind: str
    has_score: bool = False


@dataclass
class Frame:
    """An image with what was drawn on it.

    Attributes:
        file: The annotations file that lists it.
        entry: What to call it in a message, such as "image 17".
        image: Its name or path in that file, or its file.
        size: Width and height as the annotations say them; None: they do not.
        regions: In no order.
        split: "train", "validation" or "test"; "" if the annotations do not say it.
        content: Its encoded bytes, where the annotations hold the image.
        bytes_there: Size of its file as the annotations say it, in bytes.
        is_annotated: It was looked at, even if it has no region.
        unfinished: Why it is no sample, also with --unlabelled negative, such as "skipped"; "" if it may be one.
    """

    file: Path
    entry: str
    image: str | Path
    size: Size | None
    regions: list[Region] = field(default_factory=list)
    split: str = ""
    content: bytes | None = None
    bytes_there: int | None = None
    is_annotated: bool = False
    unfinished: str = ""


@dataclass
class Reading:
    """What is gathered while a data set's annotations are read.

    Attributes:
        finder: Of the images.
        declared: Labels that the files declare, whether or not a region has one.
    """

    finder: ImageFinder
    declared: set[str] = field(default_factory=set)
    _notes: Counter[tuple[str, str]] = field(default_factory=Counter)
    _problems: list[tuple[Path, str]] = field(default_factory=list)

    @contextlib.contextmanager
    def noting(self, file: Path, entry: str) -> Iterator[None]:
        """Note an `EntryError` of the block as a problem of an entry, and go on after the block."""
        try:
            yield
        except EntryError as error:
            self.add_problem(file, f"{entry} {error}.")

    def add_problem(self, file: Path, text: str) -> None:
        """Note what is wrong with a file, as a sentence that begins with the entry."""
        self._problems.append((file, printable(text)))

    def note(self, noun: str, what: str, count: int = 1) -> None:
        """Count what is worth a line, as the noun "task" with "that predictions of a model are of"."""
        self._notes[noun, what] += count

    def notes(self) -> list[str]:
        """What was counted, as "2 tasks that predictions of a model are of"."""
        return [f"{counted(count, noun)} {what}" for (noun, what), count in self._notes.items() if count]

    def forget(self, file: Path) -> None:
        """Drop the problems of a file that is not of the data set."""
        self._problems = [problem for problem in self._problems if problem[0] != file]

    def refuse_problems(self) -> None:
        """Raise what is wrong with the entries or, within `problems.noting`, note each.

        Raises:
            DatasetError: If anything is.
        """
        if not self._problems:
            return
        texts = [f"{file}: {text}" for file, text in self._problems]
        error = DatasetError(texts[0])
        if len(texts) > 1:
            first = ", the first of them" if len(texts) > LISTED else ""
            error = DatasetError(
                f"{len(texts)} problems of the annotations were found before the work{first}; --check_data lists "
                "all that there are:",
                texts[:LISTED],
            )
        for file, text in self._problems:
            refuse(error, file, each=text)


def read_content(file: Path) -> bytes:
    """The bytes of an annotations file.

    Raises:
        DatasetError: If it cannot be read.
    """
    try:
        return read_file(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read: {first_line(error)}.") from error


def read_text(file: Path) -> bytes:
    """A text file in UTF-8; one of UTF-16, as PowerShell of Windows writes, is recoded, without XML's declaration.

    Raises:
        DatasetError: If it cannot be read.
    """
    content = read_content(file)
    if not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content
    try:
        return re.sub(rb"^<\?xml[^>]*\?>", b"", content.decode("utf-16").encode())
    except UnicodeError as error:
        raise DatasetError(f"{file} is damaged: {first_line(error)}. Export it anew.") from error


def parse_json(content: bytes) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: If it is none.
    """
    try:
        return json.loads(content.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("is nested too deep") from error


def value_of(entry: Mapping[str, Any], name: str, kind: type[Value], wanted: str) -> Value:
    """A field of an entry.

    Args:
        entry: The entry.
        name: Of the field.
        kind: Type that it has to have.
        wanted: What that is, for a message, such as "a list of points".

    Raises:
        EntryError: If it is missing or of another type.
    """
    value = entry.get(name)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise EntryError(f"has {shown(value)} as its {name}: expected {wanted}")
    return value


def mapping_of(value: Any) -> Mapping[str, Any]:
    """An entry, which has to have named fields.

    Raises:
        EntryError: If it is none.
    """
    if not isinstance(value, Mapping):
        raise EntryError(f"is {shown(value)}: expected an object with named fields")
    return value


def number_of(entry: Mapping[str, Any], name: str) -> float:
    """A number, also one that is written as text.

    Raises:
        EntryError: If it is missing or none.
    """
    return _number(entry.get(name), name)


def numbers_of(values: Sequence[Any], name: str) -> list[float]:
    """Numbers, as `number_of` reads them."""
    if set(map(type, values)) == {float} and np.isfinite(values).all():  # millions of them in a large file
        return list(values)
    return [_number(value, name) for value in values]


def _number(value: Any, name: str) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise EntryError(f"has {shown(value)} as its {name}: expected a number") from None
    if not np.isfinite(number):
        raise EntryError(f"has {value} as its {name}: expected a finite number")
    return number


def whole_number_of(entry: Mapping[str, Any], name: str) -> int:
    """A whole number.

    Raises:
        EntryError: If it is missing or none.
    """
    value = number_of(entry, name)
    if value != round(value):
        raise EntryError(f"has {value:g} as its {name}: expected a whole number")
    return round(value)


def size_of(entry: Mapping[str, Any], width: str, height: str) -> Size | None:
    """The size that an entry says its image has; None if it says none, or 0x0 as programs do that do not know it.

    Args:
        entry: The entry.
        width, height: Names of its fields.

    Raises:
        EntryError: If it is no size.
    """
    if entry.get(width) is None and entry.get(height) is None:
        return None
    size = whole_number_of(entry, width), whole_number_of(entry, height)
    return None if size == (0, 0) else size


def points_of(value: Any) -> np.ndarray:
    """The points of a polygon, [[x, y], ...], as (N, 2) float.

    Raises:
        EntryError: If they are none.
    """
    pairs = value if isinstance(value, list) else None
    if not pairs or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise EntryError(f"has {shown(value)} as its points: expected a list of pairs of numbers")
    return np.array([numbers_of(pair, "points") for pair in pairs])


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
