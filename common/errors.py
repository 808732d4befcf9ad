"""Errors for users: one line that says what was got, what was expected and the remedy."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence

from tqdm.auto import tqdm


class UserError(ValueError):
    """A user's mistake: the message says what was got, what was expected and the remedy."""


@contextlib.contextmanager
def user_errors(program: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn a `UserError`, or an error of `kinds`, into one line on stderr and exit status 2."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (UserError, *kinds)):
            raise
        # A data loader's worker puts its traceback before the message; the user gets the message alone.
        message = str(error).rsplit(f"{type(error).__name__}: ", maxsplit=1)[-1].strip()
        tqdm.write(f"{program}: error: {message}", file=sys.stderr)  # on a line of its own, beside progress bars
        sys.exit(2)


def require_extra(extra: str, *modules: str) -> None:
    """Check that the packages of an optional extra are installed.

    Raises:
        UserError: If one is missing; the message says how to install it.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(f'{", ".join(missing)} {verb} not installed; this needs pip install -e ".[{extra}]".')


def first_line(error: Exception) -> str:
    """The first line of an error's message without its full stop; its type where it has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are: "a, b and 7 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
