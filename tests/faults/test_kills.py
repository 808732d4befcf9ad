"""kill -9 at random times, again and again: what a command makes in the end equals that of an uninterrupted run."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from conftest import save_tiny_model
from plain_unets import CardLayout
from processes import contents, run, start, unfinished
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.demo.examples import write_examples

pytestmark = pytest.mark.slow

KILLS = 20
KILLS_OF_ONE_FOLDER = 5
FP32 = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a model, a folder of pairs and a video."""
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_model(folder / "model", seed=0)
    for name in ("images", "masks"):
        (folder / "pairs" / "test" / name).mkdir(parents=True)
    (folder / "examples").mkdir()
    for index, pair in enumerate(generate(60, (288, 384), seed=1)):
        pair["image"].save(folder / "pairs" / "test" / "images" / f"{index:03}.jpg")
        pair["mask"].save(folder / "pairs" / "test" / "masks" / f"{index:03}.png")
        if index == 0:
            write_examples([pair["image"]], folder / "examples")
    return folder


def kill_often(
    command: str,
    arguments: Sequence[object],
    folder: Path,
    made: Callable[[Path], object],
    add_row: Callable[[str, int, int, int], None],
    resume: Callable[[Path], list[str]] = lambda output: [],
) -> None:
    """Kill a command `KILLS` times or some more, and let it end after each `KILLS_OF_ONE_FOLDER`.

    Args:
        command: Such as `train.py`.
        arguments: Its arguments, all but `--output_dir`.
        folder: Where it runs.
        made: What it made, of its output folder.
        add_row: The fixture.
        resume: Further arguments that let it go on, of its output folder.
    """
    before = time.monotonic()
    run(command, *arguments, "--output_dir", "uninterrupted", cwd=folder)
    seconds = time.monotonic() - before
    expected = made(folder / "uninterrupted")
    moments = random.Random(0)
    killed = lost = left = number = 0
    while killed < KILLS:
        number += 1
        output = folder / f"killed-{number}"
        again = (*arguments, "--output_dir", output.name)
        for _ in range(KILLS_OF_ONE_FOLDER):
            with start(command, *again, *resume(output), cwd=folder) as process:
                time.sleep(moments.uniform(0, seconds))
                if process.poll() is not None:
                    break  # it has ended before
                os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        run(command, *again, *resume(output), cwd=folder, status=None)
        lost += made(output) != expected
        left += len(unfinished(output))
    add_row(f"`kill -9` of `{command}` at random times", killed, lost, left)
    assert (lost, left) == (0, 0)


def test_predict(inputs, tmp_path, add_row):
    clip = next((inputs / "examples").glob("*.mp4"))
    frames = inputs / "pairs" / "test" / "images"
    arguments = (frames, clip, "--model", inputs / "model", *FP32, "--batch_size", 1, "--overlay")

    def made(output: Path) -> dict[str, bytes]:
        return {name: data for name, data in contents(output).items() if name != "run.json"}

    kill_often("predict.py", arguments, tmp_path, made, add_row)


def test_train(tmp_path, add_row):
    arguments = ("--dataset_name", "synthetic", "--synthetic_rows", 24, "--base_channels", 4, "--image_size", 32)
    arguments += ("--use_cpu", "--bf16", "False", "--num_train_epochs", 12, "--learning_rate", "1e-3")
    arguments += ("--save_strategy", "steps", "--save_steps", 4, "--eval_strategy", "steps", "--eval_steps", 4)

    def made(output: Path) -> tuple[bytes, bytes, dict]:
        results = json.loads((output / "results.json").read_text())
        files = ((output / name).read_bytes() for name in ("model.safetensors", "history.csv"))
        return *files, results["metrics"]

    def resume(output: Path) -> list[str]:
        return ["--resume_from_checkpoint"] if list(output.glob("checkpoint-*")) else []

    kill_often("train.py", arguments, tmp_path, made, add_row, resume)


def test_evaluation(inputs, tmp_path, add_row):
    arguments = ("--model", inputs / "model", *FP32, "--dataset_name", inputs / "pairs", "--split", "test")

    def made(output: Path) -> dict:
        return json.loads((output / "results.json").read_text())["metrics"]

    kill_often("evaluation.py", arguments, tmp_path, made, add_row)


def test_export(inputs, tmp_path, add_row):
    arguments = (
        "--model",
        inputs / "model",
    )

    def made(output: Path) -> dict[str, bytes]:
        return {name: data for name, data in contents(output).items() if name.endswith(".onnx")}

    kill_often("export.py", arguments, tmp_path, made, add_row)


def test_convert(tmp_path, add_row):
    torch.manual_seed(0)
    torch.save(CardLayout(16).state_dict(), tmp_path / "unet.pth")
    kill_often("convert.py", ("unet.pth", "--concat", "skip-first"), tmp_path, contents, add_row)
