"""Nothing that the commands push names a person, a machine, a folder or a file: all pushed bytes are searched."""

import io
import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, save_tiny_model
from example_results import evaluated_results
from loopback_hub import LoopbackHub, Repo
from PIL import Image, PngImagePlugin
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.checkpoint import fingerprint, load_checkpoint
from unet_kvasir_seg.reporting.results import write_results

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')

SPLITS = {"train": 4, "validation": 2, "test": 4}
# A name for each place that one could leak from.
USER, HOME, DATA, FILE, EXIF = "annotator-quillon", "home-quillon", "ward-quillon", "frame-quillon", "exif-quillon"
NEGATIVES, MODEL, OTHER, EARLIER = "normal-quillon", "model-quillon", "other-quillon", "earlier-quillon"
OUTPUT = "output-quillon"


def save_frames(folder: Path) -> None:
    """A data set of frames with EXIF data; the first test frame is in the training too."""
    for seed, (split, count) in enumerate(SPLITS.items()):
        for index, pair in enumerate(generate(count, 48, seed=seed)):
            save_pair(folder / split, f"{FILE}-{split}-{index}", **pair)
    save_pair(folder / "train", f"{FILE}-again", **next(generate(1, 48, seed=list(SPLITS).index("test"))))


def save_pair(folder: Path, name: str, image: Image.Image, mask: Image.Image) -> None:
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x9C9B):  # description, artist, title
        exif[tag] = EXIF
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", EXIF)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    image.save(folder / "images" / f"{name}.jpg", exif=exif, comment=EXIF.encode())
    mask.save(folder / "masks" / f"{name}.png", pnginfo=text)


def save_model(folder: Path) -> None:
    """A model whose results an earlier version of the project wrote, with names."""
    save_tiny_model(folder, seed=0)
    results = evaluated_results()
    weights = fingerprint(load_checkpoint(str(folder))[0])
    results["model"] |= {"name": MODEL, "repository": None, "fingerprint": weights}
    comparison, audit = results["evaluation"]["comparison"], results["evaluation"]["audit"]
    comparison["with"] = EARLIER
    del comparison["other"]
    audit["pairs"] = [{"first": ["train", EARLIER], "second": ["test", EARLIER], "distance": 0}]
    write_results(folder / "results.json", results)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> LoopbackHub:
    """The Hub after each command has pushed what it can."""
    folder = tmp_path_factory.mktemp("machine")
    data, model, other, negatives = (folder / name for name in (DATA, MODEL, OTHER, NEGATIVES))
    (folder / HOME).mkdir()
    save_frames(data)
    save_model(model)
    save_tiny_model(other, seed=1)
    negatives.mkdir()
    Image.fromarray(np.full((48, 48, 3), 90, np.uint8)).save(negatives / f"{FILE}-normal.png")
    groups = ["--group_pattern", f"{FILE}-[a-z]+"]
    tiny = ["--image_size", "32", "--num_train_epochs", "1", "--base_channels", "4", "--depth", "2"]
    output = str(folder / OUTPUT)
    train = ["--dataset_name", data, "--negatives", negatives, *tiny, "--output_dir", f"{output}-train"]
    train += [*groups, "--push_to_hub", "--hub_model_id", "team/trained"]
    evaluation = ["--model", model, "--compare_with", other, "--dataset_name", data, "--negatives", negatives]
    evaluation += groups
    evaluation += ["--audit", "--resamples", 200, "--output_dir", f"{output}-evaluation", "--push_example_images"]
    evaluation += ["--push_to_hub", "--hub_model_id", "team/evaluated"]
    export = ["--model", model, "--calibration_dataset", data, "--output_dir", f"{output}-export"]
    export += ["--push_to_hub", "team/exported"]
    app = ["--model", model, "--push_to_space", "team/space"]
    commands = [("train", *train), ("evaluation", *evaluation), ("export", *export), ("app", *app)]
    with LoopbackHub() as hub:
        hub.repos |= {"team/evaluated": Repo(), "team/exported": Repo()}
        done = hub.run(commands, folder, HOME=str(folder / HOME), USER=USER, LOGNAME=USER)
        assert done.returncode == 0, done.stderr
    return hub


def searched(content: bytes, path: str) -> bytes:
    """The bytes of a file, and the text that is packed in it."""
    if path.endswith(".png"):
        with Image.open(io.BytesIO(content)) as image:
            return content + json.dumps({**image.text, "exif": str(dict(image.getexif()))}).encode()
    return content


def test_no_pushed_file_names_a_person_machine_folder_or_file(hub):
    assert hub.repos.keys() == {"team/trained", "team/evaluated", "team/exported", "spaces/team/space"}
    names = {"quillon", "machine0", hub.token, hub.endpoint, str(ROOT), str(Path.home())}
    if len(socket.gethostname()) > 2:
        names.add(socket.gethostname())
    searches = [re.compile(rb"(?<![a-z0-9])" + re.escape(name.encode()) + rb"(?![a-z0-9])") for name in names]
    for repo, found in hub.repos.items():
        pushed = {path: searched(content, path) for commit in found.pushes for path, content in commit.files.items()}
        pushed |= {f"title {number}": commit.title.encode() for number, commit in enumerate(found.pushes)}
        for path, content in pushed.items():
            for search in searches:
                assert not search.search(content), (repo, path, search.pattern)
    assert not [request for request in hub.requests if "quillon" in request]


def test_what_is_pushed_says_the_same_by_numbers(hub):
    results = json.loads(hub.repos["team/evaluated"].files["results.json"])
    pairs = results["evaluation"]["audit"]["pairs"]
    again = SPLITS["train"] - 1  # "frame-quillon-again" comes before the others
    assert {"splits": ["train", "test"], "rows": [again - 3, 0], "distance": 0} in pairs
    assert results["evaluation"]["comparison"]["other"].startswith("a local model with the weights sha256:")
    assert results["data"]["groups"] == {"test": 1}
    trained = json.loads(hub.repos["team/trained"].files["results.json"])["training"]["data"]
    assert trained["groups"] == {"train": 2, "validation": 1, "test": 1}
    assert results["model"]["name"] == "evaluated"
    assert results["training"]["seconds"] == evaluated_results()["training"]["seconds"]  # of the same weights
    assert {"figures/audit.png", "figures/examples.png"} <= hub.repos["team/evaluated"].files.keys()
    exported = json.loads(hub.repos["team/exported"].files["results.json"])
    assert exported["evaluation"]["comparison"]["other"] == "another model"
    assert exported["model"]["name"] == "exported"
    shown = json.loads(hub.repos["spaces/team/space"].files["model/results.json"])
    assert shown["model"]["name"] == "U-Net"
    assert shown["metrics"] == exported["metrics"]
    (graph,) = (content for path, content in hub.repos["team/exported"].files.items() if path.endswith(".onnx"))
    assert onnx.load_from_string(graph).metadata_props
