"""Where samples, pairs of an image and its mask, come from: the Hub, local data sets, folders, synthetic frames.

`load_splits` gives the same three columns for every source; `load_sample` of samples.py reads one of its rows.
"""

import hashlib
import io
import logging
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError
from PIL import Image as PILImage

from .columns import PAIR_FEATURES, Split, with_pair_columns
from .folders import HELD_OUT_SHARE, SPLIT_NAMES, folder_splits
from .samples import Cell, DatasetError, encoded_bytes, is_empty
from .synthetic import generate

logger = logging.getLogger(__name__)


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
        found = folder_splits(path, seed) or library_splits(path, streaming, revision=None)
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
                content = b"" if is_empty(cell) else encoded_bytes(cell)
                digest.update(hashlib.sha256(content).digest())
    return f"sha256:{digest.hexdigest()}"


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
            return rows.reshard().map(lambda image: {"index": zlib.crc32(encoded_bytes(image))}, input_columns="image")
        rows = Dataset.from_list(list(rows), features=PAIR_FEATURES)
    if len(rows) == 0:
        raise DatasetError("A split of the data set has no rows.")
    return rows.add_column("index", np.arange(len(rows)))
