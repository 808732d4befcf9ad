"""Frames with their masks, written as each annotation program exports them.

Regions are rows of a mask, as rectangles along the edges of pixels: their pixels are known without any rasteriser.
"""

import base64
import io
import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from unet_kvasir_seg.common.annotation_rules import AnnotationRules
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import load_sample
from unet_kvasir_seg.data.synthetic import generate

SIDE = 32


def write_frames(folder: Path, count: int = 8, seed: int = 2) -> dict[str, np.ndarray]:
    """Frames in images/; their masks, (32, 32) bool, by the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    masks = {}
    for number, sample in enumerate(generate(count, SIDE, seed=seed)):
        sample["image"].save(folder / f"frame{number}.jpg", quality=95)
        mask = np.array(sample["mask"]) > 127
        mask[:2, 3 + number] = True  # so that no frame is without a region
        masks[f"frame{number}.jpg"] = mask
    return masks


def masks_of(source: Path, **rules: Any) -> dict[str, np.ndarray]:
    """All masks of a data set by the names of the images."""
    rows = load_splits(str(source), needed_splits=["all"], annotation_rules=AnnotationRules(**rules))["all"]
    return {Path(row["image"]["path"]).name: load_sample(row).ground_truth for row in rows}


def rows_of(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the runs of a mask's rows."""
    found = []
    for y, row in enumerate(mask.tolist()):
        x = 0
        for value, group in groupby(row):
            length = len(list(group))
            if value:
                found.append((x, y, x + length, y + 1))
            x += length
    return found


def corners(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The same as polygons."""
    return [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in rows_of(mask)]


def coco_data(masks: dict[str, np.ndarray], as_runs: bool = False) -> dict[str, Any]:
    """COCO: one annotation of several parts, or of uncompressed runs, for each image; ids with gaps."""
    images, annotations = [], []
    for number, (name, mask) in enumerate(masks.items()):
        key = 10 * number + 3
        height, width = mask.shape
        images.append({"id": key, "file_name": name, "width": width, "height": height})
        parts = [[value for point in part for value in point] for part in corners(mask)]
        values = mask.T.ravel().tolist()
        counts = [len(list(group)) for _, group in groupby(values)]
        runs = {"size": [height, width], "counts": [0, *counts] if values[0] else counts}
        annotations.append(
            {"id": 7 * number, "image_id": key, "category_id": 90, "iscrowd": int(as_runs)}
            | {"segmentation": runs if as_runs else parts, "bbox": [0, 0, 1, 1], "area": int(mask.sum())}
        )
    return {"images": images, "annotations": annotations, "categories": [{"id": 90, "name": "polyp"}]}


def write_coco(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    file = folder / "export.json"
    file.write_text(json.dumps(coco_data(masks)))
    return file


def write_coco_runs(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    file = folder / "crowd.json"
    file.write_text(json.dumps(coco_data(masks, as_runs=True)))
    return file


def labelme_data(name: str, mask: np.ndarray, as_mask: bool = False) -> dict[str, Any]:
    if as_mask:
        (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
        buffer = io.BytesIO()
        Image.fromarray(mask[top : bottom + 1, left : right + 1]).save(buffer, "PNG")
        text = base64.b64encode(buffer.getvalue()).decode()
        points: Any = [[left, top], [right, bottom]]
        shapes = [{"label": "polyp", "points": points, "shape_type": "mask", "mask": text, "flags": {}}]
    else:
        shapes = [{"label": "polyp", "points": part, "shape_type": "polygon", "flags": {}} for part in corners(mask)]
    height, width = mask.shape
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"..\\images\\{name}"} | {
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def write_labelme(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    (folder / "json").mkdir()
    for number, (name, mask) in enumerate(masks.items()):
        text = json.dumps(labelme_data(name, mask, as_mask=number % 2 == 1))
        (folder / "json" / name.replace(".jpg", ".json")).write_text(text)
    return folder


def cvat_text(masks: dict[str, np.ndarray]) -> str:
    """Polygons by turns with masks, whose runs go along rows within a box."""
    images = []
    for number, (name, mask) in enumerate(masks.items()):
        height, width = mask.shape
        if number % 2:
            values = mask[:, 1:].ravel().tolist()
            counts = [len(list(group)) for _, group in groupby(values)]
            runs = ", ".join(map(str, [0, *counts] if values[0] else counts))
            box = f'left="1" top="0" width="{width - 1}" height="{height}"'
            shapes = [f'<mask label="polyp" source="manual" occluded="0" rle="{runs}" {box} z_order="0"></mask>']
        else:
            texts = [";".join(f"{x:.2f},{y:.2f}" for x, y in part) for part in corners(mask)]
            shapes = [f'<polygon label="polyp" occluded="0" points="{text}" z_order="0"></polygon>' for text in texts]
        size = f'width="{width}" height="{height}"'
        images.append(f'<image id="{number}" name="{name}" {size}>{"".join(shapes)}</image>')
    labels = "<meta><task><labels><label><name>polyp</name></label></labels></task></meta>"
    start = '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>'
    return f"{start}{labels}{''.join(images)}</annotations>"


def write_cvat(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    (folder / "annotations.xml").write_text(cvat_text(masks))
    return folder


def write_cvat_masks(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    (folder / "images").rename(folder / "JPEGImages")
    (folder / "SegmentationClass").mkdir()
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, mask in masks.items():
        pixels = np.where(mask[..., None], np.uint8([250, 50, 83]), np.uint8([0, 0, 0]))
        Image.fromarray(pixels).save(folder / "SegmentationClass" / name.replace(".jpg", ".png"))
    stems = [name.removesuffix(".jpg") for name in masks]
    (folder / "ImageSets" / "Segmentation" / "default.txt").write_text("\n".join(stems))
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "polyp:250,50,83::"]
    (folder / "labelmap.txt").write_text("\n".join(lines))
    return folder


def brush_runs(mask: np.ndarray) -> list[int]:
    """Label Studio's run lengths of a mask: of all bytes of an RGBA image, of which runs of 1 to 256 are written."""
    channels = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 4, axis=2).ravel().tolist()
    bits = f"{len(channels):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for value, group in groupby(channels):
        length = len(list(group))
        while length:
            part = min(length, 256)
            bits += f"1{2:02b}{part - 1:08b}{value:08b}"
            length -= part
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def label_studio_tasks(masks: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Polygons in per cent by turns with a brush."""
    tasks = []
    for number, (name, mask) in enumerate(masks.items()):
        height, width = mask.shape
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        if number % 2:
            value: dict[str, Any] = {"format": "rle", "rle": brush_runs(mask), "brushlabels": ["polyp"]}
            results = [{"id": "r0", "type": "brushlabels", "value": value, **size}]
        else:
            results = [
                {"id": f"r{place}", "type": "polygonlabels", **size}
                | {"value": {"points": [[100 * x / width, 100 * y / height] for x, y in part]}}
                for place, part in enumerate(corners(mask))
            ]
            for result in results:
                result["value"] |= {"polygonlabels": ["polyp"], "closed": True}
        annotations = [{"id": number, "result": results, "was_cancelled": False}]
        url = f"/data/upload/3/0a1b2c3d-{name}"
        tasks.append({"id": number, "data": {"image": url}, "annotations": annotations, "predictions": []})
    return tasks


def write_label_studio(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    file = folder / "project-1.json"
    file.write_text(json.dumps(label_studio_tasks(masks)))
    return file


def write_label_studio_min(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    short = []
    for task in label_studio_tasks(masks):
        regions = []
        for result in task["annotations"][0]["result"]:
            sizes = {name: value for name, value in result.items() if name.startswith("original")}
            regions.append({**result["value"], **sizes})
        url = task["data"]["image"].replace("/data/upload/3/0a1b2c3d-", "/data/local-files/?d=study/images/")
        short.append({"id": task["id"], "image": url, "tag": regions, "annotator": 1, "annotation_id": 5})
    file = folder / "short.json"
    file.write_text(json.dumps(short))
    return file


def via_data(masks: dict[str, np.ndarray], folder: Path) -> dict[str, Any]:
    images = {}
    for name, mask in masks.items():
        size = (folder / "images" / name).stat().st_size
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": [x for x, _ in part],
                    "all_points_y": [y for _, y in part],
                },
                "region_attributes": {"type": "polyp"},
            }
            for part in corners(mask)
        ]
        images[f"{name}{size}"] = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
    return images


def write_via(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    file = folder / "via_project.json"
    file.write_text(json.dumps({"_via_settings": {}, "_via_img_metadata": via_data(masks, folder)}))
    return file


def write_via_annotations(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    file = folder / "via_region_data.json"
    file.write_text(json.dumps(via_data(masks, folder)))
    return file


def write_yolo(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    (folder / "labels").mkdir()
    for name, mask in masks.items():
        height, width = mask.shape
        lines = [" ".join(["0", *(f"{x / width} {y / height}" for x, y in part)]) for part in corners(mask)]
        (folder / "labels" / name.replace(".jpg", ".txt")).write_text("\n".join(lines))
    data = {"path": "../datasets/polyps", "train": "images", "nc": 1, "names": ["polyp"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    return folder


# Each writes the masks of the frames in `folder / "images"`, and returns what is given as --dataset_name.
WRITERS: dict[str, Callable[[Path, dict[str, np.ndarray]], Path]] = {
    "COCO": write_coco,
    "COCO with runs": write_coco_runs,
    "LabelMe": write_labelme,
    "CVAT": write_cvat,
    "CVAT masks": write_cvat_masks,
    "Label Studio": write_label_studio,
    "Label Studio JSON-MIN": write_label_studio_min,
    "VIA project": write_via,
    "VIA annotations": write_via_annotations,
    "YOLO": write_yolo,
}
