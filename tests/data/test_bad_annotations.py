"""What is wrong with an annotations file is said with file and entry, before any work."""

import base64
import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import (
    SIDE,
    coco_data,
    cvat_text,
    label_studio_tasks,
    labelme_data,
    via_data,
    write_coco,
    write_cvat,
    write_frames,
    write_labelme,
    write_yolo,
)
from PIL import Image
from unet_kvasir_seg.common.annotation_rules import AnnotationRules
from unet_kvasir_seg.data.annotations.source import annotation_splits
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import DatasetError
from unet_kvasir_seg.train import main as train


@pytest.fixture
def masks(tmp_path) -> dict[str, np.ndarray]:
    """Three frames in images/, and their masks."""
    return write_frames(tmp_path / "images", count=3)


def error_of(source: Path, **rules: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        annotation_splits(source, AnnotationRules(**rules))
    return str(caught.value)


def error_of_json(folder: Path, data: Any) -> str:
    file = folder / "export.json"
    file.write_text(json.dumps(data))
    text = error_of(file)
    assert str(file) in text
    return text


BOW_TIE = [2, 2, 20, 20, 20, 2, 2, 20]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"segmentation": [[1, 1, 5, 5]]}, "2 different points"),
        ({"segmentation": [[1, 1, 5, 5, 1, 1, 5, 5]]}, "2 different points"),
        ({"segmentation": [BOW_TIE]}, "crosses itself near (11, 11)"),
        ({"segmentation": [[40, 1, 50, 1, 50, 9]]}, "outside of its image"),
        ({"segmentation": [[1, 1, 9, 1, 9]]}, "x and y by turns"),
        ({"segmentation": [[1, 1, 9, "a", 9, 9]]}, '"a"'),
        ({"segmentation": [[1, 1, 9, 1e300, 9, 9]]}, "no pixels"),
        ({"segmentation": {"size": [SIDE, SIDE], "counts": [5, 5]}}, "runs of 10 pixels"),
        ({"segmentation": {"size": [SIDE, SIDE], "counts": [5, -5, SIDE * SIDE]}}, "-5 pixels"),
        ({"segmentation": {"size": [SIDE, 31], "counts": [31 * SIDE]}}, "31x32"),
        ({"segmentation": {"size": [SIDE, SIDE], "counts": "0"}}, "runs of 0 pixels"),
        ({"segmentation": {"size": [SIDE, SIDE], "counts": "o"}}, "ends within one"),
        ({"segmentation": {"size": [SIDE, SIDE], "counts": "\u00e9"}}, "other characters"),
        ({"segmentation": "here"}, "neither polygons"),
        ({"category_id": 4}, "90 (polyp)"),
        ({"category_id": None}, "nothing as its category"),
        ({"image_id": 999}, "image 999"),
        ({"image_id": None}, "image_id"),
    ],
)
def test_a_wrong_annotation_of_coco_is_named(change, words, masks, tmp_path):
    data = coco_data(masks)
    data["annotations"][1] |= change
    text = error_of_json(tmp_path, data)
    assert "annotation 7 " in text
    assert words in text


def test_an_image_that_is_gone_listed_twice_or_of_another_size_is_named(masks, tmp_path):
    data = coco_data(masks)
    gone = copy.deepcopy(data)
    gone["images"][2]["file_name"] = "frame77.jpg"
    text = error_of_json(tmp_path, gone)
    assert "image 23 " in text
    assert "frame77.jpg" in text
    twice = copy.deepcopy(data)
    twice["images"][2]["file_name"] = "elsewhere/frame1.jpg"
    text = error_of_json(tmp_path, twice)
    assert "image 23 " in text
    assert "image 13 of export.json" in text
    impossible = copy.deepcopy(data)
    impossible["images"][0]["width"] = 10**9
    assert "image 3 has the size 1000000000x32" in error_of_json(tmp_path, impossible)


def test_several_problems_are_all_listed(masks, tmp_path):
    data = coco_data(masks)
    for annotation in data["annotations"]:
        annotation["segmentation"] = [BOW_TIE]
    text = error_of_json(tmp_path, data)
    assert text.startswith("3 problems")
    assert all(f"annotation {number} has" in text for number in (0, 7, 14))


def test_check_data_lists_entries_and_sizes(masks, tmp_path, run_command):
    """A size that differs from the image's is found at the start of a run too."""
    data = coco_data(masks)
    data["images"][0] |= {"width": SIDE + 1}
    data["annotations"][1]["segmentation"] = [BOW_TIE]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(data))
    done = run_command(train, "--dataset_name", file, "--check_data", "--output_dir", "out", status=1)
    assert "2 problems" in done.stdout
    with (tmp_path / "out" / "data-check.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert sorted(row["file"] for row in rows) == [str(file), f"{file}: image 3"]
    texts = " ".join(row["problem"] for row in rows)
    assert "annotation 7 has a polygon that crosses itself" in texts
    assert "33x32" in texts
    data["annotations"][1]["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    file.write_text(json.dumps(data))
    done = run_command(train, "--dataset_name", file, "--output_dir", "run", status=2)
    assert f"{file}: image 3 is of an image of 33x32 pixels" in done.stderr


def test_two_files_that_cannot_be_told_apart_are_refused(masks, tmp_path):
    file = write_coco(tmp_path, masks)
    (tmp_path / "other.json").write_text(file.read_text())
    text = error_of(tmp_path)
    assert "export.json" in text
    assert "other.json" in text
    (tmp_path / "other.json").unlink()
    write_cvat(tmp_path, masks)
    text = error_of(tmp_path)
    assert "annotations.xml (CVAT)" in text
    assert "export.json (COCO)" in text


@pytest.mark.parametrize("content", ["{}", "[1, 2]", '{"images": 3}', "[[[[", "names: 3", "", "<annotation/>", "\x00"])
def test_a_file_of_another_kind_is_refused(content, tmp_path):
    file = tmp_path / "export.json"
    file.write_text(content)
    text = error_of(file)
    assert str(file) in text
    assert "COCO" in text
    with pytest.raises(DatasetError, match=r"export\.json"):
        load_splits(str(file))


def test_entities_are_not_expanded(masks, tmp_path):
    file = write_cvat(tmp_path, masks) / "annotations.xml"
    declared = '<!DOCTYPE annotations [<!ENTITY a "aaaa"><!ENTITY b SYSTEM "file:///etc/passwd">]>'
    body = cvat_text(masks).partition("?>")[2]
    file.write_text(f'<?xml version="1.0"?>{declared}{body.replace("frame0.jpg", "&b;")}')
    assert "entities" in error_of(file)
    file.write_text(cvat_text(masks)[:-40])
    assert "damaged" in error_of(file)


def test_a_wrong_shape_of_cvat_is_named(masks, tmp_path):
    file = tmp_path / "annotations.xml"
    text = cvat_text(masks)
    file.write_text(text.replace('rle="', 'rle="3, '))
    found = error_of(file)
    assert "image 1 (frame1.jpg), shape 0 (mask)" in found
    assert f"{31 * SIDE + 3} pixels in all" in found
    file.write_text(text.replace(";", ";x", 1))
    assert "image 0 (frame0.jpg), shape 0 (polygon)" in error_of(file)
    video = '<annotations><track id="0" label="polyp"><polygon frame="0" points="1,1;2,2;3,1"/></track></annotations>'
    file.write_text(video)
    assert "CVAT for video" in error_of(file)


def test_a_wrong_mask_of_labelme_is_named(masks, tmp_path):
    folder = write_labelme(tmp_path, masks)
    file = folder / "json" / "frame1.json"
    data = json.loads(file.read_text())
    good = data["shapes"][0]["mask"]
    for mask, words in (
        ("%%%", "no base64"),
        (good[: len(good) // 8 * 4], "no image"),
        (base64.b64encode(b"x").decode(), "no image"),
    ):
        data["shapes"][0]["mask"] = mask
        file.write_text(json.dumps(data))
        text = error_of(folder)
        assert words in text
        assert f"{file}: shape 0" in text
    data["shapes"][0] |= {"mask": good, "points": [[0, 0], [1, 1]]}
    file.write_text(json.dumps(data))
    assert "2x2" in error_of(folder)
    data["shapes"][0] |= {"shape_type": "circle", "points": [[0, 0]]}
    file.write_text(json.dumps(data))
    assert "1 point:" in error_of(folder)
    file.write_text("{")
    assert f"{file}: The file is damaged" in error_of(folder)


def test_an_image_in_the_file_of_labelme_is_read_where_none_is_beside_it(masks, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (9, 8, 7)).save(buffer, "PNG")
    data = labelme_data("frame1.jpg", masks["frame1.jpg"])
    data |= {"imagePath": "gone.png", "imageData": base64.b64encode(buffer.getvalue()).decode()}
    file = tmp_path / "images" / "gone.json"
    file.write_text(json.dumps(data))
    (row,) = (annotation_splits(file, AnnotationRules()) or {})[""]
    assert row["image"] == {"bytes": buffer.getvalue(), "path": "gone.png"}
    file.write_text(json.dumps(data | {"imageData": "%"}))
    assert "imageData that is no base64" in error_of(file)
    file.write_text(json.dumps(data | {"imageData": None}))
    assert "gone.png" in error_of(file)


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        (0, {"value": {"points": [[1, 1], [100.5, 1], [9, 9]], "polygonlabels": ["polyp"]}}, "100.5 per cent"),
        (0, {"original_width": 0}, "0x32"),
        (0, {"original_width": None}, "original_width"),
        (0, {"image_rotation": 90}, "turned"),
        (1, {"original_height": 31}, "4096 bytes, where an image of this size has 3968"),
        (1, {"value": {"rle": [0, 0, 16, 0], "brushlabels": ["polyp"]}}, "too early"),
        (1, {"value": {"rle": [300], "brushlabels": ["polyp"]}}, "damaged"),
    ],
)
def test_a_wrong_region_of_label_studio_is_named(task, change, words, masks, tmp_path):
    tasks = label_studio_tasks(masks)
    tasks[task]["annotations"][0]["result"][0] |= change
    text = error_of_json(tmp_path, tasks)
    assert f"task {task}, region r0" in text
    assert words in text


def test_a_task_of_label_studio_that_leaves_a_choice_is_refused(masks, tmp_path):
    tasks = label_studio_tasks(masks)
    tasks[0]["annotations"] *= 2
    assert "task 0 has 2 annotations" in error_of_json(tmp_path, tasks)
    tasks[0]["annotations"] = [tasks[0]["annotations"][0] | {"ground_truth": True}, tasks[0]["annotations"][0]]
    tasks[1]["data"]["image"] = "s3://bucket/far.jpg?X-Amz=1"
    text = error_of_json(tmp_path, tasks)
    assert "task 1 is of far.jpg" in text
    assert "download" in text
    assert "task 0" not in text


def test_a_wrong_region_of_via_is_named(masks, tmp_path):
    data = via_data(masks, tmp_path)
    key = next(iter(data))
    data[key]["regions"][0]["shape_attributes"]["all_points_x"] = [1, 2]
    data[key]["regions"][1]["shape_attributes"] = {"name": "circle", "cx": 1, "cy": 1, "r": 0}
    text = error_of_json(tmp_path, data)
    assert f"region 0 of image {key} has 2 x and 4 y" in text
    assert f"region 1 of image {key} has radii of 0" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.1 0.1 0.5 0.1 1.2 0.5", "1.2"),
        ("3 0.1 0.1 0.5 0.1 0.2 0.5", "0 (polyp)"),
        ("0 0.1 0.1 0.5 0.1 0.2", "5 numbers"),
        ("0 0.1 0.1 0.5 x 0.2 0.2", '"x"'),
    ],
)
def test_a_wrong_line_of_yolo_is_named(line, words, masks, tmp_path):
    folder = write_yolo(tmp_path, masks)
    file = folder / "labels" / "frame1.txt"
    file.write_text(f"{file.read_text()}\n{line}\n")
    number = len(file.read_text().splitlines())
    text = error_of(folder)
    assert f"{file}: line {number} has" in text
    assert words in text


def test_splits_of_yolo_that_share_images_or_are_not_there_are_refused(masks, tmp_path):
    folder = write_yolo(tmp_path, masks)
    file = folder / "data.yaml"
    file.write_text("names: [polyp]\ntrain: images\nval: images\n")
    assert "train and val share images" in error_of(folder)
    file.write_text("names: [polyp]\ntrain: elsewhere\n")
    assert "elsewhere" in error_of(file)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("COCO", {"images": [{"id": 3, "file_name": "a" * 5000 + ".jpg"}]}, "which is not below"),
        ("COCO", {"images": [{"id": 3, "file_name": "https://[::1/frame0.jpg?"}]}, "which is not below"),
        ("COCO", {"categories": [{"id": 90, "name": "polyp"}, {"id": 90, "name": "tool"}]}, "id of another category"),
    ],
)
def test_odd_fields_of_coco_are_named(name, change, words, masks, tmp_path):
    assert words in error_of_json(tmp_path, coco_data(masks) | change)


def test_values_of_label_studio_that_are_none(masks, tmp_path):
    """A lost shape is named; predictions that are no list and texts that are no address are passed over."""
    tasks = label_studio_tasks(masks)
    tasks[0] |= {"predictions": 5, "drafts": {"a": 1}}
    tasks[0]["data"]["note"] = "http://[::1/frame0.jpg.txt"
    tasks[1]["annotations"][0]["result"][0]["value"] = None
    text = error_of_json(tmp_path, tasks)
    assert "task 1 has nothing as its value" in text
    assert "task 0" not in text


@pytest.mark.parametrize(("runs", "words"), [("9e30, 1", "no numbers of its pixels"), ("2.5, 1", "no numbers")])
def test_runs_of_cvat_that_are_no_numbers_of_pixels(runs, words, masks, tmp_path):
    file = tmp_path / "annotations.xml"
    file.write_text(cvat_text(masks).replace('rle="', f'rle="{runs}, '))
    assert words in error_of(file)


def test_odd_classes_and_splits_of_yolo_are_named(masks, tmp_path):
    folder = write_yolo(tmp_path, masks)
    text = folder / "labels" / "frame1.txt"
    for number in ("1.0", "-1", "9" * 5000, "\u00b2"):
        text.write_text(f"{number} 0 0 1 0 1 1\n", encoding="utf-8")
        assert "line 1 has the class" in error_of(folder)
    (folder / "data.yaml").write_text("names: [polyp]\ntrain:\n")
    assert "none of train, val, test names images" in error_of(folder)
