"""COCO's JSON: polygons, or run-length encoding (RLE) for masks and for regions with holes, which polygons lack.

Opened by CVAT and Label Studio, pycocotools, detectron2 and others.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from pycocotools import mask as coco_masks

from .frames import AnnotatedFrame, Region
from .options import Options, separated, to_json
from .run_lengths import run_lengths


def files(frames: Iterable[AnnotatedFrame], options: Options) -> Iterator[tuple[str, Iterable[str]]]:
    yield "coco.json", _content(frames, options)


def _content(frames: Iterable[AnnotatedFrame], options: Options) -> Iterator[str]:
    # The annotations come first: they are written one by one, and only the list of images waits in memory.
    images: list[str] = []
    category = {"id": 1, "name": options.label, "supercategory": ""}
    yield f'{{"info":{to_json({"description": options.model})},"licenses":[],"categories":[{to_json(category)}],\n'
    yield '"annotations":[\n'
    yield from separated(_annotations(frames, options, images))
    yield '\n],\n"images":[\n'
    yield from separated(iter(images))
    yield "\n]}\n"


def _annotations(frames: Iterable[AnnotatedFrame], options: Options, images: list[str]) -> Iterator[str]:
    number = 0
    for image_id, frame in enumerate(frames, start=1):
        size = {"width": frame.width, "height": frame.height}
        images.append(to_json({"id": image_id, "file_name": frame.name, **size}))
        for region in frame.regions:
            number += 1
            options.as_masks += bool(region.holes)
            annotation: dict[str, Any] = {
                "id": number,
                "image_id": image_id,
                "category_id": 1,
                "segmentation": _segmentation(region, frame, options),
                "area": region.pixels,
                "bbox": [region.left, region.top, region.width, region.height],
                "iscrowd": 0,
            }
            if region.score is not None:
                annotation["score"] = region.score
            yield to_json(annotation)


def _segmentation(region: Region, frame: AnnotatedFrame, options: Options) -> Any:
    if not options.masks and not region.holes:
        return [polygon.exterior.ravel().tolist() for polygon in region.polygons]
    size = [frame.height, frame.width]
    lengths = run_lengths(region.inside.T, region.left, region.top, frame.height, frame.height * frame.width)
    encoded = coco_masks.frPyObjects({"counts": lengths, "size": size}, *size)
    return {"size": size, "counts": encoded["counts"].decode("ascii")}
