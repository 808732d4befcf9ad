"""The plan of a screening: a recipe, single changes to it, and rounds of rising budget."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from unet_kvasir_seg.common.command_line import unknown
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.training.arguments import flag_values

Flags = dict[str, Any]  # of train.py; fields of the network among them


@dataclass(frozen=True)
class Round:
    """One budget.

    Attributes:
        name: Shown in the table.
        flags: Of `train.py`, for all runs of the round.
        seeds: Each candidate is trained once with each seed.
        keep: How many candidates, the best ones, go on to the next round.
    """

    name: str
    flags: Flags
    seeds: list[int]
    keep: int


@dataclass(frozen=True)
class Plan:
    """A screening by successive halving (Jamieson and Talwalkar, 2016, https://arxiv.org/abs/1502.07943).

    Attributes:
        recipe: Flags of all runs, unless a round or a candidate overrides them.
        rounds: In order.
        candidates: The flags that each candidate changes, by its name.
    """

    recipe: Flags
    rounds: list[Round]
    candidates: dict[str, Flags]

    def flags_of(self, candidate: str, part: Round, seed: int) -> Flags:
        """All flags of one training, except data set and output folder."""
        flags = {**self.recipe, **part.flags, **self.candidates[candidate], "seed": seed}
        return {name: value for name, value in flags.items() if name not in ("dataset_name", "output_dir")}


def slug(name: str) -> str:
    """A name that can be a folder's: its letters and digits, joined by hyphens."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).split())


def read_plan(file: Path, root: Path, known_flags: Collection[str]) -> Plan:
    """Read a YAML file with `recipe`, `rounds` and `candidates`.

    Args:
        file: The plan.
        root: Folder that the path of the recipe is relative to.
        known_flags: The flags of `train.py`.

    Raises:
        UserError: If it cannot be read, does not have this form, or names an unknown flag.
    """
    found = read_yaml(file)
    try:
        recipe_file = root / found["recipe"]
        rounds = [Round(**part) for part in found["rounds"]]
        candidates = {str(name): dict(flags) for name, flags in found["candidates"].items()}
    except KeyError as error:
        raise UserError(f"{file} lacks {error}: expected recipe, rounds and candidates.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{file} does not have the form of a plan ({error}): each round has name, flags, seeds and keep, each "
            "candidate its flags; {} where there are none."
        ) from error
    for part in rounds:
        if not (isinstance(part.flags, dict) and _is_count(part.keep) and _are_seeds(part.seeds)):
            raise UserError(
                f"{file}: round {part.name!r} needs `flags`, {{}} where there are none, `keep` of at least 1, and "
                f"`seeds` that differ, as [1, 2]; got {part.flags!r}, {part.keep!r} and {part.seeds!r}."
            )
    folders = [slug(name) for name in candidates]
    if not rounds or not all(folders) or len(set(folders)) != len(folders) or not folders:
        raise UserError(f"{file} needs a round, and candidates whose names differ in letters or digits.")
    return Plan(
        recipe=flag_values(read_yaml(recipe_file), str(recipe_file)),
        rounds=[replace(part, flags=_checked(part.flags, part.name, file, known_flags)) for part in rounds],
        candidates={name: _checked(flags, name, file, known_flags) for name, flags in candidates.items()},
    )


def _checked(flags: Flags, name: str, file: Path, known_flags: Collection[str]) -> Flags:
    """The flags of a round or a candidate, those of its mapping `model` beside the others."""
    checked = flag_values(flags, f"{file}: {name!r}")
    for flag in checked:
        if flag not in known_flags:
            raise UserError(f"{file}: {name!r} has an " + unknown("flag", str(flag), known_flags))
    return checked


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_seeds(value: object) -> bool:
    return (
        isinstance(value, list) and all(isinstance(seed, int) for seed in value) and 0 < len(set(value)) == len(value)
    )


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file of `key: value` lines.

    Raises:
        UserError: If it cannot be read, or holds something else.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold `key: value` lines, got {type(content).__name__}.")
    return content
