"""Finds near-duplicates: frames of one split that another split holds too, nearly unchanged, which inflate its scores.

Exports of one video differ in compression, size, brightness, border and orientation, so their bytes cannot be
compared. Frames are compared by the hash in `common/frame_hashes.py`, which recognises a frame; it does not recognise
a lesion that the camera has moved past.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from tqdm.auto import tqdm

from ..common.csv_tables import open_table, write_row
from ..common.frame_hashes import MAX_DISTANCE, TURNS, frame_hashes
from ..data.samples import decode_image, sample_name


@dataclass(frozen=True)
class NearDuplicate:
    """Two frames of different splits that are nearly one picture."""

    first: tuple[str, str]  # split, and `data.dataset.sample_name`
    second: tuple[str, str]
    first_index: int  # as in the column `index`
    second_index: int
    distance: int  # of `BITS` that differ


def find_near_duplicates(splits: Mapping[str, Dataset], max_distance: int = MAX_DISTANCE) -> list[NearDuplicate]:
    """The pairs of frames of two splits whose hashes differ in at most `max_distance` bits, the nearest first.

    One of the two may be mirrored or turned by quarter turns. Pairs within a split are no leak and are not listed.
    Each image is decoded once, and only its hashes, 512 bytes, are kept.

    Args:
        splits: As `data.dataset.load_splits` gives them, streams apart.
        max_distance: Of 512 bits; unrelated frames differ in about 246.

    Raises:
        DatasetError: If an image cannot be read; the message names it.
    """
    with tqdm(total=sum(len(rows) for rows in splits.values()), desc="Hashing frames", unit="frame") as progress:
        hashed = {split: _hash_split(rows, progress) for split, rows in splits.items()}
    names = list(splits)
    pairs = [
        NearDuplicate(
            (first, hashed[first].names[i]),
            (second, hashed[second].names[j]),
            hashed[first].indices[i],
            hashed[second].indices[j],
            distance,
        )
        for position, first in enumerate(names)
        for second in names[position + 1 :]
        for i, j, distance in _near_pairs(hashed[first].bits, hashed[second].bits, max_distance)
    ]
    return sorted(pairs, key=lambda pair: pair.distance)


def samples_to_leave_out(pairs: Iterable[NearDuplicate], split: str) -> set[int]:
    """The samples of `split`, as in its column `index`, that have a near-duplicate in another split."""
    sides = [side for pair in pairs for side in ((pair.first, pair.first_index), (pair.second, pair.second_index))]
    return {index for (of_split, _), index in sides if of_split == split}


def decode_duplicates(splits: Mapping[str, Dataset], pair: NearDuplicate) -> tuple[Image.Image, Image.Image]:
    """The two images of a pair."""
    return (
        _decode_sample(splits[pair.first[0]], pair.first_index),
        _decode_sample(splits[pair.second[0]], pair.second_index),
    )


def titled_images(
    splits: Mapping[str, Dataset], pairs: Iterable[NearDuplicate]
) -> list[tuple[str, Image.Image, Image.Image]]:
    """Title and images of each pair, for a picture of them, which may be published: the frames are not named."""
    return [
        (
            f"{pair.first[0]} row {pair.first_index}\n{pair.second[0]} row {pair.second_index}\n"
            f"distance {pair.distance}",
            *decode_duplicates(splits, pair),
        )
        for pair in pairs
    ]


def write_pairs(pairs: Iterable[NearDuplicate], path: Path) -> None:
    """Write a table of the pairs that names their frames, atomically. It is not for publication."""
    with open_table(path) as table:
        write_row(table, ["split", "row", "name", "other_split", "other_row", "other_name", "distance"])
        for pair in pairs:
            (split, name), (other_split, other_name) = pair.first, pair.second
            row, other_row = pair.first_index, pair.second_index
            write_row(table, [split, row, name, other_split, other_row, other_name, pair.distance])


@dataclass(frozen=True)
class _Hashed:
    names: list[str]
    indices: list[int]
    bits: np.ndarray  # (frames, turns, bytes) uint8, packed


def _hash_split(rows: Dataset, progress: tqdm) -> _Hashed:
    names, indices, packed = [], [], []
    for row in rows.select_columns(["image", "index"]):
        index = int(row["index"])
        hashes = frame_hashes(decode_image(row["image"], index))
        names.append(sample_name(row["image"], index))
        indices.append(index)
        packed.append(np.packbits(hashes, axis=-1))
        progress.update()
    return _Hashed(names, indices, np.asarray(packed, np.uint8).reshape(len(names), len(TURNS), -1))


def _near_pairs(
    first: np.ndarray, second: np.ndarray, max_distance: int, pairs_at_once: int = 4_000_000
) -> Iterable[tuple[int, int, int]]:
    """(i, j, distance) of the near pairs of (N, turns, bytes) and (M, turns, bytes) packed hashes, in order."""
    block = max(pairs_at_once // max(len(second), 1), 1)
    for start in range(0, len(first), block):
        upright = _unpacked(first[start : start + block, 0])
        nearest = np.full((len(upright), len(second)), np.inf, np.float32)
        for turn in range(second.shape[1]):
            turned = _unpacked(second[:, turn])
            # Bits that differ, a + b - 2ab, of all pairs by one matrix product, exact in float32: NumPy 1 cannot
            # count the bits of integers.
            unlike = upright.sum(1)[:, None] + turned.sum(1) - 2 * upright @ turned.T
            np.minimum(nearest, unlike, out=nearest)
        for i, j in np.argwhere(nearest <= max_distance):
            yield start + int(i), int(j), int(nearest[i, j])


def _unpacked(packed: np.ndarray) -> np.ndarray:
    """(N, bits) float32 of (N, bytes)."""
    return np.unpackbits(packed, axis=-1).astype(np.float32)


def _decode_sample(rows: Dataset, index: int) -> Image.Image:
    place = list(rows["index"]).index(index)
    return decode_image(rows[place]["image"], index)
