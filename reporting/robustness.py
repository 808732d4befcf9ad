"""Tables and text on scores under changes of the frames, for the card and the terminal."""

from collections.abc import Callable

from .markdown import interval, number, percent, table, text_table
from .results import ChangedScores, Evaluation, Robustness, Score

Cell = Callable[[ChangedScores], str]


def robustness_table(evaluation: Evaluation) -> str:
    """Dice under each change at each strength, with the mean and what is lost; empty if not measured."""
    robustness = evaluation.get("robustness")
    return table(*_dice_rows(robustness)) if robustness else ""


def alarms_table(evaluation: Evaluation) -> str:
    """The share of the images without polyp that are marked, likewise; empty if not measured."""
    robustness = evaluation.get("robustness")
    return table(*_alarm_rows(robustness)) if robustness and robustness["plain"]["alarm_share"] else ""


def levels_table(evaluation: Evaluation) -> str:
    """What each change is at its weakest and at its strongest; empty if not measured."""
    robustness = evaluation.get("robustness")
    if not robustness:
        return ""
    ends = ([one["name"], *(one["strengths"][place]["level"] for place in (0, -1))] for one in robustness["changes"])
    return table(["change", "strength 1", f"strength {_strengths(robustness)}"], ends)


def robustness_as_text(evaluation: Evaluation) -> list[str]:
    """Lines for the terminal; none if not measured."""
    robustness = evaluation.get("robustness")
    if not robustness:
        return []
    took = f"{robustness['seconds'] / 60:.1f} minutes" if robustness["seconds"] >= 90 else f"{robustness['seconds']} s"
    header, rows = _dice_rows(robustness)
    lines = [f"Dice, mean per image, under changes of the frames (took {took}):", *text_table([header, *rows])]
    if robustness["plain"]["alarm_share"]:
        header, rows = _alarm_rows(robustness)
        lines += ["Share of the images without polyp that are marked:", *text_table([header, *rows])]
    return lines


def _dice_rows(robustness: Robustness) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of Dice."""

    def dice(scores: ChangedScores) -> Score:
        return scores["dice_per_image_native"]

    def lost(scores: ChangedScores) -> str:
        loss = scores["relative_loss"]
        return "-" if loss is None else percent(loss)

    header, rows = _rows(robustness, lambda one: number(dice(one)["value"]), lambda one: interval(dice(one)))
    means = [None, *(change["mean"] for change in robustness["changes"]), robustness["mean"]]
    return [*header, "relative loss"], [
        [*row, lost(mean) if mean else "-"] for row, mean in zip(rows, means, strict=True)
    ]


def _alarm_rows(robustness: Robustness) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of alarms."""

    def alarms(scores: ChangedScores) -> str:
        return percent(scores["alarm_share"]["value"]) if scores["alarm_share"] else "-"

    def mean(scores: ChangedScores) -> str:
        low, high = scores["alarm_share"]["ci95"] if scores["alarm_share"] else (0.0, 0.0)
        return f"{alarms(scores)} [{percent(low)}, {percent(high)}]"

    return _rows(robustness, alarms, mean)


def _rows(robustness: Robustness, cell: Cell, mean: Cell) -> tuple[list[str], list[list[str]]]:
    """A row for the frames as they are, for each change, and for the mean over changes; columns for the strengths."""
    count = _strengths(robustness)
    rows = [["none", *[""] * count, mean(robustness["plain"])]]
    for change in robustness["changes"]:
        rows.append([change["name"], *(cell(one) for one in change["strengths"]), mean(change["mean"])])
    rows.append(["mean over changes", *[""] * count, mean(robustness["mean"])])
    strengths = (f"strength {place}" for place in range(1, count + 1))
    return ["change", *strengths, "mean"], rows


def _strengths(robustness: Robustness) -> int:
    return max(len(change["strengths"]) for change in robustness["changes"])
