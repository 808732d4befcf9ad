"""`evaluation.py` from its command line: scores recomputed from the model, and what bad input gets."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import ROOT, save_tiny_model
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from PIL import Image
from unet_kvasir_seg import evaluation
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
from unet_kvasir_seg.reporting.results import read_results

SPLITS = {"train": 3, "validation": 4, "test": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "first", seed=0)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "second", seed=1, bias=0.3)


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """A folder a split, with images of two sizes."""
    folder = tmp_path_factory.mktemp("frames")
    for seed, (split, rows) in enumerate(SPLITS.items()):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(rows):
            size = (40, 56) if index % 2 else (48, 48)
            pair = next(generate(1, size, seed=100 * seed + index))
            pair["image"].save(folder / split / "images" / f"{split}{index}.png")
            pair["mask"].save(folder / split / "masks" / f"{split}{index}.png")
    return folder


@pytest.fixture
def run(run_command):
    def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess:
        return run_command(evaluation.main, "--resamples", 200, *arguments, status=0 if check else None)

    return run


def read(folder: Path) -> dict:
    return read_results(folder / "results.json", allow_invalid=True)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "per_image.csv", newline="") as file:
        return list(csv.DictReader(file))


def probabilities(model_folder: Path, image: Image.Image) -> np.ndarray:
    """(H, W) at the image's size, by transformers' own way."""
    model = UNetForSemanticSegmentation.from_pretrained(model_folder)
    processor = UNetImageProcessor.from_pretrained(model_folder)
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt"))
    found = processor.post_process_semantic_segmentation(
        outputs, [(image.height, image.width)], return_segmentation_scores=True
    )
    return found[0]["segmentation_scores"][1].numpy()


def dice(predicted: np.ndarray, ground_truth: np.ndarray) -> float:
    total = predicted.sum() + ground_truth.sum()
    return 2 * (predicted & ground_truth).sum() / total if total else 1.0


def pairs(frames: Path, split: str = "test") -> list[tuple[str, Image.Image, np.ndarray]]:
    return [
        (file.stem, Image.open(file), np.array(Image.open(frames / split / "masks" / file.name)) > 0)
        for file in sorted((frames / split / "images").iterdir())
    ]


def test_scores_are_those_of_the_models_masks_at_original_size(run, model, frames, tmp_path):
    out = tmp_path / "out"
    done = run("--model", model, "--dataset_name", frames, "--output_dir", out, "--batch_size", "4")
    results = read(out)
    expected = [dice(probabilities(model, image) > 0.5, ground_truth) for _, image, ground_truth in pairs(frames)]
    assert [row["name"] for row in rows(out)] == [name for name, *_ in pairs(frames)]
    assert [float(row["dice"]) for row in rows(out)] == pytest.approx(expected, abs=1e-6)
    assert 0.01 < np.mean(expected) < 0.99
    score = results["metrics"]["dice_per_image_native"]
    assert score["value"] == pytest.approx(np.mean(expected))
    assert min(expected) <= score["ci95"][0] <= score["value"] <= score["ci95"][1] <= max(expected)
    assert f"{np.mean(expected):.4f}" in done.stdout

    ground_truths = [ground_truth for *_, ground_truth in pairs(frames)]
    errors = [np.abs(probabilities(model, image) - ground_truth).mean() for _, image, ground_truth in pairs(frames)]
    assert results["metrics"]["mae_native"]["value"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert results["evaluation"]["native_size"] == "from 56x40 to 48x48"
    assert results["data"] | {"fingerprint": ""} == {
        "name": "a local data set",
        "on_the_hub": False,
        "revision": None,
        "split": "test",
        "rows": {"test": len(ground_truths)},
        "fingerprint": "",
    }
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", results["data"]["fingerprint"])
    assert results["model"]["image_size"] == [32, 32]
    assert results["schema_version"] == 1
    pictures = {path.name for path in (out / "figures").iterdir()}
    assert pictures == {*results["evaluation"]["figures"], "examples.png"}
    assert str(tmp_path) not in (out / "results.json").read_text() + (out / "README.md").read_text()


def test_scores_at_input_size_are_of_resized_ground_truth(run, model, frames, tmp_path):
    run("--model", model, "--dataset_name", frames, "--output_dir", tmp_path / "out")
    network = UNetForSemanticSegmentation.from_pretrained(model)
    processor = UNetImageProcessor.from_pretrained(model)
    expected = []
    for _, image, ground_truth in pairs(frames):
        inputs = processor(image, ground_truth.astype(np.uint8), return_tensors="pt")
        with torch.no_grad():
            predicted = network(inputs["pixel_values"]).logits[0, 0].numpy() > 0
        expected.append(dice(predicted, inputs["labels"][0].numpy() == 1))
    found = read(tmp_path / "out")["metrics"]["dice_per_image_network"]["value"]
    assert found == pytest.approx(np.mean(expected), abs=1e-6)


def test_two_processes_give_what_one_gives(run, model, frames, tmp_path):
    arguments = ["--model", model, "--dataset_name", frames, "--resamples", "200"]
    run(*arguments, "--output_dir", tmp_path / "one")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, ROOT / "evaluation.py", *arguments, "--output_dir", tmp_path / "two", "--device", "cpu"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert two["environment"]["processes"] == 2
    assert [row["name"] for row in rows(tmp_path / "one")] == [row["name"] for row in rows(tmp_path / "two")]
    for name, score in one["metrics"].items():
        assert two["metrics"][name]["value"] == pytest.approx(score["value"], abs=1e-6), name
        assert two["metrics"][name]["ci95"] == pytest.approx(score["ci95"], abs=1e-6), name


def test_an_error_in_one_process_ends_all_with_one_message(model, frames, tmp_path):
    copy = tmp_path / "frames" / "test"
    for kind in ("images", "masks"):
        (copy / kind).mkdir(parents=True)
        for file in (frames / "test" / kind).iterdir():
            (copy / kind / file.name).write_bytes(file.read_bytes())
    (copy / "images" / "test1.png").write_text("not an image")  # the second process's
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, ROOT / "evaluation.py", "--model", model, "--dataset_name", tmp_path / "frames"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "test1.png cannot be read" in done.stderr
    assert not (tmp_path / "outputs" / "evaluation" / "results.json").exists()


def test_the_threshold_is_chosen_on_one_split_and_applied_to_another(run, model, frames, tmp_path):
    run(
        *("--model", model, "--dataset_name", frames, "--output_dir", tmp_path / "out"),
        *("--tune_threshold_on", "validation"),
    )
    results = read(tmp_path / "out")
    threshold = results["evaluation"]["threshold"]
    assert threshold["tuned_on"] == "validation"

    def mean_dice(split: str, at: float) -> float:
        return np.mean(
            [dice(probabilities(model, image) > at, ground_truth) for _, image, ground_truth in pairs(frames, split)]
        )

    assert results["metrics"]["dice_per_image_native"]["value"] == pytest.approx(mean_dice("test", threshold["value"]))
    assert threshold["at_half"]["dice_per_image_native"]["value"] == pytest.approx(mean_dice("test", 0.5), abs=1e-6)
    candidates = (np.arange(1, 256) - 0.5) / 255
    best = max(mean_dice("validation", at) for at in candidates[::5])
    assert mean_dice("validation", threshold["value"]) >= best - 1e-9


@pytest.mark.parametrize("form", ["mask", "zero_one", "grey", "sixteen_bits", "numpy"])
def test_files_of_another_program_are_scored_alike(run, model, frames, tmp_path, form):
    folder = tmp_path / "predictions"
    folder.mkdir()
    for name, image, _ in pairs(frames):
        probability = probabilities(model, image)
        if form == "numpy":
            np.save(folder / f"{name}.npy", probability)
        elif form == "sixteen_bits":
            Image.fromarray((probability * 65535).round().astype(np.uint16)).save(folder / f"{name}.png")
        elif form == "grey":
            # At 128 and above a level is above one half, as the probability was.
            Image.fromarray((probability * 255).round().astype(np.uint8)).save(folder / f"{name}.png")
        else:
            mask = (probability > 0.5).astype(np.uint8)
            Image.fromarray(mask * (255 if form == "mask" else 1)).save(folder / f"{name}.png")
    run("--predictions", folder, "--dataset_name", frames, "--output_dir", tmp_path / "files")
    results = read(tmp_path / "files")
    expected = [dice(probabilities(model, image) > 0.5, ground_truth) for _, image, ground_truth in pairs(frames)]
    # 16 bits round a probability that is a hair above one half down to it.
    assert [float(row["dice"]) for row in rows(tmp_path / "files")] == pytest.approx(expected, abs=2e-3)
    assert "dice_per_image_network" not in results["metrics"]
    assert results["model"] == {"name": "predictions", "repository": None, "fingerprint": None}
    assert not (tmp_path / "files" / "README.md").exists()


def test_two_models_are_compared_on_the_same_images(run, model, other, frames, tmp_path):
    done = run(
        *("--model", model, "--compare_with", other, "--dataset_name", frames, "--output_dir", tmp_path / "out")
    )
    found = read(tmp_path / "out")["evaluation"]["comparison"]
    scores = [
        [dice(probabilities(folder, image) > 0.5, ground_truth) for _, image, ground_truth in pairs(frames)]
        for folder in (model, other)
    ]
    assert found["with"] == "second"
    difference = found["metrics"]["dice_per_image_native"]
    assert difference["difference"] == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]))
    assert difference["images"] == SPLITS["test"]
    assert "Minus second" in done.stdout


def test_a_model_and_itself_do_not_differ(run, model, frames, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, image, _ in pairs(frames):
        np.save(folder / f"{name}.npy", probabilities(model, image))
    run("--model", model, "--compare_with", folder, "--dataset_name", frames, "--output_dir", tmp_path / "out")
    found = read(tmp_path / "out")["evaluation"]["comparison"]["metrics"]["dice_per_image_native"]
    assert found == {"difference": pytest.approx(0, abs=1e-6), "ci95": [pytest.approx(0, abs=1e-6)] * 2} | {
        "p_value": found["p_value"],
        "images": SPLITS["test"],
    }


def test_near_duplicates_are_left_out(run, model, frames, tmp_path):
    copy = tmp_path / "frames"
    for split in SPLITS:
        for kind in ("images", "masks"):
            (copy / split / kind).mkdir(parents=True)
            for file in (frames / split / kind).iterdir():
                (copy / split / kind / file.name).write_bytes(file.read_bytes())
    for kind in ("images", "masks"):  # the test's third image is in the training too
        (copy / "train" / kind / "again.png").write_bytes((frames / "test" / kind / "test2.png").read_bytes())
    run("--model", model, "--dataset_name", copy, "--audit", "--output_dir", tmp_path / "out")
    audit = read(tmp_path / "out")["evaluation"]["audit"]
    assert [(Path(p["first"][1]).stem, Path(p["second"][1]).stem, p["distance"]) for p in audit["pairs"]] == [
        ("again", "test2", 0)
    ]
    assert audit["left_out"] == 1
    kept = [
        dice(probabilities(model, image) > 0.5, ground_truth)
        for name, image, ground_truth in pairs(frames)
        if name != "test2"
    ]
    assert audit["metrics"]["dice_per_image_native"]["value"] == pytest.approx(np.mean(kept))
    assert (tmp_path / "out" / "figures" / "audit.png").exists()
    assert str(tmp_path) not in (tmp_path / "out" / "results.json").read_text()


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line of a refusal."""
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_not_a_number_makes_the_run_invalid(run, model, frames, tmp_path):
    broken = UNetForSemanticSegmentation.from_pretrained(model)
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    UNetImageProcessor.from_pretrained(model).save_pretrained(tmp_path / "broken")
    out = tmp_path / "out"
    message = refused(run("--model", tmp_path / "broken", "--dataset_name", frames, "--output_dir", out, check=False))
    assert "NaN for the image test0: the run is invalid" in message
    results = read(out)
    assert "test0" in results["invalid"]
    assert results["metrics"] == {}
    assert {path.name for path in out.iterdir()} == {"results.json"}


def test_an_output_folder_of_something_else_is_left_alone(run, model, other, frames, tmp_path):
    out = tmp_path / "out"
    data = ("--dataset_name", frames, "--output_dir", out)
    run("--model", model, *data)
    before = (out / "results.json").read_bytes()
    assert "another model, first; this one is second" in refused(run("--model", other, *data, check=False))
    assert "split test" in refused(run("--model", model, *data, "--split", "validation", check=False))
    assert (out / "results.json").read_bytes() == before
    run("--model", model, *data)  # the same once more is no loss

    (out / "results.json").write_text(json.dumps(json.loads(before) | {"schema_version": 99}))
    assert "schema version 99" in refused(run("--model", model, *data, check=False))

    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "README.md").write_text("mine")
    message = refused(run("--model", model, "--dataset_name", frames, "--output_dir", notes, check=False))
    assert "README.md that no run of this project wrote" in message
    assert [path.name for path in notes.iterdir()] == ["README.md"]
    message = refused(run("--model", model, "--dataset_name", frames, "--output_dir", ROOT, check=False))
    assert "the project itself" in message


def test_a_model_without_processor_is_named(run, model, frames, tmp_path):
    UNetForSemanticSegmentation.from_pretrained(model).save_pretrained(tmp_path / "bare")
    message = refused(run("--model", tmp_path / "bare", "--dataset_name", frames, check=False))
    assert "no usable image processor" in message


def test_a_mask_of_another_size_is_named(run, model, frames, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "frames" / "test" / kind).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "frames" / "test" / "images" / "a.png")
    Image.new("L", (30, 40)).save(tmp_path / "frames" / "test" / "masks" / "a.png")
    message = refused(run("--model", model, "--dataset_name", tmp_path / "frames", check=False))
    assert "a.png: the image measures 40x30 pixels and its mask 30x40" in message


def test_images_of_one_name_cannot_be_compared(run, model, frames, tmp_path):
    data = (
        datasets.Dataset.from_list(
            [
                {
                    "image": {"bytes": file.read_bytes(), "path": "same.png"},
                    "mask": str(file).replace("images", "masks"),
                }
                for file in sorted((frames / "test" / "images").iterdir())
            ],
        )
        .cast_column("image", datasets.Image())
        .cast_column("mask", datasets.Image())
    )
    datasets.DatasetDict({"test": data}).save_to_disk(str(tmp_path / "data"))
    arguments = ("--model", model, "--dataset_name", tmp_path / "data")
    run(*arguments)  # they can be scored
    message = refused(run(*arguments, "--compare_with", model, "--output_dir", tmp_path / "compared", check=False))
    assert "same" in message


def test_a_split_without_masks_is_refused(run, model, tmp_path):
    frame = {"image": Image.new("RGB", (40, 30))}
    data = datasets.Dataset.from_list([frame, frame])
    datasets.DatasetDict({"test": data}).save_to_disk(str(tmp_path / "data"))
    message = refused(run("--model", model, "--dataset_name", tmp_path / "data", check=False))
    assert "no mask column" in message


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--threshold", "1.5"], "threshold=1.5; expected a probability"),
        (["--peak_threshold", "-0.1"], "peak_threshold=-0.1; expected a probability"),
        (["--peak_threshold", "0.4"], "threshold=0.5 and peak_threshold=0.4; expected a peak that is not below"),
        (["--negative_windows", "0"], "--negative_windows 0 is too few"),
        (["--negatives", ".", "--negative_windows", "5"], "--negatives and --negative_windows exclude each other"),
        (["--negatives", "/no/where"], "No negatives at /no/where"),
        (["--peak_threshold", "0.9", "--tune_peak_on", "test"], "--peak_threshold and --tune_peak_on exclude"),
        (["--tune_peak_on", "tset"], 'no split "tset"'),
        (["--tune_peak_on", "test", "--sensitivity", "0"], "--sensitivity 0.0 is no share"),
        (["--tune_peak_on", "test", "--sensitivity", "1.01"], "--sensitivity 1.01 is no share"),
        (["--save_peak"], "--save_peak saves what --tune_peak_on SPLIT chooses"),
        (["--save_peak", "--tune_peak_on", "test", "--model", "me/unet"], "me/unet is no folder of this machine"),
        (["--save_peak", "--tune_peak_on", "test", "--model", "a/b.onnx"], "a/b.onnx is an ONNX file"),
        (["--save_peak", "--tune_peak_on", "test", "--threshold", "0.4"], "--save_peak is for masks at the threshold"),
        (["--predictions", ".", "--negative_windows", "5"], "--negative_windows goes with a model"),
        (["--predictions", ".", "--negatives", "x"], "--negatives goes with a model"),
        (["--predictions", ".", "--tune_peak_on", "test", "--save_peak"], "--save_peak goes with a model"),
        (["--tune_threshold_on", "test"], "--tune_threshold_on test is the split that is scored"),
        (["--predictions", ".", "--tta"], "--tta goes with a model"),
        (["--push_to_hub"], "--hub_model_id"),
        (["--split", "tset"], 'no split "tset"'),
        (["--modle", "x"], "near it are --model"),
        (["--resamples", "0"], "--resamples 0 is too few"),
        (["--predictions", "nowhere"], "no folder nowhere"),
    ],
)
def test_impossible_flags_are_refused(run, frames, flags, expected):
    assert expected in refused(run("--dataset_name", frames, *flags, check=False))


def test_predictions_that_do_not_fit_are_named(run, frames, tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    arguments = ("--predictions", folder, "--dataset_name", frames)
    assert "holds no file" in refused(run(*arguments, check=False))
    Image.new("L", (48, 48)).save(folder / "test0.png")
    assert "no prediction for the image test1" in refused(run(*arguments, check=False))
    Image.new("L", (48, 48)).save(folder / "test1.png")
    message = refused(run(*arguments, check=False))
    assert "test1.png has the shape (48, 48) and its image test1 (40, 56)" in message
    np.save(folder / "test1.npy", np.zeros((40, 56)))
    assert "both test1.npy and test1.png" in refused(run(*arguments, check=False))
    (folder / "test1.png").unlink()
    np.save(folder / "test1.npy", np.full((40, 56), 3.0))
    assert "other values than probabilities" in refused(run(*arguments, check=False))
    np.save(folder / "test1.npy", np.array([{}]), allow_pickle=True)
    assert "test1.npy cannot be read" in refused(run(*arguments, check=False))


def test_a_push_holds_results_card_and_pictures(run, frames, tmp_path, model, monkeypatch):
    with LoopbackHub() as hub:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))
        } | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token, "HF_HOME": str(tmp_path / "hf")}
        script = ROOT / "train.py"
        tiny = [
            "--dataset_name",
            "synthetic",
            "--synthetic_rows",
            "8",
            "--image_size",
            "32",
            "--num_train_epochs",
            "1",
        ]
        push = ["--base_channels", "4", "--push_to_hub", "--hub_model_id", "team/unet", "--output_dir", "trained"]
        commands = [
            [script, *tiny, *push],
            [
                *(
                    ROOT / "evaluation.py",
                    "--model",
                    "team/unet",
                    "--dataset_name",
                    "synthetic",
                    "--synthetic_rows",
                    "8",
                ),
                *("--resamples", "200", "--push_to_hub", "--output_dir", "scored"),
            ],
        ]
        for command in commands:
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
        repo = hub.repos["team/unet"]
        results = json.loads(repo.files["results.json"])
        pictures = {f"figures/{name}" for name in results["evaluation"]["figures"]}
        assert "figures/loss_curve.png" in pictures
        assert "figures/examples.png" not in pictures
        # The loss curve is there from the training's push, byte for byte: huggingface_hub 1 does not send it again.
        changed = repo.pushes[-1].changed | {"figures/loss_curve.png"}
        assert changed == {"results.json", "README.md", *pictures}
        assert pictures <= repo.files.keys()
        assert results["model"]["repository"] == "team/unet"
        assert results["training"]["epochs"] == 1  # what the first push said of the training is kept
        card = ModelCard(repo.files["README.md"].decode())
        told = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert told["dice_per_image_native"] == results["metrics"]["dice_per_image_native"]["value"]
        assert all(f"]({picture})" in card.text for picture in pictures)
        home = str(tmp_path)
        assert not any(home.encode() in content for content in repo.files.values())
