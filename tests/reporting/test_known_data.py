"""Names of data sets that are known by their fingerprint."""

import json
import os

import pytest
from conftest import ROOT
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.reporting.known_data import KNOWN_DATA, shown_name
from unet_kvasir_seg.reporting.tables import data_name, scored_images

VALIDATION = "sha256:e32a3a25ac33ab8ce177960f834593c6ad54446dfd6cc6140e60def16b32bc9f"


def data(**changes):
    return {"name": "a local data set", "on_the_hub": False, "fingerprint": VALIDATION} | changes


def test_local_data_have_their_known_name_and_data_on_the_hub_their_own():
    assert shown_name(data()) == "Kvasir-SEG"
    assert shown_name(data(fingerprint="sha256:0")) == "a local data set"
    assert shown_name(data(fingerprint=None)) == "a local data set"  # a stream
    assert shown_name(data(name="me/polyps", on_the_hub=True)) == "me/polyps"


def test_the_scores_of_this_repository_name_their_data():
    results = json.loads((ROOT / "results.json").read_text())
    assert scored_images(results) == "100 images of the validation split of Kvasir-SEG, 384x288 pixels"
    named = data_name(results["training"]["data"])
    assert named == "Kvasir-SEG; rows: 800 train, 100 validation"


@pytest.mark.skipif("KVASIR_SEG_DIR" not in os.environ, reason="KVASIR_SEG_DIR names no copy of Kvasir-SEG")
def test_the_fingerprints_are_those_of_the_copy():
    folder = os.environ["KVASIR_SEG_DIR"]
    splits = load_splits(folder)
    chosen = ({"train": splits["train"]}, {"validation": splits["validation"]}, splits)
    assert [describe_data(folder, None, rows)["fingerprint"] for rows in chosen] == list(KNOWN_DATA)
