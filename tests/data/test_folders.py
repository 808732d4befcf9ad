"""Folders of images and masks: lists of splits, names that differ, links, chosen splits, and what is refused."""

import unicodedata
from pathlib import Path

import pytest
from test_layouts import plant, splits_of
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.data.samples import DatasetError

PAIRS = [
    f"{folder}/f{number}.{ending}" for folder, ending in (("images", "jpg"), ("masks", "png")) for number in (1, 2, 3)
]


def rename(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("\ufefff1\r\nf3\r\n".encode(), b"f2"),
        ("f1\nf3".encode("utf-16"), "\ufefff2\r\n".encode("utf-16-be")),
        (b"f1\rf3\r", b" f2\t\n\n"),
        (b"images\\f1.jpg\n./images/f3.jpg", b"/data/images/f2.jpg"),
        (b"images/f1.jpg masks/f1.png\nf3.jpg,f3.png", b'"f2.jpg"'),
    ],
)
def test_lists_of_common_editors_are_read(tmp_path, train, validation):
    plant(tmp_path, *PAIRS)
    (tmp_path / "Train.TXT").write_bytes(train)
    (tmp_path / "val.txt").write_bytes(validation)
    assert splits_of(tmp_path) == {"train": [1, 3], "validation": [2]}


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        (
            "image,mask\nimages/f1.jpg,masks/f1.png\nimages/f3.jpg,masks/f3.png",
            "image,mask\nimages/f2.jpg,masks/f2.png",
        ),
        ("f1.jpg;2\nf3.jpg;1", '"id";"class"\n"f2";"flat"'),
        ("\tmask\n0\tmasks/f1.png\n1\tmasks/f3.png", "f2.jpg"),
    ],
)
def test_tables_are_lists_too(tmp_path, train, validation):
    plant(tmp_path, *PAIRS)
    (tmp_path / "train.csv").write_text(train)
    (tmp_path / "Val.csv").write_text(validation)
    assert splits_of(tmp_path) == {"train": [1, 3], "validation": [2]}
    (tmp_path / "train.txt").write_text("f1\nf2")  # goes before tables
    (tmp_path / "val.txt").write_text("f3")
    assert splits_of(tmp_path) == {"train": [1, 2], "validation": [3]}


def test_a_table_that_names_other_pairs_is_refused(tmp_path):
    plant(tmp_path, *PAIRS)
    (tmp_path / "train.csv").write_text("image,mask\nimages/f1.jpg,masks/f2.png\nimages/f3.jpg,masks/f3.png")
    with pytest.raises(DatasetError, match=r"train\.csv names 1 file that images/ lacks: images/f1\.jpg,masks/f2"):
        load_splits(str(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252", "mac_roman", "cp850"])
@pytest.mark.parametrize(("form", "file_form"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_are_the_same_in_lists_and_names(tmp_path, encoding, form, file_form):
    plant(tmp_path, *PAIRS)
    name = "pol\u00ffp \u00e9 1"
    rename(tmp_path, "images/f1.jpg", f"images/{unicodedata.normalize(file_form, name)}.jpg")
    rename(tmp_path, "masks/f1.png", f"masks/{unicodedata.normalize(form, name)}.png")
    listed = unicodedata.normalize(form if encoding.startswith("utf") else "NFC", name)
    (tmp_path / "train.txt").write_bytes(f"{listed}\nf3".encode(encoding))
    (tmp_path / "val.txt").write_text("f2")
    assert splits_of(tmp_path) == {"train": [1, 3], "validation": [2]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"images/f1.jpg masks/f3.png", "names 1 file that images/ lacks: images/f1.jpg masks/f3.png"),
        (b"\n\n", r"train\.txt is empty: expected"),
        (b"f1\nf4", r"names 1 image without mask: f4"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, content, message):
    plant(tmp_path, *PAIRS, "images/f4.jpg")
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        load_splits(str(tmp_path))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("F1.JPG", "f1.png"),
        ("f1.jpg", "F1_Mask.PNG"),
        ("f1.jpg", "mask-f1.png"),
        ("f1.jpg", "f1_segmentation.png"),
        ("f1.jpg", "f1 ground truth.png"),
        ("f1.jpg", "f1.jpg.png"),
        ("image_1.jpg", "mask_1.png"),
        ("image1.jpg", "gt1.png"),
    ],
)
def test_words_and_case_of_names_may_differ(tmp_path, image, mask):
    plant(tmp_path, *PAIRS)
    rename(tmp_path, "images/f1.jpg", f"images/{image}")
    rename(tmp_path, "masks/f1.png", f"masks/{mask}")
    assert sorted(number for found in splits_of(tmp_path).values() for number in found) == [1, 2, 3]


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["masks/f1_mask.png"], "no image of the same name: f1_mask"),
        (["images/f4.jpg", "masks/f4_mask.png", "masks/f4_gt.png"], "f4_gt, f4_mask are all of the image f4"),
        (["images/g1.jpg", "labels/f2.png"], "no mask of the same name: g1"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path, further, message):
    with pytest.raises(DatasetError, match=message):
        load_splits(str(plant(tmp_path, *PAIRS, *further)))


def test_two_folders_of_masks_are_a_question(tmp_path):
    plant(tmp_path, *PAIRS, *(name.replace("masks", "gt") for name in PAIRS[3:]))
    assert len(splits_of(tmp_path)) == 3  # the usual name goes before others
    rename(tmp_path, "masks", "labels")
    with pytest.raises(DatasetError, match="gt/, labels/ could each hold the masks"):
        load_splits(str(tmp_path))


@pytest.mark.parametrize("name", ["images/f3.jpg", "masks/f3.png"])
def test_a_broken_link_is_named(tmp_path, name):
    plant(tmp_path, *PAIRS)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("nowhere.jpg")
    with pytest.raises(DatasetError, match=rf"{name} is a link to nowhere\.jpg, which is not there"):
        load_splits(str(tmp_path))


@pytest.mark.parametrize("name", ["Val", "val.txt", "metadata.csv", "val.parquet"])
def test_a_broken_link_to_what_says_the_splits_is_named(tmp_path, name):
    plant(tmp_path, *(f"Train/{pair}" for pair in PAIRS))
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(DatasetError, match=f"{name} is a link to nowhere, which is not there"):
        load_splits(str(tmp_path))


def test_links_of_folders(tmp_path):
    plant(tmp_path, *(name.replace("images", "stored") for name in PAIRS))
    (tmp_path / "images").symlink_to("nowhere")
    with pytest.raises(DatasetError, match=r"images is a link to nowhere, which is not there"):
        load_splits(str(tmp_path))
    (tmp_path / "images").unlink()
    (tmp_path / "images").symlink_to("stored")
    assert len(splits_of(tmp_path)) == 3
    (tmp_path / "stored" / "again").symlink_to("..")
    with pytest.raises(DatasetError, match="is a link to a folder above it"):
        load_splits(str(tmp_path))


def test_a_file_that_vanished_is_named(tmp_path):
    splits = load_splits(str(plant(tmp_path, *PAIRS)))
    (tmp_path / "images/f2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"f2\.jpg cannot be read"):
        describe_data(str(tmp_path), None, splits)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["images/f1.jpg"], r"images/ \(1 \.jpg\)"),
        (["images/f1.jpg", "labels/f1.txt"], r"images/ \(1 \.jpg\), labels/ \(1 \.txt\)"),
        (["images/f1.jpg", "labels/f1.txt", "labels/f2.txt"], r"images/ \(1 \.jpg\), labels/ \(2 \.txt\)"),
        (["f1.jpg", "f2.jpg"], r"f1\.jpg, f2\.jpg"),
        (["images/f1.jpg", "masks/f1.npy"], r"images/ \(1 \.jpg\), masks/ \(1 \.npy\)"),
    ],
)
def test_an_unknown_layout_is_answered_with_the_expected_one(tmp_path, files, found):
    plant(tmp_path, *(name for name in files if name.endswith("jpg")))
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DatasetError, match=f"It holds {found}\\.") as error:
        load_splits(str(tmp_path))
    assert any("masks/frame1.png" in line for line in error.value.details)


SETS = [f"{name}/{pair}" for name in ("Lyon", "Oslo") for pair in PAIRS]


def test_splits_of_other_names_are_chosen(tmp_path):
    folder = plant(tmp_path, *SETS)
    assert splits_of(folder, train_split="lyon", validation_split="Oslo") == {
        "train": [1, 2, 3],
        "validation": [1, 2, 3],
    }
    found = splits_of(folder, needed_splits=["OSLO"], train_split="Lyon")
    assert sorted(found["train"] + found["validation"]) == found["OSLO"] == [1, 2, 3]
    with pytest.raises(DatasetError, match=r'no split "train"; it has Lyon, Oslo\. .*--train_split'):
        load_splits(str(folder), needed_splits=["train"])
    with pytest.raises(DatasetError, match="--validation_split Rome: the data set has the splits Lyon, Oslo"):
        load_splits(str(folder), validation_split="Rome")
    with pytest.raises(DatasetError, match="both name Lyon"):
        load_splits(str(folder), train_split="Lyon", validation_split="lyon")


def test_two_names_of_one_split_are_a_question(tmp_path):
    folder = plant(
        tmp_path,
        *(f"{s}/{k}/f{n}.png" for n, s in enumerate(("train", "val", "valid"), 1) for k in ("images", "masks")),
    )
    with pytest.raises(
        DatasetError, match="val, valid could each be the validation split: choose with --validation_split"
    ):
        load_splits(str(folder))
    assert splits_of(folder, validation_split="valid") == {"train": [1], "validation": [3]}


@pytest.mark.parametrize(
    "names",
    [
        [f"Kvasir-SEG/{name}" for name in PAIRS] + ["__MACOSX/Kvasir-SEG/images/f1.jpg"],
        [f"train/train/f{n}.jpeg" for n in (1, 2, 3)] + [f"train_gt/train_gt/f{n}.jpeg" for n in (1, 2, 3)],
        [f"CVC-612/{kind}/{n}.bmp" for kind in ("bbdd", "gtpolyp", "gtlumen") for n in (1, 2, 3)],
        [
            f"train/{kind}_VP{n}_frame{n}{end}"
            for n in (1, 2, 3)
            for kind, end in (("polyps/1", ".png"), ("masks/1", "_Corrected.tif"))
        ],
        [f"TIF/{kind}/{n}.tif" for kind in ("Original", "Ground Truth") for n in (1, 2, 3)],
    ],
    ids=["archive", "BKAI", "EndoScene", "PICCOLO", "Kaggle"],
)
def test_further_sets(tmp_path, names):
    found = splits_of(plant(tmp_path, *names))
    assert sorted(number for there in found.values() for number in there) == [1, 2, 3]
