"""Errors for users: one line that says what was got, what was expected and the remedy."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence

from .interruptions import interruptions, say
from .paths import PACKAGE


class UserError(ValueError):
    """A user's mistake: the message says what was got, what was expected and the remedy.

    Args:
        message: One line.
        details: Further lines, as a list of what is wrong.
    """

    def __init__(self, message: str = "", details: Sequence[str] = ()):
        self.details = [printable(detail) for detail in details]
        super().__init__("\n  ".join([message, *self.details]))


@contextlib.contextmanager
def user_errors(program: str, *kinds: type[Exception], kept: str = "Nothing was lost.") -> Iterator[None]:
    """Turn a `UserError`, or an error of `kinds`, into a line on stderr, its details below, and exit status 2.

    Args:
        program: Name of the command.
        *kinds: Further errors that are a user's mistakes.
        kept: As for `interruptions`, which end the block with a line too.
    """
    try:
        with interruptions(program, kept):
            yield
    except Exception as error:
        if not isinstance(error, (UserError, *kinds)):
            raise
        # A data loader's worker puts its traceback before the message; the user gets the message alone.
        message = str(error).rsplit(f"{type(error).__name__}: ", maxsplit=1)[-1].strip()
        details = error.details if isinstance(error, UserError) else []
        message = printable(message.removesuffix("\n  ".join(["", *details])))
        say("\n  ".join([f"{program}: error: {message}", *details]))
        sys.exit(2)


def require_extra(extra: str, *modules: str) -> None:
    """Check that the packages of an optional extra are installed.

    Raises:
        UserError: If one is missing; the message says how to install it.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(f"{', '.join(missing)} {verb} not installed; this needs {install_command(extra)}.")


def install_command(extra: str) -> str:
    """How to add an optional extra to this installation: in a clone's folder, or, of a wheel, anywhere."""
    is_clone = (PACKAGE / "pyproject.toml").is_file()
    return f'pip install -e ".[{extra}]" in {PACKAGE}' if is_clone else f'pip install "unet-kvasir-seg[{extra}]"'


def printable(text: str) -> str:
    """Escape what a terminal would act on or not show, such as escapes, line breaks and bytes that are not UTF-8.

    Names of files, and what a model's files say, may hold it.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def describe_error(error: Exception) -> str:
    """An error of any kind in one line, with its type unless that is `ValueError`, whose messages are for users."""
    if isinstance(error, ValueError) or not str(error):
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: Exception) -> str:
    """The first line of an error's message without its full stop; its type where it has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 image", "2 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, printable, and how many more there are: "a, b and 7 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more
