"""Data sets of a Hub on this machine: folders, metadata, archives and configurations, downloaded and streamed."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping

import pytest
from loopback_hub import LoopbackHub, Repo
from PIL import Image

DOWNLOADED_AND_STREAMED = [
    *(("pairs", False), ("named", False), ("paths", False), ("zipped", False)),
    *(("named", True), ("paths", True), ("zipped", True), ("capitals", False), ("capitals", True)),
    *(("coco", False), ("coco", True)),
]

# Loads each data set of its argument, and prints the grey levels of the images whose masks fit, or the error.
SCRIPT = """
import json, sys
import datasets
from unet_kvasir_seg.common.annotation_rules import AnnotationRules
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.data.samples import load_sample, DatasetError

def level(row):
    sample = load_sample(row)
    level = sample.image.getpixel((0, 0))[0]
    assert sample.ground_truth.sum() == level
    return [sample.name, level]

datasets.disable_progress_bars()
found = []
for arguments in json.loads(sys.argv[1]):
    try:
        rules = AnnotationRules(labels=arguments.pop("labels", None))
        splits = load_splits(**arguments, annotation_rules=rules)
        found.append({name: sorted(map(level, rows)) for name, rows in splits.items()})
        describe_data(arguments["name"], None, splits)
    except DatasetError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def image(number: int) -> bytes:
    return encoded(Image.new("RGB", (4, 4), (number, number, number)))


def mask(number: int) -> bytes:
    picture = Image.new("L", (4, 4))
    picture.putdata([255] * number + [0] * (16 - number))
    return encoded(picture)


def image_folder(column: str, *numbers: int) -> dict[str, bytes]:
    """Images, their masks in a folder beside them, and a metadata.jsonl that names both."""
    rows = [{"file_name": f"f{number}.png", column: f"masks/m{number}.png"} for number in numbers]
    files = {"metadata.jsonl": "\n".join(map(json.dumps, rows)).encode()}
    for number in numbers:
        files |= {f"f{number}.png": image(number), f"masks/m{number}.png": mask(number)}
    return files


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def coco(*numbers: int) -> bytes:
    """Annotations of images of 4x4: run lengths along columns, so that a mask has as many pixels as `mask` has."""
    entries = [{"id": number, "image_id": number, "category_id": 1} for number in numbers]
    for number, entry in zip(numbers, entries, strict=True):
        entry["segmentation"] = {"size": [4, 4], "counts": [0, number, 16 - number]}
    images = [{"id": number, "file_name": f"f{number}.png"} for number in numbers]
    data = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "polyp"}]}
    return json.dumps(data).encode()


def in_splits(column: str) -> dict[str, bytes]:
    parts = {"train": image_folder(column, 1, 2), "validation": image_folder(column, 3)}
    return {f"{split}/{name}": content for split, files in parts.items() for name, content in files.items()}


def repos() -> dict[str, dict[str, bytes]]:
    """Files of each data set."""
    pairs = {f"images/f{i}.png": image(i) for i in (1, 2, 3)} | {f"masks/f{i}.png": mask(i) for i in (1, 2, 3)}
    archives = {
        "train.zip": zipped(image_folder("mask_file_name", 1, 2)),
        "validation.zip": zipped(image_folder("mask_file_name", 3)),
    }
    files = in_splits("mask_file_name")
    configs = "".join(
        f"- config_name: {config}\n  data_files:\n  - split: Train\n    path: {config}/train/**\n"
        f"  - split: Val\n    path: {config}/validation/**\n"
        for config in ("one", "two")
    )
    return {
        "pairs": pairs | {"train.txt": b"f1\nf2", "val.txt": b"f3", "boxes.json": b"{}"},
        "named": files,
        "paths": in_splits("mask"),
        "zipped": archives,
        "configs": {"README.md": f"---\nconfigs:\n{configs}---\n".encode()}
        | {f"{config}/{name}": content for config in ("one", "two") for name, content in files.items()},
        "capitals": {
            name.replace("train/", "Train/").replace("validation/", "VAL/"): content for name, content in files.items()
        },
        "packed": {"images.zip": zipped({"f1.png": image(1)}), "masks.zip": zipped({"f1.png": mask(1)})},
        "coco": {f"images/f{i}.png": image(i) for i in (1, 2, 3)}
        | {f"instances_{split}.json": coco(*numbers) for split, numbers in (("train", (1, 2)), ("val", (3,)))}
        | {"dataset_infos.json": b"{}", "README.md": b"Polyps"},
        "objects": {
            "f1.png": image(1),
            "metadata.jsonl": json.dumps(
                {"file_name": "f1.png", "objects": {"bbox": [[0, 0, 1, 1]], "segmentation": [[0, 0, 1, 0, 1, 1]]}}
            ).encode(),
        },
        "words": {"images/f1.png": image(1), "images/f2.png": image(2)},
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[tuple[str, bool], object]:
    """What is found in each data set, and whether it was streamed."""
    asked = [{"name": f"team/{name}", "streaming": streaming} for name, streaming in DOWNLOADED_AND_STREAMED]
    asked += [{"name": "team/configs", "config": config} for config in (None, "two", "three")]
    asked += [{"name": f"team/{name}"} for name in ("words", "packed", "objects")]
    asked += [{"name": f"team/{name}", "labels": ["adenoma"]} for name in ("coco", "objects", "packed")]
    with LoopbackHub() as hub:
        for name, files in repos().items():
            hub.repos[f"datasets/team/{name}"] = Repo()
            hub.repos[f"datasets/team/{name}"].commit("data", files)
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HOME": str(tmp_path_factory.mktemp("home"))}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(asked)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    keys = [(one["name"][5:], one.get("labels", [one.get("streaming", one.get("config"))])[0]) for one in asked]
    return dict(zip(keys, results, strict=True))


@pytest.mark.parametrize(("name", "streaming"), DOWNLOADED_AND_STREAMED)
def test_each_image_comes_with_its_mask(found, name, streaming):
    assert found[name, streaming] == {"train": [["f1", 1], ["f2", 2]], "validation": [["f3", 3]]}


def test_a_configuration_is_chosen_by_its_name(found):
    assert found["configs", "two"] == {"train": [["f1", 1], ["f2", 2]], "validation": [["f3", 3]]}
    assert found["configs", None].endswith("it has one, two. Choose one with --dataset_config.")
    assert found["configs", "three"].endswith("it has one, two. Choose one with --dataset_config.")


def test_images_without_masks_are_answered_with_the_expected_layout(found):
    assert "It holds images/ (2 .png)." in found["words", None]
    assert "masks/frame1.png" in found["words", None]


def test_archives_without_metadata_are_to_be_unpacked(found):
    assert "archives images.zip, masks.zip: " in found["packed", None]
    assert "download them first" in found["packed", None]


def test_annotations_in_tables_and_archives_get_a_remedy(found):
    """Those in files are read; labels are theirs."""
    assert found["coco", "adenoma"].endswith("has no such label; it has polyp (3).")
    assert "column objects of the data set holds annotations (bbox, segmentation)" in found["objects", None]
    for name in ("objects", "packed"):
        assert f"none is found in team/{name}" in found[name, "adenoma"]
        assert "COCO" in found[name, "adenoma"]
