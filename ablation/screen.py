"""Find what pays: train many set-ups at a small budget, those that do best at more, the last few in full.

    pip install -e ".[evaluation]"
    python ablation/screen.py --dataset_name path/to/kvasir-seg                # ablation/plan.yaml
    python ablation/screen.py --dataset_name path/to/kvasir-seg --at_once 2    # two runs side by side share the cores
    python ablation/screen.py --dataset_name path/to/kvasir-seg --rounds 2     # the first two rounds
    python ablation/table.py outputs/ablation/ablation.json README.md

Each run is `python train.py` and then `python evaluation.py --split validation`, in a folder with its recipe and its
log. Candidates are ranked by Dice, mean per image at native size, averaged over the seeds of the round. A screening
that was stopped goes on where it was. ablation.json holds what was measured, from the runs' results.json.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from unet_kvasir_seg.ablation.plan import Flags, Plan, read_plan
from unet_kvasir_seg.ablation.table import ABLATION_SCHEMA, SCORE
from unet_kvasir_seg.command_line import FlagParser
from unet_kvasir_seg.errors import UserError, require_extra, user_errors
from unet_kvasir_seg.scoring.results import read_results, write_results
from unet_kvasir_seg.train import is_whole, parse_arguments

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class ScreenArguments:
    """What is tried, on what."""

    dataset_name: str = field(
        default="Angelou0516/kvasir-seg", metadata={"help": "As for train.py; its validation split selects."}
    )
    plan: str = field(default=str(ROOT / "ablation" / "plan.yaml"), metadata={"help": "What is tried."})
    rounds: int | None = field(default=None, metadata={"help": "Only so many of the plan's rounds."})
    at_once: int = field(default=1, metadata={"help": "Runs side by side, which share the cores."})
    output_dir: str = field(default="outputs/ablation", metadata={"help": "Folder of the runs."})

    def __post_init__(self) -> None:
        if self.at_once < 1 or (self.rounds is not None and self.rounds < 1):
            raise UserError(f"--at_once and --rounds must be at least 1, got {self.at_once} and {self.rounds}.")


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        folder: Its recipe, log, model and evaluation.
        candidate: Which of the plan's.
        seed: Of the training.
        flags: All of `train.py`'s, but data set and folder.
    """

    folder: Path
    candidate: str
    seed: int
    flags: Flags

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def results(self) -> Path:
        return self.folder / "evaluation" / "results.json"

    def prepare(self, dataset_name: str) -> None:
        """Write the recipe, and see that `train.py` takes it.

        Raises:
            UserError: If a flag is wrong, or the folder holds a run with other flags.
        """
        recipe = yaml.safe_dump({**self.flags, "dataset_name": dataset_name}, sort_keys=False)
        if self.recipe.is_file() and self.recipe.read_text(encoding="utf-8") != recipe:
            raise UserError(f"{self.folder} holds a run with other flags. Choose another --output_dir, or remove it.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(recipe, encoding="utf-8")
        try:
            parse_arguments([str(self.recipe)])
        except UserError as error:
            shutil.rmtree(self.folder)
            raise UserError(f"Candidate {self.candidate!r}: {error}") from error

    def finish(self, dataset_name: str, at_once: int) -> dict[str, Any]:
        """Train and evaluate as far as that is not done; returns its entry in ablation.json."""
        print(f"  {self.candidate}, seed {self.seed} ...", flush=True)
        if not (self.model / "results.json").is_file():
            resume = any(is_whole(checkpoint) for checkpoint in self.model.glob("checkpoint-*"))
            if not resume and self.model.exists():
                shutil.rmtree(self.model)  # stopped before its first checkpoint
            flags = ["--output_dir", str(self.model), *(["--resume_from_checkpoint"] if resume else [])]
            error = self._call(["train.py", str(self.recipe), *flags], at_once)
            if error:
                return self._entry(error=error)
        if not self.results.is_file():
            data = ["--dataset_name", dataset_name, "--split", "validation"]
            folders = ["--model", str(self.model), "--output_dir", str(self.results.parent)]
            error = self._call(["evaluation.py", *data, *folders], at_once)
            if error:
                return self._entry(error=error)
        results = read_results(self.results)
        training, scores = results["training"], results["metrics"]
        entry = self._entry(
            parameters=results["model"]["parameters"],
            epochs=training["epochs"],
            seconds=training["seconds"],
            final_loss=training["loss"][-1][1],
            metrics={name: scores[name] for name in (SCORE, "dice_pooled_native", "iou_per_image_native")},
        )
        print(f"  {self.candidate}, seed {self.seed}: Dice {scores[SCORE]['value']:.4f}", flush=True)
        return entry

    def _entry(self, **outcome: Any) -> dict[str, Any]:
        if "error" in outcome:
            print(f"  {self.candidate}, seed {self.seed}: failed, {outcome['error']}", flush=True)
        return {"candidate": self.candidate, "seed": self.seed, **outcome}

    def _call(self, command: Sequence[str], at_once: int) -> str | None:
        """Run one of the project's commands; None, or the last line that it left if it failed."""
        threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // at_once, 1))} if at_once > 1 else {}
        log = self.folder / "log.txt"
        with log.open("a", encoding="utf-8") as output:
            done = subprocess.run(
                [sys.executable, str(ROOT / command[0]), *command[1:]],
                env=os.environ | threads,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode == 0:
            return None
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        return f"{command[0]}: exit status {done.returncode}: {lines[-1][-300:]}"


def screen(plan: Plan, arguments: ScreenArguments) -> list[dict[str, Any]]:
    """Run the rounds; returns what was measured in each.

    Raises:
        UserError: If a flag of the plan is wrong, or all runs of a round fail.
    """
    folder = Path(arguments.output_dir)
    candidates = list(plan.candidates)
    done: list[dict[str, Any]] = []
    for number, part in enumerate(plan.rounds[: arguments.rounds], start=1):
        print(f"Round {number}, {part.name}: {len(candidates)} candidates, seeds {part.seeds}", flush=True)
        runs = [
            Run(folder / f"round-{number}" / f"{slug(name)}-{seed}", name, seed, plan.flags_of(name, part, seed))
            for name, seed in product(candidates, part.seeds)
        ]
        for run in runs:
            run.prepare(arguments.dataset_name)
        with ThreadPoolExecutor(arguments.at_once) as pool:
            entries = list(pool.map(lambda run: run.finish(arguments.dataset_name, arguments.at_once), runs))
        candidates = ranked(entries)[: part.keep]
        done.append({**asdict(part), "runs": entries, "kept": candidates})
        content = {"schema_version": ABLATION_SCHEMA, "candidates": plan.candidates, "rounds": done}
        write_results(folder / "ablation.json", content)
        if not candidates:
            raise UserError(f"All runs of round {number} failed; their logs are in {folder / f'round-{number}'}.")
    return done


def ranked(entries: Sequence[dict[str, Any]]) -> list[str]:
    """The candidates none of whose runs failed, the best mean Dice over the seeds first."""
    failed = {entry["candidate"] for entry in entries if "error" in entry}
    scores: dict[str, list[float]] = {}
    for entry in entries:
        if entry["candidate"] not in failed:
            scores.setdefault(entry["candidate"], []).append(entry["metrics"][SCORE]["value"])
    return sorted(scores, key=lambda name: mean(scores[name]), reverse=True)


def slug(name: str) -> str:
    """A name as a folder: letters and digits, joined by hyphens."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).split())


def main(argv: list[str] | None = None) -> None:
    program = "python ablation/screen.py"
    with user_errors(program):
        (arguments,) = FlagParser([ScreenArguments], program=program, description=__doc__).parse(
            sys.argv[1:] if argv is None else argv
        )
        require_extra("evaluation", "py_sod_metrics", "monai", "matplotlib")
        screen(read_plan(Path(arguments.plan), ROOT), arguments)
        print(f"What was measured is in {Path(arguments.output_dir) / 'ablation.json'}.")


if __name__ == "__main__":
    main()
