"""Each annotation gets the image that it was drawn on, also where several have one name; none is taken by chance."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import SIDE, coco_data, labelme_data, write_cvat_masks, write_frames, write_yolo
from PIL import Image
from unet_kvasir_seg.common.annotation_rules import AnnotationRules
from unet_kvasir_seg.data.annotations.source import annotation_splits
from unet_kvasir_seg.data.samples import DatasetError, load_sample


def read(source: Path, **rules: Any) -> dict[str, dict[str, np.ndarray | None]]:
    """Masks of each split by the paths of the images below the data set's folder; None for a frame without polyp."""
    folder = source if source.is_dir() else source.parent
    found: dict[str, dict[str, np.ndarray | None]] = {}
    for split, rows in (annotation_splits(source, AnnotationRules(**rules)) or {}).items():
        paths = [Path(row["image"]["path"]) for row in rows]
        names = [str(path.relative_to(folder)) if path.is_absolute() else str(path) for path in paths]
        masks = [None if row["mask"] is None else load_sample(row | {"index": 0}).ground_truth for row in rows]
        found[split] = dict(zip(names, masks, strict=True))
    return found


def encoded(seed: int, kind: str = "PNG") -> bytes:
    """A picture of large squares, of which each seed gives another."""
    squares = np.random.default_rng(seed).integers(60, 256, (4, 4, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.kron(squares, np.ones((SIDE // 4, SIDE // 4, 1), np.uint8))).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("{}", "{}/_annotations.coco.json"),  # as Roboflow
        ("{}2017", "annotations/instances_{}2017.json"),  # as COCO itself
        ("images/{}", "annotations/instances_{}.json"),  # as datumaro
    ],
)
def test_each_split_has_its_own_images_where_their_names_are_the_same(images, annotations, tmp_path):
    wanted: dict[str, dict[str, np.ndarray]] = {}
    for seed, split in enumerate(("train", "val")):
        folder = images.format(split)
        masks = write_frames(tmp_path / folder, count=2, seed=seed)
        file = tmp_path / annotations.format(split)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(coco_data(masks)))
        split = {"val": "validation"}.get(split, split)
        wanted[split] = {f"{folder}/{name}": mask for name, mask in masks.items()}
    found = read(tmp_path)
    assert {split: sorted(masks) for split, masks in found.items()} == {s: sorted(m) for s, m in wanted.items()}
    for split, masks in found.items():
        assert all((mask == wanted[split][name]).all() for name, mask in masks.items())


def test_files_of_other_tasks_of_coco_are_not_read(tmp_path, caplog):
    masks = write_frames(tmp_path / "images", count=2)
    (tmp_path / "annotations").mkdir()
    data = coco_data(masks)
    segments = [{"image_id": 3, "file_name": "a.png", "segments_info": []}]
    for task, annotations in (("instances", data["annotations"]), ("image_info", []), ("panoptic", segments)):
        text = json.dumps(data | {"annotations": annotations})
        (tmp_path / "annotations" / f"{task}_default.json").write_text(text)
    assert sorted(read(tmp_path)[""]) == ["images/frame0.jpg", "images/frame1.jpg"]
    assert "2 files of other tasks" in caplog.text


def test_a_mask_of_cvat_belongs_to_the_image_of_its_folder_whatever_its_ending(tmp_path):
    write_cvat_masks(tmp_path, write_frames(tmp_path / "images", count=2))
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder / "a").mkdir()
        (tmp_path / folder / "b").mkdir()
    for name, pixel in (("a", 1), ("b", 2)):
        (tmp_path / "JPEGImages" / name / "0.png").write_bytes(encoded(pixel))
        colours = np.zeros((SIDE, SIDE, 3), np.uint8)
        colours[pixel, pixel] = 250, 50, 83
        Image.fromarray(colours).save(tmp_path / "SegmentationClass" / name / "0.png")
    found = read(tmp_path)[""]
    assert np.argwhere(found["JPEGImages/a/0.png"]).tolist() == [[1, 1]]
    assert np.argwhere(found["JPEGImages/b/0.png"]).tolist() == [[2, 2]]
    (tmp_path / "SegmentationClass" / "a" / "0.png").rename(tmp_path / "SegmentationClass" / "0.png")
    with pytest.raises(DatasetError, match=r"may be JPEGImages/a/0\.png, JPEGImages/b/0\.png"):
        read(tmp_path)


def labelme_file(file: Path, content: bytes | None = None) -> None:
    """A file with a region in the first row, whose image is called 1.png."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[0] = True
    text = None if content is None else base64.b64encode(content).decode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(labelme_data("1.png", mask) | {"imagePath": "1.png", "imageData": text}))


def test_images_in_files_of_labelme_may_have_one_name_and_none_of_other_folders_is_taken(tmp_path):
    folder = tmp_path / "data"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "2.png").write_bytes(encoded(9))
    labelme_file(folder / "a" / "1.json", encoded(1))
    labelme_file(folder / "b" / "1.json", encoded(2))
    assert sorted(read(folder, unlabelled="negative")[""]) == ["a/1.png", "b/1.png"]
    (rows,) = (annotation_splits(folder, AnnotationRules()) or {}).values()
    assert [row["image"]["bytes"] for row in rows] == [encoded(1), encoded(2)]


def test_an_image_elsewhere_is_taken_if_it_shows_what_the_file_of_labelme_holds(tmp_path):
    labelme_file(tmp_path / "a" / "1.json", encoded(1, "JPEG"))
    other = tmp_path / "b" / "1.png"
    other.parent.mkdir()
    other.write_bytes(encoded(2))
    ((row,),) = (annotation_splits(tmp_path, AnnotationRules()) or {}).values()
    assert row["image"] == {"bytes": encoded(1, "JPEG"), "path": "a/1.png"}
    other.write_bytes(encoded(1))
    ((row,),) = (annotation_splits(tmp_path, AnnotationRules()) or {}).values()
    assert row["image"] == {"bytes": None, "path": str(other)}


def test_an_image_of_labelme_without_a_file_is_unlabelled_also_if_one_of_its_name_has_a_file(tmp_path):
    labelme_file(tmp_path / "a" / "1.json")
    for name in "ab":
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "1.png").write_bytes(encoded(ord(name)))
    found = read(tmp_path, unlabelled="negative")[""]
    assert list(found) == ["a/1.png", "b/1.png"]
    assert found["a/1.png"] is not None
    assert found["a/1.png"].sum() == SIDE
    assert found["b/1.png"] is None


def test_splits_of_yolo_that_are_named_but_not_there(tmp_path, caplog):
    """Roboflow names a test split also where there is none; train and validation are missed."""
    write_yolo(tmp_path, write_frames(tmp_path / "images", count=2))
    file = next(tmp_path.glob("*.y*ml"))
    names = "names: polyp\n"
    file.write_text(f"{names}train: images\ntest: ../test/images\n")
    assert sorted(read(tmp_path)["train"]) == ["images/frame0.jpg", "images/frame1.jpg"]
    assert "1 test split named" in caplog.text
    for lines, words in (("val: ../valid", "val is ../valid"), ("val: 5", "val is 5"), ("val: [5]", "val is")):
        file.write_text(f"{names}train: images\n{lines}\n")
        with pytest.raises(DatasetError, match=words):
            read(tmp_path)


def test_a_mask_is_not_taken_for_the_image_of_its_name(tmp_path):
    """As of the output folder of predict.py, whose annotations name images that lie elsewhere."""
    output = tmp_path / "out"
    for folder in ("masks", "uncertainties/a", "annotations"):
        (output / folder).mkdir(parents=True)
    for folder in ("masks", "uncertainties/a"):
        (output / folder / "1.png").write_bytes(encoded(1))
    mask = np.ones((SIDE, SIDE), dtype=bool)
    (output / "annotations" / "coco.json").write_text(json.dumps(coco_data({"1.png": mask})))
    for source in (output, output / "annotations"):
        with pytest.raises(DatasetError, match=r"1\.png, which is not below"):
            annotation_splits(source, AnnotationRules())
    (tmp_path / "1.png").write_bytes(encoded(2))
    ((row,),) = (annotation_splits(output, AnnotationRules()) or {}).values()
    assert row["image"]["path"] == str(tmp_path / "1.png")
