"""The course of a training: history.csv, its curve, and the grid of predictions; also after resuming."""

import csv
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_runs import FP32, TINY, error_of, largest_difference
from transformers import TrainerState
from unet_kvasir_seg.common.mask_rules import MaskRules
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.training.history import HISTORY_FILE, history_rows, validation_curve
from unet_kvasir_seg.training.prediction_grid import (
    CELL_SIDE,
    GAP,
    GRID_FOLDER,
    PredictionGrid,
    column,
    evenly_spread,
    side_by_side,
)
from unet_kvasir_seg.training.trainer import PUSHED_FILES


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / HISTORY_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_log_becomes_one_row_a_step():
    log = [
        {"loss": 1.5, "grad_norm": 0.3, "learning_rate": 1e-3, "epoch": 1.0, "step": 4},
        {"eval_loss": 1.4, "eval_dice_per_image": 0.25, "eval_runtime": 3.0, "epoch": 1.0, "step": 4},
        {"loss": 1.2, "learning_rate": 5e-4, "epoch": 1.5, "step": 6},
        {"train_runtime": 9.0, "train_loss": 1.3, "epoch": 1.5, "step": 6},
    ]
    rows = history_rows(log)
    assert rows == [
        {
            **{"step": 4, "epoch": 1.0, "loss": 1.5, "learning_rate": 1e-3, "gradient_norm": 0.3},
            **{"validation_loss": 1.4, "validation_dice_per_image": 0.25},
        },
        {"step": 6, "epoch": 1.5, "loss": 1.2, "learning_rate": 5e-4},
    ]
    assert validation_curve(rows) == [[1.0, 1.4, 0.25]]
    assert history_rows([]) == []


@pytest.fixture
def narrow_umask():
    """Files that a group may read, and others may not."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("narrow_umask")
def test_history_and_grid_are_complete_after_resuming(run_train, tmp_path):
    flags = (*TINY, *FP32, "--num_train_epochs", 3, "--learning_rate", 1e-3, "--save_total_limit", 5)
    run_train(*flags, "--output_dir", "plain")
    run_train(*flags, "--ema_decay", 0, "--prediction_grid", 2, "--output_dir", "run")
    run, grid = tmp_path / "run", tmp_path / "run" / GRID_FOLDER
    # A decay of 0 is no average, but has a file of its own; the grid changes nothing in the training.
    assert largest_difference(tmp_path / "plain", run) == 0
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    assert {path.name for path in files} >= {"model.safetensors", "training_weights.safetensors", HISTORY_FILE}
    # transformers 4 copies the code with the permissions that it has.
    written = [path for path in files if path.suffix != ".py"]
    assert {path.name for path in written if stat.S_IMODE(path.stat().st_mode) != 0o640} == set()

    rows = rows_of(run)
    assert [(row["step"], row["epoch"]) for row in rows] == [("2", "1.0"), ("4", "2.0"), ("6", "3.0")]
    log = json.loads((run / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert [float(row["loss"]) for row in rows] == [entry["loss"] for entry in log if "loss" in entry]
    dice = [entry["eval_dice_per_image"] for entry in log if "eval_loss" in entry]
    assert [float(row["validation_dice_per_image"]) for row in rows] == dice
    training = json.loads((run / "results.json").read_text())["training"]
    assert [point[2] for point in training["validation_curve"]] == dice
    columns = contents(grid)
    assert columns.keys() == {"grid.png", *(f"step-{step:08}.png" for step in (2, 4, 6))}

    # As after kill -9 between the last validation and its checkpoint.
    history = (run / HISTORY_FILE).read_bytes()
    shutil.rmtree(run / "checkpoint-6")
    (run / "results.json").unlink()
    (run / HISTORY_FILE).write_bytes(history + b"8,4.0,lost")
    (grid / "step-00000008.png").write_bytes(columns["grid.png"])
    resume = ("--ema_decay", 0, "--prediction_grid", 2, "--output_dir", "run", "--resume_from_checkpoint")
    run_train(*flags, *resume)
    assert (run / HISTORY_FILE).read_bytes() == history
    assert contents(grid) == columns
    assert not any(Path(f"{GRID_FOLDER}/{name}").match(pattern) for name in columns for pattern in PUSHED_FILES)


def test_the_grid_has_a_column_for_each_validation(tmp_path):
    red, blue = (Image.new("RGB", (CELL_SIDE, height), colour) for height, colour in ((50, "red"), (30, "blue")))
    one = column("epoch 1", [red, blue])
    grid = np.asarray(side_by_side([column("image", [blue]), one]))
    assert grid.shape == (one.height, 2 * (CELL_SIDE + GAP), 3)
    assert tuple(grid[-GAP - 1, CELL_SIDE + GAP]) == (0, 0, 255)
    assert tuple(grid[-GAP - 1 - 30 - GAP, -GAP - 1]) == (255, 0, 0)
    assert tuple(grid[-1, 0]) == (255, 255, 255)  # beside the shorter column
    assert evenly_spread(range(5), 10) == [0, 1, 2, 3, 4]
    assert evenly_spread(range(101), 5) == [0, 25, 50, 75, 100]


def test_columns_that_come_again_or_are_damaged_are_removed_at_the_start(tmp_path):
    rows = load_splits("synthetic", synthetic_rows=4, synthetic_size=32)["validation"]
    folder = tmp_path / GRID_FOLDER
    folder.mkdir()
    for step in (2, 4, 6):
        Image.new("RGB", (CELL_SIDE, 50)).save(folder / f"step-{step:08}.png")
    damaged = folder / "step-00000002.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    grid = PredictionGrid(rows, UNetImageProcessor(size=32), MaskRules(), 1, tmp_path)
    grid.on_train_begin(None, TrainerState(global_step=4), None)
    assert [file.name for file in folder.iterdir()] == ["step-00000004.png"]


def test_a_grid_needs_validations(run_train, tmp_path):
    no_checks = ("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "no")
    flags = (*TINY, *no_checks, "--output_dir", "run", "--prediction_grid")
    assert "--prediction_grid 2 has no effect with --eval_strategy no" in error_of(run_train(*flags, 2, check=False))
    assert "--prediction_grid must be above 0, got 0" in error_of(run_train(*flags, 0, check=False))
    assert list(tmp_path.iterdir()) == []
