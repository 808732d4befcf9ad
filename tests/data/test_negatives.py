"""Frames without polyp: folders and data sets of images alone, empty cells, and what is refused."""

import io
import os

import datasets
import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.negatives import load_negatives, refuse_shared_frames
from unet_kvasir_seg.data.samples import DatasetError, load_sample


def frame(value: int) -> Image.Image:
    """An image of one grey level, which identifies it."""
    return Image.new("RGB", (12, 8), (value, value, value))


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def levels(rows) -> list[int]:
    return [load_sample(row).image.getpixel((0, 0))[0] for row in rows]


def save(image: Image.Image, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


POLYP = Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), ((2, 2), (4, 4))))
NO_POLYP = Image.new("L", (12, 8), 0)


def test_a_folder_of_images_alone(tmp_path):
    for level, name in enumerate(("b.png", "a.jpg", "deeper/still/c.TIF", ".hidden.png", "deeper/images/d.png")):
        save(frame(level * 10), tmp_path / name)
    (tmp_path / "notes.txt").write_text("of an examination")
    rows = load_negatives(str(tmp_path))
    assert levels(rows) == [10, 0, 40, 20]
    assert rows["index"] == [0, 1, 2, 3]
    sample = load_sample(rows[3])
    assert sample.name == "c"
    assert sample.ground_truth.shape == (8, 12)
    assert not sample.ground_truth.any()


def test_pairs_with_black_masks_are_negatives_and_a_mask_with_a_polyp_is_named(tmp_path):
    for name in ("one", "two"):
        save(frame(50), tmp_path / "images" / f"{name}.png")
        save(NO_POLYP, tmp_path / "masks" / f"{name}.png")
    assert len(load_negatives(str(tmp_path))) == 2
    save(POLYP, tmp_path / "masks" / "two.png")
    with pytest.raises(DatasetError, match=r"masks of 1 of 2 negatives show a polyp: two\."):
        load_negatives(str(tmp_path))


@pytest.mark.parametrize("columns", [("image",), ("frame", "label"), ("image", "mask")])
def test_a_data_set_of_images_alone_or_with_masks(tmp_path, columns):
    cells: dict[str, list] = {columns[0]: [encoded(frame(7)), encoded(frame(8))]}
    features = {columns[0]: datasets.Image()}
    if "label" in columns:  # words, which are no masks
        cells["label"], features["label"] = ["normal-cecum", "normal-pylorus"], datasets.Value("string")
    if "mask" in columns:
        cells["mask"], features["mask"] = [encoded(NO_POLYP), None], datasets.Image()
    for split, part in (("train", slice(0, 1)), ("test", slice(1, 2))):
        rows = datasets.Dataset.from_dict(
            {name: values[part] for name, values in cells.items()}, features=datasets.Features(features)
        )
        rows.to_parquet(str(tmp_path / "data" / f"{split}-00000-of-00001.parquet"))
    rows = load_negatives(str(tmp_path))
    assert sorted(levels(rows)) == [7, 8]
    assert not any(load_sample(row).ground_truth.any() for row in rows)


def test_a_data_set_with_polyps_is_refused(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    cells = {"image": [encoded(frame(7))] * 2, "mask": [None, encoded(POLYP)]}
    datasets.Dataset.from_dict(cells, features=features).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(DatasetError, match=r"masks of 1 of 2 negatives show a polyp: row_1\."):
        load_negatives(str(tmp_path))


def test_a_picture_beside_a_data_set_does_not_take_its_place(tmp_path):
    cells = {"image": [encoded(frame(level)) for level in (7, 8)]}
    rows = datasets.Dataset.from_dict(cells, features=datasets.Features({"image": datasets.Image()}))
    save(frame(1), tmp_path / "preview.png")
    rows.to_parquet(str(tmp_path / "data" / "train.parquet"))
    assert levels(load_negatives(str(tmp_path))) == [7, 8]


def test_a_data_set_without_images_is_answered_with_its_columns(tmp_path):
    datasets.Dataset.from_dict({"photo": [encoded(frame(7))]}).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(DatasetError, match=r"columns that can hold images are photo\. Name the right one with"):
        load_negatives(str(tmp_path))
    assert levels(load_negatives(str(tmp_path), image_column="photo")) == [7]


def test_what_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"No negatives at .*/nowhere: expected a folder of images, or the id"):
        load_negatives(str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match=r"holds no image file, .* cannot be loaded as a data set"):
        load_negatives(str(tmp_path))
    save(frame(1), tmp_path / "images" / "a.png")
    os.symlink(tmp_path, tmp_path / "again")
    with pytest.raises(DatasetError, match="again is a link to a folder above it"):
        load_negatives(str(tmp_path))


def test_a_wrong_path_that_could_be_an_id_is_answered_as_a_path(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError

    monkeypatch.setattr("unet_kvasir_seg.data.dataset.load_dataset", unreachable)
    with pytest.raises(DatasetError, match=r"normal/mucosa cannot be loaded.*check the path") as caught:
        load_negatives("normal/mucosa")
    assert "--dataset_name" not in str(caught.value)


def test_empty_cells_of_a_split_are_frames_without_polyp(tmp_path):
    """In a column of images some cells of which are empty, in one that is all empty, and in paths of a table."""
    save(frame(3), tmp_path / "frame.png")
    for masks in ([encoded(POLYP), None], [None, None], ["", str(tmp_path / "mask.png")]):
        POLYP.save(tmp_path / "mask.png")
        images = [str(tmp_path / "frame.png")] * 2 if isinstance(masks[0], str) else [encoded(frame(3))] * 2
        rows = datasets.Dataset.from_dict({"image": images, "mask": masks})
        folder = tmp_path / f"set{masks.count(None)}"
        for split in ("train", "validation"):
            rows.to_parquet(str(folder / f"{split}.parquet"))
        found = [load_sample(row).ground_truth.sum() for row in load_splits(str(folder))["train"]]
        assert found == [0 if mask in (None, "") else 16 for mask in masks]


def test_an_empty_image_cell_is_named(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [encoded(frame(3)), None], "mask": [None, None]})
    for split in ("train", "validation"):
        rows.to_parquet(str(tmp_path / f"{split}.parquet"))
    with pytest.raises(DatasetError, match="The image of row 1 is missing: its cell is empty"):
        load_sample(load_splits(str(tmp_path))["train"][1])


def picture(seed: int) -> Image.Image:
    """Smooth colours of 300x200 pixels, other ones for each seed."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((300, 200), Image.Resampling.BICUBIC)


def test_negatives_that_are_frames_of_a_split_are_named(tmp_path):
    """Also under another name, in another format, and in another size."""
    mask = POLYP.resize((300, 200), Image.Resampling.NEAREST)
    for seed, name in enumerate(("one", "two", "three")):
        save(picture(seed), tmp_path / "pairs" / "images" / f"{name}.png")
        save(mask, tmp_path / "pairs" / "masks" / f"{name}.png")
    (tmp_path / "pairs" / "train.txt").write_text("one\ntwo\n")
    (tmp_path / "pairs" / "val.txt").write_text("three\n")
    train = load_splits(str(tmp_path / "pairs"))["train"]
    copies = {"a.bmp": picture(0), "b.jpg": picture(1), "c.png": picture(1).resize((150, 90))}
    for name, copy in copies.items():
        save(copy, tmp_path / "normal" / name)
    save(picture(3), tmp_path / "normal" / "new.png")
    negatives = load_negatives(str(tmp_path / "normal"))
    with pytest.raises(DatasetError, match=r"Among the negatives are frames of the train split.*: a, b, c\."):
        refuse_shared_frames(negatives, train, "train")
    refuse_shared_frames(negatives.select([3]), train, "train")
    # A frame that has no mask is known to show no polyp: it may be given twice.
    refuse_shared_frames(negatives, negatives, "train")


def test_a_configuration_of_negatives_is_chosen(tmp_path):
    features = datasets.Features({"image": datasets.Image()})
    configs = []
    for level, config in ((7, "one"), (8, "two")):
        rows = datasets.Dataset.from_dict({"image": [encoded(frame(level))]}, features=features)
        rows.to_parquet(str(tmp_path / config / "train.parquet"))
        configs.append(f"- config_name: {config}\n  data_files: {config}/train.parquet")
    (tmp_path / "README.md").write_text("---\nconfigs:\n" + "\n".join(configs) + "\n---\n")
    assert levels(load_negatives(str(tmp_path), config="two")) == [8]
    with pytest.raises(DatasetError, match=r"it has one, two\. Choose one with --negatives_config"):
        load_negatives(str(tmp_path))
