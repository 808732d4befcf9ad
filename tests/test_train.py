"""`train.py` from arguments to files, on real data sets; crashes and parallel runs in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
from conftest import ROOT, peak_megabytes
from PIL import Image
from safetensors.torch import load_file, save_file
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
from unet_kvasir_seg.train import build_datasets, build_model, is_complete, parse_arguments

TINY = ("--dataset_name", "synthetic", "--synthetic_rows", "8", "--base_channels", "4", "--image_size", "32")
FP32 = ("--use_cpu", "--bf16", "False")


def parse(*arguments: str):
    return parse_arguments([*arguments, "--use_cpu"])


def error_of(done: subprocess.CompletedProcess) -> str:
    """The one line that a user's mistake gets."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if "error:" in line][-1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def largest_difference(a: Path, b: Path) -> float:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def test_defaults_are_the_cards():
    model, data, training = parse()
    assert data.dataset_name == "Angelou0516/kvasir-seg"
    assert model.model_name_or_path is None
    assert training.num_train_epochs == 50
    assert training.per_device_train_batch_size == 4
    assert training.learning_rate == 1e-4
    assert training.lr_scheduler_type == "linear"
    assert training.optim.startswith("adamw")
    assert training.metric_for_best_model == "dice_per_image"


@pytest.mark.parametrize("name", ["best", "card", "compact", "cpu-hour", "demo"])
def test_shipped_recipes_are_valid(name):
    parse(f"recipes/{name}.yaml")


def test_the_card_recipe_says_what_the_defaults_are():
    ours, plain = parse("recipes/card.yaml"), parse()
    assert ours[1] == plain[1]
    assert ours[2].to_dict() | {"output_dir": "", "logging_dir": ""} == plain[2].to_dict() | {
        "output_dir": "",
        "logging_dir": "",
    }


def test_flags_override_the_recipe(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 1e-3\nnum_train_epochs: 7\nforeground_values: [1, 2]\nimage_column: null\n")
    _, data, training = parse(str(recipe), "--num_train_epochs", "3")
    assert (training.learning_rate, training.num_train_epochs) == (1e-3, 3)
    assert data.foreground_values == [1, 2]
    assert data.image_column is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat: 1", r"unknown key 'learning_rat'; near it are learning_rate"),
        ("- a\n- b", "must hold lines of `flag: value`, got list"),
        ("a: [", "is not valid YAML"),
        ("hub_token: hf_secret", "--hub_token is refused"),
    ],
)
def test_recipes_that_cannot_be_used(tmp_path, content, message):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(content)
    with pytest.raises(UserError, match=message):
        parse(str(recipe))


def test_an_absent_recipe_names_those_there():
    with pytest.raises(UserError, match=r"no recipe nowhere\.yaml; the project has recipes/best\.yaml"):
        parse("nowhere.yaml")


def test_an_unknown_flag_names_near_ones():
    with pytest.raises(UserError, match=r"unknown flag '--base_chanels'; near it are --base_channels"):
        parse("--base_chanels", "8")


def test_precision_follows_the_hardware_and_can_be_chosen():
    assert parse("--bf16", "False")[2].runtime.dtype == torch.float32
    assert parse("--bf16")[2].runtime.dtype == torch.bfloat16
    with pytest.raises(UserError, match=r"cpu does not compute in float16 here; choose .*float32"):
        parse("--fp16")


def test_train_evaluate_save_and_load(run_train, tmp_path):
    done = run_train(*TINY, "--num_train_epochs", 2, "--output_dir", "run", fresh_process=True)
    assert "Computing on " in done.stdout
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    validation = results["training"]["validation"]
    assert f"dice_per_image  {validation['dice_per_image']:.4f}" in done.stdout
    assert [epoch for epoch, _ in results["training"]["loss"]] == [1, 2]
    assert results["data"]["rows"] == {"train": 8, "validation": 2, "test": 2}
    # The best checkpoint is the one that is left at the end.
    best = run / f"checkpoint-{results['training']['best_step']}"
    assert largest_difference(run, best) == 0
    history = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    scores = [log["eval_dice_per_image"] for log in history if "eval_dice_per_image" in log]
    assert validation["dice_per_image"] == pytest.approx(max(scores))
    assert UNetForSemanticSegmentation.from_pretrained(run).num_parameters() == results["model"]["parameters"]


def test_fine_tuning_starts_from_the_checkpoint(run_train, tmp_path):
    run_train(*TINY, "--num_train_epochs", 1, "--output_dir", "first")
    data = ("--dataset_name", "synthetic", "--synthetic_rows", "8")
    start = ("--model_name_or_path", "first", "--learning_rate", "0", "--num_train_epochs", "1")
    run_train(*data, *start, "--output_dir", "second")
    assert largest_difference(tmp_path / "first", tmp_path / "second") == 0
    processor = json.loads((tmp_path / "second" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 32, "width": 32}

    message = error_of(run_train(*data, *start, "--depth", 3, "--output_dir", "third", check=False))
    assert "first brings its architecture: remove --depth" in message
    message = error_of(run_train(*data, "--model_name_or_path", "nowhere", "--output_dir", "third", check=False))
    assert "checkpoint nowhere cannot be loaded" in message

    # A checkpoint that fits in part is refused, not filled up with random weights.
    tensors = weights(tmp_path / "first")
    tensors["enc1.weight"] = tensors.pop("encoder.0.convs.0.0.weight")
    save_file(tensors, tmp_path / "first" / "model.safetensors", metadata={"format": "pt"})
    message = error_of(run_train(*data, *start, "--output_dir", "third", check=False))
    assert "2 weights are missing or unknown (enc1.weight, encoder.0.convs.0.0.weight" in message
    assert "convert.py" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset_name", "nobody/no-such-data"], "local folder, or `--dataset_name synthetic`"),
        ([*TINY, "--depth", "6"], "--image_size 32 is too small: depth=6 with norm=none needs at least 64"),
        ([*TINY, "--base_channels", "0"], "`base_channels` must be a whole number of at least 1, got 0"),
        ([*TINY, "--norm", "layer"], "`norm` must be one of none, batch, group, instance, got 'layer'"),
        ([*TINY, "--resume_from_checkpoint"], "no whole checkpoint to go on from"),
        ([*TINY, "--resume_from_checkpoint", "nowhere"], "nowhere is no checkpoint"),
    ],
)
def test_mistakes_get_one_clear_line(run_train, tmp_path, arguments, message):
    assert message in error_of(run_train(*arguments, "--output_dir", "run", check=False))
    assert not list(tmp_path.glob("run/*"))


def test_batches_are_augmented_on_a_gpu_by_default():
    """Told apart by the device alone, which nothing here has."""
    splits = load_splits("synthetic", synthetic_rows=4, synthetic_size=32)
    model, data, training = parse(*TINY)
    _, processor = build_model(model)

    class OnCuda:
        device = torch.device("cuda")
        dispatches_batches = False
        seed = 0

    for arguments, flag, expected in [(training, None, False), (OnCuda, None, True), (OnCuda, False, False)]:
        data.augment_in_batches = flag
        *_, transform = build_datasets(splits, processor, data, arguments, minimum_size=16)
        assert transform.in_batches is expected


def test_streams_are_split_among_processes_whatever_else_accelerate_is_told():
    _, _, training = parse(*TINY, "--accelerator_config", '{"non_blocking": true}')
    assert training.accelerator_config.dispatch_batches is False


def test_fine_tuning_may_change_the_loss(run_train, tmp_path):
    once = ("--num_train_epochs", 1)
    run_train(*TINY, *once, "--loss", "structure", "--output_dir", "first")
    data = ("--dataset_name", "synthetic", "--synthetic_rows", 8, "--model_name_or_path", "first", *once)
    run_train(*data, "--output_dir", "kept")
    run_train(*data, "--loss", "bce_dice", "--output_dir", "changed")
    for name, loss in (("first", "structure"), ("kept", "structure"), ("changed", "bce_dice")):
        assert json.loads((tmp_path / name / "config.json").read_text())["loss"] == loss
        assert json.loads((tmp_path / name / "results.json").read_text())["model"]["loss"] == loss
    message = error_of(run_train(*data, "--loss", "dice", "--output_dir", "run", check=False))
    assert "`loss` must be one of bce_dice, structure, got 'dice'" in message


def test_another_runs_folder_is_left_alone(run_train, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_text("precious")
    message = error_of(run_train(*TINY, "--output_dir", "run", check=False, fresh_process=True))
    assert "run holds another run (model.safetensors). Choose another --output_dir" in message
    assert (folder / "model.safetensors").read_text() == "precious"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named(run_train, tmp_path, workers):
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (32, 32), 255 * (name == "masks")).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "images" / "7.png").write_bytes(b"no image at all")
    names = "\n".join(str(i) for i in range(10))
    (tmp_path / "data" / "train.txt").write_text(names)
    (tmp_path / "data" / "val.txt").write_text("10\n11")
    arguments = ("--dataset_name", "data", "--base_channels", 4, "--image_size", 32, "--output_dir", "run")
    message = error_of(run_train(*arguments, "--dataloader_num_workers", workers, check=False))
    # Only the message, also of a worker, which puts its traceback before it.
    assert message.count("error: ") == 1
    assert f"train.py: error: The image data{os.sep}images{os.sep}7.png cannot be read" in message


def test_workers_change_nothing(run_train, tmp_path):
    """Over epochs, since a worker that goes on must be told of the next one's draws."""
    for workers in (0, 2):
        flags = ("--num_train_epochs", 3, "--dataloader_num_workers", workers)
        run_train(*TINY, *FP32, *flags, "--output_dir", f"run{workers}")
    assert largest_difference(tmp_path / "run0", tmp_path / "run2") < 1e-6


@pytest.mark.parametrize("augmentation", ["card", "strong"])
def test_augmenting_in_batches_trains_the_same(run_train, tmp_path, augmentation):
    """But for rounding: a grey level here and there. With workers, and with smaller frames first."""
    flags = (
        "--num_train_epochs",
        2,
        "--augmentation",
        augmentation,
        "--progressive_sizes",
        16,
        "--progressive_epochs",
        1,
    )
    run_train(*TINY, *FP32, *flags, "--output_dir", "rows")
    run_train(
        *(*TINY, *FP32, *flags, "--dataloader_num_workers", 2, "--augment_in_batches", "--output_dir", "batches")
    )
    assert largest_difference(tmp_path / "rows", tmp_path / "batches") < 1e-5
    run_train(*TINY, *FP32, *flags, "--seed", 1, "--output_dir", "other")
    assert largest_difference(tmp_path / "rows", tmp_path / "other") > 1e-3


def test_a_cache_that_does_not_fit_is_said(run_train):
    """A megabyte holds 16 rows of 128x128 pixels with their masks: 2^20 / (4 * 128^2)."""
    sizes = ("--image_size", 128, "--num_train_epochs", 1, "--cache_megabytes", 1)
    done = run_train(*TINY, *sizes, "--synthetic_rows", 17, "--output_dir", "much")
    assert "Of 17 training rows 16 are held in memory once they are resized, in 1 MB a process" in done.stdout
    done = run_train(*TINY, *sizes, "--synthetic_rows", 16, "--output_dir", "fits")
    assert "held in memory" not in done.stdout


def test_resuming_skips_a_half_written_checkpoint(run_train, tmp_path):
    run_train(*TINY, *FP32, "--num_train_epochs", 3, "--save_total_limit", 5, "--output_dir", "run")
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "run", whole)
    for name in ("model.safetensors", "results.json", "README.md"):
        (tmp_path / "run" / name).unlink()
    last = tmp_path / "run" / "checkpoint-6"
    content = (last / "model.safetensors").read_bytes()
    (last / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert not is_complete(last)
    arguments = (*TINY, *FP32, "--num_train_epochs", 3, "--save_total_limit", 5, "--output_dir", "run")
    done = run_train(*arguments, "--resume_from_checkpoint")
    assert "checkpoint-6 was not written to its end: skipped" in done.stdout
    assert largest_difference(tmp_path / "run" / "checkpoint-6", whole / "checkpoint-6") == 0


def test_no_run_goes_on_from_another_network_or_other_data(run_train, tmp_path):
    run_train(*TINY, "--num_train_epochs", 1, "--output_dir", "run")
    before = weights(tmp_path / "run")
    resume = ("--num_train_epochs", 2, "--output_dir", "run", "--resume_from_checkpoint")
    message = error_of(run_train(*TINY, "--depth", 3, *resume, check=False))
    assert "checkpoint-2 is of another network (" in message
    assert "depth 4 there, 3 here" in message
    message = error_of(run_train(*TINY, "--image_size", 64, *resume, check=False))
    assert "(image_size [32, 32] there, [64, 64] here)" in message
    message = error_of(run_train(*TINY, "--synthetic_rows", 12, *resume, check=False))
    rows = "(8 train, 2 validation, 2 test rows there, 12 train, 3 validation, 3 test here)"
    assert f"checkpoint-2 was trained on other data {rows}" in message
    assert "--dataset_name" in message
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)
    seconds = json.loads((tmp_path / "run" / "results.json").read_text())["training"]["seconds"]
    run_file = tmp_path / "run" / "checkpoint-2" / "run.json"
    earlier = json.loads(run_file.read_text())
    del earlier["model"]["loss"]  # as versions wrote it that had one loss alone
    run_file.write_text(json.dumps(earlier))
    run_train(*TINY, *resume)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["training"]["steps"] == 4
    assert results["training"]["seconds"] > seconds  # with those before the stop


def test_the_held_out_rows_are_the_same_for_every_seed(run_train, tmp_path):
    """Or an evaluation, which knows no seed, would score rows that were trained on."""
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for number, row in enumerate(generate(20, 32, seed=0)):
        row["image"].save(tmp_path / "data" / "images" / f"{number}.png")
        row["mask"].save(tmp_path / "data" / "masks" / f"{number}.png")
    run_train("--dataset_name", "data", *TINY[4:], "--num_train_epochs", 1, "--seed", 1, "--output_dir", "run")
    trained = json.loads((tmp_path / "run" / "results.json").read_text())["training"]["data"]["fingerprint"]
    assert trained == describe_data(str(tmp_path), None, load_splits(str(tmp_path / "data")))["fingerprint"]


def test_a_recipe_for_another_image_size_than_the_checkpoints(run_train, tmp_path):
    run_train(*TINY, "--num_train_epochs", 1, "--output_dir", "first")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("dataset_name: synthetic\nsynthetic_rows: 8\nnum_train_epochs: 1\nimage_size: 48\n")
    start = (recipe, "--model_name_or_path", "first", "--output_dir", "second")
    message = error_of(run_train(*start, check=False))
    assert "The recipe is written for images of 48x48 pixels, the checkpoint first for 32x32" in message
    run_train(*start, "--image_size", 48)  # said by hand, it is meant
    processor = json.loads((tmp_path / "second" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 48, "width": 48}


def test_a_killed_run_goes_on_to_the_same_weights(run_train, tmp_path):
    """kill -9 in the middle of an epoch, after a checkpoint in the middle of an epoch: no difference at all."""
    arguments = (*TINY, *FP32, "--num_train_epochs", 6, "--learning_rate", "1e-3", "--save_total_limit", 99)
    arguments += ("--per_device_train_batch_size", 1, "--save_strategy", "steps", "--save_steps", 5)
    arguments += ("--eval_strategy", "steps", "--eval_steps", 5)
    run_train(*arguments, "--output_dir", "whole")

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
    assert largest_difference(tmp_path / "whole" / "checkpoint-48", tmp_path / "killed" / "checkpoint-48") == 0


def test_a_full_disk_leaves_the_checkpoint_before_whole(run_train, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]).returncode:
        pytest.skip("needs to mount a small file system")
    try:
        arguments = (*TINY, *FP32, "--num_train_epochs", 4, "--base_channels", 8, "--depth", 3)
        message = error_of(run_train(*arguments, "--output_dir", "disk/run", check=False, fresh_process=True))
        assert "disk is full" in message
        assert "--resume_from_checkpoint" in message
        checkpoints = sorted((disk / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        assert is_complete(checkpoints[0])
        UNetForSemanticSegmentation.from_pretrained(checkpoints[0])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def run_two_processes(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    """`train.py` under torchrun with two processes on this machine's cores."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(ROOT / "train.py"),
    ]
    command = [*launch, *map(str, arguments), "--ddp_backend", "gloo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "further",
    [
        ("--norm", "none"),
        ("--norm", "group", "--loss", "structure", "--augment_in_batches"),
        ("--norm", "instance"),
    ],
    ids=" ".join,
)
def test_two_processes_and_accumulation_take_the_step_of_one_big_batch(run_train, tmp_path, further):
    """One step of SGD on the same four rows tells the gradients: they agree to 1e-5."""
    data = ("--dataset_name", "synthetic", "--synthetic_rows", 4, "--image_size", 32, "--base_channels", 8)
    # A rate so large that the difference of the weights is not lost in their rounding.
    step = (*further, "--max_steps", 1, "--optim", "sgd", "--max_grad_norm", 0, *FP32)
    common = (*data, *step, "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "False")
    large = ("--learning_rate", "100")
    run_train(*common, "--output_dir", "start", "--per_device_train_batch_size", 4, "--learning_rate", "0")
    run_train(*common, *large, "--output_dir", "one", "--per_device_train_batch_size", 4)
    halves = (*common, *large, "--per_device_train_batch_size", 2)
    run_train(*halves, "--output_dir", "accumulated", "--gradient_accumulation_steps", 2)
    done = run_two_processes(tmp_path, *halves, "--output_dir", "parallel")
    assert done.stdout.count("Computing on ") == 1

    start, one = weights(tmp_path / "start"), weights(tmp_path / "one")
    for other in ("accumulated", "parallel"):
        got = weights(tmp_path / other)
        for name in one:
            error = (got[name] - one[name]).norm() / (one[name] - start[name]).norm()
            assert error < 1e-5, (other, name)


def test_two_processes_score_as_one(run_train, tmp_path):
    """Three validation rows on two processes: none is lost, none counts twice."""
    data = ("--dataset_name", "synthetic", "--synthetic_rows", 12, "--image_size", 32, "--base_channels", 4)
    arguments = (*data, *FP32, "--num_train_epochs", 1, "--learning_rate", 0, "--per_device_eval_batch_size", 1)
    run_train(*arguments, "--output_dir", "one")
    run_two_processes(tmp_path, *arguments, "--output_dir", "two")
    one, two = (json.loads((tmp_path / name / "results.json").read_text())["training"] for name in ("one", "two"))
    for score in ("dice_per_image", "iou_per_image", "dice_pooled", "precision", "recall"):
        assert two["validation"][score] == pytest.approx(one["validation"][score]), score


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is Linux's")
def test_evaluating_ten_times_as_many_images_takes_no_more_memory(tmp_path):
    """600 float32 maps of 256x256, were they held, would take 157 MB."""
    peaks = []
    for rows in (60, 600):
        splits = load_splits("synthetic", synthetic_rows=rows, synthetic_size=256)
        pairs = {"train": splits["train"].select(range(4)), "validation": splits["train"]}
        for split, part in pairs.items():
            file = tmp_path / f"rows{rows}" / "data" / f"{split}-00000-of-00001.parquet"
            part.remove_columns("index").to_parquet(str(file))
        network = ("--base_channels", 2, "--depth", 1, "--num_train_epochs", 1)
        data = ("--dataset_name", f"rows{rows}", "--output_dir", f"run{rows}")
        peaks.append(peak_megabytes(tmp_path, "train.py", *data, *network, *FP32))
    assert peaks[1] - peaks[0] < 100, peaks


def few_real_rows(folder: Path, source: str, rows: int) -> None:
    for split in ("train", "validation"):
        part = datasets.load_dataset(source, split=split).select(range(rows))
        part.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))


NO_CHECKPOINTS = ("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "False")


def test_streaming_real_frames(run_train, tmp_path, kvasir_seg):
    """The data set's card tells its number of rows, so epochs are known."""
    arguments = ("--dataset_name", kvasir_seg, "--streaming", "--base_channels", 2, "--depth", 1)
    done = run_train(*arguments, "--image_size", 32, "--num_train_epochs", 1, "--output_dir", "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["training"]["steps"] == 200
    assert "dice_per_image" in done.stdout


def test_a_stream_of_unknown_length_needs_max_steps(run_train, tmp_path, kvasir_seg):
    few_real_rows(tmp_path / "few", kvasir_seg, 8)
    arguments = ("--dataset_name", "few", "--streaming", "--base_channels", 2, "--depth", 1, "--image_size", 32)
    message = error_of(run_train(*arguments, "--output_dir", "run", check=False))
    assert "does not say how many rows" in message
    assert "--max_steps" in message
    run_train(*arguments, *NO_CHECKPOINTS, "--max_steps", 3, "--output_dir", "run")


def test_full_width_on_real_frames(run_train, tmp_path, kvasir_seg):
    """One step and one evaluation of the 31,031,745 parameters, at 256x256."""
    few_real_rows(tmp_path / "few", kvasir_seg, 4)
    done = run_train("--dataset_name", "few", "--max_steps", 1, "--output_dir", "run", *NO_CHECKPOINTS)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["model"]["parameters"] == 31_031_745
    assert "dice_per_image" in done.stdout
