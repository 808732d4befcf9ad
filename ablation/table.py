"""Put the tables of screenings into a document, between `<!-- ablation: begin -->` and `<!-- ablation: end -->`.

python ablation/table.py ablation/ablation.json ablation/levers.json docs/what-pays.md
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from unet_kvasir_seg.common.errors import user_errors
from unet_kvasir_seg.reporting.results import read_versioned
from unet_kvasir_seg.reporting.tables import update_document

ABLATION_SCHEMA = 1
SCORE = "dice_per_image_native"
MARKERS = ("<!-- ablation: begin -->", "<!-- ablation: end -->")
LEGEND = (
    "Dice: mean per image of the validation split at original size, in brackets its 95 % bootstrap interval over the "
    "images; seeds are those of the trainings. Minutes: of a training with its evaluations, while other runs shared "
    "the cores. In bold: went on to the next round."
)


def tables(*screenings: list[dict[str, Any]]) -> str:
    """Markdown: a table for each round of each screening, the best candidate first, failed ones last."""
    numbered = [part for rounds in screenings for part in enumerate(rounds, start=1)]
    return "\n\n".join([*(_table(number, part) for number, part in numbered), LEGEND])


def _table(number: int, part: dict[str, Any]) -> str:
    names = dict.fromkeys(run["candidate"] for run in part["runs"])
    runs = {name: [run for run in part["runs"] if run["candidate"] == name] for name in names}
    order = sorted(names, key=lambda name: _mean_dice(runs[name]), reverse=True)
    lines = [
        f"| round {number}: {part['name']} | parameters | minutes | Dice |",
        "| --- | --- | --- | --- |",
        *(_row(f"**{name}**" if name in part["kept"] else name, runs[name]) for name in order),
    ]
    return "\n".join(lines)


def _mean_dice(runs: list[dict[str, Any]]) -> float:
    return -1.0 if any("failed" in run for run in runs) else mean(run["metrics"][SCORE]["value"] for run in runs)


def _row(name: str, runs: list[dict[str, Any]]) -> str:
    if failed := [f"failed (seed {run['seed']})" for run in runs if "failed" in run]:
        return f"| {name} | - | - | {'; '.join(failed)} |"
    scores = [
        "{value:.3f} [{low:.3f}, {high:.3f}] (seed {seed})".format(
            value=run["metrics"][SCORE]["value"],
            low=run["metrics"][SCORE]["ci95"][0],
            high=run["metrics"][SCORE]["ci95"][1],
            seed=run["seed"],
        )
        for run in runs
    ]
    minutes = mean(run["seconds"] for run in runs) / 60
    return f"| {name} | {runs[0]['parameters'] / 1e6:.2f} M | {minutes:.1f} | {'; '.join(scores)} |"


def main(argv: list[str] | None = None) -> None:
    program = "python ablation/table.py"
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("ablations", type=Path, nargs="+", help="ablation.json that screen.py wrote, or several")
    parser.add_argument("document", type=Path, help="Markdown file that has these two lines")
    arguments = parser.parse_args(argv)
    with user_errors(program, OSError, kept="The document is as it was."):
        screenings = [
            read_versioned(file, ABLATION_SCHEMA, "ablation.json of screen.py", "ablation/screen.py")["rounds"]
            for file in arguments.ablations
        ]
        update_document(arguments.document, tables(*screenings), MARKERS)
        print(f"Put the tables of {', '.join(map(str, arguments.ablations))} into {arguments.document}.")


if __name__ == "__main__":
    main()
