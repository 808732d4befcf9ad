"""The root of the repository is a model repo: a clone can be loaded, and its weights do what the README says."""

import json
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
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

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
    assert {tensor.dtype for tensor in load_file(ROOT / "model.safetensors").values()} == {torch.float32}
    assert (ROOT / "model.safetensors").stat().st_size < 16e6
    assert json.loads((ROOT / "config.json").read_text())["base_channels"] == 16


def test_the_readmes_dice_is_what_the_weights_give(kvasir_seg):
    """Worked out with numpy in float32; the README's figure is of the bfloat16 evaluation after the training."""
    stated = float(re.search(r"\| Dice, mean per image \| ([\d.]+) \|", (ROOT / "README.md").read_text())[1])
    model, processor = UNetForSemanticSegmentation.from_pretrained(ROOT), UNetImageProcessor.from_pretrained(ROOT)
    scores = []
    for row in load_dataset(kvasir_seg, split="validation"):
        inputs = processor(row["image"], row["mask"], return_tensors="pt")
        with torch.no_grad():
            predicted = model(inputs["pixel_values"]).logits.numpy()[0, 0] > 0
        truth = inputs["labels"].numpy()[0] == 1
        scores.append(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))
    assert np.mean(scores) == pytest.approx(stated, abs=0.003)
