"""Training, evaluation and the check of the data on files of annotation programs, as on images and masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from annotation_files import WRITERS, write_frames
from PIL import Image
from training_runs import FP32, largest_difference
from unet_kvasir_seg.evaluation import main as evaluate

FLAGS = ("--base_channels", 4, "--image_size", 32, "--max_steps", 2, *FP32)


@pytest.fixture(scope="module")
def trained_on_masks(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """Folder and masks of a data set of PNG masks."""
    folder = tmp_path_factory.mktemp("pairs")
    masks = write_frames(folder / "images", count=10)
    (folder / "masks").mkdir()
    for name, mask in masks.items():
        Image.fromarray(mask).save(folder / "masks" / name.replace(".jpg", ".png"))
    return folder, masks


@pytest.mark.parametrize("name", ["COCO", "LabelMe", "CVAT", "CVAT masks", "Label Studio", "VIA project", "YOLO"])
def test_a_model_is_the_same_as_of_png_masks(name, trained_on_masks, run_train, tmp_path):
    """Weights are equal to the last bit: samples, their order and their division are the same."""
    pairs, masks = trained_on_masks
    weights = pairs / "run"
    if not weights.exists():
        run_train("--dataset_name", pairs, *FLAGS, "--output_dir", weights)
    folder = tmp_path / "annotated"
    write_frames(folder / "images", count=10)
    source = WRITERS[name](folder, masks)
    run_train("--dataset_name", source, *FLAGS, "--output_dir", "run")
    # Names of images tell how they are divided, and of CVAT's masks their folder has another name; YOLO names a split.
    if name not in ("CVAT masks", "YOLO"):
        assert largest_difference(tmp_path / "run", weights) == 0
    data = json.loads((tmp_path / "run" / "results.json").read_text())["data"]
    assert data["name"] == "a local data set"
    assert str(tmp_path) not in (tmp_path / "run" / "README.md").read_text()


def test_evaluation_folds_groups_and_the_check(trained_on_masks, run_command, run_train, tmp_path):
    _, masks = trained_on_masks
    folder = tmp_path / "annotated"
    write_frames(folder / "images", count=10)
    source = WRITERS["COCO"](folder, masks)
    flags = ("--dataset_name", source, "--labels", "polyp", "--group_pattern", r"(\d)$", "--fold", 1, "--folds", 5)
    run_train(*flags, *FLAGS, "--output_dir", "run")
    scored = ("--model", tmp_path / "run", *flags, "--split", "validation", "--resamples", 20, "--device", "cpu")
    run_command(evaluate, *scored, "--output_dir", "scores")
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["data"]["masks"]["labels"] == ["polyp"]
    assert results["data"]["groups"] == {"validation": 2}
    checked = run_command(evaluate, "--dataset_name", source, "--check_data", "--output_dir", "checked")
    assert "Checked 10 pairs" in checked.stdout
    assert "Nothing is wrong" in checked.stdout
