"""What all formats are given, and what they have in common."""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import UserError
from .frames import AnnotatedFrame

# Unicode's categories of control characters, of bytes that are not UTF-8, and of breaks.
NOT_TEXT = ("Cc", "Cs", "Zl", "Zp")
NO_XML = "\ufffe\uffff"


@dataclass
class Options:
    """How to write annotations, and what became of them.

    Attributes:
        folder: Where the files will lie.
        label: Name of the label.
        masks: Whether to write masks in place of polygons.
        model: Names the model, for tools that show it.
        filled: Number of holes that the file does not have, since its polygons cannot.
        as_masks: Number of regions that were written as masks, since they have holes.
    """

    folder: Path
    label: str
    masks: bool = False
    model: str = "unet-kvasir-seg"
    filled: int = field(default=0, init=False)
    as_masks: int = field(default=0, init=False)


def to_json(value: Any) -> str:
    """JSON in ASCII, which also holds names that are not UTF-8."""
    return json.dumps(value, separators=(",", ":"))


def separated(items: Iterator[str], separator: str = ",\n") -> Iterator[str]:
    """Items with a separator between them."""
    for number, item in enumerate(items):
        yield f"{separator if number else ''}{item}"


def rounded(outline: np.ndarray, decimals: int = 2) -> list[list[float]]:
    """The points of an outline as lists [x, y]."""
    return outline.round(decimals).tolist()


def text_name(frame: AnnotatedFrame, kind: str) -> str:
    """An image's name, for files that are text.

    Args:
        frame: The image.
        kind: Of the files, for the error.

    Raises:
        UserError: If it has line breaks, other control characters, or bytes that are not UTF-8.
    """
    if any(unicodedata.category(character) in NOT_TEXT or character in NO_XML for character in frame.name):
        raise UserError(
            f"The image {frame.name} cannot be named in {kind}: expected UTF-8 without line breaks and other control "
            "characters. Rename it, remove its mask and run again; or choose --annotations coco, which takes any name."
        )
    return frame.name
