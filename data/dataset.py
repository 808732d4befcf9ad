"""Where samples, pairs of an image and its mask, come from: the Hub, local data sets, folders, synthetic frames.

`load_splits` gives the same three columns for every source; `load_sample` of samples.py reads one of its rows.
"""

import contextlib
import hashlib
import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    Dataset,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    get_dataset_config_names,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi, metadata_load, snapshot_download
from PIL import Image as PILImage

from ..common.annotation_rules import USUAL_ANNOTATIONS, AnnotationRules
from ..common.errors import describe_error, some
from ..common.files import IMAGE_SUFFIXES
from ..common.local_paths import is_hub_id, near_paths
from ..common.mask_rules import USUAL_MASKS, MaskRules
from ..common.split_rules import OWN_SPLITS, SplitRules
from .annotations.exports import ENDINGS as ANNOTATION_ENDINGS
from .annotations.exports import mask_folders
from .annotations.source import annotation_splits
from .cache import datasets_cache
from .clips import clip_samples
from .columns import PAIR_FEATURES, NoPairsError, Split, names_masks, no_progress_bars, with_pair_columns
from .data_files import (
    ARCHIVES,
    TABLES,
    files_by_split,
    files_of_pattern,
    in_fixed_order,
    is_pattern,
    refuse_special_files,
)
from .division import ALL, divide_anew, divide_folder, hold_out_validation
from .folders import UNDIVIDED, folder_splits
from .groups import describe_groups, warn_of_shared_groups, with_groups
from .layouts import PICTURE, describe_folder, holds_images
from .locations import Locator
from .samples import Cell, DatasetError, encoded_bytes, is_empty
from .split_names import SPLIT_NAMES, find_split, known_split
from .synthetic import generate

logger = logging.getLogger(__name__)

SYNTHETIC, SYNTHETIC_CLIPS = "synthetic", "synthetic-clips"  # names of generated data
CLIP_FEATURES = Features({**PAIR_FEATURES, "sequence": Value("string"), "frame": Value("int64")})
TEXTS = (".txt",)  # lists of splits
PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")  # of several files; "train.csv.gz" is a table


def load_splits(
    name: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    mask_column: str | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    needed_splits: Sequence[str | None] = (),
    every_split: bool = False,
    streaming: bool = False,
    seed: int = 42,
    split_rules: SplitRules = OWN_SPLITS,
    annotation_rules: AnnotationRules = USUAL_ANNOTATIONS,
    synthetic_rows: int = 400,
    synthetic_size: int = 256,
    further_columns: Mapping[str, str] | None = None,
) -> dict[str, Split]:
    """Load the splits "train" and "validation", "test" where there is one, and others that are needed.

    Every split has the columns `image` and `mask`, still encoded (`load_sample` reads them), and `index`, an
    integer that identifies the sample: its place in the split or, in a stream, the CRC-32 of its image, since the
    shards of a stream have no common numbering. If `split_rules` says which samples belong together, there is a column
    `group` too, a string that is the same for all samples of one group; samples are not independent within it.

    If there is no validation split, one sample in ten is held out of train by `seed`, and a warning says so.

    Args:
        name: "synthetic"; "synthetic-clips", frames of clips, with columns `sequence` and `frame` to keep; a folder of
            images and masks in one of the layouts of `layouts.py`; a file or a folder of annotations in one of the
            formats of annotations/; another local data set (parquet files, `save_to_disk`, ...); or an id on the Hub.
            If `train.txt`, `val.txt` and `test.txt` lie beside `images/`, with one stem a line, they define the
            splits; otherwise a folder without splits is split 80/10/10 by `seed`.
        config: The configuration of a data set that has several.
        revision: Branch, tag or commit of the data set on the Hub.
        image_column, mask_column: Names of the columns; found by name if not given.
        train_split, validation_split: The splits to take for "train" and "validation"; found by name if not given.
        needed_splits: Splits that there have to be, also of other names; None stands for none. "all" stands for the
            samples of all splits together, and is then the only one.
        every_split: Give the data set's own splits in place of those that it is divided into, under their own names,
            and all that have images and masks; "all" is that of a folder without splits.
        streaming: Stream the training samples instead of downloading them first; other splits are downloaded.
            Folders and synthetic frames are never streamed: nothing of them is downloaded anyway.
        seed: Seed of random splits and of the synthetic frames.
        split_rules: How samples are divided, where the data set's own splits are not to be taken as they are. If they
            are divided anew, then those of train and validation together, or of `train_split` alone if it is given.
        annotation_rules: How annotations are read.
        synthetic_rows: Training samples of "synthetic"; validation and test have a quarter as many each. Of clips,
            each split has at least so many, in complete clips.
        synthetic_size: Side of the synthetic frames in pixels, of clips the height.
        further_columns: Columns to keep, by the names that they get; not of streams.

    Raises:
        DatasetError: If the data does not exist or cannot be used.
    """
    if streaming and (split_rules.divides_anew or split_rules.has_groups):
        raise DatasetError("A stream can neither be divided nor grouped: run without --streaming.")
    if name in (SYNTHETIC, SYNTHETIC_CLIPS):
        source = Source(_synthetic_splits(name, synthetic_rows, synthetic_size, seed))
    else:
        source = open_source(name, config, revision, mask_column, streaming, annotation_rules)
    if annotation_rules.is_given and not source.is_annotated:
        raise DatasetError(
            f"--labels and --unlabelled are for the files of annotation programs, and none is found in {name}: leave "
            "them out. Values of masks are chosen with --foreground_values. Annotations in archives or tables are not "
            "read: unpack or download them, or export them as COCO (docs/annotate.md), and give that folder."
        )
    if config is not None and not source.has_configs:
        raise DatasetError(f"{name} has no configurations: remove --dataset_config {config}.")

    def pairs_of(chosen: Mapping[str, Split]) -> dict[str, Split]:
        """The columns that all splits have, of some of the data set's own."""
        with source.explained():
            columns = (image_column, mask_column, source.locator, further_columns)
            pairs = {split: with_pair_columns(rows, *columns) for split, rows in chosen.items()}
        if not split_rules.has_groups:
            return pairs
        return {split: with_groups(rows, chosen[split], split_rules, name, split) for split, rows in pairs.items()}

    if _wants_all(needed_splits, source.splits):
        if split_rules.divides_anew or train_split is not None or validation_split is not None:
            raise DatasetError(
                f'"{ALL}" stands for every sample of the data set, which is not divided: remove --fold, --folds, '
                "--validation_fraction, --train_split and --validation_split."
            )
        rows = concatenate_datasets(list(pairs_of(source.splits).values()))
        return {ALL: _with_index(rows, keep_stream=False)}
    there, is_divided = source.splits, False
    if there.keys() == {UNDIVIDED}:
        there = divide_folder(there[UNDIVIDED], split_rules, seed, name)
        is_divided = "validation" in there
    chosen = _chosen_splits(there, train_split, validation_split, needed_splits)
    pairs = pairs_of({own: there[own] for own in chosen.values()})
    splits = {split: pairs[own] for split, own in chosen.items()}
    if split_rules.divides_anew and not is_divided:
        splits = divide_anew(splits, split_rules, seed, name, of_train_alone=train_split is not None)
    elif "train" in splits and "validation" not in splits:
        unused = [own for own in there if own not in chosen.values()]
        splits |= hold_out_validation(splits["train"], seed, needed_splits, _listed(unused) if unused else None)
    _refuse_missing(needed_splits, splits, there)
    if name != SYNTHETIC_CLIPS:  # each split of which has a clip 0000 of its own
        warn_of_shared_groups(splits)
    if every_split:
        splits = _own_splits(source.splits, pairs_of, used=chosen.values())
    return {split: _with_index(rows, keep_stream=split == "train" and streaming) for split, rows in splits.items()}


def _own_splits(
    own: Mapping[str, Split], pairs_of: Callable[[Mapping[str, Split]], dict[str, Split]], used: Container[str]
) -> dict[str, Split]:
    """All splits of a data set, undivided; of those that a run does not use, the ones that have masks."""
    splits: dict[str, Split] = {}
    for name, rows in own.items():
        try:
            splits |= pairs_of({name or ALL: rows})
        except DatasetError:
            if name in used or name == UNDIVIDED:
                raise
    return splits


def _wants_all(needed: Sequence[str | None], there: Iterable[str]) -> bool:
    """Whether the samples of all splits together are asked for.

    Raises:
        DatasetError: If a split is asked for too, which would have samples in common with them.
    """
    if ALL not in needed or find_split(ALL, there) is not None:
        return False
    if others := [split for split in needed if split not in (None, ALL)]:
        raise DatasetError(f'"{ALL}" stands for every sample of the data set, so that none is left for {others[0]}.')
    return True


def _chosen_splits(
    there: Mapping[str, Split], train: str | None, validation: str | None, needed: Sequence[str | None]
) -> dict[str, str]:
    """The split of the data set that each split of a run is."""
    chosen: dict[str, str] = {}
    for split, wanted in (("train", train), ("validation", validation)):
        if wanted is None:
            continue
        found = find_split(wanted, there)
        if found is None:
            raise DatasetError(f"--{split}_split {wanted}: the data set has the splits {_listed(there)}; name one.")
        chosen[split] = found
    if len(set(chosen.values())) < len(chosen):
        raise DatasetError(f"--train_split and --validation_split both name {train}: name two splits, or the first.")
    for split in SPLIT_NAMES:
        named = [name for name in there if known_split(name) == split and name not in chosen.values()]
        if split not in chosen and len(named) > 1:
            remedy = "remove or rename one" if split == "test" else f"choose with --{split}_split"
            raise DatasetError(f"The splits {some(named)} could each be the {split} split: {remedy}.")
        if split not in chosen and named:
            chosen[split] = named[0]
    for name in filter(None, needed):
        if name not in chosen and (meant := find_split(name, there)):
            chosen[name] = meant
    order = [*SPLIT_NAMES, *chosen]
    return dict(sorted(chosen.items(), key=lambda item: order.index(item[0])))


def _refuse_missing(needed: Sequence[str | None], splits: Iterable[str], there: Iterable[str]) -> None:
    for split in filter(None, needed):
        if split not in splits:
            remedy = f" Name the one to take with --{split}_split." if split in ("train", "validation") else ""
            raise DatasetError(f'The data set has no split "{split}"; it has {_listed(there)}.{remedy}')


def _listed(splits: Iterable[str]) -> str:
    return some(list(splits), most=12) or "none"


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


def describe_data(
    name: str,
    revision: str | None,
    rows: dict[str, Split],
    split: str | None = None,
    *,
    config: str | None = None,
    mask_rules: MaskRules = USUAL_MASKS,
    seed: int = 42,
    split_rules: SplitRules = OWN_SPLITS,
    annotation_rules: AnnotationRules = USUAL_ANNOTATIONS,
) -> dict[str, Any]:
    """The section "data" of `results.json`. It contains no paths and no groups: a local data set has no name there.

    Args:
        name, revision: As given to `load_splits`.
        rows: The splits that a run used.
        split: The split that was scored, if one was.
        config: As given to `load_splits`.
        mask_rules: How its masks are read.
        seed, split_rules, annotation_rules: As given to `load_splits`.

    Returns:
        "fingerprint" is a hash of all encoded images and masks in order, or None if a split is a stream.
    """
    is_synthetic = name in (SYNTHETIC, SYNTHETIC_CLIPS)
    is_local = not is_synthetic and Path(name).expanduser().exists()
    is_streamed = any(isinstance(part, IterableDataset) for part in rows.values())
    pattern = split_rules.group_pattern
    return {
        "name": "a local data set" if is_local else name,
        "on_the_hub": not is_local and not is_synthetic,
        "revision": revision,
        "config": None if is_local else config,
        "split": split,
        "rows": {part: None if isinstance(found, IterableDataset) else len(found) for part, found in rows.items()},
        "fingerprint": None if is_streamed else _fingerprint(rows.values()),
        "masks": {
            "foreground_values": sorted(set(mask_rules.foreground_values)) if mask_rules.foreground_values else None,
            "threshold": mask_rules.threshold,
            "ignore_exif": bool(mask_rules.ignore_exif),
            "labels": sorted(set(annotation_rules.labels)) if annotation_rules.labels else None,
            "unlabelled": annotation_rules.unlabelled,
        },
        "splitting": {
            "seed": seed,
            "validation_fraction": split_rules.validation_fraction,
            "fold": split_rules.fold,
            "folds": split_rules.folds,
            "group_column": split_rules.group_column,
            "group_pattern": pattern and f"sha256:{hashlib.sha256(pattern.encode()).hexdigest()}",
        },
        **describe_groups(rows),
    }


def _fingerprint(splits: Iterable[Dataset]) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        for row in rows:
            for cell in (row["image"], row["mask"]):
                content = b"" if is_empty(cell) else _content(cell, row["index"])
                digest.update(hashlib.sha256(content).digest())
    return f"sha256:{digest.hexdigest()}"


def _content(cell: Cell, index: int | None = None) -> bytes:
    """The bytes of an encoded image; `index` names it in an error where it has no path."""
    try:
        return encoded_bytes(cell)
    except (OSError, ValueError) as error:
        name = cell["path"] or f"the image or mask of row {index}"
        raise DatasetError(f"{name} cannot be read ({error}). Replace or remove the pair.") from error


def _synthetic_splits(name: str, rows: int, size: int, seed: int) -> dict[str, Split]:
    if rows < 1:
        raise DatasetError(f"--synthetic_rows {rows} is too few: expected 1 or more.")
    held_out = max(rows // 4, 1)
    counts = {"train": rows, "validation": held_out, "test": held_out}
    # A frame depends on seed and index alone, so each split needs its own seed.
    make, features = (clip_samples, CLIP_FEATURES) if name == SYNTHETIC_CLIPS else (generate, PAIR_FEATURES)
    return {
        split: _synthetic_dataset(make(count, size, seed=3 * seed + offset), features)
        for offset, (split, count) in enumerate(counts.items())
    }


def _synthetic_dataset(samples: Iterator[dict[str, Any]], features: Features) -> Dataset:
    # In parts, so that the images are not all in memory twice, as lists and as a table.
    parts = []
    while cells := [
        {**sample, "image": _encode(sample["image"], "JPEG"), "mask": _encode(sample["mask"], "PNG")}
        for sample in islice(samples, 256)
    ]:
        parts.append(Dataset.from_list(cells, features=features))
    return concatenate_datasets(parts)


def _encode(image: PILImage.Image, image_format: str) -> Cell:
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=95)
    return {"bytes": buffer.getvalue(), "path": None}


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        splits: Its splits, by the names that they have there.
        has_configs: Whether it can have configurations, as data sets of the `datasets` library can.
        locator: Makes what finds the files that its cells name; None: they name none.
        folder: The folder or, as far as it was downloaded, the copy of the data set on the Hub that may have masks in
            a layout that is not known; None: it is a table, which says itself what there is.
        archives: Names of its archives, which may hold masks in any layout.
        is_annotated: Whether its masks are drawn from the files of an annotation program.
    """

    splits: dict[str, Split]
    has_configs: bool = False
    locator: Callable[[], Locator] | None = None
    folder: Path | None = None
    archives: Sequence[str] = ()
    is_annotated: bool = False

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Where images are there, but no masks, say what the folder holds and which layout is expected."""
        try:
            yield
        except NoPairsError as error:
            if self.archives:
                raise packed_files(self.archives) from error
            if self.folder is None:
                raise
            raise unknown_layout(self.folder) from error


def unknown_layout(folder: Path) -> DatasetError:
    """That a folder's images have no masks that are found."""
    return DatasetError(
        f"{folder}: no pairs of image and mask are found there. It holds {describe_folder(folder)}. Expected such "
        "folders, unpacked, or a metadata.jsonl with file_name and mask_file_name:",
        details=PICTURE,
    )


def packed_files(archives: Sequence[str]) -> DatasetError:
    """That archives hold no pairs that are found."""
    return DatasetError(
        f"No pairs of image and mask are found in the archives {some(archives)}: an archive is read only if it has a "
        "metadata.jsonl with file_name and mask_file_name. Unpack them, download them first if they are on the Hub, "
        "and give the folder. Expected in it:",
        details=PICTURE,
    )


def _archives(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.lower().endswith(PACKED))


def open_source(
    name: str,
    config: str | None,
    revision: str | None,
    mask_column: str | None,
    streaming: bool,
    annotation_rules: AnnotationRules,
) -> Source:
    """A folder, an annotations file or a data set on the Hub; arguments as for `load_splits`.

    Raises:
        DatasetError: If there is none, or it cannot be loaded.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _open_folder(path, config, mask_column, streaming, annotation_rules)
    if is_hub_id(name, "dataset"):
        return _open_on_hub(name, config, revision, streaming, annotation_rules)
    if path.name.lower().endswith((*TABLES, *ARCHIVES)) and path.is_file():
        raise DatasetError(f"{name} is a file: expected a folder. Unpack an archive, or give a table's folder.")
    if path.is_file():
        return Source(annotation_splits(path, annotation_rules) or {}, is_annotated=True)
    raise DatasetError(
        f"No data set at {name}{near_paths(name)}: expected a folder, an annotations file, an id on the Hub such as "
        f'Angelou0516/kvasir-seg, "{SYNTHETIC}" or "{SYNTHETIC_CLIPS}".'
    )


def _open_folder(
    path: Path, config: str | None, mask_column: str | None, streaming: bool, annotation_rules: AnnotationRules
) -> Source:
    is_saved = is_saved_to_disk(path)
    metadata = [] if is_saved else sorted({*path.glob("metadata.*"), *path.glob("*/metadata.*")})
    if not is_saved and not any(names_masks(file, mask_column) for file in metadata):
        # Beside tables, annotations may be what these were made of.
        has_table = any(path.rglob("*.parquet")) or any(path.rglob("*.arrow"))
        if source := _of_files(path, annotation_rules, has_table):
            return source
    refuse_special_files(path)
    names = [file.relative_to(path).as_posix() for file in path.rglob("*")]
    has_table = any(name.endswith((".parquet", ".arrow")) for name in names)
    archives = [] if has_table else _archives(names)
    data_files = None if config or is_saved or _names_configs(path / "README.md") else files_by_split(names)
    try:
        splits = library_splits(path, streaming, revision=None, config=config, data_files=data_files)
    except DatasetError as error:
        if archives and all(map(zipfile.is_zipfile, (path / name for name in archives))):
            raise packed_files(archives) from error
        if not metadata and not has_table and not archives and holds_images(path):
            raise unknown_layout(path) from error
        raise
    locator = partial(Locator.of_folder, str(path))
    folder = None if has_table else path
    return Source(splits, has_configs=not is_saved, locator=locator, folder=folder, archives=archives)


def _of_files(folder: Path, annotation_rules: AnnotationRules, has_table: bool = False) -> Source | None:
    """Images with masks, or with annotations, that lie in a folder as files; None if there are none."""
    # Labels are those of annotations, also where masks lie beside these.
    wants_annotations = annotation_rules.is_given or bool(mask_folders(folder))
    if not wants_annotations and (splits := folder_splits(folder)):
        return Source(splits)
    if wants_annotations or not has_table:
        annotated = annotation_splits(folder, annotation_rules)
        if annotated is not None:
            return Source(annotated, is_annotated=True)
    if wants_annotations and (splits := folder_splits(folder)):
        return Source(splits)
    return None


def _names_configs(readme: Path) -> bool:
    """Whether the README of a data set says which files its configurations are."""
    try:
        return "configs" in (metadata_load(readme) or {})
    except (OSError, ValueError):  # there is none, or the `datasets` library says what is wrong with it
        return False


def _open_on_hub(
    name: str, config: str | None, revision: str | None, streaming: bool, annotation_rules: AnnotationRules
) -> Source:
    sha, files, names_configs = _files_on_hub(name, revision)
    images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    tables = [file for file in files if file.lower().endswith((*TABLES, *ARCHIVES))]
    folder = None
    if images and not tables and config is None:
        if streaming:
            logger.warning("%s holds files, no table: they are downloaded, not streamed.", name)
        folder = Path(_download_images(name, sha, (*TEXTS, *ANNOTATION_ENDINGS)))
        if source := _of_files(folder, annotation_rules):
            return source
    data_files = None if config or names_configs else files_by_split(files)
    splits = hub_splits(name, streaming, revision, config=config, data_files=data_files)
    if streaming:
        locator = partial(Locator.of_hub, f"hf://datasets/{name}@{sha}", files)
    else:
        locator = partial(_downloaded, name, sha or revision)
    archives = [] if any(file.lower().endswith(TABLES) for file in tables) else _archives(files)
    return Source(splits, has_configs=True, locator=locator, folder=folder, archives=archives)


def _files_on_hub(name: str, revision: str | None) -> tuple[str | None, list[str], bool]:
    """The commit of a data set on the Hub, the names of its files, and whether its README names configurations.

    Where they cannot be had, there is nothing.
    """
    try:
        info = HfApi().dataset_info(name, revision=revision)
    except Exception:  # of the HTTP client and the Hub: loading the data set then says what is wrong
        return None, [], False
    names_configs = bool(info.card_data and info.card_data.get("configs"))
    return info.sha, [file.rfilename for file in info.siblings or []], names_configs


def _download_images(name: str, revision: str | None, others: Sequence[str] = TEXTS) -> str:
    """The folder of this machine that holds the images of a data set on the Hub, and files with other endings."""
    wanted = [f"*{ending}" for suffix in (*IMAGE_SUFFIXES, *others) for ending in (suffix, suffix.upper())]
    try:
        return snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted)
    except Exception as error:  # of the HTTP client and the Hub
        raise DatasetError(
            f"The files of {name} cannot be downloaded ({describe_error(error)}). Try again."
        ) from error


def _downloaded(name: str, revision: str | None) -> Locator:
    return Locator.of_folder(_download_images(name, revision))


def library_splits(
    path: Path | str,
    streaming: bool,
    revision: str | None,
    config: str | None = None,
    config_flag: str = "--dataset_config",
    data_files: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Split]:
    """Splits of a data set that the `datasets` library can load.

    Args:
        path: Its folder, or its id on the Hub.
        streaming, revision, config: As for `load_splits`.
        config_flag: What chooses a configuration, for a message.
        data_files: Of each split, as `files_by_split` gives them; None: the library finds them.

    Raises:
        DatasetError: If it cannot.
    """
    try:
        if is_saved_to_disk(path):
            loaded = load_from_disk(str(path))
        else:
            if Path(path).is_dir():
                path = Path(path).resolve()  # of ".", the library finds no name
                data_files = _literal_data_files(path, config, data_files)
            cache = _cache_of(Path(path)) if (Path(path) / "README.md").is_file() else datasets_cache()
            loaded = load_dataset(
                str(path), config, data_files=data_files, streaming=streaming, revision=revision, cache_dir=str(cache)
            )
    except (ConnectionError, DatasetNotFoundError, DatasetError):
        raise
    except Exception as error:  # each file format's reader raises errors of its own
        _refuse_config(path, revision, config, config_flag, error)
        raise DatasetError(
            f"{path} cannot be loaded as a data set ({describe_error(_cause(error))}). Expected parquet files, a "
            "`save_to_disk` folder, or a folder with images/ and masks/, unpacked."
        ) from error
    splits = {"train": loaded} if isinstance(loaded, Dataset | IterableDataset) else dict(loaded)
    return {name: in_fixed_order(rows) if isinstance(rows, Dataset) else rows for name, rows in splits.items()}


def _literal_data_files(
    folder: Path, config: str | None, data_files: Mapping[str, Sequence[str]] | None
) -> Mapping[str, Sequence[str]] | None:
    """The files of each split, where the library would take the folder's path for a pattern."""
    if not is_pattern(folder):
        return data_files
    if config or _names_configs(folder / "README.md"):
        raise DatasetError(
            f"{folder} has configurations, and [, * or ? in its path, which the `datasets` library takes for a "
            "pattern: rename the folder."
        )
    return files_of_pattern(folder, data_files)


def _cache_of(folder: Path) -> Path:
    """A cache for a folder as it is now.

    Where a README names configurations, the `datasets` library takes a changed folder, or another one of the same
    name, for the one that it has cached.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return datasets_cache() / f"folder-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"


def _cause(error: Exception) -> Exception:
    """What an error of the `datasets` library, which says that one occurred, comes from."""
    return error.__cause__ if isinstance(error.__cause__, Exception) else error


def is_saved_to_disk(path: Path | str) -> bool:
    """Whether `save_to_disk` of the `datasets` library wrote a folder."""
    return (Path(path) / "dataset_dict.json").is_file() or (Path(path) / "state.json").is_file()


def _refuse_config(
    path: Path | str, revision: str | None, config: str | None, config_flag: str, error: Exception
) -> None:
    """Say which configurations a data set has, if an error comes from the choice of one."""
    if not isinstance(error, ValueError) or "onfig" not in str(error):
        return
    configs = get_dataset_config_names(str(path), revision=revision)
    if config not in configs:
        wrong = "several configurations" if config is None else f"no configuration {config}"
        raise DatasetError(f"{path} has {wrong}; it has {_listed(configs)}. Choose one with {config_flag}.") from error


def hub_splits(
    name: str,
    streaming: bool,
    revision: str | None,
    remedy: str = "Give a local folder, or `--dataset_name synthetic` for generated frames.",
    config: str | None = None,
    config_flag: str = "--dataset_config",
    data_files: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Split]:
    """Splits of a data set on the Hub.

    Args:
        name, streaming, revision, config, config_flag, data_files: As for `library_splits`.
        remedy: What the message tells to do.

    Raises:
        DatasetError: If there is none, or the Hub cannot be reached.
    """
    try:
        return library_splits(name, streaming, revision, config, config_flag, data_files)
    except ConnectionError as error:
        raise DatasetError(f"The Hub cannot be reached, so {name} cannot be loaded. {remedy}") from error
    except DatasetNotFoundError as error:
        at = f" at revision {revision}" if revision else ""
        raise DatasetError(
            f"There is no folder {name} here, and no data set {name}{at} on the Hub that you can read. "
            f"Check the id; for a private data set run `hf auth login`. {remedy}"
        ) from error


def _with_index(rows: Split, keep_stream: bool) -> Split:
    if isinstance(rows, IterableDataset):
        if keep_stream:
            return rows.reshard().map(lambda image: {"index": zlib.crc32(_content(image))}, input_columns="image")
        cells = [{kind: _loaded(cell) for kind, cell in row.items()} for row in rows]
        rows = Dataset.from_list(cells, features=PAIR_FEATURES)
    if len(rows) == 0:
        raise DatasetError("A split of the data set has no rows.")
    with no_progress_bars():
        return rows.add_column("index", np.arange(len(rows)))


def _loaded(cell: Cell | None) -> Cell | None:
    """A cell with its bytes, if it names a file that is not on this machine."""
    if is_empty(cell) or cell is None or "://" not in (cell["path"] or "") or cell["bytes"] is not None:
        return cell
    return {"bytes": _content(cell), "path": cell["path"]}
