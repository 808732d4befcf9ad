"""Near-duplicates across splits, planted among synthetic frames, and those known of Kvasir-SEG."""

import csv
import io

import datasets
import pytest
from PIL import Image, ImageEnhance, ImageOps
from unet_kvasir_seg.common.frame_hashes import BITS, MAX_DISTANCE, frame_hashes
from unet_kvasir_seg.data.columns import PAIR_FEATURES
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import DatasetError
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.scoring.near_duplicates import (
    NearDuplicate,
    decode_duplicates,
    find_near_duplicates,
    samples_to_leave_out,
    titled_images,
    write_pairs,
)

SIZE = 64


@pytest.fixture(scope="module")
def frames() -> list[Image.Image]:
    return [pair["image"] for pair in generate(200, SIZE, seed=1)]


def cell(image: Image.Image, path: str | None = None, quality: int = 95) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return {"bytes": buffer.getvalue(), "path": path}


def split(*cells: dict) -> datasets.Dataset:
    """Rows as `load_splits` gives them; masks are not looked at."""
    rows = datasets.Dataset.from_list([{"image": one, "mask": one} for one in cells], features=PAIR_FEATURES)
    return rows.add_column("index", list(range(len(cells))))


def bordered(image: Image.Image) -> Image.Image:
    """As a recorder with a wider screen exports it."""
    canvas = Image.new("RGB", (2 * SIZE, SIZE + 20), (15, 15, 15))
    canvas.paste(image, (SIZE - 10, 10))
    return canvas


CHANGES = {
    "JPEG at quality 50": lambda image: Image.open(io.BytesIO(cell(image, quality=50)["bytes"])),
    "half size": lambda image: image.resize((SIZE // 2, SIZE // 2)),
    "other proportions": lambda image: image.resize((2 * SIZE, SIZE)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "with a border": bordered,
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "without its outermost pixels": lambda image: image.crop((1, 1, SIZE - 1, SIZE - 1)),
}


def test_exactly_the_planted_duplicates_are_found(frames):
    train, validation = frames[:30], frames[30:60]
    changed = [change(frames[2 * i]) for i, change in enumerate(CHANGES.values())]
    splits = {
        "train": split(*(cell(image) for image in train)),
        "validation": split(*(cell(image) for image in validation), *(cell(image, "copy.jpg") for image in changed)),
    }
    pairs = find_near_duplicates(splits)
    assert {(pair.first_index, pair.second_index) for pair in pairs} == {(2 * i, 30 + i) for i in range(len(CHANGES))}
    assert {(pair.first, pair.second) for pair in pairs} == {
        (("train", f"row_{2 * i}"), ("validation", "copy")) for i in range(len(CHANGES))
    }
    distances = [pair.distance for pair in pairs]
    assert distances == sorted(distances)
    assert samples_to_leave_out(pairs, "validation") == {30 + i for i in range(len(CHANGES))}
    assert samples_to_leave_out(pairs, "train") == {2 * i for i in range(len(CHANGES))}
    assert samples_to_leave_out(pairs, "test") == set()


def test_unrelated_frames_are_no_duplicates(frames):
    cells = [cell(image) for image in frames]
    splits = {"train": split(*cells[:100]), "validation": split(*cells[100:150]), "test": split(*cells[150:])}
    assert find_near_duplicates(splits) == []


def test_distances_are_those_of_the_nearest_turn(frames):
    first, second = frames[:7], [*frames[7:11], ImageOps.flip(frames[3])]
    splits = {"a": split(*(cell(image) for image in first)), "b": split(*(cell(image) for image in second))}
    decoded = {name: [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows] for name, rows in splits.items()}
    hashes = {name: [frame_hashes(image) for image in images] for name, images in decoded.items()}
    expected = {
        (i, j): min(sum(ours[0] != turned) for turned in theirs)
        for i, ours in enumerate(hashes["a"])
        for j, theirs in enumerate(hashes["b"])
    }
    found = find_near_duplicates(splits, max_distance=BITS)
    assert {(pair.first_index, pair.second_index): pair.distance for pair in found} == expected
    assert (found[0].first_index, found[0].second_index) == (3, 4)
    limit = found[10].distance
    assert len(find_near_duplicates(splits, max_distance=limit)) == sum(d <= limit for d in expected.values())


def test_duplicates_within_a_split_are_not_listed(frames):
    twice = [cell(frames[0]), cell(frames[0], quality=60)]
    assert find_near_duplicates({"train": split(*twice), "validation": split(cell(frames[1]))}) == []
    assert find_near_duplicates({"train": split(*twice)}) == []
    pairs = find_near_duplicates({"train": split(*twice), "validation": split(cell(frames[1]), twice[0])})
    assert [(pair.first_index, pair.second_index) for pair in pairs] == [(0, 1), (1, 1)]
    assert pairs[0].distance == 0


def test_images_of_a_pair_are_found_by_their_index(frames):
    splits = {
        "train": split(*(cell(image) for image in frames[:4])).select([3, 1]),
        "test": split(cell(frames[9]), cell(frames[1].resize((40, 30)))),
    }
    (pair,) = find_near_duplicates(splits)
    assert (pair.first_index, pair.second_index) == (1, 1)
    first, second = decode_duplicates(splits, pair)
    assert (first.size, second.size) == ((SIZE, SIZE), (40, 30))
    assert first.tobytes() == Image.open(io.BytesIO(cell(frames[1])["bytes"])).tobytes()


def test_names_are_in_the_local_table_and_not_in_the_picture(frames, tmp_path):
    splits = {
        "train": split(cell(frames[0]), cell(frames[1], "=mary-smith.jpg")),
        "test": split(cell(frames[1], "mary-smith-2.jpg")),
    }
    pairs = find_near_duplicates(splits)
    assert [title for title, *_ in titled_images(splits, pairs)] == ["train row 1\ntest row 0\ndistance 0"]
    write_pairs(pairs, tmp_path / "pairs.csv")
    with open(tmp_path / "pairs.csv", newline="") as file:
        _, row = csv.reader(file)
    assert row == ["train", "1", "./=mary-smith", "test", "0", "mary-smith-2", "0"]  # "=" alone would begin a formula


def test_an_unreadable_image_is_named(frames):
    broken = {"bytes": cell(frames[0])["bytes"][:300], "path": "folder/broken.jpg"}
    with pytest.raises(DatasetError, match=r"The image folder/broken\.jpg cannot be read"):
        find_near_duplicates({"train": split(cell(frames[0])), "test": split(cell(frames[1]), broken)})


def test_real_frames(kvasir_seg):
    pairs = find_near_duplicates(load_splits(kvasir_seg))
    # One frame with and without the recorder's side bars; one shown smaller, beside a map of the position.
    assert [(pair.first_index, pair.second_index) for pair in pairs] == [(47, 95), (75, 96)]
    assert pairs[0] == NearDuplicate(
        first=("train", "cju1dfeupuzlw0835gnxip369"),
        second=("validation", "cjyzul1qggwwj07216mhiv5sy"),
        first_index=47,
        second_index=95,
        distance=pairs[0].distance,
    )
    assert pairs[0].distance < 20
    assert pairs[1].distance <= MAX_DISTANCE - 40
