"""Ensembles and uncertainty from the command lines of predict.py and evaluation.py."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_tiny_model
from PIL import Image
from sklearn.metrics import roc_auc_score
from unet_kvasir_seg import evaluation, predict
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.checkpoint import load_checkpoint
from unet_kvasir_seg.inference.predictor import Predictor

RUN = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """Networks with probabilities of all sizes, which those of untrained ones are not."""
    folder = tmp_path_factory.mktemp("models")
    folders = [save_tiny_model(folder / name, seed) for seed, name in enumerate("abc")]
    for one in folders:
        model, _ = load_checkpoint(str(one))
        with torch.no_grad():
            model.classifier.weight *= 20
            model.classifier.bias *= 20
        model.save_pretrained(one)
    return folders


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for kind in ("images", "masks"):
        (folder / "test" / kind).mkdir(parents=True)
    for index in range(5):
        pair = next(generate(1, (40, 56), seed=index))
        pair["image"].save(folder / "test" / "images" / f"{index}.png")
        pair["mask"].save(folder / "test" / "masks" / f"{index}.png")
    return folder / "test" / "images"


def stored(file: Path) -> np.ndarray:
    return np.array(Image.open(file)) / 65535


def test_predict_averages_and_writes_the_spread(run_command, models, frames, tmp_path):
    wanted = ("--probabilities", "--uncertainty", "--output_dir", "out")
    # The models come first, and the word behind them is a folder of images.
    run_command(predict.main, *RUN, "--model", *models, frames, *wanted)
    members = [Predictor.from_pretrained(model, device="cpu", dtype="float32") for model in models]
    for file in frames.iterdir():
        maps = np.stack([member(Image.open(file)).probability for member in members])
        np.testing.assert_allclose(stored(tmp_path / "out" / "probabilities" / file.name), maps.mean(0), atol=1e-5)
        np.testing.assert_allclose(stored(tmp_path / "out" / "uncertainties" / file.name), maps.std(0), atol=2e-5)
        mask = np.array(Image.open(tmp_path / "out" / "masks" / file.name)) == 255
        sure = abs(maps.mean(0) - 0.5) > 1e-5
        np.testing.assert_array_equal(mask[sure], (maps.mean(0) > 0.5)[sure])
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["members"] == [member.identity for member in members]
    assert run["member_names"] == [str(model) for model in models]
    # One of them alone is another model.
    refused = run_command(predict.main, *RUN, frames, "--model", models[0], "--output_dir", "out", status=2)
    assert "the outputs of another model" in refused.stderr


def test_uncertainty_of_one_model_is_that_of_its_flips(run_command, models, frames, tmp_path):
    one = (frames / "0.png", "--model", models[0], "--uncertainty", "--output_dir", "out")
    refused = run_command(predict.main, *RUN, *one, status=2)
    assert "--uncertainty is the spread of several maps" in refused.stderr
    assert not (tmp_path / "out").exists()
    run_command(predict.main, *RUN, *one, "--tta")
    predictor = Predictor.from_pretrained(models[0], device="cpu", dtype="float32")
    expected = predictor(Image.open(frames / "0.png"), tta=True, uncertainty=True).spread
    assert expected is not None
    np.testing.assert_allclose(stored(tmp_path / "out" / "uncertainties" / "0.png"), expected, atol=2e-5)


def test_evaluation_scores_the_mean_and_judges_the_spread(run_command, models, frames, tmp_path):
    command = (evaluation.main, *RUN, "--dataset_name", frames.parents[1], "--split", "test", "--resamples", 100)
    done = run_command(*command, "--model", *models[:2], "--uncertainty", "--output_dir", "out")
    members = [Predictor.from_pretrained(model, device="cpu", dtype="float32") for model in models[:2]]
    spreads, single, mean, wrong, dice = [], [], [], [], []
    for file in sorted(frames.iterdir()):
        true = np.array(Image.open(frames.parent / "masks" / file.name).convert("L")) > 127
        maps = np.stack([member(Image.open(file)).probability for member in members])
        mask = maps.mean(0) > 0.5
        dice.append(2 * (mask & true).sum() / (mask.sum() + true.sum()))
        spreads.append(maps.std(0).ravel())
        single.append((maps[0].astype(float) * (1 - maps[0].astype(float))).ravel())
        mean.append((maps.mean(0, dtype=float) * (1 - maps.mean(0, dtype=float))).ravel())
        wrong.append((mask != true).ravel())
    with open(tmp_path / "out" / "per_image.csv", newline="") as table:
        assert [float(row["dice"]) for row in csv.DictReader(table)] == pytest.approx(dice, abs=1e-5)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["model"]["members"]) == 2
    assert results["model"]["name"] == "a + b"
    found = results["evaluation"]["uncertainty"]
    is_wrong = np.concatenate(wrong)
    assert found["wrong"]["value"] == pytest.approx(is_wrong.mean(), abs=1e-5)
    for name, values in zip(found["maps"], (spreads, mean, single), strict=True):
        expected = roc_auc_score(is_wrong, np.concatenate(values))
        assert found["maps"][name]["auroc"]["value"] == pytest.approx(expected, abs=0.005)
        assert found["maps"][name]["risk"][-1]["risk"] == pytest.approx(is_wrong.mean(), abs=1e-5)
    assert "Uncertainty and wrong pixels" in done.stdout
    assert "## Uncertainty" in (tmp_path / "out" / "README.md").read_text()
    # In a field of view, the pixels outside do not count; here those are of the right half.
    height, width = np.array(Image.open(next(frames.iterdir()))).shape[:2]
    half = ("--field_of_view", f"0,0,{width // 2},{height}")
    run_command(*command, "--model", *models[:2], "--uncertainty", *half, "--output_dir", "half")
    found = json.loads((tmp_path / "half" / "results.json").read_text())["evaluation"]["uncertainty"]
    left = []
    for file in sorted(frames.iterdir()):
        true = np.array(Image.open(frames.parent / "masks" / file.name).convert("L"))[:, : width // 2] > 127
        image = Image.open(file).crop((0, 0, width // 2, height))
        left.append((np.mean([member(image).probability for member in members], axis=0) > 0.5) != true)
    assert found["wrong"]["value"] == pytest.approx(np.mean(left), abs=1e-5)
    for flags, message in (
        (("--model", *models, "--push_to_hub"), "--push_to_hub is for one model, and --model names 3"),
        (("--model", *models, "--save_statistics"), "--save_statistics is for one model"),
        (("--model", models[0], "--uncertainty"), "--uncertainty judges the spread of several maps"),
        (("--model", models[0], models[0]), "are the same network"),
    ):
        assert message in run_command(*command, *flags, status=2).stderr
