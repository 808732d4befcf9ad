"""What a screening tries: a recipe, single changes to it, and rounds of rising budget."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from unet_kvasir_seg.errors import UserError

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
        return {**self.recipe, **part.flags, **self.candidates[candidate], "seed": seed}


def read_plan(file: Path, root: Path) -> Plan:
    """Read a YAML file with `recipe` (a file, seen from `root`), `rounds` and `candidates`.

    Raises:
        UserError: If it cannot be read, or does not have this form.
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
            "candidate its flags."
        ) from error
    if not (plan.rounds and plan.candidates and all(part.seeds and part.keep >= 1 for part in plan.rounds)):
        raise UserError(f"{file} needs a round, a candidate, and in each round a seed and a `keep` of at least 1.")
    return plan


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold `key: value` lines, got {type(content).__name__}.")
    return content
