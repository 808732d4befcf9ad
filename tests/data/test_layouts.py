"""Every layout of folders that docs/data.md shows is loaded, each image with its own mask; and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import load_sample

DOCUMENT = (ROOT / "docs/data.md").read_text(encoding="utf-8")
TREES = re.findall(r"^```text\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


def number_of(name: str) -> int:
    """The last number in a file's name, nnU-Net's channel apart: it tells which image and mask belong together."""
    return int(re.findall(r"\d+", Path(name).stem.removesuffix("_0000"))[-1])


MASKS = ("mask", "annotation", "ground", "gt", "segmentation", "label")


def plant(folder: Path, *names: str) -> Path:
    """Make images of the grey level in their names, and masks with so many blocks of JPEG that are polyp."""
    for name in names:
        file, number = folder / name, number_of(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.zeros((3, 4), np.uint8)
        blocks.flat[:number] = 255
        is_mask = any(word in name.casefold() for word in MASKS)
        picture = (
            Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)) if is_mask else Image.new("RGB", (32, 24), (number,) * 3)
        )
        picture.save(file, quality=100)
    return folder


def numbers(rows) -> list[int]:
    """The numbers of the pairs of a split; each image must have its own mask."""
    found = []
    for row in rows:
        sample = load_sample(row)
        level = sample.image.convert("RGB").getpixel((0, 0))[0]
        assert sample.ground_truth.sum() == 64 * level, sample.name
        found.append(level)
    return found


def splits_of(folder: Path | str, **arguments) -> dict[str, list[int]]:
    return {name: numbers(rows) for name, rows in load_splits(str(folder), **arguments).items()}


# What the trees of docs/data.md hold beside images and masks.
CONTENTS = {
    "train.txt": "frame1\nframe3\n",
    "val.txt": "frame2\n",
    "ImageSets/Segmentation/train.txt": "frame1\n",
    "ImageSets/Segmentation/val.txt": "frame2\n",
    "export.json": json.dumps(
        [{"id": 10 + i, "data": {"image": f"/data/upload/2/{i:08x}-frame{i}.jpg"}} for i in (1, 2, 3)]
    ),
    "train/metadata.jsonl": "".join(
        json.dumps({"file_name": f"frame{i}.jpg", "mask_file_name": f"masks/a{i}.png"}) + "\n" for i in (1, 2)
    ),
    "validation/metadata.jsonl": json.dumps({"file_name": "frame3.jpg", "mask_file_name": "masks/a3.png"}),
}
THIRDS = {"train": 1, "validation": 1, "test": 1}  # numbers of pairs, where a seed chooses them
IN_TWO = {"train": [1], "validation": [2]}
# Of each tree of the documents, in their order: arguments, and the pairs of each split.
EXPECTED = (
    ("images and masks", {}, {"train": [1, 3], "validation": [2]}),
    ("split/kind", {}, IN_TWO),
    ("kind/split", {}, IN_TWO),
    ("split_kind", {}, IN_TWO),
    ("masks beside images", {}, IN_TWO),
    ("masks below images", {}, THIRDS),
    ("CVC-ClinicDB", {}, THIRDS),
    ("ETIS", {}, THIRDS),
    ("PraNet", {"needed_splits": ["CVC-300", "kvasir"]}, {"train": 1, "validation": 1, "CVC-300": [3], "kvasir": [4]}),
    ("VOC", {}, IN_TWO),
    ("nnU-Net", {}, {"train": 1, "validation": 1, "test": [3]}),
    ("PolypGen", {"train_split": "data_C1", "validation_split": "data_C2"}, IN_TWO),
    ("SUN-SEG", {}, {"train": 1, "validation": 1}),
    ("Label Studio", {}, THIRDS),
    ("imagefolder", {}, {"train": [1, 2], "validation": [3]}),
)


@pytest.mark.parametrize(
    ("tree", "arguments", "expected"),
    [(tree, *rest) for tree, (_, *rest) in zip(TREES, EXPECTED, strict=True)],
    ids=[name for name, *_ in EXPECTED],
)
def test_each_layout_of_the_documents_is_loaded(tmp_path, tree, arguments, expected):
    names = tree.splitlines()
    plant(tmp_path, *(name for name in names if name not in CONTENTS))
    for name in set(names) & CONTENTS.keys():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CONTENTS[name])
    found = splits_of(tmp_path, **arguments)
    sizes = {split: len(there) for split, there in found.items() if isinstance(expected.get(split), int)}
    assert found | sizes == expected
    assert len({number for there in found.values() for number in there}) == sum(map(len, found.values()))
