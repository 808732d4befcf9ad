"""`evaluation.py --robustness` and `--test_sets` from the command line: scores recomputed, and what bad input gets."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import save_tiny_model
from unet_kvasir_seg import evaluation
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import load_sample
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.reporting.results import read_results
from unet_kvasir_seg.scoring.changes import CHANGES


def save_frames(folder: Path, rows: int, seed: int) -> Path:
    for kind in ("image", "mask"):
        (folder / f"{kind}s").mkdir(parents=True)
    for index, pair in enumerate(generate(rows, (40, 56), seed=seed)):
        for kind in ("image", "mask"):
            pair[kind].save(folder / f"{kind}s" / f"frame{index}.png")
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    save_frames(folder / "train", 2, seed=1)
    save_frames(folder / "test", 3, seed=2)
    return folder


@pytest.fixture
def sets(tmp_path) -> Path:
    """Two of the field's sets, and one of the user's own that is broken."""
    folder = tmp_path / "TestDataset"
    save_frames(folder / "CVC-300", 2, seed=3)
    save_frames(folder / "Kvasir", 3, seed=4)
    save_frames(folder / "ward", 2, seed=5)
    (folder / "ward" / "images" / "frame1.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def run(run_command):
    def run(*arguments: object, status: int | None = 0) -> subprocess.CompletedProcess:
        return run_command(evaluation.main, "--resamples", 100, *arguments, status=status)

    return run


def dice(predicted: np.ndarray, ground_truth: np.ndarray) -> float:
    total = predicted.sum() + ground_truth.sum()
    return 2 * (predicted & ground_truth).sum() / total if total else 1.0


def test_each_pass_scores_changed_frames(run, model, frames, tmp_path):
    out = tmp_path / "out"
    given = ("--model", model, "--dataset_name", frames, "--split", "test", "--seed", 5, "--output_dir", out)
    done = run(*given, "--robustness", "--negative_windows", 4)
    assert "50 passes over 3 images and 4 images without polyp" in done.stderr
    results = read_results(out / "results.json")
    robustness = results["evaluation"]["robustness"]
    assert [one["name"] for one in robustness["changes"]] == list(CHANGES)

    rows = load_splits(str(frames), needed_splits=["test"])["test"]
    predictor = Predictor.from_pretrained(model, device="cpu", dtype="float32")
    for change in (CHANGES["noise"], CHANGES["border with text"]):
        (found,) = (one for one in robustness["changes"] if one["name"] == change.name)
        for strength in (1, 5):
            changed = [change.apply(load_sample(row), strength, seed=5) for row in rows]
            expected = [dice(predictor(one.image).mask, one.ground_truth) for one in changed]
            entry = found["strengths"][strength - 1]
            assert entry["dice_per_image_native"]["value"] == pytest.approx(np.mean(expected), abs=2e-3)
            assert entry["level"] == change.describe(strength)

    plain = results["metrics"]["dice_per_image_native"]
    assert robustness["plain"]["dice_per_image_native"] == plain
    assert robustness["plain"]["relative_loss"] == 0
    assert (
        robustness["plain"]["alarm_share"]["value"]
        == results["evaluation"]["operating_points"][0]["alarm_share"]["value"]
    )
    every = [one for change in robustness["changes"] for one in change["strengths"]]
    means = [one["dice_per_image_native"]["value"] for one in every]
    assert len(means) == 50
    assert len(set(means)) > 25
    mean = robustness["mean"]
    assert mean["dice_per_image_native"]["value"] == pytest.approx(np.mean(means))
    assert mean["relative_loss"] == pytest.approx(1 - np.mean(means) / plain["value"])
    assert mean["alarm_share"]["value"] == pytest.approx(np.mean([one["alarm_share"]["value"] for one in every]))
    assert re.search(rf"mean over changes +{np.mean(means):.3f} \[", done.stdout)
    assert (out / "figures" / "robustness.png").is_file()
    assert "figures/robustness.png" in (out / "README.md").read_text()
    assert not (out / ".scores").exists()


def test_masks_of_another_program_have_none_of_changed_frames(run, frames, tmp_path):
    given = ("--predictions", frames / "test" / "masks", "--dataset_name", frames, "--split", "test")
    done = run(*given, "--robustness", status=2)
    assert "--robustness goes with a model" in done.stderr
    done = run(*given, "--test_sets", frames, status=2)
    assert "--test_sets goes with a model" in done.stderr
    assert not list(tmp_path.glob("outputs*"))


def test_a_fixed_field_of_view_is_refused_before_anything_is_scored(run, model, frames, tmp_path):
    """The border would move the picture, and the rectangle would not: the score would be of another part of it."""
    flags = ("--dataset_name", frames, "--split", "test", "--robustness", "--output_dir", tmp_path / "out")
    done = run("--model", model, "--field_of_view", "0,0,30,30", *flags, status=2)
    assert "--robustness does not go with the field of view 0,0,30,30" in done.stderr
    assert "--field_of_view auto" in done.stderr
    assert not list(tmp_path.glob("out/*.json"))


def test_every_set_is_scored_and_the_one_that_fails_is_named(run, model, sets, tmp_path):
    out = tmp_path / "out"
    given = ("--model", model, "--test_sets", sets, "--output_dir", out)
    done = run(*given, status=1)
    assert re.search(r"^  Kvasir +3 ", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^Not scored: ward: .*frame1.png cannot be read", done.stdout, flags=re.MULTILINE)
    results = read_results(out / "results.json")
    found = {one["name"]: one["scores"]["dice_per_image_native"]["value"] for one in results["test_sets"]["sets"]}
    predictor = Predictor.from_pretrained(model, device="cpu", dtype="float32")
    for name in ("CVC-300", "Kvasir"):
        rows = load_splits(str(sets / name), needed_splits=["all"])["all"]
        samples = [load_sample(row) for row in rows]
        expected = [dice(predictor(one.image).mask, one.ground_truth) for one in samples]
        assert found[name] == pytest.approx(np.mean(expected), abs=1e-3)
    assert results["test_sets"]["failed"] == ["another set"]
    assert (results["metrics"], results["evaluation"]) == ({}, None)
    assert results["data"]["rows"] == {"CVC-300": 2, "Kvasir": 3, "another set": 2}
    written = (out / "results.json").read_text() + (out / "README.md").read_text()
    assert "ward" not in written
    assert str(tmp_path) not in written
    with open(out / "test_sets.csv", newline="") as file:
        assert [row["set"] for row in csv.DictReader(file)] == ["CVC-300", "Kvasir", "ward"]

    # The same scores as those of the set alone.
    alone = tmp_path / "alone"
    run("--model", model, "--dataset_name", sets / "Kvasir", "--split", "all", "--output_dir", alone)
    score = read_results(alone / "results.json")["metrics"]["dice_per_image_native"]["value"]
    assert found["Kvasir"] == pytest.approx(score)

    # Once it is mended, the same command scores it too; the others' scores were kept.
    shutil.copy(sets / "ward" / "images" / "frame0.png", sets / "ward" / "images" / "frame1.png")
    shutil.copy(sets / "ward" / "masks" / "frame0.png", sets / "ward" / "masks" / "frame1.png")
    done = run(*given[:-1], tmp_path / "again")
    assert "Not scored" not in done.stdout
    assert len(json.loads((tmp_path / "again" / "results.json").read_text())["test_sets"]["sets"]) == 3


def test_sets_beside_a_split(run, model, frames, sets, tmp_path):
    shutil.rmtree(sets / "ward")
    out = tmp_path / "out"
    other = save_tiny_model(tmp_path / "second", seed=1, bias=0.3)
    given = ("--model", model, "--compare_with", other, "--dataset_name", frames, "--split", "test")
    done = run(*given, "--test_sets", sets, "--output_dir", out)
    results = read_results(out / "results.json")
    assert results["data"]["split"] == "test"
    assert results["metrics"]
    assert [one["difference"]["images"] for one in results["test_sets"]["sets"]] == [2, 3]
    assert "mean over sets" in done.stdout
    assert f"minus that of {other}" in done.stdout  # the card and results.json do not name a local folder
    card = (out / "README.md").read_text()
    assert "| CVC-300 | 2 |" in card
    assert "figures/dice_histogram.png" in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--robustness",), "--robustness is about a split"),
        (("--negative_windows", 5), "--negative_windows is about a split"),
        (("--push_to_hub", "--hub_model_id", "me/unet"), "--push_to_hub is about a split"),
        (("--folds", 3, "--fold", 0), "is about a split"),
        (("--split", "test", "--tune_peak_on", "validation"), "--tune_peak_on chooses a threshold on a split"),
        (("--tune_threshold_on", "validation"), "--tune_threshold_on chooses a threshold on a split"),
        (("--compare_with", "TestDataset"), "compares with a model alone"),
    ],
)
def test_flags_that_do_not_go_with_test_sets_are_refused(flags, message, run, model, sets, tmp_path):
    done = run("--model", model, "--test_sets", sets, *flags, status=2)
    assert message in done.stderr
    assert not list(tmp_path.glob("outputs*"))


def test_a_folder_without_test_sets_leaves_nothing_behind(run, model, tmp_path):
    done = run("--model", model, "--test_sets", tmp_path / "nowhere", "--output_dir", tmp_path / "out", status=2)
    assert "there is no such folder" in done.stderr
    assert not (tmp_path / "out").exists()
