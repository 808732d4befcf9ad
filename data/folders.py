"""Folders of image files and mask files: the pairs of each split, by names of folders, by lists or by a seed."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from datasets import Dataset

from ..common.errors import counted, first_line, printable, some
from ..common.files import IMAGE_SUFFIXES, read_file
from .columns import PAIR_FEATURES, Split
from .layouts import DEEPEST, Layout, Match, find_layouts, holds_images, subfolders
from .problems import refuse
from .samples import DatasetError
from .split_names import SPLIT_NAMES, known_split

logger = logging.getLogger(__name__)

UNDIVIDED = ""  # name of the only split of a folder that has none
# Endings of lists: tables count only where there is no list as text.
LISTS = ("*.[tT][xX][tT]", "*.[cCtT][sS][vV]")
# Of lists, in the order in which they are tried: what editors and shells write. UTF-16 is PowerShell's; the last ones
# are those of older systems. Names of files tell which one a list is in.
ENCODINGS = ("utf-8-sig", "utf-16", "cp1252", "mac_roman", "cp850", "cp1251", "gb18030", "cp932")


def folder_splits(path: Path) -> dict[str, Split]:
    """Splits of a folder with images and masks, by the names that they have there; empty if it has no known layout.

    If it is divided neither by names of folders nor by lists, all its pairs are under the name `UNDIVIDED`.

    Raises:
        DatasetError: If images and masks do not fit together, or a list names what is not there.
    """
    # Beside tables, only folders of splits are looked for: others belong to their documentation.
    has_table = any(path.rglob("*.parquet")) or any(path.rglob("*.arrow"))
    layouts = find_layouts(path, deepest=1 if has_table else DEEPEST)
    _name_unused_folders(layouts)
    splits: dict[str, Split] = {}
    for layout in layouts:
        match = layout.match()
        # The folders of images/train/ and masks/train/ decide already.
        names = {} if known_split(layout.name) in SPLIT_NAMES else _listed_names(layout, match)
        if not names:
            match.check_complete()
            names = {UNDIVIDED: list(match.pairs)}
        for split, chosen in names.items():
            name = "/".join(filter(None, (layout.name, split)))
            splits[name] = _pairs_dataset(match.pairs[stem] for stem in chosen)
    return splits


def _name_unused_folders(layouts: Iterable[Layout]) -> None:
    used = {folder for layout in layouts for folder in (layout.images, layout.masks)}
    for above in {layout.folder for layout in layouts}:
        unused = [
            folder.name
            for folder in subfolders(above)
            if not any(folder in (part, *part.parents) for part in used) and holds_images(folder)
        ]
        if unused:
            logger.warning("%s: ignored folders of other images: %s", printable(str(above)), some(unused))


def _listed_names(layout: Layout, match: Match) -> dict[str, list[str]]:
    """The names of each split, from lists such as Kvasir-SEG's official train.txt and val.txt; empty without lists."""
    folder = layout.folder
    places = (folder, folder / "ImageSets" / "Segmentation")  # the latter is that of Pascal VOC
    listed: dict[str, list[str]] = {}
    for pattern in LISTS:
        listed = listed or _read_lists([file for place in places for file in sorted(place.glob(pattern))], match)
    counts = Counter(name for names in listed.values() for name in names)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        text = f"{folder}: the lists name {some(twice)} more than once. Keep each in one split, once."
        refuse(DatasetError(text), *(folder / name for name in twice))
    unlisted = sorted({*match.pairs, *match.without_mask, *match.without_image} - counts.keys())
    if listed and unlisted:
        pairs = counted(len(unlisted), "pair")
        logger.warning("%s: left out %s that no list names: %s", folder, pairs, some(unlisted))
    return {split: listed[split] for split in SPLIT_NAMES if split in listed}


def _read_lists(files: Iterable[Path], match: Match) -> dict[str, list[str]]:
    listed: dict[str, list[str]] = {}
    for file in files:
        split = known_split(file.stem)
        if split not in SPLIT_NAMES or file.is_dir():
            continue
        if split in listed:
            raise DatasetError(f"{file.parent} has several lists of the split {split}: {file.name} is one. Keep one.")
        listed[split] = _read_list(file, match)
    return listed


def _read_list(file: Path, match: Match) -> list[str]:
    """The names of pairs that a list has, one a line: a name, a file or its path, also with its mask after it.

    A table may have a heading and further columns.

    Raises:
        DatasetError: If there is no such pair.
    """
    try:
        content = read_file(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read: {first_line(error)}.") from error
    is_table = file.suffix.lower() != ".txt"
    pair_of = _pair_of_row if is_table else _pair_of_line
    known: list[str] = []
    unknown: list[str] = []
    for encoding in ENCODINGS:
        try:
            lines = [line for line in map(str.strip, content.decode(encoding).splitlines()) if line]
        except UnicodeDecodeError:
            continue
        if not lines:
            raise DatasetError(
                f"{file} is empty: expected the name of an image in each line. Write them or remove it."
            )
        names = [pair_of(line, match) for line in lines]
        if is_table and names[0] is None and len(names) > 1:  # its heading
            lines, names = lines[1:], names[1:]
        if None not in names:
            return [name for name in names if name is not None]
        if not unknown:  # else an earlier encoding is the more likely one
            known = [name for name in names if name is not None]
            unknown = [line for line, name in zip(lines, names, strict=True) if name is None]
    without_mask = [line for line in unknown if _known_name(line, match.without_mask)]
    if without_mask:
        text = f"{file} names {counted(len(without_mask), 'image')} without mask: {some(without_mask)}."
        refuse(DatasetError(text), *(match.folder / line for line in without_mask))
    if absent := [line for line in unknown if line not in without_mask]:
        text = f"{file} names {counted(len(absent), 'file')} that images/ lacks: {some(absent)}."
        refuse(DatasetError(text), *(match.folder / line for line in absent))
    return known


def _pair_of_line(line: str, match: Match) -> str | None:
    """The name of a line's pair: the line is an image, or an image and its mask; None if there is no such pair."""
    fields = [field for field in re.split(r"[\s,;]+", line) if field]
    if len(fields) != 2 or not all(field.strip("\"'").lower().endswith(IMAGE_SUFFIXES) for field in fields):
        return _known_name(line, match.pairs)
    name = _known_name(fields[0], match.pairs)
    is_its_mask = name is not None and match.pairs[name][1].name == PurePosixPath(_bare(fields[1])).name
    return name if is_its_mask else None


def _pair_of_row(line: str, match: Match) -> str | None:
    """The name of the pair that a table's row is of, by its image, its mask or both; None if there is no such pair."""
    fields = [field.strip() for field in re.split(r"[,;\t]", line)]
    files = [field for field in fields if field.strip("\"'").lower().endswith(IMAGE_SUFFIXES)]
    names = [name for field in files or fields if (name := _known_name(field, match.pairs))]
    if not names:
        return None
    stems = {file.stem for file in match.pairs[names[0]]}
    return names[0] if all(PurePosixPath(_bare(file)).stem in stems for file in files) else None


def _known_name(entry: str, names: Mapping[str, object]) -> str | None:
    """The name that an entry of a list has: with or without its ending, and folders above it."""
    path = PurePosixPath(_bare(entry))
    for start in range(len(path.parts)):
        inner = PurePosixPath(*path.parts[start:])
        for name in (str(inner), str(inner).removesuffix(inner.suffix)):
            if name in names:
                return name
    return None


def _bare(entry: str) -> str:
    return unicodedata.normalize("NFC", entry.strip("\"'")).replace("\\", "/")


def _pairs_dataset(pairs: Iterable[tuple[Path, Path]]) -> Dataset:
    cells = [{"image": {"bytes": None, "path": str(i)}, "mask": {"bytes": None, "path": str(m)}} for i, m in pairs]
    return Dataset.from_list(cells, features=PAIR_FEATURES)
