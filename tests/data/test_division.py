"""Splits by fraction, groups and folds: every sample has one place, groups stay whole, and order does not matter."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.common.split_rules import SplitRules
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.data.division import fold_of, hold_out, warn_of_other_division
from unet_kvasir_seg.data.samples import DatasetError, sample_name

PATTERN = r"^.*/(case\d+)_"
FEATURES = {"image": datasets.Image(), "mask": datasets.Image()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """30 pairs of 6 patients: case0 has 10 frames, the others have 4 each."""
    folder = tmp_path / "frames"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for case, frames in enumerate([10, 4, 4, 4, 4, 4]):
        for frame in range(frames):
            Image.new("RGB", (8, 8), (case, frame, 0)).save(folder / "images" / f"case{case}_{frame}.png")
            Image.new("L", (8, 8)).save(folder / "masks" / f"case{case}_{frame}.png")
    return folder


def picture(level: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (level, level, level))


@pytest.fixture
def make_table(tmp_path):
    """Write a parquet split for each list of patients; the images have rising grey levels."""

    def make(name: str = "table", **splits: list) -> str:
        level = 0
        for split, patients in splits.items():
            images = [picture(level + row) for row in range(len(patients))]
            level += len(patients)
            columns = {"image": images, "mask": [Image.new("L", (8, 8))] * len(images), "patient": patients}
            kind = datasets.Value("string" if isinstance(patients[0], str) else "float64")
            rows = datasets.Dataset.from_dict(columns, features=datasets.Features(FEATURES | {"patient": kind}))
            rows.to_parquet(str(tmp_path / name / "data" / f"{split}-00000-of-00001.parquet"))
        return str(tmp_path / name)

    return make


def names(rows: datasets.Dataset) -> list[str]:
    return [sample_name(cell, index) for index, cell in enumerate(rows["image"])]


def patients_of(splits: dict) -> dict[str, set[str]]:
    return {split: set(rows["group"]) for split, rows in splits.items()}


def test_hold_out_gives_each_share_its_samples():
    validation, test, train = hold_out(20, [0.25, 0.1], seed=1)
    assert (len(validation), len(test), len(train)) == (5, 2, 13)
    assert sorted(np.concatenate([validation, test, train]).tolist()) == list(range(20))
    (most, rest) = hold_out(3, [0.99], seed=1)
    assert (len(most), len(rest)) == (2, 1)  # a sample is left to train on


def test_whole_groups_are_held_out_as_near_to_the_share_as_they_allow():
    """Of 12 samples a quarter is 3: one of the groups of 3, never that of 6."""
    groups = ["a"] * 3 + ["b"] * 3 + ["c"] * 6
    for seed in range(10):
        held_out, rest = hold_out(12, [0.25], seed, groups)
        assert {groups[place] for place in held_out} in ({"a"}, {"b"})
        assert len(held_out) == 3
        assert sorted([*held_out, *rest]) == list(range(12))
    with pytest.raises(DatasetError, match="4 samples of 2 groups cannot be divided into 3 splits"):
        hold_out(4, [0.1, 0.1], 0, ["a", "a", "b", "b"])


def test_a_group_that_is_larger_than_the_share_is_not_cut():
    held_out, rest = hold_out(10, [0.1], 0, ["a"] * 4 + ["b"] * 6)
    assert (held_out.tolist(), rest.tolist()) == ([0, 1, 2, 3], [4, 5, 6, 7, 8, 9])  # the smaller one


def test_folds_are_of_equal_size_and_depend_on_names_alone():
    stems = [f"frame{number}" for number in range(11)]
    fold = fold_of(stems, 3, seed=5)
    assert sorted(Counter(fold.tolist()).values()) == [3, 4, 4]
    turned = fold_of(stems[::-1], 3, seed=5)
    assert turned[::-1].tolist() == fold.tolist()
    assert fold_of(stems, 3, seed=6).tolist() != fold.tolist()


def test_folds_of_groups_are_balanced_like_those_of_the_largest_first_rule():
    """Sizes 5, 3, 2, 2 into 2 folds: 5, then 3, then 2 to the 3, and the last 2 to either 5: 7 and 5."""
    groups = ["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["d"] * 2
    fold = fold_of([str(place) for place in range(12)], 2, 0, groups)
    assert {group: {int(f) for f, g in zip(fold, groups, strict=True) if g == group} for group in "ab"} in (
        {"a": {0}, "b": {1}},
        {"a": {1}, "b": {0}},
    )
    assert sorted(Counter(fold.tolist()).values()) == [5, 7]
    with pytest.raises(DatasetError, match="4 groups cannot be divided into 5 folds: give --folds 4 or less"):
        fold_of(groups, 5, 0, groups)


@pytest.mark.parametrize("pattern", [None, PATTERN])
def test_each_sample_of_a_folder_is_validation_in_exactly_one_fold(folder, pattern):
    found: Counter[str] = Counter()
    for fold in range(4):
        splits = load_splits(str(folder), split_rules=SplitRules(fold=fold, folds=4, group_pattern=pattern))
        assert splits.keys() == {"train", "validation"}
        assert len(splits["train"]) + len(splits["validation"]) == 30
        assert not set(names(splits["train"])) & set(names(splits["validation"]))
        if pattern:
            groups = patients_of(splits)
            assert not groups["train"] & groups["validation"]
        found.update(names(splits["validation"]))
    assert len(found) == 30
    assert set(found.values()) == {1}


def test_folds_keep_the_test_split_and_take_train_and_validation_together(make_table):
    name = make_table(train=["a"] * 6, validation=["b"] * 3, test=["c"] * 4)
    seen = []
    for fold in range(3):
        splits = load_splits(name, split_rules=SplitRules(fold=fold, folds=3))
        assert {split: len(rows) for split, rows in splits.items()} == {"train": 6, "validation": 3, "test": 4}
        seen += [row["image"]["bytes"] for row in splits["validation"]]
    assert len(set(seen)) == 9


def test_a_named_train_split_is_divided_alone(make_table):
    name = make_table(train=["a"] * 6, validation=["b"] * 3)
    splits = load_splits(name, train_split="train", split_rules=SplitRules(validation_fraction=0.5))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 3, "validation": 3}


def test_a_fraction_of_a_folder_is_held_out_beside_its_test_split(folder):
    splits = load_splits(str(folder), split_rules=SplitRules(validation_fraction=0.3))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 18, "validation": 9, "test": 3}
    usual, same = load_splits(str(folder)), load_splits(str(folder), split_rules=SplitRules(validation_fraction=0.1))
    assert {s: names(rows) for s, rows in usual.items()} == {s: names(rows) for s, rows in same.items()}


def test_frames_of_one_patient_stay_together(folder, caplog):
    splits = load_splits(str(folder), split_rules=SplitRules(group_pattern=PATTERN))
    groups = patients_of(splits)
    assert set().union(*groups.values()) == {f"case{number}" for number in range(6)}
    assert sum(map(len, groups.values())) == 6
    assert splits["train"]["group"][:] == [name.split("_")[0] for name in names(splits["train"])]
    assert "in whole groups" in caplog.text


def test_the_order_of_files_and_of_hashes_makes_no_difference(folder, tmp_path):
    """Another folder, with files made in another order, read by a process that hashes text otherwise."""
    rules = SplitRules(fold=1, folds=3, group_pattern=r"(case\d+)_")
    here = sorted(names(load_splits(str(folder), split_rules=rules)["validation"]))
    moved = tmp_path / "elsewhere"
    for file in sorted(folder.rglob("*.png"), reverse=True):
        target = moved / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    program = (
        "import sys; from unet_kvasir_seg.data.dataset import load_splits\n"
        "from unet_kvasir_seg.common.split_rules import SplitRules\n"
        f"rows = load_splits(sys.argv[1], split_rules={rules!r})['validation']\n"
        "print(sorted(cell['path'].split('/')[-1].removesuffix('.png') for cell in rows['image']))"
    )
    there = subprocess.run(
        [sys.executable, "-c", program, str(moved)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == str(here)


def test_rows_without_names_are_assigned_to_folds_by_their_images(make_table):
    """The same images in another order: levels 0 to 8 and, written the other way round, 8 to 0."""
    forward = datasets.Dataset.from_dict(
        {"image": [picture(level) for level in range(9)], "mask": [Image.new("L", (8, 8))] * 9},
        features=datasets.Features(FEATURES),
    )
    found = []
    for number, rows in enumerate((forward, forward.select(range(8, -1, -1)))):
        folder = Path(make_table(f"table{number}", other=["x"])).parent / f"rows{number}"
        rows.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
        splits = load_splits(str(folder), split_rules=SplitRules(fold=0, folds=3))
        found.append({row["image"]["bytes"] for row in splits["validation"]})
    assert found[0] == found[1]
    assert len(found[0]) == 3


def test_a_column_tells_the_groups(make_table):
    name = make_table(train=[7.0, 7.0, 8.0, 8.0, 9.0])
    splits = load_splits(name, split_rules=SplitRules(group_column="patient", fold=0, folds=3))
    assert set().union(*patients_of(splits).values()) == {"7", "8", "9"}
    assert patients_of(splits)["validation"] <= {"7", "8", "9"}
    assert len(patients_of(splits)["validation"]) == 1


def test_groups_in_several_splits_are_counted_and_named_on_the_console_alone(make_table, caplog):
    name = make_table(train=["Smith", "Jones"], validation=["Smith", "Brown"])
    rules = SplitRules(group_column="patient")
    splits = load_splits(name, split_rules=rules)
    assert "train and validation have 1 group in common: Smith" in caplog.text
    data = describe_data(name, None, splits, split_rules=rules)
    assert data["groups"] == {"train": 2, "validation": 2}
    assert data["groups_in_several_splits"] == 1
    assert data["splitting"]["group_column"] == "patient"
    assert not any(patient in str(data) for patient in ("Smith", "Jones", "Brown"))


def test_a_pattern_is_recorded_as_a_hash_since_it_may_hold_a_name(folder):
    """`printf 'case0|case.' | sha256sum`"""
    rules = SplitRules(group_pattern="case0|case.", validation_fraction=0.2)
    data = describe_data("x", None, load_splits(str(folder), split_rules=rules), seed=42, split_rules=rules)
    assert data["splitting"] == {
        "seed": 42,
        "validation_fraction": 0.2,
        "fold": None,
        "folds": None,
        "group_column": None,
        "group_pattern": "sha256:f42c5758fb4152b990416d37166d1c3343bd46c69252bdbc1734c690f8b19872",
    }


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (SplitRules(group_column="nobody"), "--group_column nobody: the data set has no such column; it has image"),
        (SplitRules(group_column="image"), "--group_column image holds neither text nor numbers"),
        (SplitRules(group_pattern="a"), "images of this data set have no names"),
        (SplitRules(group_column="patient"), r"--group_column patient is empty in 2 of 4 rows: row 1, row 3"),
    ],
)
def test_groups_that_cannot_be_told_are_refused(make_table, rules, message):
    with pytest.raises(DatasetError, match=message):
        load_splits(make_table(train=["a", None, "b", " "]), split_rules=rules)


def test_a_pattern_has_to_fit_every_name(folder):
    with pytest.raises(DatasetError, match=r"finds no group in 10 of 30 images: images/case0_0, images/case0_1"):
        load_splits(str(folder), split_rules=SplitRules(group_pattern=r"case[1-9]"))


def test_a_stream_is_not_divided(make_table):
    for rules in (
        SplitRules(fold=0, folds=2),
        SplitRules(group_column="patient"),
        SplitRules(validation_fraction=0.1),
    ):
        with pytest.raises(DatasetError, match="run without --streaming"):
            load_splits(make_table(train=["a"]), streaming=True, split_rules=rules)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"validation_fraction": 1.0}, "--validation_fraction 1 is no share"),
        ({"validation_fraction": float("nan")}, "no share"),
        ({"fold": 0}, "go together"),
        ({"folds": 5}, "go together"),
        ({"fold": 5, "folds": 5}, "expected 0 to 4"),
        ({"fold": -1, "folds": 5}, "expected 0 to 4"),
        ({"fold": 0, "folds": 1}, "--folds 1 is too few"),
        ({"fold": 0, "folds": 5, "validation_fraction": 0.1}, "exclude each other"),
        ({"group_column": "a", "group_pattern": "b"}, "exclude each other"),
        ({"group_pattern": "("}, "no regular expression"),
        ({"group_pattern": ""}, "is empty"),
    ],
)
def test_rules_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SplitRules(**values)


def test_a_column_of_an_image_folder_tells_the_groups(tmp_path):
    for number in range(6):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"f{number}.png")
        Image.new("L", (8, 8)).save(tmp_path / f"m{number}.png")
    lines = [f"f{number}.png,m{number}.png,P{number // 2}" for number in range(6)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,mask_file_name,patient", *lines]))
    splits = load_splits(str(tmp_path), split_rules=SplitRules(group_column="patient"))
    groups = patients_of(splits)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 4, "validation": 2}
    assert groups["train"] | groups["validation"] == {"P0", "P1", "P2"}


def test_an_evaluation_is_told_that_the_training_was_divided_otherwise(caplog):
    rules = SplitRules(fold=0, folds=5, group_pattern="a")
    rows = {"validation": load_splits("synthetic", synthetic_rows=4, synthetic_size=32)["validation"]}
    trained = {"data": describe_data("synthetic", None, rows, split_rules=rules)}
    warn_of_other_division(trained, describe_data("synthetic", None, rows, "validation", split_rules=rules))
    warn_of_other_division(trained, describe_data("synthetic-clips", None, rows, "validation"))
    warn_of_other_division(None, describe_data("synthetic", None, rows, "validation"))
    earlier = {"data": {name: value for name, value in trained["data"].items() if name != "splitting"}}
    warn_of_other_division(earlier, describe_data("synthetic", None, rows, "validation", seed=1))
    assert not caplog.text
    warn_of_other_division(trained, describe_data("synthetic", None, rows, "validation", seed=1))
    seen = (
        "--split_seed 42 there, 1 here; --fold 0 there, None here; --folds 5 there, None here; --group_pattern differs"
    )
    assert seen in caplog.text
    warn_of_other_division(earlier, describe_data("synthetic", None, rows, "validation", split_rules=rules))
    assert "--fold None there, 0 here" in caplog.text


def test_an_evaluation_needs_no_split_that_it_does_not_use(make_table, folder):
    one = make_table(train=["a"])
    assert {split: len(rows) for split, rows in load_splits(one, needed_splits=["train"]).items()} == {"train": 1}
    with pytest.raises(DatasetError, match="1 training rows cannot be split into train and validation"):
        load_splits(one, needed_splits=["train", "validation"])
    assert len(load_splits(make_table("only", validation=["a", "b"]), needed_splits=["validation"])["validation"]) == 2


def test_all_stands_for_the_samples_of_every_split(make_table, folder):
    name = make_table(train=["a"] * 3, validation=["b"] * 2, test=["c"])
    splits = load_splits(name, needed_splits=["all"])
    assert {split: len(rows) for split, rows in splits.items()} == {"all": 6}
    assert splits["all"]["index"][:] == list(range(6))
    assert len(load_splits(str(folder), needed_splits=["all", None])["all"]) == 30
    with pytest.raises(DatasetError, match="none is left for validation"):
        load_splits(name, needed_splits=["all", "validation"])
    for flags in (
        {"split_rules": SplitRules(fold=0, folds=2)},
        {"split_rules": SplitRules(validation_fraction=0.5)},
        {"train_split": "train"},
        {"validation_split": "test"},
    ):
        with pytest.raises(DatasetError, match="which is not divided: remove --fold, --folds"):
            load_splits(name, needed_splits=["all"], **flags)


def test_scoring_all_samples_of_the_training_is_told(folder, caplog):
    """With the flags of the training too, which do not keep its samples apart then."""
    rules = SplitRules(group_pattern="a")
    trained = {"data": describe_data(str(folder), None, load_splits(str(folder))), "negatives": 0}
    other = load_splits("synthetic", synthetic_rows=4, synthetic_size=32)
    for rows in (load_splits(str(folder), needed_splits=["all"]), {"all": other["train"]}):
        warn_of_other_division(trained, describe_data(str(folder), None, rows, "all", split_rules=rules))
    assert caplog.text.count("If it is this one, training samples are scored") == 1
    assert len(caplog.records) == 2  # and that the folder was split, at the start
