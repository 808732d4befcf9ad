"""What the commands share: flags from dataclasses, and help and errors that a stranger understands."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import HfArgumentParser

from .errors import UserError

YES_OR_NO = ("true", "false", "yes", "no")


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
            raise self._unknown_flag(rest[0])
        return tuple(parsed)

    def separate(self, argv: Sequence[str]) -> tuple[list[str], list[str]]:
        """Tell flags with their values from the arguments that may stand before, between and after them.

        After "--" there are only arguments, so that they may begin with a dash. A flag that is on or off takes the
        word that follows it only if that is one for yes or no.

        Raises:
            UserError: For unknown flags: nobody knows whether a value follows.
        """
        flags: list[str] = []
        arguments: list[str] = []
        words = list(argv)
        while words:
            word = words.pop(0)
            if word == "--":
                return flags, arguments + words
            if not word.startswith("-") or word == "-":
                arguments.append(word)
                continue
            flags.append(word)
            action = self._option_string_actions.get(word.split("=")[0])
            if action is None:
                raise self._unknown_flag(word)
            takes_value = action.nargs is None or (action.nargs == "?" and words[:1] and words[0].lower() in YES_OR_NO)
            if takes_value and "=" not in word and words:
                flags.append(words.pop(0))
        return flags, arguments

    def _unknown_flag(self, flag: str) -> UserError:
        return UserError(unknown("flag", flag, [f"--{name}" for name in self.names]))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A message that names what is near an unknown name."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"unknown {kind} {name!r}" + (f"; near it are {', '.join(near)}." if near else "; see --help.")
