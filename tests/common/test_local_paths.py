"""Which names are ids on the Hub, and what a mistyped path is near to."""

import os
import subprocess
import sys

import pytest
from loopback_hub import LoopbackHub, Repo
from unet_kvasir_seg.common.local_paths import is_hub_id, near_paths


@pytest.mark.parametrize("name", ["me/unet", "gpt2", "a.b-c/d_e.f"])
def test_ids(name):
    assert is_hub_id(name, "model")


@pytest.mark.parametrize(
    "name", ["./unet", "../unet", "/data/polyps", "~/polyps", "a/b/c", "data/", r"C:\polyps", "a b", ""]
)
def test_paths(name):
    assert not is_hub_id(name, "dataset")


def test_what_is_there_is_no_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unet").mkdir()
    assert not is_hub_id("unet", "model")


def test_a_name_below_a_folder_here_is_an_id_only_if_the_hub_has_it(tmp_path):
    (tmp_path / "team").mkdir()
    ask = "from unet_kvasir_seg.common.local_paths import is_hub_id; print(*(is_hub_id(n, 'model') for n in {}))"
    with LoopbackHub() as hub:
        hub.repos["team/unet"] = Repo()
        environment = os.environ | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
        }
        command = [sys.executable, "-c", ask.format(["team/unet", "team/unett", "elsewhere/unett"])]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "True"]  # only names that may be paths are asked for


def test_near_paths(tmp_path):
    for name in ("compact", "compare", "zebra"):
        (tmp_path / name).mkdir()
    assert near_paths(f"{tmp_path}/compct") == f"; near it are {tmp_path}/compact, {tmp_path}/compare"
    assert near_paths(f"{tmp_path}/zebbra/masks/a") == f"; near it are {tmp_path}/zebra"
    assert near_paths(f"{tmp_path}/quite_different") == ""
