"""Screening: one of tiny runs from end to end, and its table against values computed by hand."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from unet_kvasir_seg.ablation import screen, table
from unet_kvasir_seg.ablation.plan import read_plan
from unet_kvasir_seg.common.command_line import FlagParser
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.data.transforms import TrainTransform
from unet_kvasir_seg.scoring.arguments import EvaluationArguments
from unet_kvasir_seg.training.arguments import flag_parser, parse_arguments
from unet_kvasir_seg.training.building import build_model, progressive_sizes

ROOT = Path(screen.__file__).resolve().parent.parent
KNOWN = flag_parser().names
PLAN = "recipe: recipes/demo.yaml\n"
ROUND = "rounds: [{name: small, keep: 1, flags: {}, seeds: [1]}]\n"


def entry(candidate: str, seed: int, dice: float, parameters: int = 1_230_000, seconds: float = 90) -> dict:
    interval = {"value": dice, "ci95": [dice - 0.1, dice + 0.1]}
    metrics = {"dice_per_image_native": interval}
    return {"candidate": candidate, "seed": seed, "parameters": parameters, "seconds": seconds, "metrics": metrics}


@pytest.fixture
def frames(tmp_path) -> Path:
    """Eight generated frames to train on and three to validate, as files."""
    folder = tmp_path / "frames"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, row in enumerate(generate(11, (40, 56), seed=0)):
        row["image"].save(folder / "images" / f"{number:02}.png")
        row["mask"].save(folder / "masks" / f"{number:02}.png")
    (folder / "train.txt").write_text("\n".join(f"{number:02}" for number in range(8)))
    (folder / "val.txt").write_text("08\n09\n10")
    return folder


@pytest.fixture
def plan(tmp_path) -> Path:
    """Two rounds, two candidates, of which one cannot work."""
    recipe = {"image_size": 32, "depth": 2, "base_channels": 4, "num_train_epochs": 1, "eval_strategy": "no"}
    recipe |= {"save_strategy": "no", "load_best_model_at_end": False, "use_cpu": True}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rounds = [
        {"name": "small", "keep": 1, "seeds": [1], "flags": {}},
        {"name": "large", "keep": 1, "seeds": [2], "flags": {"num_train_epochs": 2}},
    ]
    candidates = {"broken": {"block": "residual"}, "as it is": {}}
    file = tmp_path / "plan.yaml"
    file.write_text(
        yaml.safe_dump({"recipe": str(tmp_path / "recipe.yaml"), "rounds": rounds, "candidates": candidates})
    )
    return file


def test_candidates_are_scored_on_the_validation_split_of_their_training(tmp_path):
    of_data = {"dataset_name": "me/polyps", "fold": 1, "folds": 3, "group_column": "patient", "split_seed": 7}
    of_data |= {"dataset_config": "small", "train_split": "all", "foreground_values": [1, 2], "ignore_exif": True}
    of_training = {"learning_rate": 0.1, "negatives": "normal", "validation_split": None, "seed": 3}
    run = screen.Run(tmp_path, "as it is", 3, of_data | of_training)
    (arguments,) = FlagParser([EvaluationArguments], program="test", description="").parse(run.words_of_evaluation())
    found = {name: getattr(arguments, name) for name in [*of_data, "split", "negatives", "seed", "model"]}
    model = str(tmp_path / "model")
    assert found == {**of_data, "split": "validation", "negatives": None, "seed": 0, "model": [model]}


@pytest.mark.parametrize("content", [b"", b"- 1\n", b"a: [\n", b"\xff\xfe\x00"])
def test_a_run_whose_recipe_is_damaged_is_refused(tmp_path, content):
    run = screen.Run(tmp_path, "as it is", 3, {"depth": 2})
    run.model.mkdir()
    run.recipe.write_bytes(content)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        run.prepare()
    assert run.recipe.read_bytes() == content


@pytest.mark.slow
def test_a_screening_from_end_to_end(frames, plan, tmp_path, capsys):
    arguments = ["--dataset_name", str(frames), "--plan", str(plan), "--output_dir", str(tmp_path / "out")]
    screen.main([*arguments, "--at_once", "2"])
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    first, second = found["rounds"]
    broken = next(run for run in first["runs"] if run["candidate"] == "broken")
    assert broken == {"candidate": "broken", "seed": 1, "failed": True}
    told = capsys.readouterr().out
    assert 'broken, seed 1 failed: exit status 2, train.py: error: block="residual" needs a normalisation' in told
    assert first["kept"] == ["as it is"]
    (run,) = second["runs"]
    assert (run["candidate"], run["seed"], run["epochs"]) == ("as it is", 2, 2)
    folder = tmp_path / "out" / "round-2" / "as-it-is-2"
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    assert run["metrics"]["dice_per_image_native"] == results["metrics"]["dice_per_image_native"]
    assert results["data"]["split"] == "validation"
    assert results["training"]["seed"] == 2

    # Once more: finished runs are kept; one that was stopped before its first checkpoint gets equal scores.
    weights = tmp_path / "out" / "round-1" / "as-it-is-1" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    left = weights.parent / "checkpoint-1"  # of a screening that was killed after its training
    left.mkdir()
    (folder / "model" / "results.json").unlink()
    shutil.rmtree(folder / "evaluation")
    changed = yaml.safe_load(plan.read_text())
    del changed["candidates"]["broken"]
    plan.write_text(yaml.safe_dump(changed))
    screen.main(arguments)
    assert weights.stat().st_mtime_ns == written
    assert not left.exists()
    again = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert again["rounds"][0]["runs"] == [run for run in first["runs"] if run != broken]
    assert again["rounds"][1]["runs"][0]["metrics"] == run["metrics"]

    readme = tmp_path / "README.md"
    readme.write_text("Before.\n<!-- ablation: begin -->\nold\n<!-- ablation: end -->\nAfter.\n")
    table.main([str(tmp_path / "out" / "ablation.json")] * 2 + [str(readme)])
    assert readme.read_text().count("| round 2: large |") == 2
    assert "\nold\n" not in readme.read_text()

    # A folder with runs of other flags is left alone.
    changed["candidates"]["as it is"] = {"depth": 1}
    plan.write_text(yaml.safe_dump(changed))
    with pytest.raises(SystemExit):
        screen.main(arguments)
    assert "as-it-is-1 holds a run with another depth. Choose another --output_dir" in capsys.readouterr().err


def test_candidates_are_ranked_by_the_mean_over_seeds_and_failures_are_out():
    entries = [entry("a", 1, 0.9), entry("a", 2, 0.5), entry("b", 1, 0.8), entry("b", 2, 0.8), entry("c", 1, 0.95)]
    entries.append({"candidate": "c", "seed": 2, "failed": True})
    assert screen.ranked(entries) == ["b", "a"]


def test_the_table_is_sorted_and_shows_seeds_intervals_and_failures():
    runs = [entry("a", 1, 0.5), entry("a", 2, 0.6), entry("b", 1, 0.7), entry("b", 2, 0.75, seconds=150)]
    runs.append({"candidate": "c", "seed": 1, "failed": True})
    rows = table.tables([{"name": "small", "runs": runs, "kept": ["b"]}]).splitlines()
    assert rows[0] == "| round 1: small | parameters | minutes | Dice |"
    b = "| **b** | 1.23 M | 2.0 | 0.700 [0.600, 0.800] (seed 1); 0.750 [0.650, 0.850] (seed 2) |"
    assert rows[2] == b
    assert rows[3] == "| a | 1.23 M | 1.5 | 0.500 [0.400, 0.600] (seed 1); 0.600 [0.500, 0.700] (seed 2) |"
    assert rows[4] == "| c | - | - | failed (seed 1) |"


def test_train_accepts_the_projects_plan(tmp_path):
    """Flags, architecture and augmentation of every candidate in every round, built as `train.py` builds them."""
    found = read_plan(ROOT / "ablation" / "plan.yaml", ROOT, KNOWN)
    for part in found.rounds:
        for name in found.candidates:
            recipe = tmp_path / "recipe.yaml"
            recipe.write_text(yaml.safe_dump(found.flags_of(name, part, part.seeds[0])))
            model_arguments, data_arguments, _ = parse_arguments([str(recipe), "--use_cpu"])
            model, processor = build_model(model_arguments)
            sizes = progressive_sizes(data_arguments, model.config.minimum_size)
            TrainTransform(processor, augmentation=data_arguments.augmentation, progressive_sizes=sizes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rounds: []", "lacks 'recipe'"),
        (PLAN + "rounds: [{name: a}]\ncandidates: {a: {}}", "does not have the form of a plan"),
        (PLAN + "rounds: []\ncandidates: {a: {}}", "needs a round"),
        (PLAN + ROUND + "candidates: {a b: {}, a-b: {}}", "candidates whose names differ in letters or digits"),
        (
            PLAN + ROUND.replace("[1]", "1") + "candidates: {a: {}}",
            r"`seeds` that differ, as \[1, 2\]; got .* and 1\.",
        ),
        (PLAN + ROUND.replace("[1]", "[1, 1]") + "candidates: {a: {}}", "`seeds` that differ"),
        (PLAN + ROUND.replace("1,", '"2",') + "candidates: {a: {}}", "`keep` of at least 1"),
        (PLAN + ROUND + "candidates: {a: {learning_rat: 1}}", "'a' has an unknown flag 'learning_rat'; near it are"),
        ("- a", "must hold `key: value` lines, got list"),
    ],
)
def test_plans_that_cannot_be_used(tmp_path, content, message):
    file = tmp_path / "plan.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_plan(file, ROOT, KNOWN)
