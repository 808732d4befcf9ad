"""Resuming: after a crash to the same weights, from complete checkpoints alone, and only with the same run."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from training_runs import FP32, TINY, error_of, largest_difference, weights
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.common.mask_rules import MaskRules
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.training.checkpoints import RUN_FILE, is_complete
from unet_kvasir_seg.training.outcome import base_model_of
from unet_kvasir_seg.training.resume import check_same_field_of_view, check_same_run, start_of_run


def test_resuming_skips_an_incomplete_checkpoint(run_train, tmp_path):
    run_train(*TINY, *FP32, "--num_train_epochs", 3, "--save_total_limit", 5, "--output_dir", "run")
    complete = tmp_path / "complete"
    shutil.copytree(tmp_path / "run", complete)
    for name in ("model.safetensors", "results.json", "README.md"):
        (tmp_path / "run" / name).unlink()
    last = tmp_path / "run" / "checkpoint-6"
    content = (last / "model.safetensors").read_bytes()
    (last / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert not is_complete(last)
    arguments = (*TINY, *FP32, "--num_train_epochs", 3, "--save_total_limit", 5, "--output_dir", "run")
    done = run_train(*arguments, "--resume_from_checkpoint")
    assert "checkpoint-6 is damaged (model.safetensors): skipped.\nGoing on from run/checkpoint-4.\n" in done.stdout
    assert largest_difference(tmp_path / "run" / "checkpoint-6", complete / "checkpoint-6") == 0


def test_resuming_with_another_network_or_other_data_is_refused(run_train, tmp_path):
    run_train(*TINY, "--num_train_epochs", 1, "--output_dir", "run")
    before = weights(tmp_path / "run")
    resume = ("--num_train_epochs", 2, "--output_dir", "run", "--resume_from_checkpoint")
    message = error_of(run_train(*TINY, "--depth", 3, *resume, check=False))
    assert "checkpoint-2 is of another network (" in message
    assert "depth 4 there, 3 here" in message
    message = error_of(run_train(*TINY, "--image_size", 64, *resume, check=False))
    assert "(image_size [32, 32] there, [64, 64] here)" in message
    message = error_of(run_train(*TINY, "--synthetic_rows", 12, *resume, check=False))
    samples = "(8 train, 2 validation, 2 test samples there, 12 train, 3 validation, 3 test here)"
    assert f"checkpoint-2 was trained on other data {samples}" in message
    assert "--dataset_name" in message
    message = error_of(run_train(*TINY, "--mask_threshold", 100, *resume, check=False))
    assert "masks that were read differently (--mask_threshold None there, 100.0 here" in message
    message = error_of(run_train(*TINY, "--field_of_view", "auto", *resume, check=False))
    assert "checkpoint-2 was trained with --field_of_view none, and this run has auto" in message
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)
    seconds = json.loads((tmp_path / "run" / "results.json").read_text())["training"]["seconds"]
    run_file = tmp_path / "run" / "checkpoint-2" / "run.json"
    earlier = json.loads(run_file.read_text())
    # As earlier versions wrote it.
    del earlier["model"]["loss"], earlier["data"]["config"], earlier["data"]["masks"]
    for old, new in (("smaller_sizes", "progressive_sizes"), ("smaller_until", "progressive_epochs")):
        earlier["training"][old] = earlier["training"].pop(new)
    run_file.write_text(json.dumps(earlier))
    run_train(*TINY, *resume)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["training"]["steps"] == 4
    assert results["training"]["seconds"] > seconds  # with those before the stop


def test_a_killed_run_goes_on_to_the_same_weights(run_train, tmp_path):
    """kill -9 in the middle of an epoch, after a checkpoint in the middle of an epoch: the weights are equal."""
    arguments = (*TINY, *FP32, "--num_train_epochs", 6, "--learning_rate", "1e-3", "--save_total_limit", 99)
    arguments += ("--per_device_train_batch_size", 1, "--save_strategy", "steps", "--save_steps", 5)
    arguments += ("--eval_strategy", "steps", "--eval_steps", 5)
    run_train(*arguments, "--output_dir", "uninterrupted")

    command = [sys.executable, str(ROOT / "train.py"), *map(str, arguments), "--output_dir", "killed"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not is_complete(tmp_path / "killed" / "checkpoint-10") and time.monotonic() < deadline:
        assert running.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "killed" / "checkpoint-48").exists()

    run_train(*arguments, "--output_dir", "killed", "--resume_from_checkpoint", fresh_process=True)
    assert largest_difference(tmp_path / "uninterrupted" / "checkpoint-48", tmp_path / "killed" / "checkpoint-48") == 0


def test_the_start_is_that_of_the_run(tmp_path):
    """A resumed run need not name the checkpoint that it was started from."""
    start = {"fine_tuned": True, "base_model": "me/unet", "encoder_weights": None}
    record = {"training": {"seconds": 5.0, "epochs": 3, **start}}
    (tmp_path / RUN_FILE).write_text(json.dumps(record))
    assert start_of_run(str(tmp_path)) == start
    (tmp_path / RUN_FILE).write_text(json.dumps({"training": {"seconds": 5.0}}))  # of an earlier version
    assert start_of_run(str(tmp_path)) == {}
    assert base_model_of("me/unet") == "me/unet"
    assert base_model_of(str(tmp_path)) is None
    assert base_model_of(None) is None


@pytest.mark.parametrize(
    ("before", "now", "difference"),
    [
        (MaskRules(), MaskRules(foreground_values=[1, 255]), r"--foreground_values None there, \[1, 255\] here"),
        (MaskRules(threshold=127), MaskRules(), r"--mask_threshold 127 there, None here"),
        (MaskRules(ignore_exif=True), MaskRules(ignore_exif=False), "--ignore_exif True there, False here"),
        (MaskRules(foreground_values=[255, 1]), MaskRules(foreground_values=[1, 255]), None),
        (MaskRules(), MaskRules(ignore_exif=False), None),  # no pair is then read in another way
    ],
)
def test_masks_are_read_in_one_way_in_the_whole_training(tmp_path, before, now, difference):
    rows = {"test": load_splits("synthetic", synthetic_rows=4, synthetic_size=32)["test"]}
    data = describe_data("synthetic", None, rows, mask_rules=before)
    (tmp_path / RUN_FILE).write_text(json.dumps({"model": {}, "data": data, "training": {"seconds": 5.0}}))
    results = {"model": {}, "data": describe_data("synthetic", None, rows, mask_rules=now)}
    if difference is None:
        assert check_same_run(str(tmp_path), results) == 5
        return
    with pytest.raises(UserError, match=difference):
        check_same_run(str(tmp_path), results)


def test_a_stream_is_of_one_configuration(tmp_path):
    data = {"name": "me/polyps", "revision": None, "config": "one", "rows": {"train": None}, "fingerprint": None}
    data["masks"] = {"foreground_values": None, "threshold": None, "ignore_exif": False}
    (tmp_path / RUN_FILE).write_text(json.dumps({"model": {}, "data": data, "training": {"seconds": 5.0}}))
    with pytest.raises(UserError, match="other data"):
        check_same_run(str(tmp_path), {"model": {}, "data": data | {"config": "two"}})
    assert check_same_run(str(tmp_path), {"model": {}, "data": data}) == 5


@pytest.mark.parametrize(
    ("there", "here", "is_same"),
    [
        ({}, None, True),  # as earlier versions wrote it
        ({"field_of_view": [1, 2, 30, 40]}, [1, 2, 30, 40], True),
        ({"field_of_view": [1, 2, 30, 40]}, "auto", False),
        ({"field_of_view": "auto"}, None, False),
    ],
)
def test_a_run_sees_one_part_of_the_frames(tmp_path, there, here, is_same):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(there))
    if is_same:
        check_same_field_of_view(str(tmp_path), here)
        return
    with pytest.raises(UserError, match="was trained with --field_of_view"):
        check_same_field_of_view(str(tmp_path), here)
    (tmp_path / "preprocessor_config.json").write_text("[")
    with pytest.raises(UserError, match="is damaged"):
        check_same_field_of_view(str(tmp_path), here)
