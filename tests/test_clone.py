"""The root of the repository is a model repo: a clone can be loaded, and its weights do what the README says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from datasets import load_dataset
from safetensors.torch import load_file
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.checkpoint import fingerprint
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
from unet_kvasir_seg.reporting.results import read_results
from unet_kvasir_seg.reporting.tables import results_tables

LOAD = """
import sys
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation

clone, image = sys.argv[1], torch.linspace(0, 255, 3 * 40 * 56).reshape(3, 40, 56).to(torch.uint8)
processor = AutoImageProcessor.from_pretrained(clone, trust_remote_code=True)
pixel_values = processor(image, return_tensors="pt")["pixel_values"]
for auto in (AutoModel, AutoModelForSemanticSegmentation):
    model = auto.from_pretrained(clone, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.no_grad():
        torch.save(model(pixel_values).logits, "logits.pt")
"""


def test_a_clone_loads_in_a_fresh_process(tmp_path: Path):
    command = [sys.executable, "-I", "-c", LOAD, str(ROOT)]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf")}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    image = torch.linspace(0, 255, 3 * 40 * 56).reshape(3, 40, 56).to(torch.uint8)
    pixel_values = UNetImageProcessor.from_pretrained(ROOT)(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = UNetForSemanticSegmentation.from_pretrained(ROOT)(pixel_values).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), expected)


def test_the_weights_are_float32_and_small():
    assert {tensor.dtype for tensor in load_file(ROOT / "model.safetensors").values()} <= {torch.float32, torch.int64}
    assert (ROOT / "model.safetensors").stat().st_size <= 22e6


def test_the_results_are_of_these_weights_and_the_documents_state_them():
    results = read_results(ROOT / "results.json")
    assert results["model"]["fingerprint"] == fingerprint(UNetForSemanticSegmentation.from_pretrained(ROOT))
    assert results_tables(results, compact=True) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    text = (ROOT / "results.json").read_text(encoding="utf-8")
    assert not re.search(r'"(/|~|[A-Z]:)', text)  # no path of the machine that it was measured on


def with_interval(score: dict) -> str:
    return f"{score['value']:.3f} [{score['ci95'][0]:.3f}, {score['ci95'][1]:.3f}]"


def test_the_readmes_table_holds_the_figures_of_the_results():
    results = read_results(ROOT / "results.json")
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Results")[1].split("```")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, flags=re.MULTILINE))
    scores = {
        "Dice, mean per image": ("dice_per_image_native", 3),
        "IoU, mean per image": ("iou_per_image_native", 3),
        "Dice, pooled": ("dice_pooled_native", 3),
        "precision, mean per image": ("precision_per_image_native", 3),
        "recall, mean per image": ("recall_per_image_native", 3),
        "HD95 in pixels (lower is better)": ("hd95_native", 1),
    }
    expected = {"score at original size": "value", "---": "---"}
    for name, (key, digits) in scores.items():
        score = results["metrics"][key]
        value, low, high = (f"{number:.{digits}f}" for number in (score["value"], *score["ci95"]))
        expected[name] = f"{value} [{low}, {high}]"
    lesions = results["evaluation"]["lesions"]
    expected["polyps found (IoU of at least 0.5)"] = f"{lesions['found']} of {lesions['true']}"
    expected["marked regions that match none"] = f"{lesions['false']} of {lesions['predicted']}"
    assert rows == expected

    alone, with_peak = results["evaluation"]["operating_points"]
    assert f"peak threshold {with_peak['peaks'][0]:.3f} |" in table
    found, alarms = (
        [text(point) for point in (alone, with_peak)]
        for text in (
            lambda point: f"{point['found']} of {point['polyps']}",
            lambda point: f"{point['alarms']} of {point['negatives']}: {with_interval(point['alarm_share'])}",
        )
    )
    auc = with_interval(results["evaluation"]["negatives"]["presence_auc"])
    assert re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*)\|$", table, flags=re.MULTILINE) == [
        ("---", "---", "--- "),
        ("polyps found (any overlap)", found[0], f"{found[1]} "),
        ("windows without polyp that get an alarm", alarms[0], f"{alarms[1]} "),
        ("area under the ROC curve of presence", auc, ""),
    ]
    assert results["data"]["rows"]["validation"] == 100
    assert results["evaluation"]["native_size"] == "384x288"


def test_the_stated_dice_is_what_the_weights_give(kvasir_seg):
    """Worked out with transformers and numpy alone, at the frames' own size."""
    results = read_results(ROOT / "results.json")
    rows = load_splits(kvasir_seg)["validation"]
    assert describe_data(kvasir_seg, None, {"validation": rows})["fingerprint"] == results["data"]["fingerprint"]
    model, processor = UNetForSemanticSegmentation.from_pretrained(ROOT), UNetImageProcessor.from_pretrained(ROOT)
    scores = []
    for row in load_dataset(kvasir_seg, split="validation"):
        with torch.no_grad():
            outputs = model(**processor(row["image"], return_tensors="pt"))
        size = (row["image"].height, row["image"].width)
        predicted = processor.post_process_semantic_segmentation(outputs, [size])[0].numpy() == 1
        ground_truth = np.array(row["mask"].convert("L")) > 127
        scores.append(2 * (predicted & ground_truth).sum() / (predicted.sum() + ground_truth.sum()))
    assert np.mean(scores) == pytest.approx(results["metrics"]["dice_per_image_native"]["value"], abs=1e-4)
