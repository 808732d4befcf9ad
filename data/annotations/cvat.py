"""CVAT: "CVAT for images 1.1" (XML), and "Segmentation mask 1.1" (labelmap.txt): https://docs.cvat.ai/docs/dataset_management/formats/."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import describe_error, first_line, some
from ...common.files import open_image, to_rgb
from ...common.prefetch import prefetch_map
from ..mask_runs import check_size, checked_lengths
from ..samples import DatasetError
from ..split_names import SPLIT_NAMES, known_split
from .entries import (
    NO_LABEL,
    Frame,
    Reading,
    Region,
    number_of,
    numbers_of,
    read_content,
    read_text,
    size_of,
    whole_number_of,
)
from .shapes import Bitmap, EntryError, Shape, ellipse, polygon, runs_of_pixels

NAME = "CVAT"
SHAPES = ("polygon", "ellipse", "mask")
NO_REGIONS = ("box", "polyline", "points", "cuboid", "skeleton")
LABELMAP, MASKS, LISTS = "labelmap.txt", "SegmentationClass", "ImageSets/Segmentation"
BACKGROUND = "background"
THREADS = 4


def recognise(content: bytes) -> bool:
    """Whether a file is XML of CVAT."""
    return content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and bool(re.search(rb"<annotations[\s>]", content))


def read(content: bytes, file: Path, reading: Reading) -> list[Frame]:
    """The images that a file lists, with the shapes of each.

    Raises:
        DatasetError: If it is damaged, has entities, or is of a video.
    """
    root = _parse(content, file)
    reading.declared.update(name.text for name in root.findall(".//meta//label/name") if name.text)
    images = root.findall("image")
    if root.find("track") is not None:
        raise DatasetError(
            f'{file} is of "CVAT for video", whose tracks name no images: export the task as "CVAT for images 1.1".'
        )
    return [frame for image in images for frame in _frame(image, file, reading)]


def _parse(content: bytes, file: Path) -> Any:
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    try:
        return ElementTree.fromstring(content)
    except DefusedXmlException as error:
        raise DatasetError(
            f"{file} declares entities, which are not expanded: one may stand for gigabytes, or for another file. "
            "Export it anew: CVAT writes none."
        ) from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DatasetError(f"{file} is damaged: {first_line(error)}. Export it anew.") from error


def _frame(image: Any, file: Path, reading: Reading) -> Iterator[Frame]:
    name = image.get("name")
    entry = f"image {image.get('id')} ({name})"
    with reading.noting(file, entry):
        if not name:
            raise EntryError("has no name. Export it anew")
        frame = Frame(file, entry, name, size_of(image.attrib, "width", "height"))
        subset = known_split(image.get("subset") or "")
        frame.split = subset if subset in SPLIT_NAMES else ""
        for number, element in enumerate(image):
            if element.tag == "tag":
                reading.note("tag", "of CVAT, for an image in all: not read")
            elif element.tag != "attribute" and element.get("outside") != "1":
                what = f"{entry}, shape {number} ({element.tag})"
                with reading.noting(file, what):
                    frame.regions.append(_region(element, what))
        yield frame


def _region(element: Any, entry: str) -> Region:
    if element.tag not in (*SHAPES, *NO_REGIONS):
        raise EntryError("is of a kind that is not known. Draw it as a polygon")
    shape = _shape(element) if element.tag in SHAPES else None
    has_score = any(one.get("name") == "score" and one.text for one in element.findall("attribute"))
    return Region(entry, [element.get("label") or NO_LABEL], shape, element.tag, has_score)


def _shape(element: Any) -> Shape:
    attributes: Mapping[str, str] = element.attrib
    if element.tag == "polygon":
        pairs = [pair.split(",") for pair in attributes.get("points", "").split(";") if pair.strip()]
        if not all(len(pair) == 2 for pair in pairs):
            raise EntryError("has points that are no pairs of x and y. Export it anew")
        return polygon(np.array([numbers_of(pair, "points") for pair in pairs]).reshape(-1, 2))
    if element.tag == "ellipse":
        x, y, radius_x, radius_y = (number_of(attributes, name) for name in ("cx", "cy", "rx", "ry"))
        return ellipse(
            x, y, radius_x, radius_y, number_of(attributes, "rotation") if "rotation" in attributes else 0.0
        )
    width, height, left, top = (whole_number_of(attributes, name) for name in ("width", "height", "left", "top"))
    try:
        check_size(width, height)
        numbers = np.array(numbers_of(attributes.get("rle", "").split(","), "rle"))
        if (numbers != np.round(numbers)).any() or np.abs(numbers).max(initial=0) > width * height:
            raise EntryError("has run lengths that are no numbers of its pixels. Export it anew")
        lengths = checked_lengths(numbers.astype(np.int64), (width, height))
    except EntryError:
        raise
    except ValueError as error:
        raise EntryError(f"{error}. Export it anew") from error
    is_region = np.arange(len(lengths)) % 2 == 1
    return Bitmap(np.repeat(is_region, lengths).reshape(height, width), left, top)


def read_masks(folder: Path, reading: Reading) -> list[Frame]:
    """The images of an unpacked "Segmentation mask 1.1", whose masks have a colour for each label.

    Args:
        folder: That of labelmap.txt.
        reading: Of the data set.

    Raises:
        DatasetError: If the labelmap or a list is damaged.
    """
    colours = _read_labelmap(folder / LABELMAP)
    reading.declared.update(colours.values())
    masks = {mask.relative_to(folder / MASKS).with_suffix("").as_posix(): mask for mask in _pngs(folder / MASKS)}
    frames = []
    listed = dict(_listed(folder))
    for name in dict.fromkeys([*listed, *masks]):
        entry = f"image {name}"
        with reading.noting(folder / LABELMAP, entry):
            image = reading.finder.find_stem(name)
            frames.append(Frame(masks.get(name, folder / LABELMAP), entry, image, None, split=listed.get(name, "")))
    with_mask = [frame for frame in frames if frame.file.suffix == ".png"]
    done = prefetch_map(lambda frame: _read_mask(frame.file, colours), with_mask, threads=THREADS, ahead=4 * THREADS)
    for frame, found in zip(with_mask, done, strict=True):
        with reading.noting(frame.file, "the mask"):
            if isinstance(found, EntryError):
                raise found
            frame.size, frame.regions = found
            frame.is_annotated = True  # also where the mask is black, which is that of a frame without polyp
    return frames


def _pngs(folder: Path) -> Iterable[Path]:
    return sorted(folder.rglob("*.png"))


def _read_labelmap(file: Path) -> dict[tuple[int, int, int], str]:
    """Labels by their colours; without the background."""
    colours: dict[tuple[int, int, int], str] = {}
    for number, line in enumerate(read_text(file).decode("utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        values = rest.partition(":")[0].split(",")
        if len(values) != 3 or not all(value.strip().isdecimal() and int(value) < 256 for value in values):
            raise DatasetError(f"{file}: line {number} is {line!r}; expected label:red,green,blue::. Export it anew.")
        red, green, blue = map(int, values)
        if name.strip() != BACKGROUND:
            if (red, green, blue) in colours or (red, green, blue) == (0, 0, 0):
                raise DatasetError(f"{file}: line {number}: another label or the background has this colour too.")
            colours[red, green, blue] = name.strip()
    return colours


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    """The images that the lists name, with their splits."""
    for file in sorted((folder / LISTS).glob("*.txt")):
        split = known_split(file.stem)
        for line in read_text(file).decode("utf-8-sig", errors="replace").splitlines():
            if line.strip():
                yield line.strip(), split if split in SPLIT_NAMES else ""


def _read_mask(
    file: Path, colours: Mapping[tuple[int, int, int], str]
) -> tuple[tuple[int, int], list[Region]] | EntryError:
    """Size and regions of a mask; the reason why it cannot be read is returned, so that others are read too."""
    try:
        with open_image(read_content(file)) as image:
            pixels = np.asarray(image.convert("RGB") if image.mode == "P" else to_rgb(image)).astype(np.int32)
    except (OSError, ValueError) as error:
        return EntryError(f"cannot be read ({describe_error(error)}). Export it anew")
    codes = pixels @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    labels = {(red << 16) + (green << 8) + blue: name for (red, green, blue), name in colours.items()}
    there = np.unique(codes)
    unknown = [_colour(int(code)) for code in there if code and int(code) not in labels]
    if unknown:
        return EntryError(f"has the colours {some(unknown)}, which {LABELMAP} does not name. Export it anew")
    regions = [
        Region(f"label {labels[int(code)]}", [labels[int(code)]], runs_of_pixels(codes == code), "mask")
        for code in there
        if code
    ]
    height, width = codes.shape
    return (width, height), regions


def _colour(code: int) -> str:
    return f"({code >> 16}, {(code >> 8) & 255}, {code & 255})"


def labelled_folders(folders: Sequence[Path]) -> list[Path]:
    """Those of the folders that are a "Segmentation mask 1.1"."""
    return [folder for folder in folders if (folder / LABELMAP).is_file() and (folder / MASKS).is_dir()]
