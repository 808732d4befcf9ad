"""Files of annotation tools: each mask comes back, read by the benchmark's readers, not the writers' code."""

import contextlib
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO
from unet_kvasir_seg.benchmarks.annotations import iou, write_and_read
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.inference.annotations.frames import AnnotatedFrame, find_regions
from unet_kvasir_seg.inference.annotations.label_studio import encode_brush
from unet_kvasir_seg.inference.annotations.options import Options
from unet_kvasir_seg.inference.annotations.writer import files_of
from unet_kvasir_seg.inference.arguments import FORMATS, POLYGON_FORMATS

ODD_NAME = "Fälle 1/a & <b> \"c\" 'd'.jpg"


def polyps() -> np.ndarray:
    """Two regions, one at the border, and a speck."""
    row, column = np.mgrid[:90, :130]
    mask = (np.hypot(row - 30, column - 40) < 20) | (np.hypot(row - 70, column - 120) < 18)
    mask[80, 5] = True
    return mask


def with_hole() -> np.ndarray:
    mask = polyps()
    mask[28:34, 36:46] = False
    return mask


def frame(mask: np.ndarray, name: str = "a.jpg", path: str | None = None, *, polygons: bool = True) -> AnnotatedFrame:
    height, width = mask.shape
    regions = find_regions(mask, with_polygons=polygons)
    return AnnotatedFrame(name, Path(name).with_suffix(".png"), path, width, height, 0.75, regions)


def written(frames: list[AnnotatedFrame], format: str, *, masks: bool = False, label: str = "polyp") -> dict[str, str]:
    options = Options(Path("out/annotations"), label, masks)
    return {name: "".join(parts) for name, parts in files_of(frames, format, options)}


@pytest.mark.parametrize("format", FORMATS)
def test_polygons_come_back(format):
    found, _ = write_and_read(polyps(), format, False)
    assert iou(found, polyps()) >= 0.98
    assert found[80, 5]  # the speck
    assert not write_and_read(np.zeros((6, 5), bool), format, False)[0].any()


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in POLYGON_FORMATS])
def test_masks_come_back_exactly(format):
    for mask in (polyps(), with_hole(), np.ones((3, 4), bool), np.eye(5, dtype=bool)):
        np.testing.assert_array_equal(write_and_read(mask, format, True)[0], mask)


@pytest.mark.parametrize("format", FORMATS)
def test_holes_are_kept_by_coco_and_counted_by_others(format):
    options = Options(Path(), "polyp")
    for _, parts in files_of([frame(with_hole())], format, options):
        list(parts)
    assert (options.filled, options.as_masks) == ((0, 1) if format == "coco" else (1, 0))
    found, _ = write_and_read(with_hole(), format, False)
    assert found[30, 40] == (format != "coco")


def test_validation_masks_of_kvasir_seg_come_back(kvasir_seg):
    from unet_kvasir_seg.data.dataset import load_splits
    from unet_kvasir_seg.data.samples import load_sample

    masks = [load_sample(row).ground_truth for row in load_splits(kvasir_seg)["validation"]]
    assert len(masks) == 100
    for mask in masks:
        assert iou(write_and_read(mask, "coco", False)[0], mask) >= 0.98
        np.testing.assert_array_equal(write_and_read(mask, "coco", True)[0], mask)


def test_pycocotools_opens_coco(tmp_path):
    frames = [frame(with_hole(), ODD_NAME), frame(np.zeros((20, 30), bool), "empty.tif")]
    (content,) = written(frames, "coco", label="adenoma").values()
    (tmp_path / "coco.json").write_text(content)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "coco.json")
    assert coco.imgs[1] == {"id": 1, "file_name": ODD_NAME, "width": 130, "height": 90}
    assert coco.imgs[2] == {"id": 2, "file_name": "empty.tif", "width": 30, "height": 20}
    assert coco.getAnnIds(imgIds=[2]) == []
    assert coco.cats[1]["name"] == "adenoma"
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [annotation["area"] for annotation in annotations] == sorted(
        (region.pixels for region in frames[0].regions), reverse=True
    )
    found = sum(coco.annToMask(annotation) for annotation in annotations)
    assert iou(found > 0, with_hole()) >= 0.98
    assert annotations[-1]["bbox"] == [5, 80, 1, 1]


def test_cvat_xml_holds_names_labels_and_groups():
    corners = np.zeros((6, 6), bool)
    corners[:2, :2] = corners[2:4, 2:4] = True
    (content,) = written(
        [frame(corners, ODD_NAME), frame(corners), frame(~corners & corners)], "cvat", label='"<&'
    ).values()
    root = ElementTree.fromstring(content.encode())
    images = root.findall("image")
    assert [image.attrib["name"] for image in images] == [ODD_NAME, "a.jpg", "a.jpg"]
    assert [len(image) for image in images] == [2, 2, 0]
    assert {shape.attrib["label"] for shape in root.iter("polygon")} == {'"<&'}
    groups = [[shape.attrib["group_id"] for shape in image] for image in images]
    assert groups == [["1", "1"], ["2", "2"], []]


def test_labelme_files_lie_as_the_images_and_name_them_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = [frame(polyps(), f"{name}/a.jpg", str(tmp_path / "in" / name / "a.jpg")) for name in ("x", "y")]
    found = written([*frames, frame(np.zeros((4, 5), bool), "n" * 251 + ".png")], "labelme")
    long_name = list(found)[2].removeprefix("labelme/")
    assert list(found)[:2] == ["labelme/x/a.json", "labelme/y/a.json"]
    assert len(long_name) <= 255
    first, _, empty = (json.loads(content) for content in found.values())
    assert first["imagePath"] == "../../../../in/x/a.jpg"
    assert (tmp_path / "out/annotations/labelme/x" / first["imagePath"]).resolve() == tmp_path / "in/x/a.jpg"
    assert (first["imageWidth"], first["imageHeight"], first["imageData"]) == (130, 90, None)
    assert (empty["shapes"], empty["imagePath"]) == ([], "n" * 251 + ".png")


def test_label_studio_paths_begin_with_the_folder_of_the_input():
    frames = [frame(polyps(), ODD_NAME, f"/data/in put/{ODD_NAME}"), frame(np.zeros((4, 5), bool))]
    found = written(frames, "label-studio", label="a&b")
    first, empty = json.loads(found["label-studio.json"])
    expected = "/data/local-files/?d=in%20put/F%C3%A4lle%201/a%20%26%20%3Cb%3E%20%22c%22%20%27d%27.jpg"
    assert first["data"]["image"] == expected
    (prediction,) = first["predictions"]
    assert prediction["score"] == 0.75
    assert {result["type"] for result in prediction["result"]} == {"polygonlabels"}
    assert (empty["data"]["image"], empty["predictions"][0]["result"]) == ("/data/local-files/?d=a.jpg", [])
    interface = ElementTree.fromstring(found["label-studio-interface.xml"])
    assert interface.find("PolygonLabels/Label").attrib["value"] == "a&b"


def test_brush_bytes_are_those_of_label_studio():
    # `encode_rle` of label-studio-sdk's converter gives these and one more byte, of zeros, for this mask, and its
    # `decode_rle` reads them.
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    (region,) = find_regions(mask, with_polygons=False)
    expected = [0, 0, 0, 96, 57, 27, 254, 31, 0, 183, 255, 108, 2, 223, 254, 27, 0]
    assert encode_brush(region, 6, 4) == expected


def test_via_project_lists_each_image():
    (content,) = written([frame(polyps(), ODD_NAME), frame(np.zeros((4, 5), bool))], "via").values()
    project = json.loads(content)
    assert project["_via_image_id_list"] == [f"{ODD_NAME}-1", "a.jpg-1"]
    assert list(project["_via_img_metadata"]) == project["_via_image_id_list"]
    assert project["_via_img_metadata"]["a.jpg-1"]["regions"] == []
    assert project["_via_img_metadata"][f"{ODD_NAME}-1"]["regions"][0]["region_attributes"]["label"] == "polyp"


def test_yolo_files():
    found = written([frame(polyps(), ODD_NAME), frame(np.zeros((4, 5), bool), "x/a.b.png")], "yolo", label="x: #y")
    label_file = f"yolo/labels/{ODD_NAME.removesuffix('.jpg')}.txt"
    assert list(found) == [label_file, "yolo/labels/x/a.b.txt", "yolo/images.txt", "yolo/data.yaml"]
    assert found["yolo/labels/x/a.b.txt"] == ""
    assert found["yolo/images.txt"].splitlines() == [f"./images/{ODD_NAME}", "./images/x/a.b.png"]
    assert yaml.safe_load(found["yolo/data.yaml"]) == {
        "train": "images.txt",
        "names": {0: "x: #y"},
    }
    numbers = np.array(found[label_file].splitlines()[0].split()[1:], float)
    assert len(numbers) % 2 == 0
    assert ((numbers >= 0) & (numbers <= 1)).all()


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\u2028b.jpg", "a\udcff.jpg", "a\x1bb.jpg"])
def test_names_that_text_cannot_hold(name):
    for format in ("cvat", "yolo"):
        with pytest.raises(UserError, match="cannot be named"):
            written([frame(polyps(), name)], format)
    for format in ("coco", "labelme", "via"):
        assert json.loads(next(iter(written([frame(polyps(), name)], format).values())))
    assert written([frame(polyps(), name)], "label-studio")["label-studio.json"].isascii()
