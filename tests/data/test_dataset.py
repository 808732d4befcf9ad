"""Data from every kind of source, and clear errors for data that cannot be used."""

import io
import zlib

import datasets
import numpy as np
import pytest
from hostile_files import jpeg_of_many_scans, png_of_size
from PIL import Image
from unet_kvasir_seg.common.mask_rules import MaskRules
from unet_kvasir_seg.data.dataset import choose_split, load_splits
from unet_kvasir_seg.data.samples import DatasetError, Sample, decode_image, load_sample


def frame(value: int, size: tuple[int, int] = (12, 8)) -> Image.Image:
    """An image of one grey level, which identifies it."""
    return Image.new("RGB", size, (value, value, value))


def mask(size: tuple[int, int] = (12, 8)) -> Image.Image:
    picture = Image.new("L", size, 0)
    picture.paste(255, (0, 0, size[0] // 2, size[1]))
    return picture


def encoded(image: Image.Image, image_format: str = "PNG") -> dict:
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return {"bytes": buffer.getvalue(), "path": None}


def read(image: dict, mask: dict, index: int = 0, smallest_side: int | None = None) -> Sample:
    """`load_sample` of an encoded image and mask."""
    return load_sample({"image": image, "mask": mask, "index": index}, smallest_side=smallest_side)


def values(rows) -> list[int]:
    """Grey levels of the rows' images, in order."""
    return [load_sample(row).image.getpixel((0, 0))[0] for row in rows]


@pytest.fixture
def folder(tmp_path):
    """A folder with ten pairs, whose images have the grey levels 0 to 9."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(10):
        frame(i).save(tmp_path / "images" / f"frame{i}.png")
        mask().save(tmp_path / "masks" / f"frame{i}.bmp")
    return tmp_path


@pytest.fixture
def make_parquet(tmp_path):
    """Write parquet files with the given columns for each split; returns their folder."""

    def make(features: datasets.Features | None = None, **splits: dict) -> str:
        for split, columns in splits.items():
            rows = datasets.Dataset.from_dict(columns, features=features)
            rows.to_parquet(str(tmp_path / "parquet" / "data" / f"{split}-00000-of-00001.parquet"))
        return str(tmp_path / "parquet")

    return make


def image_features(*names: str) -> datasets.Features:
    return datasets.Features({name: datasets.Image() for name in names})


def test_a_folder_is_split_80_10_10_by_seed_without_loss(folder):
    splits = load_splits(str(folder), seed=1)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 8, "validation": 1, "test": 1}
    assert sorted(value for rows in splits.values() for value in values(rows)) == list(range(10))
    assert values(splits["train"]) == values(load_splits(str(folder), seed=1)["train"])
    orders = {tuple(values(load_splits(str(folder), seed=seed)["train"])) for seed in range(5)}
    assert len(orders) > 1


def test_lists_beside_the_images_decide_the_splits(folder, caplog):
    frame(77).save(folder / "images" / "polyp of 2019.png")
    mask().save(folder / "masks" / "polyp of 2019.png")
    (folder / "train.txt").write_text("frame3\nframe1\n\npolyp of 2019\n")
    (folder / "val.txt").write_text("frame2.png\n")
    splits = load_splits(str(folder))
    assert values(splits["train"]) == [3, 1, 77]
    assert values(splits["validation"]) == [2]
    assert "test" not in splits
    assert "left out 7 pairs that no list names: frame0, frame4" in caplog.text


def test_lists_must_name_existing_files_and_each_once(folder):
    (folder / "train.txt").write_text("frame3\nnobody\n")
    with pytest.raises(DatasetError, match=r"train\.txt names 1 file that images/ lacks: nobody"):
        load_splits(str(folder))
    (folder / "train.txt").write_text("frame3\nframe4")
    (folder / "val.txt").write_text("frame4")
    with pytest.raises(DatasetError, match="the lists name frame4 more than once"):
        load_splits(str(folder))


def test_a_folder_may_hold_one_folder_for_each_split(tmp_path):
    for split, value in (("train", 10), ("val", 20)):
        for name, picture in (("images", frame(value)), ("masks", mask())):
            (tmp_path / split / name).mkdir(parents=True)
            picture.save(tmp_path / split / name / "a.png")
    splits = load_splits(str(tmp_path))
    assert {name: values(rows) for name, rows in splits.items()} == {"train": [10], "validation": [20]}


def test_every_image_needs_its_mask_and_every_mask_its_image(folder):
    (folder / "masks" / "frame7.bmp").unlink()
    with pytest.raises(DatasetError, match=r"1 file with no mask of the same name: frame7\."):
        load_splits(str(folder))
    (folder / "images" / "frame7.png").unlink()
    (folder / "images" / "frame8.png").unlink()
    with pytest.raises(DatasetError, match="no image of the same name: frame8"):
        load_splits(str(folder))


def test_two_files_of_one_stem_are_refused(folder):
    frame(3).save(folder / "images" / "frame3.jpg")
    with pytest.raises(DatasetError, match=r"both frame3\.jpg and frame3\.png"):
        load_splits(str(folder))


def test_ignored_files_are_named(folder, caplog):
    (folder / "images" / "notes.doc").write_text("no image")
    load_splits(str(folder))
    assert "notes.doc" in caplog.text


@pytest.mark.parametrize(
    "columns", [("image", "mask"), ("img", "annotation"), ("Image", "Segmentation"), ("image", "label")]
)
def test_columns_are_found_by_their_names(make_parquet, columns):
    pairs = {columns[0]: [frame(5), frame(6)], columns[1]: [mask(), mask()]}
    splits = load_splits(make_parquet(image_features(*columns), train=pairs, validation=pairs))
    assert splits["train"].column_names == ["image", "mask", "index"]
    assert values(splits["validation"]) == [5, 6]
    assert splits["train"]["index"][:] == [0, 1]


def test_columns_can_be_named(make_parquet):
    pairs = {"left": [frame(5)], "right": [frame(6)], "ground_truth": [mask()]}
    name = make_parquet(image_features(*pairs), train=pairs, test=pairs, validation=pairs)
    assert values(load_splits(name, image_column="right", mask_column="ground_truth")["test"]) == [6]


def test_a_class_label_is_not_taken_for_a_mask(make_parquet):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    name = make_parquet(features, train={"image": [frame(1)], "label": [0]})
    with pytest.raises(DatasetError, match=r"no mask column .* that can hold images are image\. .*--mask_column"):
        load_splits(name)


def test_a_named_column_must_exist(make_parquet):
    name = make_parquet(image_features("image", "mask"), train={"image": [frame(1)], "mask": [mask()]})
    with pytest.raises(DatasetError, match=r"no column 'gt'; its columns .* are image, mask"):
        load_splits(name, mask_column="gt")


def test_a_missing_validation_split_is_held_out_of_train_with_a_warning(make_parquet, caplog):
    pairs = {"image": [frame(i) for i in range(30)], "mask": [mask()] * 30}
    name = make_parquet(image_features("image", "mask"), train=pairs)
    splits = load_splits(name, seed=3)
    assert (len(splits["train"]), len(splits["validation"])) == (27, 3)
    assert sorted(values(splits["train"]) + values(splits["validation"])) == list(range(30))
    assert "3 of 30 training rows are held out by seed 3" in caplog.text
    assert values(splits["validation"]) == values(load_splits(name, seed=3)["validation"])


def test_a_missing_split_is_answered_with_the_existing_ones(folder):
    (folder / "train.txt").write_text("frame1")
    (folder / "val.txt").write_text("frame2")
    with pytest.raises(DatasetError, match='no split "test"; it has train, validation'):
        choose_split(load_splits(str(folder)), "test")


def test_save_to_disk_is_read(tmp_path):
    pairs = {"image": [frame(7), frame(8)], "mask": [mask(), mask()]}
    rows = datasets.Dataset.from_dict(pairs, features=image_features("image", "mask"))
    datasets.DatasetDict(train=rows, validation=rows).save_to_disk(str(tmp_path / "disk"))
    assert values(load_splits(str(tmp_path / "disk"))["train"]) == [7, 8]


def test_a_stream_has_the_same_samples_identified_by_their_images(make_parquet):
    pairs = {"image": [frame(i) for i in range(6)], "mask": [mask()] * 6}
    name = make_parquet(image_features("image", "mask"), train=pairs, validation=pairs)
    splits = load_splits(name, streaming=True)
    assert isinstance(splits["train"], datasets.IterableDataset)
    rows = list(splits["train"])
    assert values(rows) == list(range(6))
    assert [row["index"] for row in rows] == [zlib.crc32(row["image"]["bytes"]) for row in rows]
    assert isinstance(splits["validation"], datasets.Dataset)


def test_a_stream_without_validation_split_is_refused(make_parquet):
    name = make_parquet(image_features("image", "mask"), train={"image": [frame(1)], "mask": [mask()]})
    with pytest.raises(DatasetError, match="Run without --streaming"):
        load_splits(name, streaming=True)


def test_synthetic_splits_share_no_frame():
    splits = load_splits("synthetic", synthetic_rows=8, synthetic_size=32, seed=5)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 8, "validation": 2, "test": 2}
    images = [row["image"]["bytes"] for rows in splits.values() for row in rows]
    assert len(set(images)) == 12


def test_an_unreachable_hub_names_the_id_and_both_remedies():
    with pytest.raises(DatasetError) as error:
        load_splits("nobody/nothing-of-the-kind")
    assert all(part in str(error.value) for part in ("nobody/nothing-of-the-kind", "local folder", "synthetic"))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(DatasetError, match=f"No data set at {name}: expected a folder"):
        load_splits(name)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.zip").write_text("x")
    with pytest.raises(DatasetError, match=r"cannot be loaded as a data set .* images/ and masks/"):
        load_splits(str(tmp_path))


def test_images_are_turned_upright_as_exif_says():
    picture = frame(0, (12, 8))
    picture.putpixel((0, 0), (200, 0, 0))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    image = read({"bytes": buffer.getvalue(), "path": None}, encoded(mask((8, 12)))).image
    assert image.size == (8, 12)
    assert image.getpixel((7, 0)) == (200, 0, 0)


def test_a_sample_has_a_name_and_a_binary_ground_truth():
    sample = load_sample({"image": encoded(frame(7)) | {"path": "folder/a.png"}, "mask": encoded(mask()), "index": 3})
    assert sample.name == "a"
    assert sample.image.getpixel((0, 0)) == (7, 7, 7)
    assert sample.ground_truth.dtype == bool
    np.testing.assert_array_equal(sample.ground_truth, np.array(mask()) == 255)
    assert read(encoded(frame(7)), encoded(mask()), index=3).name == "row_3"


def test_foreground_values_decide_what_is_polyp():
    levels = np.repeat(np.uint8([[1, 2, 3]]), 4, axis=0)
    row = {"image": encoded(frame(7, (3, 4))), "mask": encoded(Image.fromarray(levels)), "index": 3}
    np.testing.assert_array_equal(load_sample(row, MaskRules([2, 3])).ground_truth, levels > 1)
    with pytest.raises(DatasetError, match=r"row 3: Cannot tell polyp from background .*--foreground_values"):
        load_sample(row)


def test_sizes_that_differ_are_named():
    with pytest.raises(DatasetError, match="row 4: the image measures 12x8 pixels and its mask 8x12"):
        read(encoded(frame(1)), encoded(mask((8, 12))), index=4)


@pytest.mark.parametrize("content", [b"", b"plain text", encoded(frame(1, (64, 64)), "JPEG")["bytes"][:400]])
def test_an_unreadable_image_is_named(content):
    cell = {"bytes": content, "path": "folder/broken.jpg"}
    with pytest.raises(DatasetError, match=r"The image folder/broken\.jpg cannot be read"):
        read(cell, encoded(mask()))


@pytest.mark.parametrize(
    ("smallest_side", "size"),
    [(None, (64, 48)), (25, (64, 48)), (24, (32, 24)), (13, (32, 24)), (12, (16, 12)), (6, (8, 6)), (1, (8, 6))],
)
def test_a_jpeg_image_is_reduced_to_the_requested_size_but_its_mask_is_not(smallest_side, size):
    ground_truth = mask((64, 48))
    for image_format in ("PNG", "JPEG"):
        image = encoded(frame(100, (64, 48)), image_format)
        sample = read(image, encoded(ground_truth), smallest_side=smallest_side)
        assert sample.image.size == (size if image_format == "JPEG" else (64, 48))
        assert sample.image.getextrema() == ((100, 100),) * 3
        np.testing.assert_array_equal(sample.ground_truth, np.array(ground_truth) == 255)


def test_an_image_is_not_reduced_if_that_needs_padding():
    """66 is a multiple of 2 but not of 4; 65 of neither."""
    for width, expected in ((66, (33, 24)), (65, (65, 48))):
        pair = encoded(frame(1, (width, 48)), "JPEG"), encoded(mask((width, 48)))
        assert read(*pair, smallest_side=8).image.size == expected


def test_a_reduced_image_is_upright_and_not_shifted():
    """One of the image's quarters is bright; turned by 90 degrees as EXIF says, it is the upper right one."""
    picture = Image.new("L", (64, 32))
    picture.paste(200, (0, 0, 32, 16))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    cell = {"bytes": buffer.getvalue(), "path": None}
    image = read(cell, encoded(mask((32, 64))), smallest_side=4).image
    assert image.size == (4, 8)
    assert [image.getpixel((x, y)) > 100 for y in (0, 3, 4, 7) for x in (1, 2)] == [False, True] * 2 + [False] * 4
    with pytest.raises(DatasetError, match="row 0: the image has the EXIF orientation 6 and its mask 1"):
        read(cell, encoded(mask((64, 32))), smallest_side=4)


def test_full_sizes_are_compared():
    """At 1/2 an image of 64 columns and one of 63 both have 32."""
    with pytest.raises(DatasetError, match="the image measures 64x48 pixels and its mask 63x48"):
        read(encoded(frame(1, (64, 48)), "JPEG"), encoded(mask((63, 48))), smallest_side=20)


def test_an_unreadable_image_is_named_if_it_is_to_be_reduced(monkeypatch):
    whole = encoded(frame(1, (64, 64)), "JPEG")["bytes"]
    for content in (b"", b"plain text", whole[:400]):
        with pytest.raises(DatasetError, match=r"The image folder/broken\.jpg cannot be read"):
            read({"bytes": content, "path": "folder/broken.jpg"}, encoded(mask()), smallest_side=8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    with pytest.raises(DatasetError, match=r"The image row 0 cannot be read .*too large"), pytest.warns():
        read({"bytes": whole, "path": None}, encoded(mask((8, 8))), smallest_side=8)


def test_an_image_is_read_without_its_mask():
    assert decode_image(encoded(frame(9)), 3).getpixel((0, 0)) == (9, 9, 9)
    with pytest.raises(DatasetError, match="The image row 3 cannot be read"):
        decode_image({"bytes": b"plain text", "path": None}, 3)


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(DatasetError, match="row 0 cannot be read"):
        read(encoded(frame(1)), encoded(mask()))


def test_real_frames(kvasir_seg):
    splits = load_splits(kvasir_seg)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 800, "validation": 100}
    sample = load_sample(splits["validation"][99])
    assert sample.image.size == (384, 288)
    assert sample.ground_truth.shape == (288, 384)


@pytest.mark.parametrize("smallest_side", [None, 4])
def test_devices_and_small_files_that_cost_much_are_named(tmp_path, smallest_side):
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "long.png").write_bytes(png_of_size(1, 80_000_000))
    (tmp_path / "scans.jpg").write_bytes(jpeg_of_many_scans(10_000))
    reasons = {"zero.png": "no regular file", "long.png": "is too large", "scans.jpg": "passes over the image"}
    for name, reason in reasons.items():
        row = {"image": {"bytes": None, "path": str(tmp_path / name)}, "mask": None, "index": 0}
        with pytest.raises(DatasetError, match=rf"The image .*{name} cannot be read \(.*{reason}"):
            load_sample(row, smallest_side=smallest_side)
