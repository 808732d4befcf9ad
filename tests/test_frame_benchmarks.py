"""The benchmarks of frames' statistics and of ensembles: changes and rates by hand, and their commands."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import save_tiny_model
from unet_kvasir_seg.benchmarks import ensemble, frame_statistics
from unet_kvasir_seg.benchmarks.frame_statistics import CHANGES, warning_rates
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import load_sample
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.frame_statistics import LEVELS, FrameStatistics
from unet_kvasir_seg.inference.predictor import Predictor

DATA = ("--dataset_name", "synthetic", "--synthetic_rows", "16", "--device", "cpu", "--dtype", "float32")


@pytest.fixture
def models(tmp_path) -> list[Path]:
    return [save_tiny_model(tmp_path / name, seed) for seed, name in enumerate("ab")]


def test_changes_are_what_they_are_called():
    image = next(generate(1, (60, 80), seed=0))["image"]
    pixels = np.asarray(image)
    assert CHANGES["as they are"](image) is image
    grey = np.asarray(CHANGES["grey"](image))
    assert (grey == grey[..., :1]).all()
    np.testing.assert_array_equal(
        np.asarray(CHANGES["a third of the brightness"](image)), (pixels / 3).astype(np.uint8)
    )
    warm = np.asarray(CHANGES["red x 0.7, blue x 1.3"](image))
    np.testing.assert_allclose(warm[..., 0], pixels[..., 0] * 0.7, atol=1)
    panel = CHANGES["black panel of 38 % of the width"](image)
    assert (panel.width - 80) / panel.width == pytest.approx(0.38, abs=0.01)
    np.testing.assert_array_equal(np.asarray(panel)[:, -80:], pixels)
    noise = np.asarray(CHANGES["noise of 10 levels"](image)).astype(float) - pixels
    inner = (pixels > 50) & (pixels < 200)
    assert noise[inner].std() == pytest.approx(10, rel=0.05)
    for change in CHANGES.values():
        assert change(image).mode == "RGB"


def test_rates_are_shares_of_random_sets():
    statistics = FrameStatistics(100, 0, {"brightness": list(LEVELS)})
    assert warning_rates(statistics, [{"brightness": 0.0}] * 30, sets=20) == [1.0, 1.0, 1.0, None]
    # Of three frames, all have to be far off: with half of the frames so, some 12 % of the sets.
    half = [{"brightness": value} for value in [0.0] * 50 + [0.5] * 50]
    rates = warning_rates(statistics, half, sets=2000)
    assert rates[0] == pytest.approx(50 * 49 * 48 / (100 * 99 * 98), abs=0.02)
    assert rates[-1] == 0  # all of them, of which not more than half are


def test_the_table_of_warnings(run_command, models, tmp_path):
    command = (frame_statistics.main, *DATA, "--model", models[0], "--sets", 5)
    assert "keeps no statistics of frames" in run_command(*command, status=2).stderr
    file = models[0] / "preprocessor_config.json"
    quantiles = {"saturation": list(LEVELS)}
    kept = FrameStatistics(40, 0, quantiles).to_dict()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"frame_statistics": kept}))
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- frame_statistics: begin -->\n<!-- frame_statistics: end -->\nafter\n")
    done = run_command(*command, "--document", document)
    assert "| grey | 1.000 | - | - | - | paler colours (100%) |" in document.read_text()
    assert document.read_text().endswith("after\n")
    assert "of the time of preparing, predicting and measuring" in done.stdout


def test_the_table_of_ensembles(run_command, models, tmp_path):
    command = (ensemble.main, *DATA, "--split", "test", "--resamples", 100)
    assert "needs two models or more" in run_command(*command, "--models", models[0], status=2).stderr
    done = run_command(*command, "--models", *models)
    members = [Predictor.from_pretrained(model, device="cpu", dtype="float32") for model in models]
    scores = []
    for row in load_splits("synthetic", synthetic_rows=16)["test"]:
        sample = load_sample(row)
        maps = np.stack([member(sample.image).probability for member in members])
        masks = [*(maps > 0.5), maps.mean(0) > 0.5]
        true = sample.ground_truth
        scores.append([2 * (mask & true).sum() / (mask.sum() + true.sum()) for mask in masks])
    lines = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [line[1].strip() for line in lines] == ["a", "b", "all together"]
    found = [float(line[2].split()[0]) for line in lines]
    assert found == pytest.approx(np.mean(scores, axis=0), abs=6e-4)
    means = np.mean(scores, axis=0)
    assert float(lines[2][3].split()[0]) == pytest.approx(means[2] - max(means[:2]), abs=6e-4)
