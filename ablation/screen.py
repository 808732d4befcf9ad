"""Find out which changes pay: train many candidates at a small budget, the best at a larger one, the last few in full.

    pip install -e ".[evaluation]"
    python ablation/screen.py --dataset_name path/to/kvasir-seg                # ablation/plan.yaml
    python ablation/screen.py --dataset_name path/to/kvasir-seg --at_once 2    # two runs side by side share the cores
    python ablation/screen.py --dataset_name path/to/kvasir-seg --rounds 2     # the first two rounds
    python ablation/table.py outputs/ablation/ablation.json docs/what-pays.md

Each run is `python train.py` and then `python evaluation.py --split validation`, in a folder with its recipe and its
log. Candidates are ranked by Dice, mean per image at original size, averaged over the seeds of the round. A screening
ends with its trainings, however it ends (killed with -9, on Linux alone). Started again, it goes on with each from its
last checkpoint. The scores of all runs are written to ablation.json.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from unet_kvasir_seg.common.errors import UserError, require_extra, user_errors

PROGRAM = "python ablation/screen.py"
KEPT = "Finished trainings and the last checkpoint of others are kept: run the same command again to go on."

with user_errors(PROGRAM, kept=KEPT):  # large libraries: Ctrl-C is answered while they are imported, too
    import yaml
    from unet_kvasir_seg.ablation.plan import Flags, Plan, read_plan, read_yaml, slug
    from unet_kvasir_seg.ablation.table import ABLATION_SCHEMA, SCORE
    from unet_kvasir_seg.common.command_line import DataFlags, FlagParser, flag
    from unet_kvasir_seg.common.files import write_atomic
    from unet_kvasir_seg.common.output_lock import output_lock
    from unet_kvasir_seg.evaluation import PACKAGES_OF_THE_EXTRA
    from unet_kvasir_seg.reporting.results import read_results, write_results

# These flags of train.py and evaluation.py define the samples, and which of them are for validation.
DATA_FLAGS = {one.name for one in fields(DataFlags)} - {"negatives", "negatives_config", "check_data"}
# For trainings that save no checkpoint themselves: one after each twentieth of their steps, to go on from.
SAVING = ("--save_strategy", "steps", "--save_steps", "0.05", "--save_total_limit", "1")
STARTED: list[subprocess.Popen] = []  # the commands that runs have started
STOPPING = threading.Event()  # no further one is to be started
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class ScreenArguments:
    """The plan of a screening, its data and its output."""

    dataset_name: str = flag(
        "Angelou0516/kvasir-seg", "As for train.py; candidates are ranked on its validation split."
    )
    plan: str = flag(str(ROOT / "ablation" / "plan.yaml"), "YAML file with recipe, rounds and candidates.")
    rounds: int | None = flag(None, "Run only the first rounds of the plan.")
    at_once: int = flag(1, "Runs side by side, which share the cores.")
    output_dir: str = flag("outputs/ablation", "Folder of the runs.")

    def __post_init__(self) -> None:
        if self.at_once < 1 or (self.rounds is not None and self.rounds < 1):
            raise UserError(f"--at_once and --rounds must be at least 1, got {self.at_once} and {self.rounds}.")


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        folder: Holds its recipe, log, model and evaluation.
        candidate: Name of the candidate in the plan.
        seed: Of the training.
        flags: All flags of `train.py`, except the output folder.
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
    def evaluation(self) -> Path:
        return self.folder / "evaluation"

    @property
    def results(self) -> Path:
        return self.evaluation / "results.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def saves_nothing(self) -> bool:
        """Whether its flags let the training save no checkpoint."""
        return self.flags.get("save_strategy") in ("no", False)  # YAML takes the word `no` for false

    def prepare(self) -> None:
        """Write the recipe.

        Raises:
            UserError: If the folder holds a run with other flags, or one that a killed screening has left running.
        """
        for folder in (self.model, self.evaluation):
            if folder.exists():
                with output_lock(folder, PROGRAM):
                    pass
        if self.model.exists():
            earlier = read_yaml(self.recipe)
            flags = {**earlier, **self.flags}
            changed = [name for name in flags if earlier.get(name) != self.flags.get(name)]
            if changed:
                raise UserError(
                    f"{self.folder} holds a run with another {', '.join(changed)}. Choose another --output_dir, or "
                    "remove that folder."
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.recipe, yaml.safe_dump(self.flags, sort_keys=False).encode())

    def finish(self, at_once: int) -> dict[str, Any]:
        """Train and evaluate, unless that is done already; returns the run's entry in ablation.json."""
        who = f"  {self.candidate}, seed {self.seed}"
        print(f"{who} ... (log: {self.log})", flush=True)
        entry: dict[str, Any] = {"candidate": self.candidate, "seed": self.seed}
        try:
            if not (self.model / "results.json").is_file():
                self._train(at_once)
            if self.saves_nothing:
                self._remove_checkpoints()
            self._evaluate(at_once)
            results = read_results(self.results)
        except (RunError, UserError) as error:
            if not STOPPING.is_set():
                print(f"{who} failed: {error}", flush=True)
            # The reason stays in the log: it may contain paths, and ablation.json is published.
            return entry | {"failed": True}
        scores = results["metrics"]
        print(f"{who}: Dice {scores[SCORE]['value']:.4f}", flush=True)
        return entry | {
            "parameters": results["model"]["parameters"],
            "epochs": results["training"]["epochs"],
            "seconds": results["training"]["seconds"],
            "metrics": {name: scores[name] for name in (SCORE, "dice_pooled_native", "iou_per_image_native")},
            "data": results["data"],
            "environment": results["environment"],
        }

    def _train(self, at_once: int) -> None:
        from unet_kvasir_seg.training.checkpoints import checkpoints_in, is_complete

        flags = ["--output_dir", str(self.model), *(SAVING if self.saves_nothing else ())]
        checkpoint = next(filter(is_complete, checkpoints_in(self.model)), None)
        if checkpoint is not None:
            print(f"  {self.candidate}, seed {self.seed}: going on from {checkpoint}", flush=True)
            flags.append("--resume_from_checkpoint")
        elif self.model.exists():
            shutil.rmtree(self.model)  # it was stopped before its first checkpoint
        self._call("train.py", [str(self.recipe), *flags], at_once)

    def _remove_checkpoints(self) -> None:
        from unet_kvasir_seg.training.checkpoints import checkpoints_in

        for checkpoint in checkpoints_in(self.model):
            shutil.rmtree(checkpoint)

    def _evaluate(self, at_once: int) -> None:
        if not self.results.is_file():
            self._call("evaluation.py", self.words_of_evaluation(), at_once)

    def words_of_evaluation(self) -> list[str]:
        """The flags of `evaluation.py`: it scores the validation split of the training."""
        flags = {"model": str(self.model), "split": "validation", "output_dir": str(self.evaluation)}
        flags |= {name: self.flags[name] for name in sorted(DATA_FLAGS) if self.flags.get(name) is not None}
        return [
            word
            for name, value in flags.items()
            for word in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
        ]

    def _call(self, program: str, words: Sequence[str], at_once: int) -> None:
        """Run one of the project's commands, with its output in the log.

        Raises:
            RunError: If it fails.
        """
        threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // at_once, 1))} if at_once > 1 else {}
        # `Popen` runs in this thread, which waits for the command: it does not end before.
        attached = [sys.executable, str(ROOT / "ablation" / "attached.py"), str(os.getpid())]
        with self.log.open("a", encoding="utf-8") as output:
            process = subprocess.Popen(
                [*(attached if sys.platform == "linux" else []), sys.executable, str(ROOT / program), *words],
                env=os.environ | threads,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            STARTED.append(process)
            if STOPPING.is_set():
                process.terminate()
            status = process.wait()
        if status != 0:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RunError(f"exit status {status}, {lines[-1] if lines else 'without a word'} ({self.log})")


class RunError(Exception):
    """A command of a run failed."""


def screen(plan: Plan, arguments: ScreenArguments) -> None:
    """Run the rounds, and write ablation.json after each.

    Raises:
        UserError: If a folder holds a run with other flags, or all runs of a round fail.
    """
    folder = Path(arguments.output_dir)
    candidates = list(plan.candidates)
    done: list[dict[str, Any]] = []
    for number, part in enumerate(plan.rounds[: arguments.rounds], start=1):
        print(f"Round {number}, {part.name}: {len(candidates)} candidates, seeds {part.seeds}", flush=True)
        runs = [
            Run(
                folder / f"round-{number}" / f"{slug(name)}-{seed}",
                name,
                seed,
                plan.flags_of(name, part, seed) | {"dataset_name": arguments.dataset_name},
            )
            for name, seed in product(candidates, part.seeds)
        ]
        for run in runs:
            run.prepare()
        with ThreadPoolExecutor(arguments.at_once) as pool:
            try:
                entries = list(pool.map(lambda run: run.finish(arguments.at_once), runs))
            except KeyboardInterrupt:
                STOPPING.set()
                for process in STARTED:
                    process.terminate()  # they keep their last checkpoint; the pool waits for them
                raise
        candidates = ranked(entries)[: part.keep]
        done.append({**asdict(part), "runs": entries, "kept": candidates})
        content = {"schema_version": ABLATION_SCHEMA, "candidates": plan.candidates, "rounds": done}
        write_results(folder / "ablation.json", content)
        if not candidates:
            raise UserError(f"All runs of round {number} failed; their logs are in {folder / f'round-{number}'}.")


def ranked(entries: Sequence[dict[str, Any]]) -> list[str]:
    """The candidates without a failed run, in order of their mean Dice over the seeds, the best first."""
    failed = {entry["candidate"] for entry in entries if "failed" in entry}
    scores: dict[str, list[float]] = {}
    for entry in entries:
        if entry["candidate"] not in failed:
            scores.setdefault(entry["candidate"], []).append(entry["metrics"][SCORE]["value"])
    return sorted(scores, key=lambda name: mean(scores[name]), reverse=True)


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM, OSError, kept=KEPT):
        (arguments,) = FlagParser([ScreenArguments], program=PROGRAM, description=__doc__).parse(
            sys.argv[1:] if argv is None else argv
        )
        require_extra("evaluation", *PACKAGES_OF_THE_EXTRA)
        from unet_kvasir_seg.training.arguments import flag_parser

        plan = read_plan(Path(arguments.plan), ROOT, flag_parser().names)
        with output_lock(Path(arguments.output_dir), PROGRAM):
            screen(plan, arguments)
        print(f"The scores are in {Path(arguments.output_dir) / 'ablation.json'}.")


if __name__ == "__main__":
    main()
