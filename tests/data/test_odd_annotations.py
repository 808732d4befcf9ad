"""Files as programs and people really write them: without lists, with files of other tasks, other codes and names."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from annotation_files import (
    SIDE,
    WRITERS,
    coco_data,
    cvat_text,
    label_studio_tasks,
    masks_of,
    write_frames,
    write_yolo,
)
from PIL import Image
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import DatasetError


def check(found: dict[str, np.ndarray], masks: dict[str, np.ndarray]) -> None:
    assert found.keys() == masks.keys()
    for name, mask in masks.items():
        assert (found[name] == mask).all(), name


def test_yolo_without_a_data_yaml_is_read(tmp_path):
    """Texts in labels/, given as any of the folders; then beside the images."""
    masks = write_frames(tmp_path / "images", count=3)
    (write_yolo(tmp_path, masks) / "data.yaml").unlink()
    check(masks_of(tmp_path), masks)
    check(masks_of(tmp_path / "labels"), masks)
    for text in (tmp_path / "labels").iterdir():
        text.rename(tmp_path / "images" / text.name)
    check(masks_of(tmp_path), masks)
    check(masks_of(tmp_path / "images"), masks)
    with pytest.raises(DatasetError, match=r"text of one image: give the folder"):
        masks_of(tmp_path / "images" / "frame0.txt")


@pytest.mark.parametrize(
    ("file", "text", "label"),
    [
        ("data.yaml", "names: [polyp]\n", "polyp"),
        ("data.yaml", "train: images\nnc: 1\n", "0"),
        ("data.yaml", "path: .\ntrain: images\n", "0"),
        ("classes.txt", "polyp\n", "polyp"),
        ("labels/classes.txt", "\ufeffpolyp\r\n", "polyp"),
        ("obj.names", "polyp", "polyp"),
        ("notes.md", "nothing", "0"),
    ],
)
def test_labels_of_yolo_are_called_as_a_file_says_or_by_their_numbers(file, text, label, tmp_path):
    masks = write_frames(tmp_path / "images", count=2)
    write_yolo(tmp_path, masks)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / file).write_text(text)
    check(masks_of(tmp_path, labels=[label]), masks)
    if file == "data.yaml":
        check(masks_of(tmp_path / file, labels=[label]), masks)
    with pytest.raises(DatasetError, match=rf"no such label; it has {label} \("):
        masks_of(tmp_path, labels=["adenoma"])


def test_classes_of_yolo_that_no_file_names_have_to_be_chosen(tmp_path):
    masks = write_frames(tmp_path / "images", count=2)
    (write_yolo(tmp_path, masks) / "data.yaml").unlink()
    file = tmp_path / "labels" / "frame1.txt"
    file.write_text("".join(f"17{line[1:]}" for line in file.read_text().splitlines(keepends=True)))
    with pytest.raises(DatasetError, match=r"regions of several labels: .*17 \("):
        masks_of(tmp_path)
    found = masks_of(tmp_path, labels=["17"])
    assert not found["frame0.jpg"].any()
    assert (found["frame1.jpg"] == masks["frame1.jpg"]).all()
    (tmp_path / "classes.txt").write_text("polyp\n")
    with pytest.raises(DatasetError, match=r"frame1\.txt: line 1 has the class 17; .*0 \(polyp\)"):
        masks_of(tmp_path, labels=["polyp"])


def test_splits_of_yolo_without_a_data_yaml_are_those_of_the_folders(tmp_path):
    for number, split in enumerate(("train", "val")):
        masks = write_frames(tmp_path / "images" / split, count=2, seed=number)
        folder = tmp_path / "labels" / split
        folder.mkdir(parents=True)
        for name in masks:
            (folder / name.replace(".jpg", ".txt")).write_text("0 0 0 0.5 0 0.5 0.5 0 0.5\n")
    splits = load_splits(str(tmp_path))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 2, "validation": 2}


def test_texts_that_are_none_of_yolo_are_no_annotations(tmp_path):
    for name in write_frames(tmp_path, count=2):
        (tmp_path / name.replace(".jpg", ".txt")).write_text("1 polyp, 5 mm, sessile\n")
    with pytest.raises(DatasetError, match="no pairs of image and mask"):
        masks_of(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [polyp]\n")
    with pytest.raises(DatasetError, match=r"data\.yaml names labels, but no images"):
        masks_of(tmp_path / "data.yaml")


def test_texts_of_yolo_without_their_images_are_refused(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (write_yolo(folder, write_frames(folder / "images", count=2)) / "data.yaml").unlink()
    (folder / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="holds YOLO's text files, but no image"):
        masks_of(folder)


def test_boxes_of_yolo_alone_leave_nothing_and_outlines_are_asked_for(tmp_path):
    for name in write_frames(tmp_path, count=2):
        (tmp_path / name.replace(".jpg", ".txt")).write_text("0 0.5 0.5 0.25 0.25\n")
    with pytest.raises(DatasetError, match=r"leaves no image to work with.*draw outlines"):
        masks_of(tmp_path)


@pytest.mark.parametrize("code", ["crlf", "tabs", "exponents", "utf-8-sig", "utf-16", "beyond"])
def test_lines_of_yolo_as_other_programs_write_them(code, tmp_path):
    masks = write_frames(tmp_path / "images", count=2)
    folder = write_yolo(tmp_path, masks) / "labels"
    for file in folder.iterdir():
        text = file.read_text()
        if code == "crlf":
            file.write_bytes(text.replace("\n", "  \r\n\r\n").encode())
        elif code == "tabs":
            file.write_text(text.replace(" ", "\t") + "\t\n")
        elif code == "exponents":
            lines = [[line.split()[0], *(f"{float(x):e}" for x in line.split()[1:])] for line in text.splitlines()]
            file.write_text("\n".join(map(" ".join, lines)))
        elif code == "beyond":  # as rounding in pixels leaves it; Ultralytics takes up to 1.01
            file.write_text(text + "\n0 -0.005 0 1.005 0 1.005 0.03125 -0.005 0.03125\n")
            masks[file.name.replace(".txt", ".jpg")][0] = True
        else:
            file.write_text(text, encoding=code)
    (folder / "frame1.txt").write_text("\n \n")
    masks["frame1.jpg"][:] = False
    check(masks_of(tmp_path, unlabelled="negative"), masks)


FULL_EXPORT = {  # of datumaro, beside instances
    "captions": [{"id": 1, "image_id": 3, "category_id": 0, "caption": "a polyp"}],
    "image_info": [],
    "labels": [{"id": 1, "image_id": 3, "category_id": 90}],
    "panoptic": [{"image_id": 3, "file_name": "frame0.png", "segments_info": []}],
    "person_keypoints": [{"id": 1, "image_id": 3, "category_id": 90, "keypoints": [1, 1, 2], "num_keypoints": 1}],
    "stuff": [],
}


def write_full_export(folder: Path) -> dict[str, np.ndarray]:
    """All tasks of COCO of frames that are PNG files, as the images of panoptic segmentation are."""
    masks = {}
    for name, mask in write_frames(folder / "images" / "default", count=2).items():
        file = folder / "images" / "default" / name
        Image.open(file).save(file.with_suffix(".png"))
        file.unlink()
        masks[name.replace(".jpg", ".png")] = mask
    (folder / "annotations" / "panoptic_default").mkdir(parents=True)
    for name in masks:
        Image.new("RGB", (SIDE, SIDE)).save(folder / "annotations" / "panoptic_default" / name)
    data = coco_data(masks)
    for task, annotations in {"instances": data["annotations"], **FULL_EXPORT}.items():
        content = data | {"annotations": annotations}
        if task == "captions":
            content["categories"] = []
        (folder / "annotations" / f"{task}_default.json").write_text(json.dumps(content))
    return masks


def test_of_datumaros_full_export_the_instances_are_read(tmp_path, caplog):
    masks = write_full_export(tmp_path)
    check(masks_of(tmp_path), masks)
    assert f"{len(FULL_EXPORT)} files of other tasks" in caplog.text
    check(masks_of(tmp_path / "annotations" / "instances_default.json"), masks)


def test_of_files_with_other_names_the_one_with_outlines_is_read(tmp_path, caplog):
    masks = write_full_export(tmp_path)
    for number, file in enumerate(sorted((tmp_path / "annotations").glob("*.json"))):
        file.rename(file.with_name(f"export{number}.json"))
    check(masks_of(tmp_path), masks)
    assert "5 files of other tasks" in caplog.text
    # Two files with outlines are a choice that is left to the user.
    (tmp_path / "annotations" / "more.json").write_text(json.dumps(coco_data(masks)))
    with pytest.raises(DatasetError, match=r"several annotations files.*more\.json"):
        masks_of(tmp_path)


def test_boxes_of_other_images_are_no_other_task(tmp_path):
    masks = write_frames(tmp_path / "images", count=4)
    for name, files in {"first": list(masks)[:2], "second": list(masks)[2:]}.items():
        data = coco_data({file: masks[file] for file in files})
        if name == "second":
            data["annotations"] = [one | {"segmentation": []} for one in data["annotations"]]
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=r"first\.json, second\.json"):
        masks_of(tmp_path)


@pytest.mark.parametrize("name", ["COCO", "CVAT", "Label Studio", "VIA project", "YOLO"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_files_of_other_encodings_are_read(name, encoding, tmp_path):
    masks = write_frames(tmp_path / "images", count=2)
    source = WRITERS[name](tmp_path, masks)
    for file in [*tmp_path.glob("*.*"), *tmp_path.glob("labels/*")]:
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        file.write_bytes((mark + file.read_text(encoding="utf-8")).encode(encoding))
    check(masks_of(source), masks)


def test_ids_of_coco_of_any_kind_and_size(tmp_path):
    """Text in one place and numbers in another, negative, huge, and as pandas writes them."""
    masks = write_frames(tmp_path / "images", count=3)
    data = coco_data(masks)
    for number, key in enumerate((-5, 2**63 + 9, "study/7")):
        data["images"][number]["id"] = key
        data["annotations"][number]["image_id"] = str(key)
    data["categories"][0]["id"] = "90"
    data["annotations"][0]["category_id"] = 90.0
    for image in data["images"]:
        image |= {"width": 0, "height": 0}  # as programs do that do not know it
    file = tmp_path / "export.json"
    file.write_text(json.dumps(data))
    check(masks_of(file), masks)


def test_names_that_differ_in_umlauts_case_or_ending(tmp_path):
    masks = {}
    names = {
        "Löwe 1.JPG": "lo\u0308we 1.jpg",
        "frame 2 (1).jpg": "frame 2 (1).jpg",
        "frame_000003.png": "frame_000003",
    }
    (tmp_path / "images").mkdir()
    for number, (name, written) in enumerate(names.items()):
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "images" / unicodedata.normalize("NFC", name))
        masks[written] = np.zeros((SIDE, SIDE), dtype=bool)
        masks[written][number, 1:] = True
    wanted = {unicodedata.normalize("NFC", name): masks[written] for name, written in names.items()}
    for data in (coco_data(masks), cvat_text(masks)):
        file = tmp_path / "export"
        file.write_text(data if isinstance(data, str) else json.dumps(data))
        check({unicodedata.normalize("NFC", name): mask for name, mask in masks_of(file).items()}, wanted)
    # Two images that differ in case alone are told apart by it, and neither is taken for a third.
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "images" / "FRAME_000003.png")
    assert (masks_of(file)["frame_000003.png"] == masks["frame_000003"]).all()
    file.write_text(json.dumps(coco_data({"Frame_000003.png": masks["frame_000003"]})))
    with pytest.raises(DatasetError, match=r"may be images/FRAME_000003\.png, images/frame_000003\.png"):
        masks_of(file)


def test_a_text_of_yolo_whose_umlaut_is_written_otherwise_belongs_to_the_image(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "images" / "u\u0308.png")
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[4:9, 3:11] = True
    (write_yolo(tmp_path, {"\u00fc.jpg": mask}) / "data.yaml").unlink()
    check(masks_of(tmp_path), {"u\u0308.png": mask})


def test_names_that_label_studio_changed_on_upload_are_found(tmp_path):
    """Django stores "frame 1 (2).jpg" as "frame_1_2.jpg"; Label Studio writes a code before it."""
    masks = write_frames(tmp_path / "images", count=2)
    (tmp_path / "images" / "frame1.jpg").rename(tmp_path / "images" / "Bild 1 (Ä, 2).jpg")
    masks = {"frame0.jpg": masks["frame0.jpg"], "Bild 1 (Ä, 2).jpg": masks["frame1.jpg"]}
    tasks = label_studio_tasks(masks)
    tasks[1]["data"]["image"] = "/data/upload/3/0a1b2c3d-Bild_1_%C3%84_2.jpg"
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks))
    check(masks_of(file), masks)


def test_a_video_task_of_cvat_as_images(tmp_path, caplog):
    """Frames without ending, each fifth one, with groups, shapes that are outside, and shapes of other kinds."""
    masks = write_frames(tmp_path / "images", count=4)
    for name in masks:
        number = int(name[5])
        (tmp_path / "images" / name).rename(tmp_path / "images" / f"frame_{5 * number:06d}.jpg")
    masks = {f"frame_{5 * int(name[5]):06d}": mask for name, mask in masks.items()}
    text = cvat_text(masks).replace('label="polyp"', 'label="polyp" group_id="3"')
    text = text.replace(
        "<version>1.1</version>", "<version>1.1</version><meta><task><frame_filter>step=5</frame_filter></task></meta>"
    )
    outside = '<polygon label="polyp" outside="1" points="0,0;9,0;9,9"/>'
    cuboid = '<cuboid label="tool" xtl1="1" ytl1="1"/>'
    (tmp_path / "annotations.xml").write_text(text.replace("</image>", f"{outside}{cuboid}</image>", 1))
    found = masks_of(tmp_path, labels=["polyp"])
    check({name.removesuffix(".jpg"): mask for name, mask in found.items()}, masks)
    sphere = '<sphere label="polyp" cx="1"/>'
    (tmp_path / "annotations.xml").write_text(text.replace("</image>", f"{sphere}</image>", 1))
    with pytest.raises(DatasetError, match=r"\(sphere\) is of a kind that is not known"):
        masks_of(tmp_path)
    track = '<track id="0" label="polyp"><polygon frame="0" points="1,1;2,2;3,1"/></track></annotations>'
    (tmp_path / "annotations.xml").write_text(text.replace("</annotations>", track))
    with pytest.raises(DatasetError, match="CVAT for video"):
        masks_of(tmp_path)
