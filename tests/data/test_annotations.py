"""Each format of an annotation program gives the masks that were drawn."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import (
    SIDE,
    WRITERS,
    coco_data,
    cvat_text,
    label_studio_tasks,
    labelme_data,
    masks_of,
    via_data,
    write_coco,
    write_cvat_masks,
    write_frames,
    write_labelme,
    write_yolo,
)
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_dilation
from unet_kvasir_seg.common.annotation_rules import AnnotationRules
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.data.annotations.shapes import EntryError, ellipse, polygon, rectangle, runs_of_shape
from unet_kvasir_seg.data.annotations.source import annotation_splits
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.data.mask_runs import MAGIC, decode_runs, encode_runs
from unet_kvasir_seg.data.samples import DatasetError, load_sample


def drawn(shape: Any, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    return coco_mask.decode(runs_of_shape(shape, size)[0]).astype(bool)


def centres(size: tuple[int, int] = (SIDE, SIDE)) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixels' centres."""
    y, x = np.mgrid[: size[1], : size[0]]
    return x + 0.5, y + 0.5


@pytest.mark.parametrize("name", WRITERS)
def test_masks_are_those_that_were_drawn(name, tmp_path):
    masks = write_frames(tmp_path / "images")
    found = masks_of(WRITERS[name](tmp_path, masks))
    assert found.keys() == masks.keys()
    for file, mask in masks.items():
        assert (found[file] == mask).all(), file


def test_a_pixel_belongs_to_a_polygon_if_its_centre_lies_inside():
    """A square from 2.2 to 6.8 covers the centres 2.5 to 6.5; a rhombus, those within its diagonals."""
    square = drawn(polygon(np.array([[2.2, 2.2], [6.8, 2.2], [6.8, 6.8], [2.2, 6.8]])))
    assert square.sum() == 25
    assert square[2:7, 2:7].all()
    smaller = drawn(polygon(np.array([[2.8, 2.8], [6.2, 2.8], [6.2, 6.2], [2.8, 6.2]])))
    assert smaller.sum() == 9
    assert smaller[3:6, 3:6].all()
    x, y = centres()
    rhombus = drawn(polygon(np.array([[16, 4.2], [27.8, 16], [16, 27.8], [4.2, 16]])))
    assert (rhombus == (np.abs(x - 16) + np.abs(y - 16) < 11.8)).all()


def test_ellipses_and_turned_rectangles_are_those_of_their_equations():
    """But for pixels whose centres lie on the edge, within the fifth of a pixel to which corners are rounded."""
    x, y = centres()
    turn = np.deg2rad(30)
    along, across = (
        (x - 15) * np.cos(turn) + (y - 17) * np.sin(turn),
        (y - 17) * np.cos(turn) - (x - 15) * np.sin(turn),
    )
    found = drawn(ellipse(15, 17, 11, 6, 30))
    assert found[(along / 10.7) ** 2 + (across / 5.7) ** 2 < 1].all()
    assert not found[(along / 11.3) ** 2 + (across / 6.3) ** 2 > 1].any()
    along, across = (x - 12) * np.cos(turn) + (y - 3) * np.sin(turn), (y - 3) * np.cos(turn) - (x - 12) * np.sin(turn)
    found = drawn(rectangle(12, 3, 14, 9, 30))
    assert found[(along > 0.3) & (along < 13.7) & (across > 0.3) & (across < 8.7)].all()
    assert not found[(along < -0.3) | (along > 14.3) | (across < -0.3) | (across > 9.3)].any()


def test_what_labelme_draws_has_the_outline_too():
    """labelme's `shape_to_mask` calls Pillow's `polygon` with an outline: up to a pixel more around the same area."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        points = 16 + (rng.uniform(11, 13, 12) * np.stack([np.cos(angles), np.sin(angles)])).T
        image = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(image).polygon([tuple(point) for point in points.tolist()], outline=1, fill=1)
        theirs, ours = np.array(image) > 0, drawn(polygon(points))
        assert not (ours & ~binary_dilation(theirs)).any()
        assert not (theirs & ~binary_dilation(ours, np.ones((3, 3)))).any()


def test_a_hole_that_a_cut_leads_to_stays_open_and_a_small_loop_is_taken():
    """As programs write a hole that their format has no place for."""
    ring = [[2, 2], [20, 2], [20, 20], [2, 20], [2, 2], [6, 6], [6, 14], [14, 14], [14, 6], [6, 6]]
    found = drawn(polygon(np.array(ring, dtype=float)))
    assert found.sum() == 18 * 18 - 8 * 8
    assert not found[6:14, 6:14].any()
    hand = [[2, 2], [20, 2], [20, 20], [2, 20], [2, 1.5], [2.5, 1.5]]
    assert drawn(polygon(np.array(hand, dtype=float)))[2:20, 2:20].all()


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two outlines as one, with a line there and back between their first corners, as YOLO's programs write parts."""
    return np.concatenate([first, first[:1], second, second[:1]])


@pytest.mark.parametrize("turn", [1, -1])
def test_parts_and_holes_that_a_line_joins_are_those_of_the_single_outlines(turn):
    """However they are wound; only those that overlap are refused, since it is not clear what is meant."""
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    x, y = centres()
    outer = (x < 12) & (y < 12)
    apart = joined(square * 1.2, (square + 15)[::turn])
    assert (drawn(polygon(apart)) == (outer | ((x > 15) & (x < 25) & (y > 15) & (y < 25)))).all()
    hole = joined(square * 1.2, (square * 0.4 + 4)[::turn])
    assert (drawn(polygon(hole)) == (outer & ~((x > 4) & (x < 8) & (y > 4) & (y < 8)))).all()
    with pytest.raises(EntryError, match="crosses itself"):
        drawn(polygon(joined(square * 1.2, (square + 6)[::turn])))
    with pytest.raises(EntryError, match="crosses itself"):
        drawn(polygon(joined(square, np.array([[15, 15], [25, 25], [25, 15], [15, 25]], float)[::turn])))


def test_what_lies_outside_is_clipped_and_counted(tmp_path, caplog):
    masks = write_frames(tmp_path / "images", count=2)
    data = coco_data(masks)
    data["annotations"][0]["segmentation"] = [[-5, -5, 8, -5, 8, 4, -5, 4]]
    # A horseshoe whose bend lies outside: two pieces are left.
    horseshoe = [20, 2, 40, 2, 40, 12, 20, 12, 20, 9, 36, 9, 36, 5, 20, 5]
    data["annotations"][1]["segmentation"] = [horseshoe]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(data))
    found = masks_of(file)
    assert found["frame0.jpg"].sum() == 8 * 4
    assert found["frame0.jpg"][:4, :8].all()
    assert found["frame1.jpg"].sum() == 12 * (3 + 3)
    assert not found["frame1.jpg"][5:9].any()
    assert "2 regions clipped at the edge of the image" in caplog.text


def test_compressed_runs_are_those_of_pycocotools():
    rng = np.random.default_rng(1)
    for _ in range(100):
        height, width = rng.integers(1, 70, 2).tolist()
        mask = rng.random((height, width)) < rng.random()
        runs = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
        assert (decode_runs(encode_runs(runs, (width, height))) == mask).all()


@pytest.mark.parametrize(
    "tail", [b"", b"\x01", b"\x20\0\0\0\x20\0\0\0o", b"\x20\0\0\0\x20\0\0\0P", b"\0\0\0\0\1\0\0\0"]
)
def test_damaged_runs_of_a_table_are_refused(tail):
    """Tables of strangers may hold them: pycocotools would read beyond their end."""
    image = {"bytes": None, "path": None}
    with pytest.raises(DatasetError, match=r"mask m cannot be read|is missing"):
        load_sample({"image": image, "mask": {"bytes": MAGIC + tail, "path": "m"}, "index": 0})
    with pytest.raises(ValueError, match=r"cut off|ends|runs of|size"):
        decode_runs(MAGIC + tail)


def test_the_brush_is_that_of_label_studio(tmp_path):
    """The numbers are what `mask2rle` of label-studio-sdk 2.1.2 gives for a 4x5 mask."""
    numbers = [0, 0, 0, 80, 57, 27, 254, 23, 0, 183, 255, 56, 5, 191, 252, 38, 1, 31, 248]
    (tmp_path / "images").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "images" / "a.png")
    mask = np.zeros((4, 5), dtype=bool)
    (task,) = label_studio_tasks({"a.png": mask | True})
    value = {"format": "rle", "rle": numbers, "brushlabels": ["polyp"]}
    task["annotations"][0]["result"] = [{"id": "b", "value": value, "original_width": 5, "original_height": 4}]
    file = tmp_path / "export.json"
    file.write_text(json.dumps([task]))
    mask[1:3, 1:4] = mask[3, 4] = True
    assert (masks_of(file)["a.png"] == mask).all()


def test_runs_of_cvat_are_those_of_datumaro(tmp_path):
    """datumaro 1.13 decodes them as COCO's runs of a (width, height) mask, and transposes it."""
    masks = write_frames(tmp_path / "images", count=2)
    lengths = [3, 9, 20, 11, 5, 7, 15]  # of a box of 10x7 at (4, 20)
    text = cvat_text(masks).partition("<mask")[0]
    shape = f'<mask label="polyp" rle="{", ".join(map(str, lengths))}" left="4" top="20" width="10" height="7"/>'
    (tmp_path / "annotations.xml").write_text(f"{text}{shape}</image></annotations>")
    runs = coco_mask.frPyObjects({"size": [10, 7], "counts": lengths}, 10, 7)
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[20:27, 4:14] = coco_mask.decode(runs).T
    assert (masks_of(tmp_path)["frame1.jpg"] == expected).all()


def test_shapes_of_all_kinds(tmp_path):
    """Each is where its corners or its radius say, in the terms of its program."""
    masks = write_frames(tmp_path / "images", count=1)
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "frame0.json"
    square = np.zeros((SIDE, SIDE), dtype=bool)
    square[6:11, 4:20] = True
    x, y = centres()
    disc, oval = np.hypot(x - 16, y - 16) < 8, np.hypot((x - 16) / 10, (y - 16) / 6) < 1

    def check(data: Any, expected: np.ndarray, differing: int = 0) -> None:
        file.write_text(json.dumps(data))
        (found,) = masks_of(file).values()
        assert (found != expected).sum() <= differing

    shapes = [
        ({"shape_type": "rectangle", "points": [[20, 11], [4, 6]]}, square, 0),
        ({"shape_type": "rectangle", "points": [[4, 6], [20, 6], [20, 11], [4, 11]]}, square, 0),
        ({"shape_type": "oriented_rectangle", "points": [[4, 6], [20, 6], [20, 11], [4, 11]]}, square, 0),
        ({"shape_type": "circle", "points": [[16, 16], [16, 24]]}, disc, 4),
        ({"shape_type": "ellipse", "points": [[6, 10], [26, 22]]}, oval, 4),
    ]
    for shape, expected, differing in shapes:
        data = labelme_data("frame0.jpg", masks["frame0.jpg"]) | {"shapes": [{"label": "polyp"} | shape]}
        check(data, expected, differing)
    (key,) = via_data(masks, tmp_path)
    for attributes, expected, differing in [
        ({"name": "rect", "x": 4, "y": 6, "width": 16, "height": 5}, square, 0),
        ({"name": "circle", "cx": 16, "cy": 16, "r": 8}, disc, 4),
        ({"name": "ellipse", "cx": 16, "cy": 16, "rx": 10, "ry": 6}, oval, 4),
        ({"name": "ellipse", "cx": 16, "cy": 16, "rx": 6, "ry": 10, "theta": np.pi / 2}, oval, 4),
    ]:
        region = {"shape_attributes": attributes, "region_attributes": {"kind": {"polyp": True, "other": False}}}
        check({key: {"filename": "frame0.jpg", "size": -1, "regions": {"0": region}}}, expected, differing)
    sizes = {"original_width": SIDE, "original_height": SIDE}
    for value, expected, differing in [
        ({"x": 12.5, "y": 18.75, "width": 50, "height": 15.625, "rotation": 0}, square, 0),
        ({"x": 62.5, "y": 18.75, "width": 15.625, "height": 50, "rotation": 90}, square, 0),
        ({"x": 50, "y": 50, "radiusX": 31.25, "radiusY": 18.75, "rotation": 0}, oval, 4),
    ]:
        # The label of a region may be an entry of its own.
        results = [{"id": "r", "type": "shape", "value": value, **sizes}]
        results.append({"id": "r", "type": "labels", "value": value | {"labels": ["polyp"]}, **sizes})
        task = {"id": 1, "data": {"image": "s3://bucket/frame0.jpg?key=1"}, "annotations": [{"result": results}]}
        check([task], expected, differing)
    assert "polyp" in annotation_labels(file)


def annotation_labels(file: Path) -> str:
    """The labels that an error lists."""
    with pytest.raises(DatasetError) as caught:
        annotation_splits(file, AnnotationRules(labels=["no such label"]))
    return str(caught.value)


def test_labels_choose_what_is_polyp(tmp_path):
    masks = write_frames(tmp_path / "images", count=3)
    data = coco_data(masks)
    data["categories"] += [{"id": 7, "name": "adenoma"}, {"id": 8, "name": "unused"}]
    data["annotations"][1]["category_id"] = 7
    file = tmp_path / "export.json"
    file.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=r"polyp \(2\), adenoma \(1\).*--labels polyp"):
        masks_of(file)
    assert "polyp (2), adenoma (1)" in annotation_labels(file)
    both = masks_of(file, labels=["polyp", "adenoma", "unused"])
    assert all((both[name] == mask).all() for name, mask in masks.items())
    # What another label was drawn on was looked at: a frame without polyp.
    polyps = masks_of(file, labels=["polyp"])
    assert not polyps["frame1.jpg"].any()
    assert (polyps["frame0.jpg"] == masks["frame0.jpg"]).all()


def test_labels_of_images_and_masks_are_refused(tmp_path):
    masks = write_frames(tmp_path / "images", count=2)
    (tmp_path / "masks").mkdir()
    for name, mask in masks.items():
        Image.fromarray(mask).save(tmp_path / "masks" / name.replace(".jpg", ".png"))
    with pytest.raises(DatasetError, match=r"--labels"):
        masks_of(tmp_path, labels=["polyp"])
    # With labels, the annotations beside the masks are meant.
    write_coco(tmp_path, {name: ~mask for name, mask in masks.items()})
    assert (masks_of(tmp_path)["frame0.jpg"] == masks["frame0.jpg"]).all()
    assert (masks_of(tmp_path, labels=["polyp"])["frame0.jpg"] == ~masks["frame0.jpg"]).all()


@pytest.mark.parametrize("name", ["COCO", "LabelMe", "CVAT", "Label Studio", "VIA project", "YOLO", "CVAT masks"])
def test_images_without_annotation_are_left_out_or_negative(name, tmp_path, caplog):
    masks = write_frames(tmp_path / "images", count=4)
    without = {file: mask & (file != "frame2.jpg") for file, mask in masks.items()}
    source = WRITERS[name](tmp_path, without if name != "LabelMe" else {f: m for f, m in without.items() if m.any()})
    if name == "CVAT masks":
        (source / "SegmentationClass" / "frame2.png").unlink()
    if name == "COCO":
        data = coco_data(masks)
        data["annotations"] = [one for one in data["annotations"] if one["image_id"] != 23]
        source.write_text(json.dumps(data))
    assert masks_of(source).keys() == masks.keys() - {"frame2.jpg"}
    assert "1 image without annotation left out" in caplog.text
    found = masks_of(source, unlabelled="negative")
    assert found.keys() == masks.keys()
    assert not found["frame2.jpg"].any()


def test_a_black_mask_of_cvat_is_a_frame_without_polyp(tmp_path):
    masks = write_frames(tmp_path / "images", count=2)
    masks["frame1.jpg"][:] = False
    found = masks_of(write_cvat_masks(tmp_path, masks))
    assert found.keys() == masks.keys()
    assert not found["frame1.jpg"].any()
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\npolyp:1,2,3::\n")
    with pytest.raises(DatasetError, match=r"frame0\.png: the mask has the colours \(250, 50, 83\)"):
        masks_of(tmp_path)


def test_images_whose_polyps_have_no_outline_are_left_out(tmp_path, caplog):
    """As a frame without polyp, also with --unlabelled negative, they would teach the opposite."""
    masks = write_frames(tmp_path / "images", count=3)
    data = coco_data(masks)
    data["annotations"][1]["segmentation"] = []
    file = tmp_path / "export.json"
    file.write_text(json.dumps(data))
    assert masks_of(file, unlabelled="negative").keys() == {"frame0.jpg", "frame2.jpg"}
    assert "1 image left out: polyps are marked without an outline (box)" in caplog.text
    folder = write_yolo(tmp_path, masks)
    file.unlink()
    (folder / "labels" / "frame0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert masks_of(folder).keys() == {"frame1.jpg", "frame2.jpg"}
    xml = tmp_path / "annotations.xml"
    box = '<box label="polyp" xtl="1" ytl="1" xbr="5" ybr="5"/><tag label="blurred"/>'
    xml.write_text(cvat_text(masks).replace("</image>", f"{box}</image>", 1))
    assert masks_of(xml).keys() == {"frame1.jpg", "frame2.jpg"}
    assert "1 tag of CVAT" in caplog.text
    hidden = box.replace("/>", ' outside="1"/>', 1)
    xml.write_text(cvat_text(masks).replace("</image>", f"{hidden}</image>", 1))
    assert masks_of(xml).keys() == masks.keys()


def test_what_label_studio_skipped_and_predicted_is_not_read(tmp_path, caplog):
    masks = write_frames(tmp_path / "images", count=3)
    tasks = label_studio_tasks(masks)
    tasks[0]["annotations"].append(tasks[1]["annotations"][0] | {"was_cancelled": True})
    tasks[1]["predictions"] = [{"result": tasks[0]["annotations"][0]["result"]}]
    first = tasks[2]["annotations"][0]
    tasks[2]["annotations"] = [first | {"result": []}, first | {"ground_truth": True}]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks))
    found = masks_of(file)
    assert all((found[name] == mask).all() for name, mask in masks.items())
    assert "1 annotation skipped" in caplog.text
    assert "1 task with predictions" in caplog.text


def names(rows: Any) -> list[str]:
    return [Path(cell["path"]).name for cell in rows["image"]]


def test_splits_are_those_of_the_files(tmp_path):
    """Of files' names, of folders, of subsets, of lists and of data.yaml."""
    masks = write_frames(tmp_path / "images", count=4)
    files = list(masks)
    parts = {"train": files[:2], "val": files[2:3], "test": files[3:]}
    wanted = {"train": files[:2], "validation": files[2:3], "test": files[3:]}

    def check(source: Path) -> None:
        splits = load_splits(str(source))
        assert {split: names(rows) for split, rows in splits.items()} == wanted

    (tmp_path / "annotations").mkdir()
    for split, chosen in parts.items():
        data = coco_data({name: masks[name] for name in chosen})
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(data))
    check(tmp_path)
    check(tmp_path / "annotations")
    only = load_splits(str(tmp_path / "annotations" / "instances_test2017.json"))
    assert {split: names(rows) for split, rows in only.items()} == {"test": files[3:]}
    for file in (tmp_path / "annotations").iterdir():
        file.unlink()
    text = cvat_text(masks)
    subsets = {name: {"val": "Validation"}.get(split, split) for split, chosen in parts.items() for name in chosen}
    for name, subset in subsets.items():
        text = text.replace(f'name="{name}"', f'name="{name}" subset="{subset}"')
    (tmp_path / "annotations.xml").write_text(text)
    check(tmp_path)
    (tmp_path / "annotations.xml").unlink()
    write_yolo(tmp_path, masks)
    for split, chosen in parts.items():
        (tmp_path / f"{split}.txt").write_text("\n".join(f"data/images/{name}" for name in chosen))
    lines = [f"{split}: {split}.txt" for split in parts]
    (tmp_path / "data.yaml").write_text("\n".join(["path: .", "names: {0: polyp}", *lines]))
    check(tmp_path)
    (tmp_path / "data.yaml").unlink()
    write_cvat_masks(tmp_path, masks)
    lists = tmp_path / "ImageSets" / "Segmentation"
    (lists / "default.txt").unlink()
    for split, chosen in parts.items():
        (lists / f"{split}.txt").write_text("\n".join(name.removesuffix(".jpg") for name in chosen))
    check(tmp_path)


def test_without_splits_they_are_divided_as_folders_are(tmp_path):
    masks = write_frames(tmp_path / "images", count=10)
    splits = load_splits(str(write_coco(tmp_path, masks)))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 8, "validation": 1, "test": 1}
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "images").rename(moved / "images")
    again = load_splits(str(write_coco(moved, masks)))
    assert {split: names(rows) for split, rows in again.items()} == {s: names(r) for s, r in splits.items()}


def test_an_image_that_is_turned_when_shown_has_its_regions_where_they_were_drawn(tmp_path):
    """Programs draw on the image as shown: stored as 4x6 with the tag "turn by 90 degrees", it is 6x4."""
    (tmp_path / "images").mkdir()
    image = Image.new("RGB", (4, 6))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "images" / "a.jpg", exif=exif)
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 3:] = True
    file = tmp_path / "export.json"
    for data in (coco_data({"a.jpg": mask}), via_data({"a.jpg": mask}, tmp_path)):
        file.write_text(json.dumps(data))
        (row,) = load_splits(str(file), needed_splits=["all"])["all"]
        sample = load_sample(row)
        assert sample.image.size == (6, 4)
        assert (sample.ground_truth == mask).all()


def test_without_the_extra_it_is_named(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "shapely" else find(name))
    file = write_coco(tmp_path, write_frames(tmp_path / "images", count=1))
    with pytest.raises(UserError, match=r"shapely is not installed.*\[annotations\]"):
        load_splits(str(file))


def test_a_region_between_the_centres_of_pixels_is_counted(tmp_path, caplog):
    data = coco_data(write_frames(tmp_path / "images", count=1))
    data["annotations"][0]["segmentation"] = [[3.6, 3.6, 4.4, 3.6, 4.4, 4.4]]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(data))
    assert not masks_of(file)["frame0.jpg"].any()
    assert "1 region between the centres of pixels" in caplog.text


def test_results_record_labels_and_no_paths(tmp_path):
    masks = write_frames(tmp_path / "images", count=4)
    file = write_labelme(tmp_path, masks)
    rules = AnnotationRules(labels=["polyp"], unlabelled="negative")
    rows = load_splits(str(file), needed_splits=["all"], annotation_rules=rules)
    data = describe_data(str(file), None, rows, annotation_rules=rules)
    assert data["masks"]["labels"] == ["polyp"]
    assert data["masks"]["unlabelled"] == "negative"
    assert str(tmp_path) not in json.dumps(data)
    # The fingerprint is of images and regions, not of where they lie.
    (tmp_path / "b").mkdir()
    (tmp_path / "images").rename(tmp_path / "b" / "images")
    (tmp_path / "json").rename(tmp_path / "b" / "json")
    moved = load_splits(str(tmp_path / "b"), needed_splits=["all"], annotation_rules=rules)
    assert describe_data("b", None, moved)["fingerprint"] == data["fingerprint"]


def test_of_several_addresses_in_a_task_of_label_studio_the_labelled_one_is_read(tmp_path):
    masks = write_frames(tmp_path / "images", count=2)
    tasks = label_studio_tasks(masks)
    tasks[0]["data"] |= {"thumbnail": "/data/upload/3/0a1b2c3d-frame1.jpg"}  # the template's "image" is meant
    tasks[1]["data"] = {"image": "s3://bucket/small.jpg", "frame": "frame1.jpg"}
    for result in tasks[1]["annotations"][0]["result"]:
        result["to_name"] = "frame"
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks))
    found = masks_of(file)
    assert all((found[name] == mask).all() for name, mask in masks.items())
    tasks[1]["data"] = {"left": "a.jpg", "right": "b.jpg"}
    file.write_text(json.dumps(tasks))
    with pytest.raises(DatasetError, match="names 2 images"):
        masks_of(file)


def test_a_turned_rectangle_of_label_studio_may_be_longer_than_the_image_is_high(tmp_path):
    """Around its top left corner, on an image of 64x16: 8 pixels wide and 20 high, turned by 90 degrees clockwise."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 16)).save(tmp_path / "images" / "a.png")
    value = {"x": 50.0, "y": 25.0, "width": 12.5, "height": 125.0, "rotation": 90, "rectanglelabels": ["polyp"]}
    result = {"id": "r", "original_width": 64, "original_height": 16, "value": value}
    file = tmp_path / "export.json"
    file.write_text(json.dumps([{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [result]}]}]))
    wanted = np.zeros((16, 64), dtype=bool)
    wanted[4:12, 12:32] = True
    assert (masks_of(file)["a.png"] == wanted).all()
    value["height"] = 500.0
    file.write_text(json.dumps([{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [result]}]}]))
    with pytest.raises(DatasetError, match="per cent"):
        masks_of(file)
