"""Checks what a JSON file holds against the types that the code declares for it.

Not `huggingface_hub.dataclasses.validate_typed_dict`: it refuses a TypedDict within a TypedDict ("does not support
instance and class checks"), and versions before October 2025 do not have it.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union


@dataclass(frozen=True)
class Schema:
    """The type of a JSON file.

    Attributes:
        root: Type of the whole file: a TypedDict, `dict[str, ...]`, `list[...]`, `Annotated[list[...], length]`, a
            union, a Literal, Any, or a class.
        further: Optional fields, with their types, that a TypedDict within it has besides those that it declares.
    """

    root: Any
    further: Mapping[Any, Mapping[str, Any]] = field(default_factory=dict)

    def check(self, content: Any) -> None:
        """Check the content of a file.

        Raises:
            ValueError: If a type differs, or a field is unknown or missing. The message names the field, as in
                "training.epochs", and says what was expected.
        """
        self._check(content, self.root, "")

    def _check(self, value: Any, hint: Any, place: str) -> None:
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if typing.is_typeddict(hint):
            self._check_fields(value, hint, place)
        elif origin is list:
            _check_class(value, list, place)
            for index, item in enumerate(value):
                self._check(item, inner[0], f"{place}[{index}]")
        elif origin is dict:
            _check_class(value, dict, place)
            for name, item in value.items():
                self._check(item, inner[1], _join(place, name))
        elif origin is typing.Annotated:  # a list and its length
            self._check(value, inner[0], place)
            if len(value) != inner[1]:
                raise ValueError(f"{place} has {len(value)} entries; expected {inner[1]}")
        elif origin in (Union, types.UnionType):
            self._check_union(value, hint, place)
        elif origin is typing.Literal:
            if value not in inner:
                raise _misfit(place, value, hint)
        elif hint is not Any:
            _check_class(value, hint, place)

    def _check_fields(self, value: Any, hint: Any, place: str) -> None:
        _check_class(value, dict, place)
        hints = {**typing.get_type_hints(hint, include_extras=True), **self.further.get(hint, {})}
        for name in value:
            if name not in hints:
                raise ValueError(f"{_join(place, name)} is unknown; expected one of {', '.join(hints)}")
        for name, kind in hints.items():
            if name in value:
                self._check(value[name], kind, _join(place, name))
            elif name in hint.__required_keys__:
                raise ValueError(f"{_join(place, name)} is missing; expected {_name(kind)}")

    def _check_union(self, value: Any, hint: Any, place: str) -> None:
        choices = [choice for choice in typing.get_args(hint) if choice is not types.NoneType]
        is_optional = len(choices) < len(typing.get_args(hint))
        if value is None and is_optional:
            return
        if len(choices) == 1:  # so that the message names a field within
            self._check(value, choices[0], place)
            return
        for choice in choices:
            try:
                self._check(value, choice, place)
                return
            except ValueError:
                continue
        raise _misfit(place, value, hint)


def _check_class(value: Any, kind: type, place: str) -> None:
    # JSON may write 1.0 as 1. To Python, True is an int too.
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind in (int, float)):
        raise _misfit(place, value, kind)


def _misfit(place: str, value: Any, hint: Any) -> ValueError:
    text = repr(value)
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    return ValueError(f"{place or 'the file'} is {shown}; expected {_name(hint)}")


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _name(hint: Any) -> str:
    """What a message calls a type."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(choice) for choice in typing.get_args(hint))
    if typing.is_typeddict(hint) or hint is dict:
        return "an object"
    if hint is types.NoneType:
        return "null"
    return hint.__name__ if hint in (bool, int, float, str, list) else str(hint)
