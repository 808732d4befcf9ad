"""Data sets whose paths a library takes for patterns, and pipes in place of files, which would be waited for."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.data.negatives import load_negatives
from unet_kvasir_seg.data.samples import DatasetError
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.onnx_export.images import images_of_folder

SIZE = 32
FEATURES = Features({"image": Image(), "mask": Image()})


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """A test that waits for a pipe's writer fails."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waited for a pipe"))
    signal.alarm(60)
    yield
    signal.alarm(0)


def rows_of(seed: int) -> Dataset:
    pairs = list(generate(seed, SIZE, seed=seed))
    return Dataset.from_dict({name: [pair[name] for pair in pairs] for name in ("image", "mask")}, features=FEATURES)


def write_parquet(folder: Path, train: int, validation: int) -> None:
    folder.mkdir(parents=True)
    for split, rows in (("train", train), ("validation", validation)):
        rows_of(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")


def write_pairs(folder: Path, count: int) -> None:
    for kind in ("image", "mask"):
        (folder / f"{kind}s").mkdir(parents=True)
        for index, pair in enumerate(generate(count, SIZE, seed=count)):
            pair[kind].save(folder / f"{kind}s" / f"{index}.png")


def counts(folder: Path, **options) -> dict[str, int]:
    return {split: len(rows) for split, rows in load_splits(str(folder), **options).items()}


@pytest.mark.parametrize("name", ["polyps [old]", "polyps *", "polyps ?", "[!p]/data", "**"])
def test_a_folder_whose_name_is_a_pattern_is_read_alone(tmp_path, name):
    write_parquet(tmp_path / name, 2, 1)
    write_parquet(tmp_path / "polyps 2", 3, 3)
    assert counts(tmp_path / name) == {"train": 2, "validation": 1}


def test_a_stream_and_negatives_come_from_such_a_folder_too(tmp_path):
    write_parquet(tmp_path / "polyps [old]", 2, 1)
    splits = load_splits(str(tmp_path / "polyps [old]"), streaming=True)
    assert len(list(splits["train"])) == 2
    rows_of(2).select_columns(["image"]).to_parquet(tmp_path / "polyps [old]" / "none" / "a.parquet")
    assert len(load_negatives(str(tmp_path / "polyps [old]" / "none"))) == 2


def test_the_working_folder_may_have_such_a_name(tmp_path, monkeypatch):
    write_parquet(tmp_path / "[a-b]", 2, 1)
    monkeypatch.chdir(tmp_path / "[a-b]")
    assert counts(Path(".")) == {"train": 2, "validation": 1}


def test_folders_in_a_data_set_may_have_such_names(tmp_path):
    for split, rows in (("Train [a]", 2), ("Val [b]", 1)):
        (tmp_path / split).mkdir()
        rows_of(rows).to_parquet(tmp_path / split / "part [1].parquet")
    assert counts(tmp_path) == {"train": 2, "validation": 1}


def test_other_formats_are_read_from_such_a_folder(tmp_path):
    saved, listed = tmp_path / "saved [1]", tmp_path / "listed [1]"
    DatasetDict(train=rows_of(2), validation=rows_of(1)).save_to_disk(saved)
    assert counts(saved) == {"train": 2, "validation": 1}
    for split, rows in (("train", 2), ("validation", 1)):
        write_pairs(listed / split, rows)
        lines = [{"image": f"{split}/images/{i}.png", "mask": f"{split}/masks/{i}.png"} for i in range(rows)]
        (listed / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    splits = load_splits(str(listed), image_column="image")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 2, "validation": 1}
    named = tmp_path / "named [1]" / "train"
    write_pairs(named, 3)
    cells = [{"file_name": f"images/{i}.png", "mask_file_name": f"masks/{i}.png"} for i in range(3)]
    (named / "metadata.jsonl").write_text("\n".join(map(json.dumps, cells)))
    assert sum(counts(named.parent).values()) == 3


def test_configurations_in_such_a_folder_are_refused_in_a_line(tmp_path):
    write_parquet(tmp_path / "polyps [old]", 2, 1)
    (tmp_path / "polyps [old]" / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: train*\n---\n"
    )
    with pytest.raises(DatasetError, match="rename the folder"):
        counts(tmp_path / "polyps [old]")


@pytest.mark.parametrize("place", ["train.txt", "val.csv", "images/0.png", "masks/0.png"])
def test_a_pipe_among_pairs_is_named(tmp_path, place):
    write_pairs(tmp_path, 10)
    (tmp_path / place).unlink(missing_ok=True)
    os.mkfifo(tmp_path / place)
    with pytest.raises(DatasetError, match=place):
        describe_data("pairs", None, load_splits(str(tmp_path)))


def test_a_pipe_of_no_use_is_ignored(tmp_path):
    write_pairs(tmp_path, 10)
    for name in ("metadata.jsonl", "notes", "images/notes.txt"):
        os.mkfifo(tmp_path / name)
    assert sum(counts(tmp_path).values()) == 10


@pytest.mark.parametrize("place", ["train.parquet", "README.md", "data/test.csv", "more.zip", "metadata.parquet"])
def test_a_pipe_beside_tables_is_named(tmp_path, place):
    write_parquet(tmp_path / "data", 2, 1)
    os.mkfifo(tmp_path / place)
    for load in (load_splits, load_negatives):
        with pytest.raises(DatasetError, match=f"{place} is no file, but a pipe"):
            load(str(tmp_path))


def test_a_pipe_or_socket_in_place_of_a_data_set_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("pipe", "socket"):
            for load in (load_splits, load_negatives):
                with pytest.raises(DatasetError, match="expected a folder"):
                    load(str(tmp_path / name))
            assert images_of_folder(tmp_path / name) == []
