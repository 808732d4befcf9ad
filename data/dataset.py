"""Where image and mask pairs come from: the Hub, local data sets, folders, or synthetic frames.

`load_splits` gives the same three columns whatever the source, so that nothing after it needs to know.
"""

import hashlib
import io
import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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

from ..common.errors import UserError, some
from ..common.files import IMAGE_SUFFIXES, image_from_bytes
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

    Every split has the columns `image` and `mask`, still encoded (`decode_pair` reads them), and `row`, an
    integer that identifies the row: its index in the split, or, in a stream, whose shards know no common
    index, the CRC-32 of its image. A missing validation split is cut from train by `seed`, one row in ten,
    and a line says so.

    Args:
        name: "synthetic"; a folder with `images/` and `masks/`, at its top or in a folder a split, paired by
            file stem; another local data set (parquet files, `save_to_disk`, ...); or an id on the Hub. Pairs
            at a folder's top are split by `train.txt`, `val.txt` and `test.txt` beside them, a stem a line,
            or without those lists 80/10/10 by `seed`.
        revision: Branch, tag or commit of the data set on the Hub.
        image_column, mask_column: Names of the columns; found by name if not given.
        streaming: Read the training rows as a stream that is never kept whole; other splits are kept. Folders
            and synthetic frames are not streamed: nothing of them is copied anyway.
        seed: Seed of the splits that are cut, and of the synthetic frames.
        synthetic_rows: Training rows of "synthetic"; validation and test have a quarter as many each.
        synthetic_size: Side of the synthetic frames in pixels.

    Raises:
        DatasetError: If the data is not there or cannot be used.
    """
    path = Path(name).expanduser()
    found: dict[str, Split]
    if name == "synthetic":
        found = _synthetic_splits(synthetic_rows, synthetic_size, seed)
    elif path.is_dir():
        found = _folder_splits(path, seed) or _library_splits(path, streaming, revision=None)
    elif re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) and not path.exists():
        found = _hub_splits(name, streaming, revision)
    else:
        raise DatasetError(
            f"No data set at {name}: expected a folder, an id on the Hub such as Angelou0516/kvasir-seg, or "
            '"synthetic".'
        )

    splits = {
        split: _with_pair_columns(found[alias], image_column, mask_column)
        for split, aliases in SPLIT_NAMES.items()
        for alias in aliases
        if alias in found
    }
    if "train" in splits and "validation" not in splits:
        splits["train"], splits["validation"] = _cut_validation(splits["train"], seed)
    return {split: _with_rows(rows, keep_stream=split == "train" and streaming) for split, rows in splits.items()}


def choose_split(splits: dict[str, Split], split: str) -> Split:
    """The split of that name.

    Raises:
        DatasetError: If there is none; the message names those that there are.
    """
    if split not in splits:
        raise DatasetError(
            f'The data set has no split "{split}"; it has {", ".join(splits) or "none"}. Splits are known by '
            f"the names {', '.join(alias for aliases in SPLIT_NAMES.values() for alias in aliases)}."
        )
    return splits[split]


def describe_data(name: str, revision: str | None, rows: dict[str, Split], split: str | None = None) -> dict[str, Any]:
    """The section "data" of `results.json`, without paths: a local data set has no name.

    Args:
        name, revision: As given to `load_splits`.
        rows: The splits that a run used.
        split: The split that was scored, if one was.

    Returns:
        "fingerprint" is the hash of every encoded image and mask in order, None where one split is a stream.
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
                digest.update(hashlib.sha256(_encoded_bytes(cell)).digest())
    return f"sha256:{digest.hexdigest()}"


def decode_pair(
    image: Cell, mask: Cell, row: int, smallest_side: int | None = None
) -> tuple[PILImage.Image, PILImage.Image]:
    """Read an encoded image and its mask, both turned upright as their EXIF tags say.

    Args:
        image, mask, row: As `load_splits` gives them.
        smallest_side: Pixels that the image's sides need at least: a JPEG image is read, faster, at the smallest of
            1/8, 1/4 and 1/2 of its size that has them, if its sides divide by that. The mask is always read in full.
            None: the image too.

    Raises:
        DatasetError: If one cannot be read, or they differ in size; the message names the file or the row.
    """
    decoded_image, image_size = _decode(image, "image", row, smallest_side)
    decoded_mask, mask_size = _decode(mask, "mask", row)
    if image_size != mask_size:
        raise DatasetError(
            f"{cell_name(image, row)}: the image measures {image_size[0]}x{image_size[1]} pixels and its mask "
            f"{mask_size[0]}x{mask_size[1]}. A mask must have its image's size: fix or remove the pair."
        )
    return decoded_image, decoded_mask


def decode_image(cell: Cell, row: int) -> PILImage.Image:
    """Read an encoded image alone, turned upright as its EXIF tag says.

    Raises:
        DatasetError: If it cannot be read; the message names the file or the row.
    """
    return _decode(cell, "image", row)[0]


def cell_name(cell: Cell, row: int) -> str:
    """What to call a cell in a message: its file, or its row where no file name is stored."""
    return str(cell["path"]) if cell.get("path") else f"row {row}"


def row_name(image: Cell, row: int) -> str:
    """What to call a row in results: its image's file name without ending, or "row_7" where none is stored."""
    return Path(image["path"]).stem if image.get("path") else f"row_{row}"


def _decode(
    cell: Cell, kind: str, row: int, smallest_side: int | None = None
) -> tuple[PILImage.Image, tuple[int, int]]:
    """An image, reduced if it is a JPEG image that stays large enough, and its width and height in full; upright."""
    try:
        content = _encoded_bytes(cell)
        if smallest_side and (reduced := _decode_reduced(content, smallest_side)):
            return reduced
        image = image_from_bytes(content)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"The {kind} {cell_name(cell, row)} cannot be read ({error}). Replace or remove the pair."
        ) from error
    return image, image.size


def _decode_reduced(content: bytes, smallest_side: int) -> tuple[PILImage.Image, tuple[int, int]] | None:
    """A JPEG image at 1/2, 1/4 or 1/8, and its width and height in full; None if it is to be read in full.

    Whatever is wrong with an image is left to `image_from_bytes`, which names it.
    """
    try:
        with PILImage.open(io.BytesIO(content)) as image:
            width, height = image.size
            is_huge = PILImage.MAX_IMAGE_PIXELS is not None and width * height > PILImage.MAX_IMAGE_PIXELS
            # Sides that do not divide would be padded, and every place in the image shifted against its mask.
            scales = [scale for scale in (2, 4, 8) if width % scale == height % scale == 0]
            scale = max((scale for scale in scales if min(width, height) >= scale * smallest_side), default=1)
            if image.format != "JPEG" or scale == 1 or is_huge:
                return None
            is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # by 90 degrees either way
            image.draft(None, (width // scale, height // scale))
            return ImageOps.exif_transpose(image), (height, width) if is_turned else (width, height)
    except Exception:  # Pillow's readers raise errors of all kinds for damaged files
        return None


def _encoded_bytes(cell: Cell) -> bytes:
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def _synthetic_splits(rows: int, size: int, seed: int) -> dict[str, Split]:
    held_out = max(rows // 4, 1)
    counts = {"train": rows, "validation": held_out, "test": held_out}
    # A generator's row depends on its seed and index alone: each split needs a seed of its own.
    return {
        split: _synthetic_dataset(generate(count, image_size=size, seed=3 * seed + offset))
        for offset, (split, count) in enumerate(counts.items())
    }


def _synthetic_dataset(pairs: Iterator[dict[str, PILImage.Image]]) -> Dataset:
    # In parts, so that the cells are not all held twice, as lists and as a table.
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
    """Splits of a folder in the `images/` + `masks/` layout; none if it is laid out otherwise."""
    if (path / "images").is_dir() and (path / "masks").is_dir():
        pairs = _pairs_by_stem(path)
        stems = _listed_stems(path, pairs) or _random_stems(list(pairs), seed)
        return {split: _pairs_dataset(pairs[stem] for stem in chosen) for split, chosen in stems.items()}
    return {
        folder.name: _pairs_dataset(_pairs_by_stem(folder).values())
        for folder in sorted(path.iterdir())
        if (folder / "images").is_dir() and (folder / "masks").is_dir()
    }


def _pairs_by_stem(folder: Path) -> dict[str, tuple[Path, Path]]:
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
        logger.warning("%s: ignored what is no image: %s", folder, some(ignored))
    return files


def _listed_stems(path: Path, pairs: Iterable[str]) -> dict[str, list[str]]:
    """Stems a split from the lists beside `images/`, such as Kvasir-SEG's official train.txt and val.txt."""
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


def _library_splits(path: Path | str, streaming: bool, revision: str | None) -> dict[str, Split]:
    """Splits of whatever the `datasets` library can load."""
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


def _hub_splits(name: str, streaming: bool, revision: str | None) -> dict[str, Split]:
    remedy = "Give a local folder, or `--dataset_name synthetic` for generated frames."
    try:
        return _library_splits(name, streaming, revision)
    except ConnectionError as error:
        raise DatasetError(f"The Hub cannot be reached, so {name} cannot be loaded. {remedy}") from error
    except DatasetNotFoundError as error:
        at = f" at revision {revision}" if revision else ""
        raise DatasetError(
            f"There is no folder {name} here, and no data set {name}{at} on the Hub that you can read. "
            f"Check the id; for a private data set run `hf auth login`. {remedy}"
        ) from error


def _with_pair_columns(rows: Split, image_column: str | None, mask_column: str | None) -> Split:
    columns = _image_like_columns(rows)
    image_column = image_column or _find(columns, IMAGE_COLUMNS)
    mask_column = mask_column or _find([c for c in columns if c != image_column], MASK_COLUMNS)
    for kind, flag, column in (
        ("image", "--image_column", image_column),
        ("mask", "--mask_column", mask_column),
    ):
        if column not in columns:
            wanted = f"no column {column!r}" if column else f"no {kind} column that could be known by its name"
            raise DatasetError(
                f"The data set has {wanted}; its columns that can hold images are "
                f"{', '.join(columns) or 'none'}. Name the right one with {flag}."
            )
    pair = rows.select_columns([image_column, mask_column])
    renamed = {old: new for old, new in ((image_column, "image"), (mask_column, "mask")) if old != new}
    return (pair.rename_columns(renamed) if renamed else pair).cast(PAIR_FEATURES)


def _image_like_columns(rows: Split) -> list[str]:
    """Columns of images, or of what may be their encoded bytes or paths."""
    if rows.features is None:
        return list(next(iter(rows)))
    encoded = (Value("binary"), Value("large_binary"), Value("string"), Value("large_string"))
    return [name for name, kind in rows.features.items() if isinstance(kind, Image) or kind in encoded]


def _find(columns: Sequence[str], candidates: Sequence[str]) -> str | None:
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


def _with_rows(rows: Split, keep_stream: bool) -> Split:
    if isinstance(rows, IterableDataset):
        if keep_stream:
            return rows.reshard().map(lambda image: {"row": zlib.crc32(_encoded_bytes(image))}, input_columns="image")
        rows = Dataset.from_list(list(rows), features=PAIR_FEATURES)
    if len(rows) == 0:
        raise DatasetError("A split of the data set has no rows.")
    return rows.add_column("row", np.arange(len(rows)))
