"""Tables: which columns are taken, structs of pandas, paths in tables and archives, and configurations."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas
import pyarrow
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from pyarrow import parquet
from test_layouts import plant, splits_of
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.negatives import load_negatives
from unet_kvasir_seg.data.samples import DatasetError, load_sample, sample_name


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Two images and their masks."""
    return plant(tmp_path / "pairs", "images/f1.png", "images/f2.png", "masks/f1.png", "masks/f2.png")


@pytest.fixture
def save_table(tmp_path, pairs):
    """Save a table with columns of images, masks, paths of masks, words, or nothing; returns its folder."""

    def save(**columns: str) -> Path:
        files = {
            "images": sorted(map(str, (pairs / "images").iterdir())),
            "masks": sorted(map(str, (pairs / "masks").iterdir())),
        }
        kinds = {
            "image": (Image(), files["images"]),
            "mask": (Image(), files["masks"]),
            "path": (Value("string"), files["masks"]),
            "word": (Value("string"), ["polyp", "polyp"]),
            "empty": (Value("null"), [None, None]),
        }
        features = Features({name: kinds[kind][0] for name, kind in columns.items()})
        rows = Dataset.from_dict({name: kinds[kind][1] for name, kind in columns.items()}, features=features)
        DatasetDict(train=rows, validation=rows).save_to_disk(str(tmp_path / "table"))
        return tmp_path / "table"

    return save


@pytest.mark.parametrize(
    "columns",
    [
        {"image": "image", "label": "word", "annotation": "mask"},
        {"image": "image", "mask": "path", "label": "mask"},
        {"image": "image", "label": "word", "GT-Mask": "path"},
        {"frame": "word", "image": "image", "mask": "mask"},
        {"image": "image", "mask": "mask", "label": "empty"},
    ],
)
def test_columns_of_images_go_before_others(save_table, columns):
    assert splits_of(save_table(**columns)) == {"train": [1, 2], "validation": [1, 2]}


def test_columns_that_could_both_be_meant_are_named(save_table):
    folder = save_table(image="image", mask="mask", annotation="mask")
    with pytest.raises(DatasetError, match=r"columns mask, annotation could each hold the masks: .*--mask_column"):
        load_splits(str(folder))
    assert splits_of(folder, mask_column="annotation") == {"train": [1, 2], "validation": [1, 2]}


def test_a_named_column_of_words_is_refused(save_table):
    folder = save_table(image="image", label="word", mask="mask")
    with pytest.raises(DatasetError, match=r"no images in its column 'label'; .* are image, mask\."):
        load_splits(str(folder), mask_column="label")
    with pytest.raises(DatasetError, match="both name image: name two"):
        load_splits(str(folder), image_column="image", mask_column="image")


@pytest.mark.parametrize("fields", [("bytes", "path"), ("path", "bytes"), ("bytes",)])
@pytest.mark.parametrize("streaming", [False, True])
def test_structs_that_pandas_writes_are_images(tmp_path, pairs, fields, streaming):
    def cell(file: Path) -> dict:
        values = {"bytes": file.read_bytes(), "path": file.name}
        return {field: values[field] for field in fields}

    kinds = {"image": "images", "mask": "masks"}
    table = pandas.DataFrame(
        {kind: [cell(pairs / folder / f"f{n}.png") for n in (1, 2)] for kind, folder in kinds.items()}
    )
    (tmp_path / "table").mkdir()
    for split in ("train", "validation"):
        table.to_parquet(tmp_path / "table" / f"{split}.parquet")
    assert splits_of(tmp_path / "table", streaming=streaming) == {"train": [1, 2], "validation": [1, 2]}


def test_large_structs_of_other_libraries_are_images(tmp_path, pairs):
    kind = pyarrow.struct([("bytes", pyarrow.large_binary()), ("path", pyarrow.large_string())])
    columns = {
        name: pyarrow.array(
            [{"bytes": (pairs / folder / f"f{n}.png").read_bytes(), "path": None} for n in (1, 2)], kind
        )
        for name, folder in (("image", "images"), ("mask", "masks"))
    }
    (tmp_path / "table").mkdir()
    for split in ("train", "test"):
        parquet.write_table(pyarrow.table(columns), tmp_path / "table" / f"{split}.parquet")
    assert splits_of(tmp_path / "table")["test"] == [1, 2]


def image_folder(folder: Path, column: str, path: str, ending: str = "jsonl") -> Path:
    """A folder for each split, with images, masks and a metadata file."""
    for split, numbers in (("train", (1, 2)), ("validation", (3,))):
        plant(folder / split, *(f"f{n}.png" for n in numbers), *(f"masks/m{n}.png" for n in numbers))
        rows = [{"file_name": f"f{n}.png", column: path.format(n=n, split=split)} for n in numbers]
        file = folder / split / f"metadata.{ending}"
        if ending == "jsonl":
            file.write_text("\n".join(map(json.dumps, rows)))
        else:
            getattr(pandas.DataFrame(rows), f"to_{ending}")(file, index=False)
    return folder


ALL = {"train": [1, 2], "validation": [3]}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("path", ["masks/m{n}.png", "{split}/masks/m{n}.png", "masks\\m{n}.png"])
def test_paths_of_metadata_are_relative_to_it_or_to_the_data_set(tmp_path, monkeypatch, ending, path):
    monkeypatch.chdir("/")
    assert splits_of(image_folder(tmp_path, "mask", path, ending)) == ALL


def test_a_stream_of_metadata_with_paths(tmp_path):
    assert splits_of(image_folder(tmp_path, "mask", "masks/m{n}.png"), streaming=True) == ALL


def test_a_file_that_metadata_names_but_is_not_there(tmp_path):
    splits = load_splits(str(image_folder(tmp_path, "mask", "masks/x{n}.png")))
    with pytest.raises(DatasetError, match=r"The mask .*masks/x1\.png cannot be read"):
        load_sample(splits["train"][0])


def test_paths_in_a_table_of_images(tmp_path):
    plant(tmp_path, *(f"{folder}/f{n}.png" for folder in ("a", "b_mask") for n in (1, 2)))
    for split, n in (("train", 1), ("validation", 2)):
        table = pandas.DataFrame({"image": [f"a/f{n}.png"], "mask": [f"b_mask/f{n}.png"]})
        table.to_csv(tmp_path / f"{split}.csv", index=False)
    assert splits_of(tmp_path) == {"train": [1], "validation": [2]}


@pytest.mark.parametrize("column", ["mask_file_name", "mask"])
@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_folder_zipped_for_each_split(tmp_path, column, streaming):
    image_folder(tmp_path / "unpacked", column, "masks/m{n}.png")
    (tmp_path / "zipped").mkdir()
    for split in ("train", "validation"):
        with zipfile.ZipFile(tmp_path / "zipped" / f"{split}.zip", "w") as archive:
            for file in (tmp_path / "unpacked" / split).rglob("*.*"):
                archive.write(file, file.relative_to(tmp_path / "unpacked" / split))
    assert splits_of(tmp_path / "zipped", streaming=streaming) == ALL
    assert sample_name(load_splits(str(tmp_path / "zipped"))["train"][1]["image"], 1) == "f2"


def test_nothing_is_loaded_from_other_addresses():
    cell = {"bytes": None, "path": "https://example.org/frame.png"}
    with pytest.raises(DatasetError, match="address of the kind https://, from which nothing is loaded"):
        load_sample({"image": cell, "mask": None, "index": 0})


def test_configurations(tmp_path, pairs):
    rows = Dataset.from_dict(
        {
            "image": sorted(map(str, (pairs / "images").iterdir())),
            "mask": sorted(map(str, (pairs / "masks").iterdir())),
        },
        features=Features({"image": Image(), "mask": Image()}),
    )
    configs = []
    for config, chosen in (("one", [0]), ("two", [0, 1])):
        for split in ("Train", "Val"):
            rows.select(chosen).to_parquet(str(tmp_path / "set" / config / f"{split}.parquet"))
        files = "\n".join(f"  - split: {split}\n    path: {config}/{split}.parquet" for split in ("Train", "Val"))
        configs.append(f"- config_name: {config}\n  data_files:\n{files}")
    (tmp_path / "set" / "README.md").write_text("---\nconfigs:\n" + "\n".join(configs) + "\n---\n")
    name = str(tmp_path / "set")
    assert splits_of(name, config="two") == {"train": [1, 2], "validation": [1, 2]}
    for config in (None, "three"):
        with pytest.raises(DatasetError, match=r"it has one, two\. Choose one with --dataset_config"):
            load_splits(name, config=config)
    with pytest.raises(DatasetError, match="has no configurations: remove --dataset_config one"):
        load_splits(str(plant(pairs, "images/f3.png", "masks/f3.png")), config="one")


def test_a_changed_folder_with_a_readme_is_read_anew(tmp_path, pairs):
    """The `datasets` library alone would give what it has cached."""
    files = [sorted(map(str, (pairs / folder).iterdir())) for folder in ("images", "masks")]
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: a.parquet\n---\n"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "README.md").write_text(card)
    for count in (1, 2):
        columns = {"image": files[0][:count], "mask": files[1][:count]}
        rows = Dataset.from_dict(columns, features=Features({"image": Image(), "mask": Image()}))
        rows.to_parquet(str(tmp_path / "set" / "a.parquet"))
        assert len(load_splits(str(tmp_path / "set"))["test"]) == count


def test_negatives_with_masks_of_other_layouts(tmp_path):
    """Masks of images without polyp are no images without polyp."""
    plant(tmp_path, "Original/1.png", "Original/2.png", "Ground Truth/1.png", "Ground Truth/2.png")
    with pytest.raises(DatasetError, match=r"masks of 2 of 2 negatives show a polyp: 1, 2\."):
        load_negatives(str(tmp_path))


@pytest.mark.parametrize("names", [("Train.parquet", "Val.parquet"), ("TRAIN/a.parquet", "valset/a.parquet")])
def test_splits_of_tables_are_known_in_any_case(tmp_path, pairs, names):
    for number, name in enumerate(names, 1):
        cells = {"image": [str(pairs / f"images/f{number}.png")], "mask": [str(pairs / f"masks/f{number}.png")]}
        features = Features({"image": Image(), "mask": Image()})
        Dataset.from_dict(cells, features=features).to_parquet(str(tmp_path / "set" / name))
    assert splits_of(tmp_path / "set") == {"train": [1], "validation": [2]}


def test_splits_of_image_folders_are_known_in_any_case(tmp_path):
    image_folder(tmp_path, "mask_file_name", "masks/m{n}.png")
    (tmp_path / "train").rename(tmp_path / "Train")
    (tmp_path / "validation").rename(tmp_path / "Val")
    assert splits_of(tmp_path) == ALL


ORDER_SCRIPT = """
import sys
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import sample_name
print([sample_name(row["image"], 0) for row in load_splits(sys.argv[1])["validation"]])
"""


def test_several_metadata_files_give_one_order(tmp_path):
    """The `datasets` library takes them in the order of hashes of strings, which each process draws anew."""
    for folder in "abcdef":
        (tmp_path / "set" / folder).mkdir(parents=True)
        for kind in ("image", "mask"):
            PILImage.new("L", (4, 4)).save(tmp_path / "set" / folder / f"{folder}_{kind}.png")
        row = f"file_name,mask_file_name\n{folder}_image.png,{folder}_mask.png\n"
        (tmp_path / "set" / folder / "metadata.csv").write_text(row)
    found = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "HF_HOME": str(tmp_path / seed), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", ORDER_SCRIPT, str(tmp_path / "set")]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


def test_masks_in_archives_alone_are_answered_with_what_to_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "polyps.zip", "w") as archive:
        for folder in ("images", "masks"):
            PILImage.new("L", (4, 4)).save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"{folder}/f1.png")
    (tmp_path / "one.png").unlink()
    with pytest.raises(DatasetError, match=r"archives polyps\.zip: .* Unpack them"):
        load_splits(str(tmp_path))


def test_a_named_column_of_metadata_goes_before_names_of_folders(tmp_path):
    plant(tmp_path, *(f"{folder}/f{n}.png" for folder in ("images", "masks", "other_mask") for n in (1, 2)))
    rows = "\n".join(f"images/f{n}.png,other_mask/f{n}.png" for n in (1, 2))
    (tmp_path / "metadata.csv").write_text(f"file_name,outline_file_name\n{rows}")
    found = load_splits(str(tmp_path), mask_column="outline")
    assert {Path(row["mask"]["path"]).parent.name for rows in found.values() for row in rows} == {"other_mask"}


def test_the_columns_of_metadata_are_named_where_none_is_of_masks(tmp_path):
    plant(tmp_path, "scans/f1.png", "outlines_mask/f1.png")
    (tmp_path / "metadata.csv").write_text("file_name,outline_file_name\nscans/f1.png,outlines_mask/f1.png")
    with pytest.raises(DatasetError, match=r"can hold images are image, outline\. .*--mask_column"):
        load_splits(str(tmp_path))


def test_further_columns_are_kept_under_the_names_that_they_get(save_table):
    folder = str(save_table(image="image", mask="mask", video="word", path="path"))
    rows = load_splits(folder, further_columns={"sequence": "video", "frame": "path"})["train"]
    assert rows["sequence"][:] == ["polyp", "polyp"]
    assert [name.rsplit("/", 1)[1] for name in rows["frame"][:]] == ["f1.png", "f2.png"]
    assert [sample_name(row["image"], 0) for row in rows] == ["f1", "f2"]
    # The image's own column may have one of the names.
    other = str(save_table(frame="image", mask="mask", video="word"))
    rows = load_splits(other, further_columns={"frame": "video"})["train"]
    assert rows["frame"][:] == ["polyp", "polyp"]
    assert [sample_name(row["image"], 0) for row in rows] == ["f1", "f2"]


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"sequence": "vidoe", "frame": "video"}, "no column vidoe; it has the columns image, mask, video"),
        ({"sequence": "video", "frame": "video"}, "One column cannot be two of image, mask, sequence, frame"),
        ({"sequence": "video", "frame": "image"}, "One column cannot be two of image, mask, sequence, frame"),
    ],
)
def test_further_columns_that_cannot_be(save_table, further, message):
    with pytest.raises(DatasetError, match=message):
        load_splits(str(save_table(image="image", mask="mask", video="word")), further_columns=further)
