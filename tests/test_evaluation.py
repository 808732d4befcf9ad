"""`evaluation.py` from its command line: scores recomputed from the model, and what bad input gets."""

import csv
import json
import re
import shutil
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
from scipy.stats import mannwhitneyu
from skimage.measure import label
from unet_kvasir_seg import evaluation
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import load_sample
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.data.windows import negative_windows
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.checkpoint import fingerprint, load_checkpoint
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
from unet_kvasir_seg.reporting.results import read_results
from unet_kvasir_seg.scoring.peak import cut_in_halves

SPLITS = {"train": 3, "validation": 4, "test": 6}


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
    assert re.search(rf"^  Dice, mean per image +{np.mean(expected):.3f} \[", done.stdout, flags=re.MULTILINE)

    ground_truths = [ground_truth for *_, ground_truth in pairs(frames)]
    errors = [np.abs(probabilities(model, image) - ground_truth).mean() for _, image, ground_truth in pairs(frames)]
    assert results["metrics"]["mae_native"]["value"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert results["evaluation"]["native_size"] == "from 56x40 to 48x48"
    not_divided = {"fingerprint": "", "splitting": None, "groups": None, "groups_in_several_splits": None}
    assert results["data"] | {"fingerprint": "", "splitting": None} == {
        "name": "a local data set",
        "on_the_hub": False,
        "revision": None,
        "config": None,
        "split": "test",
        "rows": {"test": len(ground_truths)},
        **not_divided,
        "masks": {
            **{"foreground_values": None, "threshold": None, "ignore_exif": False},
            **{"labels": None, "unlabelled": "skip"},
        },
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
    arguments += ["--negative_windows", "7", "--tune_peak_on", "test", "--sensitivity", "0.6"]
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
    for name in ("peak", "operating_points", "negatives"):
        assert two["evaluation"][name] == one["evaluation"][name], name


@pytest.mark.slow  # tests/scoring/test_run.py has a quick one of one process
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


def test_the_ground_truth_itself_scores_1_however_it_is_stored(run, frames, tmp_path):
    """16 bits with 0 and 1, beside a ground truth of palette images that begin with white, drawn on stored images."""
    folder, data = tmp_path / "predictions", tmp_path / "data"
    exif = Image.Exif()
    exif[0x0112] = 3
    for kind in ("images", "masks"):
        (data / "test" / kind).mkdir(parents=True)
    folder.mkdir()
    for name, image, ground_truth in pairs(frames):
        image.save(data / "test" / "images" / f"{name}.png", exif=exif)
        mask = Image.fromarray(ground_truth).convert("RGB").quantize(2)
        mask.save(data / "test" / "masks" / f"{name}.png")
        Image.fromarray(ground_truth.astype(np.uint16)).save(folder / f"{name}.png")
    arguments = ("--predictions", folder, "--dataset_name", data, "--output_dir", tmp_path / "out")
    assert "has the EXIF orientation 3 and its mask 1" in refused(run(*arguments, check=False))
    run(*arguments, "--ignore_exif")
    assert {float(row["dice"]) for row in rows(tmp_path / "out")} == {1.0}


def test_two_models_are_compared_on_the_same_images(run, model, other, frames, tmp_path):
    done = run(
        *("--model", model, "--compare_with", other, "--dataset_name", frames, "--output_dir", tmp_path / "out")
    )
    found = read(tmp_path / "out")["evaluation"]["comparison"]
    scores = [
        [dice(probabilities(folder, image) > 0.5, ground_truth) for _, image, ground_truth in pairs(frames)]
        for folder in (model, other)
    ]
    weights = fingerprint(load_checkpoint(str(other))[0])
    assert found["other"] == f"a local model with the weights {weights}"  # a folder's name may be a patient's
    difference = found["metrics"]["dice_per_image_native"]
    assert difference["difference"] == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]))
    assert difference["images"] == SPLITS["test"]
    assert found["scores"]["dice_per_image_native"]["value"] == pytest.approx(np.mean(scores[1]))
    assert re.search(r"Compared with .*second:", done.stdout)  # on the own console, the name that was given
    rows_shown = [line for line in done.stdout.splitlines() if line.startswith("  Dice, mean per image")]
    assert f"  {np.mean(scores[1]):.3f} [" in rows_shown[-1]


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
    assert audit["pairs"] == [{"splits": ["train", "test"], "rows": [0, 2], "distance": 0}]
    with open(tmp_path / "out" / "near_duplicates.csv", newline="") as file:
        assert [list(row.values()) for row in csv.DictReader(file)] == [
            ["train", "0", "again", "test", "2", "test2", "0"]
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


def with_settings(model: Path, folder: Path, **settings: object) -> Path:
    """A copy of a model with further settings of its image processor."""
    shutil.copytree(model, folder)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def regions(model: Path, image: Image.Image) -> list[tuple[float, np.ndarray]]:
    """Peak and mask of each region above one half, by scikit-image."""
    probability = probabilities(model, image)
    labels = label(probability > 0.5, connectivity=2)
    return [(float(probability[labels == i].max()), labels == i) for i in range(1, labels.max() + 1)]


def mask_at(model: Path, image: Image.Image, peak: float) -> np.ndarray:
    """(H, W) bool, the regions whose peak reaches the threshold."""
    nothing = np.zeros((image.height, image.width), bool)
    return sum((region for own, region in regions(model, image) if own >= peak), start=nothing)


def peaks_of_polyps(model: Path, found: list[tuple[str, Image.Image, np.ndarray]]) -> list[float]:
    """Until which peak each polyp of 20 pixels or more is found; 0 if it is missed."""
    peaks = []
    for _, image, ground_truth in found:
        polyps = label(ground_truth, connectivity=2)
        for polyp in (polyps == i for i in range(1, polyps.max() + 1)):
            if polyp.sum() >= 20:
                peaks.append(max((own for own, region in regions(model, image) if (region & polyp).any()), default=0))
    return peaks


def chosen(peaks: list[float], share: float) -> float:
    """The highest of some peaks that so many of those that are not 0 reach."""
    found = sorted(peak for peak in peaks if peak)
    kept = {peak: sum(other >= peak for other in found) / len(found) for peak in found}
    return max(peak for peak in found if kept[peak] >= share)


def dice_at(model: Path, found: list[tuple[str, Image.Image, np.ndarray]], peak: float) -> list[float]:
    return [dice(mask_at(model, image, peak), ground_truth) for _, image, ground_truth in found]


def test_the_models_own_peak_threshold_is_that_of_its_masks(run, model, frames, tmp_path):
    found = pairs(frames)
    peak = float(np.median([own for _, image, _ in found for own, _ in regions(model, image)]))
    expected = {used: dice_at(model, found, used) for used in (peak, 0.5)}
    assert expected[peak] != expected[0.5]
    own = with_settings(model, tmp_path / "own", peak_threshold=peak)
    runs = {
        "own": (own, [], peak, "model"),
        "given": (model, ["--peak_threshold", peak], peak, "flag"),
        "none": (model, [], 0.5, "none"),
        "off": (own, ["--peak_threshold", "0.5"], 0.5, "flag"),
    }
    for name, (folder, flags, used, source) in runs.items():
        out = tmp_path / f"out-{name}"
        run("--model", folder, "--dataset_name", frames, "--output_dir", out, *flags)
        assert [float(row["dice"]) for row in rows(out)] == pytest.approx(expected[used], abs=1e-6), name
        evaluation = read(out)["evaluation"]
        assert evaluation["peak"]["source"] == source
        points = evaluation["operating_points"]
        assert points[0]["dice_per_image_native"]["value"] == pytest.approx(np.mean(expected[0.5]))
        assert points[-1]["dice_per_image_native"]["value"] == pytest.approx(np.mean(expected[used]))
    message = refused(run("--model", own, "--dataset_name", frames, "--threshold", "0.95", check=False))
    assert f"threshold=0.95 and peak_threshold={peak}" in message
    compared = run(
        *("--model", model, "--compare_with", own, "--dataset_name", frames, "--threshold", "0.95"), check=False
    )
    assert f"threshold=0.95 and peak_threshold={peak}" in refused(compared)
    assert "image/s" not in compared.stderr  # refused before any image is scored


def test_a_peak_is_chosen_on_one_split_kept_with_the_model_and_applied_to_another(run, model, frames, tmp_path):
    mine = with_settings(model, tmp_path / "mine", of_a_user=[1])
    before = json.loads((mine / "preprocessor_config.json").read_text())
    data = ("--model", mine, "--dataset_name", frames)
    done = run(
        *data,
        *("--tune_peak_on", "validation", "--sensitivity", "0.7", "--negative_windows", "9", "--save_peak"),
        *("--output_dir", tmp_path / "out"),
    )
    peaks = peaks_of_polyps(model, pairs(frames, "validation"))
    expected = chosen(peaks, 0.7)
    evaluation = read(tmp_path / "out")["evaluation"]
    tuning = evaluation["peak"]["tuning"]
    assert tuning["value"] == pytest.approx(expected, abs=1.1e-6)
    assert evaluation["peak"]["values"] == [tuning["value"]]
    assert [point["found"] for point in tuning["points"]] == [
        sum(peak > 0 for peak in peaks),
        sum(peak >= expected for peak in peaks),
    ]
    assert f"Peak threshold {tuning['value']:.6g}: the highest that keeps 70 %" in done.stdout
    scored = dice_at(model, pairs(frames), tuning["value"])
    assert [float(row["dice"]) for row in rows(tmp_path / "out")] == pytest.approx(scored, abs=1e-6)

    kept = json.loads((mine / "preprocessor_config.json").read_text())
    chosen_settings = {"peak_threshold": tuning["value"], "presence_calibration": tuning["presence_calibration"]}
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", kept["peak_chosen_on"])
    assert kept == before | chosen_settings | {"peak_chosen_on": kept["peak_chosen_on"]}
    run(*data, "--output_dir", tmp_path / "again")
    assert [float(row["dice"]) for row in rows(tmp_path / "again")] == pytest.approx(scored, abs=1e-6)
    assert not read(tmp_path / "again")["evaluation"]["peak"]["chosen_on_split"]
    run(*data, "--split", "validation", "--output_dir", tmp_path / "itself")
    assert read(tmp_path / "itself")["evaluation"]["peak"]["chosen_on_split"]
    assert "the model's own, chosen on this very split" in (tmp_path / "itself" / "README.md").read_text()
    presence = Predictor.from_pretrained(str(mine), device="cpu", dtype="float32")(pairs(frames)[0][1]).presence
    scale, offset = tuning["presence_calibration"]
    peak = probabilities(model, pairs(frames)[0][1]).max()
    assert presence == pytest.approx(1 / (1 + np.exp(-(scale * np.log(peak / (1 - peak)) + offset))), abs=1e-5)


def test_a_peak_chosen_on_the_scored_split_is_cross_fitted(run, model, frames, tmp_path):
    out = tmp_path / "out"
    run("--model", model, "--dataset_name", frames, "--output_dir", out, *("--tune_peak_on", "test"))
    found = pairs(frames)
    is_second = cut_in_halves(len(found), seed=0)
    halves = [
        [pair for pair, second in zip(found, is_second, strict=True) if second == half] for half in (False, True)
    ]
    peaks = [chosen(peaks_of_polyps(model, half), 0.98) for half in halves]
    assert peaks[0] != peaks[1]
    expected = [
        dice_at(model, [pair], peaks[0] if second else peaks[1])[0]
        for pair, second in zip(found, is_second, strict=True)
    ]
    assert [float(row["dice"]) for row in rows(out)] == pytest.approx(expected, abs=1e-6)
    evaluation = read(out)["evaluation"]
    assert evaluation["peak"]["values"] == pytest.approx(peaks, abs=1.1e-6)
    assert evaluation["peak"]["tuning"]["value"] == pytest.approx(min(peaks), abs=1.1e-6)
    assert evaluation["operating_points"][1]["dice_per_image_native"]["value"] == pytest.approx(np.mean(expected))
    assert "(chosen on the other half of the split)" in (out / "README.md").read_text()


def test_a_peak_is_chosen_for_each_of_two_models(run, model, frames, tmp_path):
    other = save_tiny_model(tmp_path / "third", seed=3)
    data = ("--model", model, "--dataset_name", frames, "--tune_peak_on", "validation", "--negative_windows", "3")
    run(*data, "--compare_with", other, "--output_dir", tmp_path / "out")
    means = []
    for folder in (model, other):
        peak = chosen(peaks_of_polyps(folder, pairs(frames, "validation")), 0.98)
        means.append(np.mean(dice_at(folder, pairs(frames), peak)))
    found = read(tmp_path / "out")["evaluation"]["comparison"]["metrics"]["dice_per_image_native"]
    assert found["difference"] == pytest.approx(means[0] - means[1], abs=1e-6)


def alarms(model: Path, images: list[Image.Image], peak: float) -> int:
    return sum(mask_at(model, image, peak).any() for image in images)


def test_alarms_are_counted_on_windows_without_polyp(run, model, frames, tmp_path):
    split = load_splits(str(frames))["test"]
    windows = negative_windows(split, 12, seed=5)
    images = [window.crop(load_sample(split[window.index]).image) for window in windows]
    highest = [float(probabilities(model, image).max()) for image in images]
    peak = float(np.median(highest))
    expected = [alarms(model, images, used) for used in (0.5, peak)]
    assert expected[0] > expected[1] > 0
    run(
        *("--model", model, "--dataset_name", frames, "--output_dir", tmp_path / "out", "--seed", "5"),
        *("--negative_windows", "12", "--peak_threshold", peak),
    )
    evaluation = read(tmp_path / "out")["evaluation"]
    assert [point["alarms"] for point in evaluation["operating_points"]] == expected
    marked = np.mean([mask_at(model, image, peak).mean() for image in images])
    assert evaluation["operating_points"][1]["marked_share"]["value"] == pytest.approx(marked, abs=1e-6)
    negatives = evaluation["negatives"]
    assert (negatives["kind"], negatives["name"], negatives["images"], negatives["frames"]) == (
        "windows",
        "test",
        12,
        6,
    )
    of_polyps = [float(probabilities(model, image).max()) for _, image, ground_truth in pairs(frames)
                 if ground_truth.sum() >= 20]  # fmt: skip
    area = mannwhitneyu(of_polyps, highest).statistic / (len(of_polyps) * 12)
    assert negatives["presence_auc"]["value"] == pytest.approx(area, abs=1e-6)
    assert "12 windows without polyp of 6 frames of the test split" in (tmp_path / "out" / "README.md").read_text()


def test_alarms_are_counted_on_frames_of_another_folder(run, model, frames, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "normal"
    (folder / "deep").mkdir(parents=True)
    images = [Image.fromarray(rng.integers(0, 255, (30, 44, 3), np.uint8)) for _ in range(5)]
    for index, image in enumerate(images):
        image.save(folder / ("deep" if index % 2 else ".") / f"normal{index}.png")
    run("--model", model, "--dataset_name", frames, "--negatives", folder, "--output_dir", tmp_path / "out")
    evaluation = read(tmp_path / "out")["evaluation"]
    assert evaluation["operating_points"][0]["alarms"] == alarms(model, images, 0.5)
    assert evaluation["negatives"]["images"] == evaluation["negatives"]["frames"] == 5
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", evaluation["negatives"]["fingerprint"])
    text = (tmp_path / "out" / "README.md").read_text() + (tmp_path / "out" / "results.json").read_text()
    assert "5 frames without polyp of a local data set" in text
    assert str(tmp_path) not in text
    message = refused(
        run("--model", model, "--dataset_name", frames, "--negatives", frames / "test" / "images", check=False)
    )
    assert "negatives are frames of the test split" in message
    message = refused(run("--model", model, "--dataset_name", frames, "--negatives", frames / "test", check=False))
    assert "show a polyp: test0" in message


def test_frames_without_polyp_of_the_split_itself(run, model, frames, tmp_path):
    """Black masks: their frames are the images without polyp, and there is nothing to choose a peak by."""
    for split, black in (("test", 2), ("validation", 4)):
        for kind in ("images", "masks"):
            (tmp_path / "frames" / split / kind).mkdir(parents=True)
        for index, (name, image, ground_truth) in enumerate(pairs(frames, split)):
            image.save(tmp_path / "frames" / split / "images" / f"{name}.png")
            mask = Image.fromarray(ground_truth * np.uint8(255) * (index >= black))
            mask.save(tmp_path / "frames" / split / "masks" / f"{name}.png")
    data = ("--model", model, "--dataset_name", tmp_path / "frames")
    run(*data, "--output_dir", tmp_path / "out")
    evaluation = read(tmp_path / "out")["evaluation"]
    empty = [image for index, (_, image, ground_truth) in enumerate(pairs(frames))
             if index < 2 or not ground_truth.any()]  # fmt: skip
    assert (evaluation["negatives"]["kind"], evaluation["negatives"]["images"]) == ("split", len(empty))
    expected = alarms(model, empty, 0.5)
    assert evaluation["operating_points"][0]["alarms"] == evaluation["without_polyp"]["false_alarms"] == expected
    out = ("--output_dir", tmp_path / "tuned")
    message = refused(run(*data, "--tune_peak_on", "validation", *out, check=False))
    assert "on the validation split: at the threshold 0.5, none of its 0 polyps is found" in message
    assert not (tmp_path / "tuned" / "results.json").exists()


def test_too_few_resamples_are_refused(run, model, frames, tmp_path):
    """The one resample may draw no frame with a window, which leaves nothing to take an interval of."""
    data = ("--model", model, "--dataset_name", frames, "--resamples", "1", "--negative_windows", "1")
    done = [run(*data, "--seed", seed, check=False) for seed in range(4)]
    messages = [refused(one) for one in done if one.returncode]
    assert messages
    assert all("None of 1 resamples has anything to score; take more" in message for message in messages)


def test_masks_of_another_program_get_a_peak_threshold_too(run, model, frames, tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    for name, image, _ in pairs(frames):
        np.save(folder / f"{name}.npy", probabilities(model, image))
    peak = chosen(peaks_of_polyps(model, pairs(frames)), 0.5)
    run(
        *("--predictions", folder, "--dataset_name", frames, "--output_dir", tmp_path / "out"),
        *("--peak_threshold", peak),
    )
    expected = dice_at(model, pairs(frames), peak)
    assert [float(row["dice"]) for row in rows(tmp_path / "out")] == pytest.approx(expected, abs=1e-6)


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
    assert "another model, tiny-unet; this one is second" in refused(run("--model", other, *data, check=False))
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


def test_other_settings_get_a_folder_of_their_own(run, model, frames, tmp_path):
    data = ("--model", model, "--dataset_name", frames)
    run(*data)
    first = (tmp_path / "outputs" / "evaluation" / "results.json").read_bytes()
    done = run(*data, "--threshold", 0.4)
    assert "outputs/evaluation holds the results of other settings: threshold 0.5 and not 0.4: " in done.stdout
    assert "Written to outputs/evaluation-2: " in done.stdout
    assert read(tmp_path / "outputs" / "evaluation-2")["evaluation"]["threshold"]["value"] == 0.4
    message = refused(run(*data, "--tta", "--output_dir", "outputs/evaluation", check=False))
    assert "outputs/evaluation holds the results of other settings: tta False and not True. Choose another" in message
    assert (tmp_path / "outputs" / "evaluation" / "results.json").read_bytes() == first
    assert "Written to outputs/evaluation: " in run(*data).stdout
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["evaluation", "evaluation-2"]


def test_without_a_test_split_the_validation_split_is_scored(run, model, frames, tmp_path):
    data = tmp_path / "data"
    for split in ("train", "validation"):
        shutil.copytree(frames / split, data / split)
    done = run("--model", model, "--dataset_name", data, "--output_dir", tmp_path / "out")
    assert "The data set has no test split: the validation split is scored." in done.stderr
    assert read(tmp_path / "out")["data"]["split"] == "validation"
    assert len(rows(tmp_path / "out")) == SPLITS["validation"]
    assert "the validation split is scored" not in run("--model", model, "--dataset_name", frames).stderr
    arguments = ("--model", model, "--dataset_name", data, "--tune_threshold_on", "validation")
    assert "--tune_threshold_on validation is the split that is scored" in refused(run(*arguments, check=False))


def test_doubling_every_frame_of_each_patient_changes_no_interval(run, model, frames, tmp_path):
    twice = tmp_path / "twice"
    for kind in ("images", "masks"):
        (twice / "test" / kind).mkdir(parents=True)
        for file in (frames / "test" / kind).iterdir():
            for copy in ("a", "b"):
                shutil.copy(file, twice / "test" / kind / f"{file.stem}{copy}.png")
    flags = ("--model", model, "--compare_with", model, "--threshold", 0.45)
    run(*flags, "--dataset_name", frames, "--output_dir", tmp_path / "once")
    data = ("--dataset_name", twice, "--output_dir", tmp_path / "twice-out")
    done = run(*flags, *data, "--group_pattern", r"/(test\d)[ab]$")
    assert f"95 % bootstrap intervals over {SPLITS['test']} groups of images." in done.stdout
    once, grouped = read(tmp_path / "once"), read(tmp_path / "twice-out")
    assert grouped["data"]["groups"] == {"test": SPLITS["test"]}
    for name, score in once["metrics"].items():
        assert grouped["metrics"][name]["ci95"] == pytest.approx(score["ci95"]), name
    run(*flags, "--dataset_name", twice, "--output_dir", tmp_path / "alone")

    def width(folder: str) -> float:
        low, high = read(tmp_path / folder)["metrics"]["dice_per_image_native"]["ci95"]
        return high - low

    assert width("alone") < 0.85 * width("once") == pytest.approx(0.85 * width("twice-out"))


def test_the_local_card_shows_all_pictures(run, model, frames, tmp_path):
    run("--model", model, "--dataset_name", frames, "--output_dir", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    shown = set(re.findall(r"\]\((figures/[^)]+)\)", card))
    assert shown == {f"figures/{path.name}" for path in (tmp_path / "out" / "figures").iterdir()}
    assert "figures/examples.png" in shown


def test_a_repo_that_is_not_there_is_found_before_the_work(run, model, frames, tmp_path, monkeypatch):
    push = ("--push_to_hub", "--hub_model_id", "team/absent")
    with LoopbackHub() as hub:
        hub.answer_this_process(monkeypatch)
        done = run("--model", model, "--dataset_name", frames, *push, check=False)
    assert "Nothing can be pushed to team/absent: " in refused(done)
    assert "image/s" not in done.stderr
    assert not (tmp_path / "outputs").exists()


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


def test_splits_are_known_by_their_usual_names():
    arguments = evaluation.EvaluationArguments(split="Val", tune_threshold_on="TRAINING", tune_peak_on="CVC-300")
    assert (arguments.split, arguments.tune_threshold_on) == ("validation", "train")
    assert arguments.tune_peak_on == "CVC-300"


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
        (["--foreground_values", "255", "7"], "none of the 13 masks that were read holds 7; they hold 0, 255."),
        (["--foreground_values", "1", "--mask_threshold", "127"], "exclude each other"),
        (["--mask_threshold", "nan"], "--mask_threshold nan is no grey level"),
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


def test_a_push_holds_results_card_and_pictures(frames, tmp_path, model):
    data = ["--dataset_name", "synthetic", "--synthetic_rows", 8]
    train = [*data, "--image_size", 32, "--base_channels", 4, "--num_train_epochs", 1, "--output_dir", "trained"]
    score = ["--model", "team/unet", *data, "--resamples", 200, "--output_dir", "scored"]
    # At last a model that finds polyps, whose peak is chosen and goes to the Hub with the scores.
    mine = shutil.copytree(model, tmp_path / "mine")
    choose = ["--model", mine, "--dataset_name", frames, "--tune_peak_on", "validation", "--save_peak"]
    choose += ["--resamples", 200, "--output_dir", "chosen"]
    named = ["--push_to_hub", "--hub_model_id", "team/unet"]
    runs = [("train", *train, *named), ("evaluation", *score, "--push_to_hub"), ("evaluation", *choose, *named)]
    with LoopbackHub() as hub:
        done = hub.run(runs, tmp_path)
    assert done.returncode == 0, done.stderr
    _, scored, chosen = hub.repos["team/unet"].pushes

    results = json.loads(scored.files["results.json"])
    pictures = {f"figures/{name}" for name in results["evaluation"]["figures"]}
    assert "figures/loss_curve.png" in pictures
    assert "figures/examples.png" not in pictures
    # The loss curve is there from the training's push, byte for byte: huggingface_hub 1 does not send it again.
    assert scored.changed | {"figures/loss_curve.png"} == {"results.json", "README.md", *pictures}
    assert pictures <= scored.files.keys()
    assert results["model"]["repository"] == "team/unet"
    assert results["training"]["epochs"] == 1  # what the first push said of the training is kept
    card = ModelCard(scored.files["README.md"].decode())
    told = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert told["dice_per_image_native"] == results["metrics"]["dice_per_image_native"]["value"]
    assert all(f"]({picture})" in card.text for picture in pictures)
    home = str(tmp_path)
    assert not any(home.encode() in content for content in scored.files.values())

    assert chosen.changed >= {"results.json", "README.md", "preprocessor_config.json"}
    settings = json.loads(chosen.files["preprocessor_config.json"])
    scores = json.loads(chosen.files["results.json"])
    assert settings["peak_threshold"] == scores["evaluation"]["peak"]["tuning"]["value"]
    assert settings == json.loads((mine / "preprocessor_config.json").read_text())
