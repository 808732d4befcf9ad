"""The model card gives back the figures it was filled with, and the documents hold together."""

import re

import pytest
import yaml
from conftest import ROOT
from huggingface_hub import ModelCard
from unet_kvasir_seg.scoring.card import fill_card

VALIDATION = {
    "loss": 0.51,
    "dice_per_image": 0.71234567,
    "iou_per_image": 0.6,
    "dice_pooled": 0.81,
    "precision": 0.9,
    "recall": 0.75,
}


@pytest.fixture
def results() -> dict:
    """A run's results, with figures that no other run has."""
    return {
        "schema_version": 1,
        "model": {
            "name": "unet-x",
            "repository": "team/unet-x",
            "parameters": 1234567,
            "image_size": [192, 256],
            "base_channels": 12,
            "depth": 3,
            "norm": "batch",
            "upsampling": "bilinear",
            "dropout": 0.0,
        },
        "data": {
            "name": "team/polyps",
            "on_the_hub": True,
            "revision": "abc123",
            "rows": {"train": 801, "validation": 99},
        },
        "environment": {
            "python": "3.11.7",
            "torch": "2.14.1",
            "transformers": "5.23.0",
            "runtime": "cpu, float32, channels_last",
            "processes": 2,
        },
        "training": {
            "epochs": 7,
            "batch_size": 16,
            "learning_rate": 0.00025,
            "schedule": "cosine",
            "weight_decay": 0.0,
            "seed": 43,
            "fine_tuned": False,
            "seconds": 125.0,
            "loss": [[1.0, 1.25], [2.0, 0.75]],
            "best_step": 300,
            "steps": 350,
            "validation": VALIDATION,
        },
        "metrics": {},
    }


def test_the_metadata_gives_the_same_figures_back(results):
    data = ModelCard(fill_card(results)).data
    assert data.pipeline_tag == "image-segmentation"
    assert data.library_name == "transformers"
    assert data.datasets == ["team/polyps"]
    assert data.model_name == "unet-x"
    got = {result.metric_type: result.metric_value for result in data.eval_results}
    assert got == {name: VALIDATION[name] for name in ("dice_per_image", "iou_per_image", "dice_pooled")}
    assert {result.dataset_revision for result in data.eval_results} == {"abc123"}
    assert all("192x256" in result.metric_name for result in data.eval_results)


def test_the_text_holds_every_figure(results):
    text = fill_card(results)
    for figure in ("1,234,567", "0.7123", "801", "99", "0.00025", "cosine", "1.250 (epoch 1)", "step 300 of 350"):
        assert figure in text
    assert "{{" not in text
    assert "{%" not in text


def test_what_was_not_measured_is_said(results):
    assert "Scores on a held-out test split: not measured." in fill_card(results)


def test_local_and_synthetic_data_are_no_hub_data(results):
    results["data"] |= {"name": "synthetic", "on_the_hub": False, "revision": None}
    text = fill_card(results)
    assert ModelCard(text).data.datasets is None
    assert "scores on them say nothing about real images" in text


def test_the_readme_opens_with_the_hubs_metadata():
    _, metadata, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", maxsplit=2)
    data = yaml.safe_load(metadata)
    assert data["pipeline_tag"] == "image-segmentation"
    assert data["library_name"] == "transformers"
    assert data["license"] == "other"


@pytest.mark.parametrize("document", ["README.md", "model_card.md"])
def test_files_that_a_document_names_are_there(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    named = re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|md|yaml|json|safetensors|cff))`", text)
    written_by_a_run = {"results.json"}
    for name in {*links, *named} - written_by_a_run:
        places = [ROOT / name, *(ROOT / folder / name for folder in ("data", "scoring", "tests"))]
        assert any(place.exists() for place in places), name
