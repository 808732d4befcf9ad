"""Folders of image files and mask files: which two are a pair, and which split a pair belongs to."""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from datasets import Dataset

from ..common.errors import printable, some
from ..common.files import IMAGE_SUFFIXES
from .columns import PAIR_FEATURES, Split
from .samples import DatasetError

logger = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
HELD_OUT_SHARE = 0.1


def folder_splits(path: Path, seed: int) -> dict[str, Split]:
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
