"""What a screening tries: a recipe, single changes to it, and rounds of rising budget."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from unet_kvasir_seg.common.command_line import unknown
from unet_kvasir_seg.common.errors import UserError

Flags = dict[str, Any]


@dataclass(frozen=True)
class Round:
    """One budget.

    Attributes:
        name: Shown in the table.
        flags: Of `train.py`, the same for all of its runs.
        seeds: Each candidate is trained with each.
        keep: How many candidates go on to the next round.
    """

    name: str
    flags: Flags
    seeds: list[int]
    keep: int


@dataclass(frozen=True)
class Plan:
    """A screening by successive halving (Jamieson and Talwalkar, 2016, https://arxiv.org/abs/1502.07943).

    Attributes:
        recipe: Flags that all begin with.
        rounds: In order.
        candidates: What each changes, by name.
    """

    recipe: Flags
    rounds: list[Round]
    candidates: dict[str, Flags]

    def flags_of(self, candidate: str, part: Round, seed: int) -> Flags:
        """All flags of one training, but the data set and the folder."""
        flags = {**self.recipe, **part.flags, **self.candidates[candidate], "seed": seed}
        return {name: value for name, value in flags.items() if name not in ("dataset_name", "output_dir")}


def slug(name: str) -> str:
    """A name as a folder: letters and digits, joined by hyphens."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).split())


def read_plan(file: Path, root: Path, known_flags: Collection[str]) -> Plan:
    """Read a YAML file with `recipe` (a file, seen from `root`), `rounds` and `candidates`.

    Args:
        file, root: Where.
        known_flags: Those of `train.py`.

    Raises:
        UserError: If it cannot be read, does not have this form, or names an unknown flag.
    """
    found = _read_yaml(file)
    try:
        plan = Plan(
            recipe=_read_yaml(root / found["recipe"]),
            rounds=[Round(**part) for part in found["rounds"]],
            candidates={str(name): dict(flags) for name, flags in found["candidates"].items()},
        )
    except KeyError as error:
        raise UserError(f"{file} lacks {error}: expected recipe, rounds and candidates.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{file} does not have the form of a plan ({error}): each round has name, flags, seeds and keep, each "
            "candidate its flags; {} where there are none."
        ) from error
    for part in plan.rounds:
        if not (isinstance(part.flags, dict) and _is_count(part.keep) and _are_seeds(part.seeds)):
            raise UserError(
                f"{file}: round {part.name!r} needs `flags`, {{}} where there are none, `keep` of at least 1, and "
                f"`seeds` that differ, as [1, 2]; got {part.flags!r}, {part.keep!r} and {part.seeds!r}."
            )
    folders = [slug(name) for name in plan.candidates]
    if not plan.rounds or not all(folders) or len(set(folders)) != len(folders) or not folders:
        raise UserError(f"{file} needs a round, and candidates whose names differ in letters or digits.")
    for name, flags in [(part.name, part.flags) for part in plan.rounds] + [*plan.candidates.items()]:
        for flag in flags:
            if flag not in known_flags:
                raise UserError(f"{file}: {name!r} has an " + unknown("flag", str(flag), known_flags))
    return plan


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_seeds(value: object) -> bool:
    return (
        isinstance(value, list) and all(isinstance(seed, int) for seed in value) and 0 < len(set(value)) == len(value)
    )


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold `key: value` lines, got {type(content).__name__}.")
    return content
