"""What the commands share: flags from dataclasses, and help and errors that a stranger understands."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import HfArgumentParser

from .runtime import UserError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the lines of the description as they are."""


class FlagParser(HfArgumentParser):
    """Flags from the fields of dataclasses, whole names only.

    Args:
        kinds: The dataclasses.
        program: Name of the command.
        description: Shown above the flags; its lines are kept.
        usage: Shown in place of the list of all flags.
    """

    def __init__(
        self, kinds: Sequence[type], *, program: str, description: str | None, usage: str = "%(prog)s [flags]"
    ):
        super().__init__(
            list(kinds),  # type: ignore[arg-type]
            prog=program,
            description=description,
            formatter_class=HelpFormatter,
            usage=usage,
            allow_abbrev=False,
        )

    @property
    def names(self) -> set[str]:
        """Names of the flags, without their dashes."""
        return {action.dest for action in self._actions}

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """One instance of each dataclass.

        Raises:
            UserError: For unknown flags and for values that do not fit.
        """
        try:
            *parsed, rest = self.parse_args_into_dataclasses(list(argv), return_remaining_strings=True)
        except ValueError as error:
            raise UserError(str(error)) from error
        if rest:
            raise UserError(unknown("flag", rest[0], [f"--{name}" for name in self.names]))
        return tuple(parsed)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A message that names what is near an unknown name."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"unknown {kind} {name!r}" + (f"; near it are {', '.join(near)}." if near else "; see --help.")
