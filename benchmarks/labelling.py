"""Which frames to label next: what another 100 labels are worth if `predict.py --select` chooses them, or chance does.

    python benchmarks/labelling.py --dataset_name path/to/kvasir-seg --encoder_weights path/to/efficientnet-lite0.pth
    python benchmarks/labelling.py ... --seeds 1                        # quicker: a third of the trainings
    python benchmarks/labelling.py ... --document docs/annotate.md      # puts the table there

For each seed: a random part of the training split counts as labelled, and a network is trained on it. With that
network `predict.py --select` chooses as many of the other frames, once for each `--select_by`; labelled and chosen
frames together train a network anew, for the same number of steps. All are scored on the validation split. `train.py`
and `predict.py` are called as a user would call them. Started again, it goes on after the last finished training.
"""

import csv
import io
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from unet_kvasir_seg.common.errors import UserError, user_errors

PROGRAM, KEPT = "labelling.py", "Finished trainings are kept: run the same command again to go on."

with user_errors(PROGRAM, kept=KEPT):  # large libraries: Ctrl-C is answered while they are imported, too
    import yaml
    from PIL import Image
    from unet_kvasir_seg.common.command_line import FlagParser, flag
    from unet_kvasir_seg.common.files import write_atomic
    from unet_kvasir_seg.common.output_lock import output_lock
    from unet_kvasir_seg.reporting.markdown import table
    from unet_kvasir_seg.reporting.results import read_results, write_results
    from unet_kvasir_seg.reporting.tables import parts_around, update_document

ROOT = Path(__file__).resolve().parent.parent
MARKERS = ("<!-- labelling: begin -->", "<!-- labelling: end -->")
LABELLING_SCHEMA = 1
SCORE = "dice_per_image"
BASE = "labelled"  # the training on the labelled frames alone
CHOICES = {  # values of --select_by, and their rows in the table
    "random": "random",
    "uncertainty": "the most uncertain",
    "diverse": "uncertain, and unlike each other",
}
RECIPE = {
    "image_size": 192,
    "model": {
        "encoder": "efficientnet_lite0",
        "norm": "batch",
        "upsampling": "bilinear",
        "decoder_channels": [32, 48, 64, 128],
        "decoder_convs": 1,
        "loss": "structure",
    },
    "encoder_learning_rate_scale": 0.3,
    "augmentation": "strong_colour",
    "negative_window_share": 0.15,
    "per_device_train_batch_size": 8,
    "learning_rate": 1.0e-3,
    "weight_decay": 0.05,
    "warmup_steps": 30,
    "lr_scheduler_type": "cosine",
    "ema_decay": 0.98,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
}


@dataclass
class LabellingArguments:
    """The data, the size of the trial, and where its outcome goes."""

    dataset_name: str = flag("Angelou0516/kvasir-seg", "As for train.py; with a training and a validation split.")
    encoder_weights: str = flag("imagenet", "As for train.py: where the encoder's weights come from.")
    labelled: int = flag(100, "Frames that are labelled at first.")
    chosen: int = flag(100, "Frames that are labelled next.")
    steps: int = flag(300, "Steps of each training.")
    image_size: int = flag(RECIPE["image_size"], "Side of the images in pixels.")
    seeds: int = flag(3, "Number of repetitions: each with other labelled frames, and another seed of the trainings.")
    output_dir: str = flag("outputs/labelling", "Folder of frames, trainings and scores.")
    document: str | None = flag(None, f"A Markdown file with the lines {MARKERS[0]} and {MARKERS[1]}, for the table.")

    def __post_init__(self) -> None:
        for name in ("labelled", "chosen", "steps", "seeds", "image_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} is too few: expected 1 or more.")

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on; a folder holds the trainings of one such choice."""
        names = ("dataset_name", "encoder_weights", "labelled", "chosen", "steps", "image_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Frames:
    """Image and mask files of both splits, named by their row in the data set."""

    folder: Path

    def names(self, split: str) -> list[str]:
        return sorted(file.name for file in (self.folder / split / "images").iterdir())

    def link(self, split: str, names: Iterable[str], target: Path, kinds: Sequence[str] = ("images", "masks")) -> None:
        """Put files of a split into the folders `kinds` of another folder, as hard links where that is possible."""
        for kind in kinds:
            (target / kind).mkdir(parents=True, exist_ok=True)
            for name in names:
                (source,) = (self.folder / split / kind).glob(f"{Path(name).stem}.*")
                copy = target / kind / source.name
                copy.unlink(missing_ok=True)
                try:
                    copy.hardlink_to(source)
                except OSError:  # another file system, or one without links
                    shutil.copy(source, copy)


def write_frames(dataset_name: str, folder: Path) -> Frames:
    """Write the frames of a data set as files, unless they are there.

    Raises:
        UserError: If the data cannot be used.
    """
    complete = folder / "complete"
    if complete.exists():
        return Frames(folder)
    from unet_kvasir_seg.data.dataset import choose_split, load_splits
    from unet_kvasir_seg.data.samples import encoded_bytes

    splits = load_splits(dataset_name, needed_splits=["train", "validation"])
    for split in ("train", "validation"):
        for number, row in enumerate(choose_split(splits, split)):
            for kind in ("image", "mask"):
                content = encoded_bytes(row[kind])
                file = folder / split / f"{kind}s" / f"{number:05d}{suffix_of(content)}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    complete.touch()
    return Frames(folder)


def suffix_of(content: bytes) -> str:
    """The ending of an image file, by its content: no name of the data set is needed."""
    with Image.open(io.BytesIO(content)) as image:
        return f".{(image.format or 'png').lower()}"


@dataclass(frozen=True)
class Trial:
    """The trainings of one seed.

    Attributes:
        seed: Of the labelled frames, the trainings and the random choice.
        frames: All frames.
        folder: Of this seed.
        recipe: File with the flags that all trainings share.
    """

    seed: int
    frames: Frames
    folder: Path
    recipe: Path

    def labelled(self, count: int) -> list[str]:
        """Names of the frames that are labelled at first."""
        names = self.frames.names("train")
        return sorted(random.Random(self.seed).sample(names, count))

    def train(self, name: str, names: Sequence[str]) -> float:
        """Train on these frames, unless it is done; returns the score on the validation split."""
        run, data = self.folder / name / "model", self.folder / name / "data"
        if not (run / "results.json").is_file():
            for folder in (run, data):
                shutil.rmtree(folder, ignore_errors=True)
            self.frames.link("train", names, data / "train")
            self.frames.link("validation", self.frames.names("validation"), data / "validation")
            words = ["--dataset_name", data, "--output_dir", run, "--seed", self.seed]
            call("train.py", [self.recipe, *words], self.folder / name / "log.txt")
        validation = read_results(run / "results.json")["training"]["validation"]
        return float(validation[SCORE])

    def choose(self, by: str, count: int, labelled: Sequence[str]) -> list[str]:
        """Names of the frames that `predict.py --select` chooses of those that are not labelled, once for all."""
        kept = self.folder / f"selected-{by}.csv"
        if not kept.is_file():
            pool, known = self.folder / "pool", self.folder / "known"
            left = sorted(set(self.frames.names("train")).difference(labelled))
            self.frames.link("train", left, pool, ["images"])
            self.frames.link("train", labelled, known, ["images"])
            output = self.folder / "predictions"
            words = [pool / "images", "--model", self.folder / BASE / "model", "--output_dir", output]
            words += ["--select", count, "--select_by", by, "--select_seed", self.seed]
            words += ["--select_not", known / "images"]
            call("predict.py", words, self.folder / "predictions.txt")
            write_atomic(kept, (output / "selected.csv").read_bytes())
        with open(kept, newline="", encoding="utf-8") as file:
            return [row["image"] for row in csv.DictReader(file)]


def call(program: str, words: Sequence[object], log: Path) -> None:
    """Run one of the project's commands, with its output in a log.

    Raises:
        UserError: If it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as output:
        command = [sys.executable, str(ROOT / program), *map(str, words)]
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise UserError(f"{program} ended with exit status {done.returncode}; its output is in {log}.")


def run_trials(arguments: LabellingArguments) -> list[dict[str, Any]]:
    """Run all trainings that are not done, and write labelling.json after each.

    Returns:
        An entry for each training: seed, choice and score.

    Raises:
        UserError: If the data cannot be used, a command fails, or the folder holds trainings of other settings.
    """
    folder = Path(arguments.output_dir)
    recipe = write_recipe(arguments, folder)
    frames = write_frames(arguments.dataset_name, folder / "frames")
    known = len(frames.names("train"))
    if arguments.labelled + arguments.chosen > known:
        raise UserError(
            f"--labelled {arguments.labelled} and --chosen {arguments.chosen} are more than the {known} frames of the "
            "training split."
        )
    trials = [Trial(seed, frames, folder / f"seed-{seed}", recipe) for seed in range(arguments.seeds)]
    entries: list[dict[str, Any]] = []
    for trial, choice in [*product(trials, [BASE]), *product(trials, CHOICES)]:
        names = labelled = trial.labelled(arguments.labelled)
        if choice != BASE:
            names = labelled + trial.choose(choice, arguments.chosen, labelled)
        score = trial.train(choice, names)
        entries.append({"seed": trial.seed, "choice": choice, "frames": len(names), SCORE: score})
        print(f"Seed {trial.seed}, {choice}: {len(names)} frames, Dice {score:.4f}", flush=True)
        content = {"schema_version": LABELLING_SCHEMA, "settings": shown(arguments), "trainings": entries}
        write_results(folder / "labelling.json", content)
    return entries


def shown(arguments: LabellingArguments) -> dict[str, Any]:
    """The settings without those that may be paths of this machine."""
    return {name: value for name, value in arguments.settings.items() if isinstance(value, int)}


def write_recipe(arguments: LabellingArguments, folder: Path) -> Path:
    """Write the flags that all trainings share, and the settings of the trial.

    Raises:
        UserError: If the folder holds trainings of other settings.
    """
    settings = folder / "settings.yaml"
    if settings.is_file():
        earlier = yaml.safe_load(settings.read_text(encoding="utf-8"))
        if changed := [name for name, value in arguments.settings.items() if earlier.get(name) != value]:
            raise UserError(
                f"{folder} holds trainings with another {', '.join(changed)}. Choose another --output_dir, or remove "
                "that folder."
            )
    flags = {"max_steps": arguments.steps, "encoder_weights": arguments.encoder_weights}
    recipe = folder / "recipe.yaml"
    write_atomic(recipe, yaml.safe_dump(RECIPE | flags | {"image_size": arguments.image_size}).encode())
    write_atomic(settings, yaml.safe_dump(arguments.settings).encode())
    return recipe


def as_table(arguments: LabellingArguments, entries: Sequence[dict[str, Any]]) -> str:
    """The table, as Markdown."""
    caption = (
        f"Dice, mean per image of the validation split at {arguments.image_size}x{arguments.image_size}, after "
        f"{arguments.steps} steps of batches of {RECIPE['per_device_train_batch_size']}; each seed has other labelled "
        "frames:"
    )
    titles = {BASE: "none"} | CHOICES
    rows = []
    for choice, title in titles.items():
        of_choice = [entry for entry in entries if entry["choice"] == choice]
        scores = [entry[SCORE] for entry in of_choice]
        spread = f"{stdev(scores):.3f}" if len(scores) > 1 else "-"
        frames = str(of_choice[0]["frames"])
        rows.append([title, frames, *(f"{score:.3f}" for score in scores), f"{mean(scores):.3f}", spread])
    seeds = [f"seed {entry['seed']}" for entry in entries if entry["choice"] == BASE]
    header = ["frames labelled next", "frames in all", *seeds, "mean", "standard deviation"]
    return f"{caption}\n\n{table(header, rows)}"


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM, OSError, kept=KEPT):
        parser = FlagParser([LabellingArguments], program=PROGRAM, description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        document = None if arguments.document is None else Path(arguments.document)
        if document is not None:
            parts_around(document, MARKERS)  # one without a place for the table is named before the work
        with output_lock(Path(arguments.output_dir), PROGRAM):
            entries = run_trials(arguments)
        text = as_table(arguments, entries)
        print(text)
        if document is not None:
            update_document(document, text, MARKERS)


if __name__ == "__main__":
    main()
