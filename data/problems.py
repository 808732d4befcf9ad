"""Problems of a data set: the first one ends a run, but where all of it is checked, each is noted.

refuse(DatasetError("... is a link to what is not there. Remove it."), file)  # raises
with noting() as problems:
    refuse(DatasetError("..."), file)  # notes it and returns, so that the caller goes on without that file
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from .samples import DatasetError


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file.

    Attributes:
        file: Its path or, where it has none, "row 7".
        text: What was found, what is expected, and the remedy.
        split: The split that it is of; "" if it is not known.
    """

    file: str
    text: str
    split: str = ""


# Noted problems, each once; None: problems are raised.
_noted: ContextVar[dict[Problem, None] | None] = ContextVar("noted", default=None)


@contextlib.contextmanager
def noting() -> Iterator[dict[Problem, None]]:
    """Note problems within the block in place of raising them; yields them as keys, in the order of being found."""
    problems: dict[Problem, None] = {}
    token = _noted.set(problems)
    try:
        yield problems
    finally:
        _noted.reset(token)


def refuse(error: DatasetError, *files: object, each: str | None = None, split: str = "") -> None:
    """Raise an error or, within `noting`, note it as a problem of each file and return.

    Args:
        error: The message says what was got, what is expected and the remedy.
        files: That it is about.
        each: What is noted of each of them; None: the error's message.
        split: That they are of; "" if it is not known.

    Raises:
        DatasetError: The error.
    """
    problems = _noted.get()
    if problems is None:
        raise error
    problems |= {Problem(str(file), each or str(error), split): None for file in files}
