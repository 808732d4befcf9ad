"""Where samples, pairs of an image and its mask, come from: the Hub, local data sets, folders, synthetic frames.

`load_splits` gives the same three columns for every source; `load_sample` reads one of its rows.
"""

import hashlib
import io
import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from datasets import (
    Dataset,
    Features,
    Image,
    IterableDataset,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetNotFoundError
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage

from ..common.errors import UserError, printable, some
from ..common.files import IMAGE_SUFFIXES, image_from_bytes, open_image, read_file
from ..image_processing_unet import binarize_mask
from .synthetic import generate

logger = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
IMAGE_COLUMNS = ("image", "images", "img", "frame", "picture", "pixel_values")
MASK_COLUMNS = (
    "mask",
    "masks",
    "label",
    "labels",
    "annotation",
    "annotations",
    "segmentation",
    "segmentation_mask",
    "segmentation_map",
    "ground_truth",
    "gt",
    "target",
)
HELD_OUT_SHARE = 0.1

# Cells stay encoded until a transform decodes them, so that an unreadable file can be named.
ENCODED = Image(decode=False)
PAIR_FEATURES = Features({"image": ENCODED, "mask": ENCODED})

Cell: TypeAlias = dict[str, Any]
Split: TypeAlias = Dataset | IterableDataset


class DatasetError(UserError):
    """The data cannot be used as given; the message says what was found, what is expected and the remedy."""


@dataclass(frozen=True)
class Sample:
    """An image and its ground truth.

    Attributes:
        name: File name of the image without its suffix, or "row_7" where none is stored.
        image: Upright. Smaller than the ground truth if `load_sample` was allowed to read it so.
        ground_truth: (H, W) bool, True for polyp.
    """

    name: str
    image: PILImage.Image
    ground_truth: np.ndarray


def load_splits(
    name: str,
    *,
    revision: str | None = None,
    image_column: str | None = None,
    mask_column: str | None = None,
    streaming: bool = False,
    seed: int = 42,
    synthetic_rows: int = 400,
    synthetic_size: int = 256,
) -> dict[str, Split]:
    """Load the splits "train", "validation" and, where there is one, "test".

    Every split has the columns `image` and `mask`, still encoded (`load_sample` reads them), and `index`, an
    integer that identifies the sample: its place in the split or, in a stream, the CRC-32 of its image, since the
    shards of a stream have no common numbering. If there is no validation split, one sample in ten is held out of
    train by `seed`, and a warning says so.

    Args:
        name: "synthetic"; a folder with `images/` and `masks/`, paired by file stem, either directly or in one
            folder for each split; another local data set (parquet files, `save_to_disk`, ...); or an id on the Hub.
            If `train.txt`, `val.txt` and `test.txt` lie beside `images/`, with one stem a line, they define the
            splits; otherwise the folder is split 80/10/10 by `seed`.
        revision: Branch, tag or commit of the data set on the Hub.
        image_column, mask_column: Names of the columns; found by name if not given.
        streaming: Stream the training samples instead of downloading them first; other splits are downloaded.
            Folders and synthetic frames are never streamed: nothing of them is downloaded anyway.
        seed: Seed of random splits and of the synthetic frames.
        synthetic_rows: Training samples of "synthetic"; validation and test have a quarter as many each.
        synthetic_size: Side of the synthetic frames in pixels.

    Raises:
        DatasetError: If the data does not exist or cannot be used.
    """
    path = Path(name).expanduser()
    found: dict[str, Split]
    if name == "synthetic":
        found = _synthetic_splits(synthetic_rows, synthetic_size, seed)
    elif path.is_dir():
        found = _folder_splits(path, seed) or library_splits(path, streaming, revision=None)
    elif is_hub_id(name):
        found = hub_splits(name, streaming, revision)
    else:
        raise DatasetError(
            f"No data set at {name}: expected a folder, an id on the Hub such as Angelou0516/kvasir-seg, or "
            '"synthetic".'
        )

    splits = {
        split: with_pair_columns(found[alias], image_column, mask_column)
        for split, aliases in SPLIT_NAMES.items()
        for alias in aliases
        if alias in found
    }
    if "train" in splits and "validation" not in splits:
        splits["train"], splits["validation"] = _cut_validation(splits["train"], seed)
    return {split: _with_index(rows, keep_stream=split == "train" and streaming) for split, rows in splits.items()}


def choose_split(splits: dict[str, Split], split: str) -> Split:
    """The split of that name.

    Raises:
        DatasetError: If there is none; the message lists the splits that exist.
    """
    if split not in splits:
        raise DatasetError(
            f'The data set has no split "{split}"; it has {", ".join(splits) or "none"}. Splits are known by '
            f"the names {', '.join(alias for aliases in SPLIT_NAMES.values() for alias in aliases)}."
        )
    return splits[split]


def describe_data(name: str, revision: str | None, rows: dict[str, Split], split: str | None = None) -> dict[str, Any]:
    """The section "data" of `results.json`. It contains no paths: a local data set has no name there.

    Args:
        name, revision: As given to `load_splits`.
        rows: The splits that a run used.
        split: The split that was scored, if one was.

    Returns:
        "fingerprint" is a hash of all encoded images and masks in order, or None if a split is a stream.
    """
    is_local = name != "synthetic" and Path(name).expanduser().exists()
    is_streamed = any(isinstance(part, IterableDataset) for part in rows.values())
    return {
        "name": "a local data set" if is_local else name,
        "on_the_hub": not is_local and name != "synthetic",
        "revision": revision,
        "split": split,
        "rows": {part: None if isinstance(found, IterableDataset) else len(found) for part, found in rows.items()},
        "fingerprint": None if is_streamed else _fingerprint(rows.values()),
    }


def _fingerprint(splits: Iterable[Dataset]) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        for row in rows:
            for cell in (row["image"], row["mask"]):
                content = b"" if is_empty(cell) else _encoded_bytes(cell)
                digest.update(hashlib.sha256(content).digest())
    return f"sha256:{digest.hexdigest()}"


def load_sample(
    row: Mapping[str, Any], foreground_values: list[int] | None = None, smallest_side: int | None = None
) -> Sample:
    """Read a pair of image and mask, turn both upright as their EXIF tags say, and binarise the mask.

    A sample whose mask is an empty cell is a frame without polyp.

    Args:
        row: With `image`, `mask` and `index`, as `load_splits` gives it.
        foreground_values: Mask values that mean polyp, where they are not the usual ones.
        smallest_side: Pixels that the sides of the image need at least. A JPEG image is then decoded, faster, at the
            smallest of 1/8, 1/4 and 1/2 of its size that has them, if its sides are multiples of 8, 4 or 2. The mask
            is always read at full size. None: so is the image.

    Raises:
        DatasetError: If image or mask cannot be read, they differ in size, or polyp cannot be told from background
            in the mask. The message names the file or the sample.
    """
    image, image_size = _decode(row["image"], "image", row["index"], smallest_side)
    if is_empty(row["mask"]):
        nothing = np.zeros((image_size[1], image_size[0]), dtype=bool)
        return Sample(sample_name(row["image"], row["index"]), image, nothing)
    mask, mask_size = _decode(row["mask"], "mask", row["index"])
    if image_size != mask_size:
        raise DatasetError(
            f"{cell_name(row['image'], row['index'])}: the image measures {image_size[0]}x{image_size[1]} pixels and "
            f"its mask {mask_size[0]}x{mask_size[1]}. A mask must have its image's size: fix or remove the pair."
        )
    try:
        ground_truth = binarize_mask(mask, foreground_values) == 1
    except ValueError as error:
        raise DatasetError(f"{cell_name(row['mask'], row['index'])}: {error}") from error
    return Sample(sample_name(row["image"], row["index"]), image, ground_truth)


def decode_image(cell: Cell, index: int) -> PILImage.Image:
    """Read an encoded image without its mask, turned upright as its EXIF tag says.

    Raises:
        DatasetError: If it cannot be read; the message names the file or the sample.
    """
    return _decode(cell, "image", index)[0]


def is_empty(cell: Cell | None) -> bool:
    """Whether a cell holds nothing: of a frame without polyp, the mask may be left out."""
    return cell is None or (cell["bytes"] is None and not cell["path"])


def cell_name(cell: Cell, index: int) -> str:
    """Name of an image or mask in messages: its file, or "row 7" where no file name is stored."""
    return str(cell["path"]) if cell.get("path") else f"row {index}"


def sample_name(image: Cell, index: int) -> str:
    """Name of a sample in results: its image's file name without suffix, or "row_7" where none is stored."""
    return Path(image["path"]).stem if image.get("path") else f"row_{index}"


def _decode(
    cell: Cell, kind: str, index: int, smallest_side: int | None = None
) -> tuple[PILImage.Image, tuple[int, int]]:
    """An upright image, reduced as `load_sample` describes, and its full width and height."""
    if is_empty(cell):
        raise DatasetError(f"The {kind} of row {index} is missing: its cell is empty. Remove the row.")
    try:
        content = _encoded_bytes(cell)
        if smallest_side and (reduced := _decode_reduced(content, smallest_side)):
            return reduced
        image = image_from_bytes(content)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"The {kind} {cell_name(cell, index)} cannot be read ({error}). Replace or remove the pair."
        ) from error
    return image, image.size


def _decode_reduced(content: bytes, smallest_side: int) -> tuple[PILImage.Image, tuple[int, int]] | None:
    """A JPEG image at 1/2, 1/4 or 1/8 and its full width and height; None if it must be read at full size.

    Errors are not reported here: `image_from_bytes` then reads the image again and says what is wrong.
    """
    try:
        with open_image(content) as image:
            width, height = image.size
            # Sides that the scale does not divide would be padded, which shifts the image against its mask.
            scales = [scale for scale in (2, 4, 8) if width % scale == height % scale == 0]
            scale = max((scale for scale in scales if min(width, height) >= scale * smallest_side), default=1)
            if image.format != "JPEG" or scale == 1:
                return None
            is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # by 90 degrees either way
            image.draft(None, (width // scale, height // scale))
            return ImageOps.exif_transpose(image), (height, width) if is_turned else (width, height)
    except ValueError:
        return None


def _encoded_bytes(cell: Cell) -> bytes:
    return cell["bytes"] if cell["bytes"] is not None else read_file(cell["path"])


def _synthetic_splits(rows: int, size: int, seed: int) -> dict[str, Split]:
    if rows < 1:
        raise DatasetError(f"--synthetic_rows {rows} is too few: expected 1 or more.")
    held_out = max(rows // 4, 1)
    counts = {"train": rows, "validation": held_out, "test": held_out}
    # A frame depends on seed and index alone, so each split needs its own seed.
    return {
        split: _synthetic_dataset(generate(count, image_size=size, seed=3 * seed + offset))
        for offset, (split, count) in enumerate(counts.items())
    }


def _synthetic_dataset(pairs: Iterator[dict[str, PILImage.Image]]) -> Dataset:
    # In parts, so that the images are not all in memory twice, as lists and as a table.
    parts = []
    while cells := [
        {"image": _encode(pair["image"], "JPEG"), "mask": _encode(pair["mask"], "PNG")} for pair in islice(pairs, 256)
    ]:
        parts.append(Dataset.from_list(cells, features=PAIR_FEATURES))
    return concatenate_datasets(parts)


def _encode(image: PILImage.Image, image_format: str) -> Cell:
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=95)
    return {"bytes": buffer.getvalue(), "path": None}


def _folder_splits(path: Path, seed: int) -> dict[str, Split]:
    """Splits of a folder with `images/` and `masks/`; empty if it has another layout."""
    if (path / "images").is_dir() and (path / "masks").is_dir():
        pairs = pairs_by_stem(path)
        stems = _listed_stems(path, pairs) or _random_stems(list(pairs), seed)
        return {split: _pairs_dataset(pairs[stem] for stem in chosen) for split, chosen in stems.items()}
    return {
        folder.name: _pairs_dataset(pairs_by_stem(folder).values())
        for folder in sorted(path.iterdir())
        if (folder / "images").is_dir() and (folder / "masks").is_dir()
    }


def pairs_by_stem(folder: Path) -> dict[str, tuple[Path, Path]]:
    images, masks = _files_by_stem(folder / "images"), _files_by_stem(folder / "masks")
    for kind, missing in (("mask", images.keys() - masks.keys()), ("image", masks.keys() - images.keys())):
        if missing:
            raise DatasetError(
                f"{folder}: {len(missing)} files have no {kind} of the same name: {some(sorted(missing))}. "
                "images/ and masks/ must hold the same file names, their endings apart."
            )
    if not images:
        raise DatasetError(f"{folder}: images/ and masks/ hold no file that ends in {', '.join(IMAGE_SUFFIXES)}.")
    return {stem: (images[stem], masks[stem]) for stem in sorted(images)}


def _files_by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    ignored = []
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith("."):
            ignored.append(file.name)
        elif file.stem in files:
            raise DatasetError(
                f"{folder} holds both {files[file.stem].name} and {file.name}; pairs are found by the name "
                "without its ending, so remove or rename one."
            )
        else:
            files[file.stem] = file
    if ignored:
        logger.warning("%s: ignored files that are no images: %s", printable(str(folder)), some(ignored))
    return files


def _listed_stems(path: Path, pairs: Iterable[str]) -> dict[str, list[str]]:
    """The stems of each split, from lists beside `images/` such as Kvasir-SEG's official train.txt and val.txt."""
    known = set(pairs)
    listed: dict[str, list[str]] = {}
    for split, aliases in SPLIT_NAMES.items():
        for file in (path / f"{alias}.txt" for alias in aliases):
            if file.is_file():
                lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
                names = [line for line in lines if line]
                listed[split] = [name.removesuffix(Path(name).suffix) if name not in known else name for name in names]
                unknown = [name for name in listed[split] if name not in known]
                if unknown:
                    raise DatasetError(f"{file} names {len(unknown)} files that images/ lacks: {some(unknown)}.")
    counts = Counter(stem for stems in listed.values() for stem in stems)
    twice = sorted(stem for stem, count in counts.items() if count > 1)
    if twice:
        raise DatasetError(f"{path}: the lists name {some(twice)} more than once. Keep each in one split, once.")
    if listed and (unlisted := sorted(known - counts.keys())):
        logger.warning("%s: left out %d pairs that no list names: %s", path, len(unlisted), some(unlisted))
    return listed


def _random_stems(stems: list[str], seed: int) -> dict[str, list[str]]:
    if len(stems) < 3:
        raise DatasetError(f"{len(stems)} pairs cannot be split into train, validation and test: at least 3 needed.")
    order = np.random.default_rng(seed).permutation(len(stems))
    held_out = max(round(len(stems) * HELD_OUT_SHARE), 1)
    validation, test, train = np.split(order, [held_out, 2 * held_out])
    logger.warning(
        "Split by seed %d: %d train, %d validation, %d test pairs.",
        seed,
        len(train),
        len(validation),
        len(test),
    )
    chosen = {"train": train, "validation": validation, "test": test}
    return {split: [stems[i] for i in sorted(indices)] for split, indices in chosen.items()}


def _pairs_dataset(pairs: Iterable[tuple[Path, Path]]) -> Dataset:
    cells = [{"image": {"bytes": None, "path": str(i)}, "mask": {"bytes": None, "path": str(m)}} for i, m in pairs]
    return Dataset.from_list(cells, features=PAIR_FEATURES)


def library_splits(path: Path | str, streaming: bool, revision: str | None) -> dict[str, Split]:
    """Splits of a data set that the `datasets` library can load.

    Raises:
        DatasetError: If it cannot.
    """
    try:
        if (Path(path) / "dataset_dict.json").is_file() or (Path(path) / "state.json").is_file():
            loaded = load_from_disk(str(path))
        else:
            loaded = load_dataset(str(path), streaming=streaming, revision=revision)
    except (ConnectionError, DatasetNotFoundError):
        raise
    except Exception as error:  # each file format's reader raises errors of its own
        raise DatasetError(
            f"{path} cannot be loaded as a data set ({error}). Expected parquet files, a `save_to_disk` "
            "folder, or a folder with images/ and masks/."
        ) from error
    return {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)


def is_hub_id(name: str) -> bool:
    """Whether a name can be that of a data set on the Hub, and no file or folder here has it."""
    return bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name)) and not Path(name).expanduser().exists()


def hub_splits(
    name: str,
    streaming: bool,
    revision: str | None,
    remedy: str = "Give a local folder, or `--dataset_name synthetic` for generated frames.",
) -> dict[str, Split]:
    """Splits of a data set on the Hub.

    Args:
        name, streaming, revision: As for `load_splits`.
        remedy: What the message tells to do.

    Raises:
        DatasetError: If there is none, or the Hub cannot be reached.
    """
    try:
        return library_splits(name, streaming, revision)
    except ConnectionError as error:
        raise DatasetError(f"The Hub cannot be reached, so {name} cannot be loaded. {remedy}") from error
    except DatasetNotFoundError as error:
        at = f" at revision {revision}" if revision else ""
        raise DatasetError(
            f"There is no folder {name} here, and no data set {name}{at} on the Hub that you can read. "
            f"Check the id; for a private data set run `hf auth login`. {remedy}"
        ) from error


def with_pair_columns(rows: Split, image_column: str | None, mask_column: str | None) -> Split:
    columns = image_like_columns(rows)
    image_column = image_column or find_column(columns, IMAGE_COLUMNS)
    mask_column = mask_column or find_column([c for c in columns if c != image_column], MASK_COLUMNS)
    for kind, flag, column in (
        ("image", "--image_column", image_column),
        ("mask", "--mask_column", mask_column),
    ):
        if column not in columns:
            wanted = f"no column {column!r}" if column else f"no {kind} column with one of the usual names"
            raise DatasetError(
                f"The data set has {wanted}; its columns that can hold images are "
                f"{', '.join(columns) or 'none'}. Name the right one with {flag}."
            )
    pair = rows.select_columns([image_column, mask_column])
    renamed = {old: new for old, new in ((image_column, "image"), (mask_column, "mask")) if old != new}
    return (pair.rename_columns(renamed) if renamed else pair).cast(PAIR_FEATURES)


def image_like_columns(rows: Split) -> list[str]:
    """Columns of images, or of bytes or strings, which may be encoded images or their paths."""
    if rows.features is None:
        return list(next(iter(rows)))
    encoded = [Value(kind) for kind in ("binary", "large_binary", "string", "large_string")]
    encoded.append(Value("null"))  # all cells are empty, as masks of frames without polyp may be
    return [name for name, kind in rows.features.items() if isinstance(kind, Image) or kind in encoded]


def find_column(columns: Sequence[str], candidates: Sequence[str]) -> str | None:
    by_name = {column.lower(): column for column in columns}
    return next((by_name[name] for name in candidates if name in by_name), None)


def _cut_validation(train: Split, seed: int) -> tuple[Split, Split]:
    if isinstance(train, IterableDataset):
        raise DatasetError(
            "The data set has no validation split, and a stream cannot be cut by a seed. Run without --streaming."
        )
    if len(train) < 2:
        raise DatasetError(f"{len(train)} training rows cannot be split into train and validation.")
    cut = train.train_test_split(test_size=max(round(len(train) * HELD_OUT_SHARE), 1), seed=seed)
    logger.warning(
        "No validation split: %d of %d training rows are held out by seed %d.",
        len(cut["test"]),
        len(train),
        seed,
    )
    return cut["train"], cut["test"]


def _with_index(rows: Split, keep_stream: bool) -> Split:
    if isinstance(rows, IterableDataset):
        if keep_stream:
            return rows.reshard().map(
                lambda image: {"index": zlib.crc32(_encoded_bytes(image))}, input_columns="image"
            )
        rows = Dataset.from_list(list(rows), features=PAIR_FEATURES)
    if len(rows) == 0:
        raise DatasetError("A split of the data set has no rows.")
    return rows.add_column("index", np.arange(len(rows)))
