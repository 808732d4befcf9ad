"""Screening: a real one of tiny runs, and its table against values worked out by hand."""

import json
from pathlib import Path

import pytest
import yaml
from unet_kvasir_seg.ablation import screen, table
from unet_kvasir_seg.ablation.plan import read_plan
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.errors import UserError
from unet_kvasir_seg.train import parse_arguments

ROOT = Path(screen.__file__).resolve().parent.parent


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
    """Two rounds, three candidates, of which one cannot work."""
    recipe = {"image_size": 32, "depth": 2, "base_channels": 4, "num_train_epochs": 1, "eval_strategy": "no"}
    recipe |= {"save_strategy": "no", "load_best_model_at_end": False, "use_cpu": True}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rounds = [
        {"name": "small", "keep": 1, "seeds": [1], "flags": {}},
        {"name": "large", "keep": 1, "seeds": [2, 3], "flags": {"num_train_epochs": 2}},
    ]
    candidates = {"recipe": {}, "at batch 2": {"per_device_train_batch_size": 2}, "broken": {"block": "residual"}}
    file = tmp_path / "plan.yaml"
    file.write_text(
        yaml.safe_dump({"recipe": str(tmp_path / "recipe.yaml"), "rounds": rounds, "candidates": candidates})
    )
    return file


def test_a_screening_from_end_to_end(frames, plan, tmp_path, capsys):
    arguments = ["--dataset_name", str(frames), "--plan", str(plan), "--output_dir", str(tmp_path / "out")]
    screen.main([*arguments, "--at_once", "2"])
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    first, second = found["rounds"]
    broken = next(run for run in first["runs"] if run["candidate"] == "broken")
    assert 'block="residual" needs a normalisation' in broken["error"]
    assert len(first["kept"]) == 1
    assert [(run["candidate"], run["seed"], run["epochs"]) for run in second["runs"]] == [
        (first["kept"][0], 2, 2),
        (first["kept"][0], 3, 2),
    ]
    run = second["runs"][0]
    folder = tmp_path / "out" / "round-2" / f"{screen.slug(run['candidate'])}-2"
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    assert run["metrics"]["dice_per_image_native"] == results["metrics"]["dice_per_image_native"]
    assert results["data"]["split"] == "validation"
    assert results["training"]["seed"] == 2

    # Once more: what is finished stays; what was stopped before its first checkpoint starts anew.
    kept = (tmp_path / "out" / "round-1" / "recipe-1" / "model" / "model.safetensors").stat().st_mtime_ns
    (folder / "model" / "results.json").unlink()
    capsys.readouterr()
    screen.main(arguments)
    assert (tmp_path / "out" / "round-1" / "recipe-1" / "model" / "model.safetensors").stat().st_mtime_ns == kept
    again = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert again["rounds"][0]["runs"] == first["runs"]

    readme = tmp_path / "README.md"
    readme.write_text("Before.\n<!-- ablation: begin -->\nold\n<!-- ablation: end -->\nAfter.\n")
    table.main([str(tmp_path / "out" / "ablation.json"), str(readme)])
    assert "| round 2: large |" in readme.read_text()
    assert "old" not in readme.read_text()

    # A folder with runs of other flags is left alone.
    changed = yaml.safe_load(plan.read_text())
    changed["candidates"]["recipe"] = {"depth": 1}
    plan.write_text(yaml.safe_dump(changed))
    with pytest.raises(SystemExit):
        screen.main(arguments)
    assert "recipe-1 holds a run with other flags" in capsys.readouterr().err


def test_candidates_are_ranked_by_the_mean_over_seeds_and_failures_are_out():
    entries = [entry("a", 1, 0.9), entry("a", 2, 0.5), entry("b", 1, 0.8), entry("b", 2, 0.8), entry("c", 1, 0.95)]
    entries.append({"candidate": "c", "seed": 2, "error": "train.py: exit status 2"})
    assert screen.ranked(entries) == ["b", "a"]


def test_the_table_is_sorted_and_shows_seeds_intervals_and_failures():
    runs = [entry("a", 1, 0.5), entry("a", 2, 0.6), entry("b", 1, 0.7), entry("b", 2, 0.75, seconds=150)]
    runs.append({"candidate": "c", "seed": 1, "error": "train.py | no memory"})
    rows = table.tables([{"name": "small", "runs": runs, "kept": ["b"]}]).splitlines()
    assert rows[0] == "| round 1: small | parameters | minutes | Dice |"
    b = "| **b** | 1.23 M | 2.0 | 0.700 [0.600, 0.800] (seed 1); 0.750 [0.650, 0.850] (seed 2) |"
    assert rows[2] == b
    assert rows[3] == "| a | 1.23 M | 1.5 | 0.500 [0.400, 0.600] (seed 1); 0.600 [0.500, 0.700] (seed 2) |"
    assert rows[4] == "| c | - | - | seed 1 failed: train.py / no memory |"


def test_the_projects_plan_is_one_that_train_takes(tmp_path):
    found = read_plan(ROOT / "ablation" / "plan.yaml", ROOT)
    for part in found.rounds:
        for name in found.candidates:
            recipe = tmp_path / "recipe.yaml"
            recipe.write_text(yaml.safe_dump(found.flags_of(name, part, part.seeds[0])))
            parse_arguments([str(recipe), "--use_cpu"])
    assert len({screen.slug(name) for name in found.candidates}) == len(found.candidates)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rounds: []", "lacks 'recipe'"),
        ("recipe: recipes/demo.yaml\nrounds: [{name: a}]\ncandidates: {a: {}}", "does not have the form of a plan"),
        ("recipe: recipes/demo.yaml\nrounds: []\ncandidates: {a: {}}", "needs a round, a candidate"),
        ("- a", "must hold `key: value` lines, got list"),
    ],
)
def test_plans_that_cannot_be_used(tmp_path, content, message):
    file = tmp_path / "plan.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_plan(file, ROOT)


def test_a_wrong_flag_is_known_before_anything_is_trained(frames, plan, tmp_path, capsys):
    content = yaml.safe_load(plan.read_text())
    content["candidates"]["typo"] = {"learning_rat": 1}
    plan.write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit):
        screen.main(["--dataset_name", str(frames), "--plan", str(plan), "--output_dir", str(tmp_path / "out")])
    assert "Candidate 'typo'" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/**/model"))
