"""Tables and text on the scores of several data sets, for the card and the terminal."""

from collections.abc import Mapping, Sequence

from ..common.errors import printable
from .markdown import interval, table, text_table
from .results import Results, TestSets

COLUMNS = {
    "dice_per_image_native": "Dice, mean per image",
    "dice_pooled_native": "Dice, pooled",
    "dice_256_thresholds_minmax_native": "mean Dice, PraNet's",
    "iou_per_image_native": "IoU, mean per image",
}


def test_sets_table(results: Results) -> str:
    """A row for each data set and one for their mean; empty if not measured."""
    section = results.get("test_sets")
    if not section:
        return ""
    header, *rows = _rows(section, [one["name"] for one in section["sets"]])
    return table(header, [*rows, *([name, "not scored"] + [""] * (len(header) - 2) for name in section["failed"])])


def test_sets_facts(results: Results) -> str:
    """What the table's figures are, as a list; empty if not measured."""
    section = results.get("test_sets")
    if not section:
        return ""
    return "\n".join(
        (
            f"- **Masks** are {_masks(section)}, at the size of the ground truth.",
            "- **Mean Dice, PraNet's**, which papers state as mDice: each map is stretched to [0, 1], and the Dice of "
            "each image is averaged over the thresholds 0/255 to 255/255, whatever the threshold of the masks. The "
            "others cannot be compared with it.",
            "- **Mean over sets**: each set weighs the same, whatever its number of images.",
            f"- **Intervals**: 95 %, bootstrap over the images of each set, {section['resamples']:,} resamples, seed "
            f"{section['seed']}.",
        )
    )


def test_sets_as_text(
    results: Results, names: Sequence[str], failures: Mapping[str, str], other: str | None
) -> list[str]:
    """Lines for the terminal.

    Args:
        results: With the section "test_sets".
        names: What to call each set: the names of their folders, which results do not have.
        failures: Why a set was not scored, by its name.
        other: What to call the model that it was compared with: as it was given, which results do not have.
    """
    section: TestSets = {**results["test_sets"], "other": printable(other) if other else results["test_sets"]["other"]}
    lines = [f"{results['model']['name']} on {len(names)} data sets; masks are {_masks(section)}:"]
    lines += text_table(_rows(section, [printable(name) for name in names]))
    lines += [f"Not scored: {printable(name)}: {printable(reason)}" for name, reason in failures.items()]
    return lines


def _rows(section: TestSets, names: Sequence[str]) -> list[list[str]]:
    """Header, a row for each scored set, and the mean."""
    other = section["other"]
    header = ["data set", "images", *COLUMNS.values()]
    header += [f"Dice, mean per image, minus that of {other}", "p"] if other else []
    rows = [header]
    for name, one in zip(names, section["sets"], strict=True):
        row = [name, f"{one['images']:,}", *(interval(one["scores"][score]) for score in COLUMNS)]
        if difference := one["difference"]:
            low, high = difference["ci95"]
            row += [f"{difference['difference']:+.3f} [{low:+.3f}, {high:+.3f}]", f"{difference['p_value']:.2g}"]
        rows.append(row)
    images = sum(one["images"] for one in section["sets"])
    mean = ["mean over sets", f"{images:,}", *(interval(section["mean"][score]) for score in COLUMNS)]
    return [*rows, mean + [""] * (len(header) - len(mean))]


def _masks(section: TestSets) -> str:
    peak = section["peak_threshold"]
    regions = f", in regions that reach {peak:.6g}" if peak is not None else ""
    return f"where the probability is above {section['threshold']:.6g}{regions}"
