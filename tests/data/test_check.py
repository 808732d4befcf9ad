"""What is wrong with a data set is found before the work: at the start of a run, and all of it by --check_data."""

import csv
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import save_tiny_model
from PIL import Image
from unet_kvasir_seg.common.mask_rules import MaskRules
from unet_kvasir_seg.data.check import check_at_start, check_rectangle
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.problems import noting, refuse
from unet_kvasir_seg.data.samples import DatasetError
from unet_kvasir_seg.evaluation import main as evaluate
from unet_kvasir_seg.train import main as train

SIZE = (40, 30)


def good_mask() -> Image.Image:
    mask = Image.new("L", SIZE)
    mask.paste(255, (0, 0, 10, 10))
    return mask


def bad_mask() -> Image.Image:
    """Sixteen levels, of which nobody knows which is polyp."""
    return Image.fromarray(np.repeat(np.repeat(np.arange(16, dtype=np.uint8), 75).reshape(30, 40), 1, axis=0))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four pairs of training, three of validation."""
    for split, count in (("train", 4), ("val", 3)):
        for name in ("images", "masks"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", SIZE, (number, 0, 0))
            image.save(tmp_path / "data" / split / "images" / f"f{number}.jpg")
            good_mask().save(tmp_path / "data" / split / "masks" / f"f{number}.png")
    return tmp_path / "data"


def report(folder: Path) -> list[tuple[str, str]]:
    """File, from the data set's folder on, and split of each problem."""
    with (folder / "data-check.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["problem"] for row in rows)
    return [(row["file"].split("/data/")[-1], row["split"]) for row in rows]


def test_a_sound_data_set_is_said_to_be_so(folder, run_command, tmp_path):
    for command in (train, evaluate):
        done = run_command(command, "--dataset_name", folder, "--check_data", "--output_dir", "out")
        assert "Checked 7 pairs" in done.stdout
        assert "train: 4\n  val: 3" in done.stdout
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [train, evaluate])
def test_everything_that_is_wrong_is_listed_at_once(folder, run_command, tmp_path, command):
    masks = folder / "val" / "masks"
    bad_mask().save(masks / "f0.png")
    good_mask().transpose(Image.Transpose.ROTATE_90).save(masks / "f1.png")
    (masks / "f2.png").unlink()
    (masks / "f2.png").symlink_to("nowhere")
    (folder / "train" / "images" / "f0.jpg").write_bytes(b"")
    (folder / "train" / "masks" / "f0.png").write_bytes(b"text")
    content = (folder / "train" / "images" / "f1.jpg").read_bytes()
    (folder / "train" / "images" / "f1.jpg").write_bytes(content[: len(content) // 2])
    Image.new("RGB", SIZE).save(folder / "train" / "images" / "f2.bmp")
    done = run_command(command, "--dataset_name", folder, "--check_data", "--output_dir", "out", status=1)
    assert sorted(report(tmp_path / "out")) == [
        ("train/images/f0.jpg", "train"),
        ("train/images/f1.jpg", "train"),
        ("train/images/f2.jpg", ""),
        ("train/masks/f0.png", "train"),
        ("val/images/f2.jpg", ""),
        ("val/masks/f0.png", "val"),
        ("val/masks/f1.png", "val"),
        ("val/masks/f2.png", ""),
    ]
    assert "8 problems:" in done.stdout
    assert "--foreground_values" in done.stdout


def test_an_old_report_goes_when_all_is_well(folder, run_command, tmp_path):
    (folder / "val" / "masks" / "f0.png").write_bytes(b"")
    check = ("--dataset_name", folder, "--check_data", "--output_dir", "out")
    run_command(train, *check, status=1)
    assert report(tmp_path / "out") == [("val/masks/f0.png", "val")]
    good_mask().save(folder / "val" / "masks" / "f0.png")
    run_command(train, *check)
    assert not (tmp_path / "out" / "data-check.csv").exists()


def test_rows_of_a_table_are_named(tmp_path, run_command):
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    image = Image.new("RGB", SIZE)
    for split, masks in (("train", [good_mask(), bad_mask(), None]), ("test", [Image.new("L", (5, 5))])):
        rows = datasets.Dataset.from_dict({"image": [image] * len(masks), "mask": masks}, features=features)
        rows.to_parquet(str(tmp_path / "table" / "data" / f"{split}-00000-of-00001.parquet"))
    arguments = ("--dataset_name", tmp_path / "table", "--check_data", "--output_dir", "out")
    done = run_command(train, *arguments, "--fold", 0, "--folds", 3, status=1)
    # By their places in the table, not in a fold.
    assert report(tmp_path / "out") == [("row 1", "train"), ("row 0", "test")]
    assert "Cannot tell polyp from background" in done.stdout


def test_a_data_set_that_is_not_there_has_no_report(tmp_path, run_command):
    check = ("--check_data", "--output_dir", "out")
    done = run_command(train, "--dataset_name", tmp_path / "nowhere", *check, status=2)
    assert "No data set at" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_hinders_loading_is_reported_with_what_is_wrong_besides(folder, run_command, tmp_path):
    """The only pair that is left cannot be divided: a problem of the data set beside that of the other pairs."""
    for file in (folder / "train").rglob("*.*"):
        file.unlink()
    (folder / "train" / "images" / "f0.png").symlink_to("nowhere")
    (folder / "val" / "masks" / "f0.png").write_bytes(b"")
    run_command(train, "--dataset_name", folder, "--check_data", "--output_dir", "out", status=1)
    assert sorted(file for file, _ in report(tmp_path / "out")) == ["train/images/f0.png", "val/masks/f0.png"]


def test_the_flags_of_masks_and_negatives_count(folder, run_command, tmp_path):
    bad_mask().save(folder / "val" / "masks" / "f0.png")
    check = ("--dataset_name", folder, "--check_data", "--output_dir", "out")
    run_command(train, *check, "--foreground_values", 3, 255)
    done = run_command(train, *check, "--foreground_values", 3, 77, status=1)
    assert "--foreground_values 3 77: none of the 7 masks that were read holds 77" in done.stdout
    (tmp_path / "negatives").mkdir()
    Image.new("RGB", SIZE, (0, 250, 0)).save(tmp_path / "negatives" / "n0.png")
    (tmp_path / "negatives" / "n1.png").write_bytes(b"")
    done = run_command(train, *check, "--foreground_values", 3, 255, "--negatives", tmp_path / "negatives", status=1)
    assert "n1.png" in done.stdout


def test_folds_and_groups_are_checked_with_the_data(folder, run_command, tmp_path):
    check = ("--dataset_name", folder, "--check_data", "--output_dir", "out")
    four = ("--group_pattern", r"images/(f\d)", "--fold", 0)
    done = run_command(train, *check, *four, "--folds", 4)
    assert "train: 4, in 4 groups\n  val: 3, in 3 groups" in done.stdout
    assert (
        "4 groups cannot be divided into 5 folds" in run_command(train, *check, *four, "--folds", 5, status=2).stderr
    )
    run_command(train, *check, "--group_pattern", "f[01]$", status=1)
    assert sorted(report(tmp_path / "out")) == [
        ("train/images/f2", ""),
        ("train/images/f3", ""),
        ("val/images/f2", ""),
    ]


def test_a_run_ends_at_its_start_with_all_bad_files(folder, run_command, tmp_path):
    """In place of ending after the first epoch, when the validation samples are reached."""
    bad_mask().save(folder / "val" / "masks" / "f1.png")
    (folder / "train" / "masks" / "f3.png").write_bytes(png(Image.new("L", (8, 8))))
    small = ("--base_channels", 4, "--depth", 2, "--image_size", 32, "--num_train_epochs", 1, "--use_cpu")
    done = run_command(train, "--dataset_name", folder, "--output_dir", "out", *small, status=2)
    # Sizes are looked at first, of all pairs.
    assert "train/images/f3.jpg: the image measures 40x30 pixels and its mask 8x8" in done.stderr
    good_mask().save(folder / "train" / "masks" / "f3.png")
    done = run_command(train, "--dataset_name", folder, "--output_dir", "out", *small, status=2)
    assert "val/masks/f1.png: Cannot tell polyp from background" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_evaluation_checks_what_it_uses(folder, run_command, tmp_path):
    model = save_tiny_model(tmp_path / "model", seed=0)
    data = ("--model", model, "--dataset_name", folder, "--split", "validation", "--resamples", 50)
    (folder / "train" / "masks" / "f0.png").write_bytes(b"")
    run_command(evaluate, *data, "--output_dir", "sound")
    assert (tmp_path / "sound" / "results.json").is_file()
    (folder / "val" / "masks" / "f2.png").write_bytes(b"")
    done = run_command(evaluate, *data, "--output_dir", "broken", status=2)
    assert "val/masks/f2.png cannot be read (is empty (0 bytes))" in done.stderr
    assert not (tmp_path / "broken").exists()


def test_several_problems_are_listed_in_one_error(folder):
    for name in ("f0", "f1"):
        (folder / "val" / "masks" / f"{name}.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="2 problems of the data were found") as error:
        check_at_start(load_splits(str(folder)))
    assert sorted(Path(detail.split()[2]).name for detail in error.value.details) == ["f0.png", "f1.png"]


def test_the_check_at_the_start_says_how_far_it_came(folder):
    splits = load_splits(str(folder))
    assert check_at_start(splits) is None
    line = check_at_start(splits, MaskRules(), seconds=0)
    assert "sizes of 0 and pixels of 0 of 7 pairs were checked" in line
    assert "--check_data" in line


@pytest.fixture
def small_frame(folder) -> Path:
    """The data set with one pair of 20x30 pixels among those of 40x30: number 1 of the training."""
    Image.new("RGB", (20, 30)).save(folder / "train" / "images" / "f1.jpg")
    good_mask().crop((0, 0, 20, 30)).save(folder / "train" / "masks" / "f1.png")
    return folder


def test_a_rectangle_has_to_lie_within_every_image(small_frame, monkeypatch):
    splits = load_splits(str(small_frame))
    monkeypatch.setattr("PIL.Image.Image.load", None)  # no pixel is decoded
    for setting in (None, "none", "auto", (0, 0, 20, 30), [5, 5, 20, 30]):
        check_rectangle(splits, setting)
    with pytest.raises(DatasetError) as error:
        check_rectangle(splits, "5,0,40,30")
    message = str(error.value)
    assert message.startswith(
        "--field_of_view 5,0,40,30 (left, top, right, bottom in pixels) does not lie within 1 image"
    )
    assert "f1.jpg (number 1 of train, 20x30 pixels). Name a rectangle" in message
    with pytest.raises(DatasetError, match=r"within 7 images: .* and 2 more"):
        check_rectangle(splits, [0, 0, 10, 31])
    check_rectangle(splits, [0, 0, 10, 31], seconds=0)


def test_images_count_as_they_are_turned_for_a_rectangle(folder):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", SIZE).save(folder / "val" / "images" / "f2.jpg", exif=turned)
    with pytest.raises(DatasetError, match=r"f2\.jpg \(number 2 of validation, 30x40 pixels\)"):
        check_rectangle(load_splits(str(folder)), "0,0,40,30")
    check_rectangle(load_splits(str(folder)), "0,0,40,30", MaskRules(ignore_exif=True))


def test_a_rectangle_outside_of_frames_ends_the_commands_before_the_work(run_command, small_frame, tmp_path):
    out, data = tmp_path / "out", ("--dataset_name", small_frame, "--output_dir", "out")
    wide = ("--field_of_view", "0,0,40,30")
    network = ("--base_channels", 4, "--depth", 2, "--image_size", 32)
    done = run_command(train, *data, *network, *wide, status=2)
    assert "number 1 of train, 20x30 pixels" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.glob("*.json"))
    # A model's own rectangle counts as the flag does; a split that is not scored does not.
    model = save_tiny_model(tmp_path / "model", seed=0)
    settings = json.loads((model / "preprocessor_config.json").read_text())
    own = settings | {"field_of_view": [0, 0, 40, 31]}
    (model / "preprocessor_config.json").write_text(json.dumps(own))
    score = (*data, "--model", model, "--resamples", 10, "--device", "cpu")
    for flags, words in (
        (("--split", "train", *wide), "number 1 of train, 20x30 pixels"),
        (("--split", "validation"), "--field_of_view 0,0,40,31 (left, top, right, bottom in pixels) does not lie"),
        (("--split", "validation", *wide, "--negative_windows", 2), "--negative_windows does not go with the field"),
    ):
        done = run_command(evaluate, *score, *flags, status=2)
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(out.glob("*.json"))


@pytest.mark.parametrize("command", [train, evaluate])
def test_a_check_of_all_data_lists_frames_that_a_rectangle_does_not_fit(run_command, small_frame, tmp_path, command):
    check = ("--dataset_name", small_frame, "--check_data", "--output_dir", "out")
    run_command(command, *check, "--field_of_view", "0,0,20,30")
    run_command(command, *check, "--field_of_view", "auto")
    done = run_command(command, *check, "--field_of_view", "0,0,40,30", status=1)
    assert (
        "The field of view 0,0,40,30 (left, top, right, bottom) does not lie within the frame of 20x30" in done.stdout
    )
    assert report(tmp_path / "out") == [("train/images/f1.jpg", "train")]
    done = run_command(command, *check, "--field_of_view", "1,2,3", status=2)
    assert "four whole numbers" in done.stderr


def test_problems_are_noted_once_and_only_within_the_block():
    error = DatasetError("a is wrong. Remove it.")
    with noting() as problems:
        refuse(error, "a", "b")
        refuse(error, "a")
        assert [problem.file for problem in problems] == ["a", "b"]
    with pytest.raises(DatasetError, match="a is wrong"):
        refuse(error, "a")


def test_each_sample_without_a_group_is_one_problem_of_its_split(folder, run_command, tmp_path):
    """Also where the others are too few for the folds; the problem of the pixels is found besides."""
    (folder / "train" / "masks" / "f1.png").write_bytes(b"")
    check = ("--dataset_name", folder, "--check_data", "--output_dir", "out")
    run_command(train, *check, "--group_pattern", r"train/images/(f[01])", "--fold", 0, "--folds", 3, status=1)
    without_group = [
        f"{name}" for name in ("train/images/f2", "train/images/f3", *map("val/images/f{}".format, range(3)))
    ]
    assert sorted(report(tmp_path / "out")) == sorted(
        [*((name, "") for name in without_group), ("train/masks/f1.png", "train")]
    )


def test_empty_cells_of_images_and_groups_are_reported_with_split_and_row(tmp_path, run_command):
    features = datasets.Features(
        {"image": datasets.Image(), "mask": datasets.Image(), "patient": datasets.Value("string")}
    )
    cell = {"bytes": png(Image.new("RGB", SIZE)), "path": "p1_1.png"}
    for split, image in (("train", None), ("validation", cell)):
        columns = {"image": [cell, image, cell], "mask": [good_mask()] * 3, "patient": ["a", None, "b"]}
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(str(tmp_path / "table" / "data" / f"{split}-00000-of-00001.parquet"))
    check = ("--dataset_name", tmp_path / "table", "--check_data", "--output_dir", "out")
    run_command(train, *check, "--group_column", "patient", status=1)
    assert report(tmp_path / "out") == [("row 1", "train"), ("row 1", "validation"), ("row 1", "train")]
    run_command(train, *check, "--group_pattern", r"(p\d)_", status=1)
    assert report(tmp_path / "out") == [("row 1", "train")]


def test_problems_are_printed_also_if_the_report_cannot_be_written(folder, run_command, tmp_path):
    (folder / "val" / "masks" / "f0.png").write_bytes(b"")
    (tmp_path / "out").write_text("a file")
    done = run_command(train, "--dataset_name", folder, "--check_data", "--output_dir", "out", status=2)
    assert "f0.png cannot be read" in done.stdout
    assert (tmp_path / "out").read_text() == "a file"
