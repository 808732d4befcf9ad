"""How exactly masks come back from the files of `predict.py --annotations`: intersection over union, for each format.

    pip install -e ".[annotations]"
    python benchmarks/annotations.py                        # the validation masks of Kvasir-SEG
    python benchmarks/annotations.py --dataset_name frames/ # those of a folder with images/ and masks/

Each mask is written as a file and read back by the functions here, which share no code with the writers. Polygons are
filled by pycocotools: a pixel is covered if its centre is inside.
"""

import base64
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from unet_kvasir_seg.common.errors import require_extra, user_errors

PROGRAM = "annotations.py"

with user_errors(PROGRAM, kept="No measurement is kept: run the same command again."):
    require_extra("annotations", "pycocotools", "shapely")
    import numpy as np
    from PIL import Image
    from pycocotools import mask as coco_masks
    from tqdm.auto import tqdm
    from unet_kvasir_seg.common.command_line import DataFlags, FlagParser
    from unet_kvasir_seg.data.dataset import load_splits
    from unet_kvasir_seg.data.samples import load_sample
    from unet_kvasir_seg.inference.annotations.frames import AnnotatedFrame, find_regions
    from unet_kvasir_seg.inference.annotations.options import Options
    from unet_kvasir_seg.inference.annotations.writer import files_of
    from unet_kvasir_seg.inference.arguments import FORMATS, POLYGON_FORMATS
    from unet_kvasir_seg.reporting.markdown import table


@dataclass
class Arguments(DataFlags):
    """Whose validation masks are measured."""


def fill(points: Sequence[float] | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) bool in a polygon x, y, x, y and so on."""
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects([list(points)], *shape))).astype(bool)


def read_coco(content: str, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for annotation in json.loads(content)["annotations"]:
        found = annotation["segmentation"]
        if isinstance(found, dict):
            mask |= coco_masks.decode(found).astype(bool)
        else:
            for points in found:
                mask |= fill(points, shape)
    return mask


def read_labelme(content: str, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for found in json.loads(content)["shapes"]:
        if found["shape_type"] == "mask":
            (left, top), (right, bottom) = found["points"]
            inside = np.array(Image.open(io.BytesIO(base64.b64decode(found["mask"])))).astype(bool)
            mask[top : bottom + 1, left : right + 1] |= inside
        else:
            mask |= fill(np.ravel(found["points"]), shape)
    return mask


def read_cvat(content: str, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for found in ElementTree.fromstring(content.encode()).iter():
        if found.tag == "polygon":
            mask |= fill([float(number) for number in found.attrib["points"].replace(";", ",").split(",")], shape)
        elif found.tag == "mask":
            left, top, width, height = (int(found.attrib[name]) for name in ("left", "top", "width", "height"))
            runs = [int(number) for number in found.attrib["rle"].split(",")]
            inside = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)
            inside = np.pad(inside, (0, width * height - len(inside))).reshape(height, width)
            mask[top : top + height, left : left + width] |= inside
    return mask


def read_label_studio(content: str, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    ((prediction,),) = (task["predictions"] for task in json.loads(content))
    for result in prediction["result"]:
        value = result["value"]
        if "rle" in value:
            mask |= decode_brush(value["rle"]).reshape(*shape, 4)[..., 3] > 127
        else:
            mask |= fill(np.ravel(np.array(value["points"]) / 100 * shape[::-1]), shape)
    return mask


def decode_brush(content: Sequence[int]) -> np.ndarray:
    """The values of bytes of rle-pack, one bit after the other, as its JavaScript reads them."""
    bits, place = "".join(f"{byte:08b}" for byte in content), 0

    def read(length: int) -> int:
        nonlocal place
        place += length
        return int(bits[place - length : place], 2)

    values, word = np.zeros(read(32), np.uint8), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    done = 0
    while done < len(values):
        is_run, length = read(1), read(sizes[read(2)]) + 1
        values[done : done + length] = read(word) if is_run else [read(word) for _ in range(length)]
        done += length
    return values


def read_via(content: str, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    (image,) = json.loads(content)["_via_img_metadata"].values()
    for region in image["regions"]:
        found = region["shape_attributes"]
        mask |= fill(np.ravel([found["all_points_x"], found["all_points_y"]], order="F"), shape)
    return mask


def read_yolo(content: str, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for line in content.splitlines():
        shares = np.array(line.split()[1:], float).reshape(-1, 2)
        mask |= fill(np.ravel(shares * shape[::-1]), shape)
    return mask


READERS: dict[str, Callable[[str, tuple[int, int]], np.ndarray]] = dict(
    zip(FORMATS, (read_coco, read_labelme, read_cvat, read_label_studio, read_via, read_yolo), strict=True)
)


def write_and_read(mask: np.ndarray, format: str, masks: bool) -> tuple[np.ndarray, int]:
    """A mask (H, W) bool as its file gives it back, and the size of the file in bytes."""
    height, width = mask.shape
    regions = find_regions(mask, with_polygons=not masks)
    frame = AnnotatedFrame("frame.png", Path("frame.png"), None, width, height, None, regions)
    _, parts = next(files_of([frame], format, Options(Path(), "polyp", masks)))
    content = "".join(parts)
    return READERS[format](content, (height, width)), len(content.encode())


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union; 1 if both are empty."""
    return float((one & other).sum() / (one | other).sum()) if (one | other).any() else 1.0


def row(found: Sequence[np.ndarray], format: str, masks: bool) -> list[str]:
    """The row of a format: how exactly the masks come back."""
    started = time.perf_counter()
    back = [write_and_read(mask, format, masks) for mask in tqdm(found, desc=format, smoothing=0)]
    milliseconds = 1000 * (time.perf_counter() - started) / len(found)
    overlaps = [iou(mask, other) for mask, (other, _) in zip(found, back, strict=True)]
    size = np.mean([size for _, size in back]) / 1000
    kind = "masks" if masks else "polygons"
    return [format, kind, f"{min(overlaps):.4f}", f"{np.mean(overlaps):.4f}", f"{size:.1f}", f"{milliseconds:.0f}"]


def measure(arguments: Arguments) -> str:
    """Measure all formats, and give the table."""
    split = load_splits(**arguments.source)["validation"]
    masks = [load_sample(row, arguments.mask_rules).ground_truth.astype(bool) for row in split]
    rows = [row(masks, format, False) for format in FORMATS]
    rows += [row(masks, format, True) for format in FORMATS if format not in POLYGON_FORMATS]
    columns = ("format", "as", "lowest IoU", "mean IoU", "kB an image", "ms to write and read")
    return f"{len(masks)} masks:\n\n{table(columns, rows)}"


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM, OSError, kept="No measurement is kept: run the same command again."):
        (arguments,) = FlagParser([Arguments], program=PROGRAM, description=__doc__).parse(
            sys.argv[1:] if argv is None else argv
        )
        print(measure(arguments))


if __name__ == "__main__":
    main()
