"""The mean of trainings: by hand, loaded by others, described in the card; and what cannot be averaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from training_runs import TINY
from transformers import pipeline
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.checkpoint import load_checkpoint
from unet_kvasir_seg.training import averaging
from unet_kvasir_seg.training.saving import check_saved

SHORT = (*TINY, "--num_train_epochs", 1, "--learning_rate", "1e-2", "--norm", "batch", "--output_dir")


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def folders(run_train, tmp_path) -> list[Path]:
    """Two trainings of one seed."""
    run_train(*SHORT, "a", "--seed", 3)
    run_train(*SHORT, "b", "--seed", 3, "--augmentation", "strong")
    return [tmp_path / name for name in "ab"]


def test_the_mean_is_a_model_like_any_other(folders, run_command, tmp_path):
    settings = folders[0] / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"peak_threshold": 0.9}))
    mean = tmp_path / "mean"
    done = run_command(averaging.main, *folders, "--output_dir", mean)
    assert "the mean of 2 trainings" in done.stdout
    first, second, both = (weights_of(folder) for folder in (*folders, mean))
    assert first.keys() == both.keys()
    for name, value in both.items():
        expected = (first[name].astype(np.float64) + second[name]) / 2
        np.testing.assert_allclose(value, first[name] if "num_batches" in name else expected, rtol=1e-6, atol=1e-9)
    assert any((first[name] != value).any() for name, value in both.items())
    results = json.loads((mean / "results.json").read_text())
    check_saved(mean, results["model"]["fingerprint"])
    assert (results["metrics"], results["evaluation"], results["training"]["validation"]) == ({}, None, {})
    assert results["training"]["averaged_with"] == [{"augmentation": "strong"}]
    card = (mean / "README.md").read_text()
    assert "the mean of those of this training and of 1 other: augmentation strong" in card
    assert load_checkpoint(str(mean))[1].peak_threshold is None  # it was chosen for the first one's weights
    segment = pipeline("image-segmentation", model=str(mean), trust_remote_code=True)
    assert len(segment(next(generate(1, 48, seed=0))["image"])) == 2


def test_what_cannot_be_averaged_is_refused(folders, run_train, run_command, tmp_path):
    def refusal(*names: str) -> str:
        paths = [tmp_path / name for name in names]
        return run_command(averaging.main, *paths, "--output_dir", tmp_path / "mean", status=2).stderr

    run_train(*SHORT, "seed", "--seed", 4)
    run_train(*SHORT, "other", "--seed", 3, "--image_size", 64)
    assert "seed 3; seed 4" in refusal("a", "seed")
    assert "differ in image_size" in refusal("a", "other")
    assert "hold the same weights" in refusal("a", "b", "a")
    assert "needs two" in refusal("a")
    assert "nowhere" in refusal("a", "nowhere")
    assert not (tmp_path / "mean").exists()
    before = weights_of(folders[1])
    refused = run_command(averaging.main, *folders, "--output_dir", folders[1], status=2)
    assert "holds a model already" in refused.stderr
    assert all((before[name] == value).all() for name, value in weights_of(folders[1]).items())
