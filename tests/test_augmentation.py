"""Augmentation: image and mask move together, and a row's draws depend on (seed, epoch, row) alone."""

import io

import numpy as np
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2
from unet_kvasir_seg.data.augmentation import EvalTransform, TrainingStream, TrainTransform, card_augmentation
from unet_kvasir_seg.data.dataset import DatasetError, load_splits
from unet_kvasir_seg.data_collator import SegmentationCollator
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor

SIZE = 64


@pytest.fixture
def processor() -> UNetImageProcessor:
    return UNetImageProcessor(size={"height": SIZE, "width": SIZE})


@pytest.fixture(scope="module")
def rows():
    return load_splits("synthetic", synthetic_rows=12, synthetic_size=SIZE)["train"]


def cells(image: Image.Image, mask: Image.Image) -> dict[str, list]:
    """One row as `load_splits` gives it."""
    encoded = []
    for picture in (image, mask):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    return {"image": encoded[:1], "mask": encoded[1:], "row": [0]}


def marked_row() -> dict[str, list]:
    """A white disc off the centre on grey, and its mask."""
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = (y - 24) ** 2 + (x - 40) ** 2 < 8**2
    image = np.repeat(np.where(disc, 255, 60)[..., None], 3, axis=2).astype(np.uint8)
    return cells(Image.fromarray(image), Image.fromarray(disc.astype(np.uint8) * 255))


def test_image_and_mask_move_together(processor):
    transform = TrainTransform(processor, seed=0)
    places = set()
    for epoch in range(12):
        transform.set_epoch(epoch)
        example = transform(marked_row())
        image, mask = example["pixel_values"][0], example["labels"][0]
        bright = image[0] > image[0].max() * 0.8
        # Bilinear and nearest sampling may differ along the outline, nowhere else.
        assert (bright != (mask == 1)).sum() <= 0.3 * mask.sum()
        assert mask.unique().tolist() == [0, 1]
        assert 0.85 < mask.sum() / 193 < 1.15  # the disc's own area
        places.add(tuple(int(axis.float().mean()) for axis in mask.nonzero(as_tuple=True)))
    assert len(places) > 6


def test_draws_are_those_of_the_card():
    """Of 2,000 draws: half flipped each way, angles uniform in ±30°, factors uniform in 0.7 to 1.3."""
    horizontal, vertical, rotation, jitter = card_augmentation().transforms
    assert (horizontal.p, vertical.p) == (0.5, 0.5)
    torch.manual_seed(0)
    angles = torch.tensor([rotation.make_params([])["angle"] for _ in range(2000)])
    assert -30 <= angles.min() < -29
    assert 29 < angles.max() <= 30
    assert angles.std() == pytest.approx(60 / 12**0.5, rel=0.05)
    grey = tv_tensors.Image(torch.full((3, 2, 2), 100, dtype=torch.uint8))
    # On a uniform image contrast changes nothing, so the level is the brightness factor in per cent.
    levels = torch.tensor([float(jitter(grey)[0, 0, 0]) for _ in range(2000)])
    assert levels.min() >= 69
    assert levels.max() <= 130
    assert levels.mean() == pytest.approx(100, abs=1.5)
    assert levels.std() == pytest.approx(60 / 12**0.5, rel=0.06)


def test_brightness_and_contrast_leave_the_mask_alone():
    jitter = card_augmentation().transforms[-1]
    mask = tv_tensors.Mask(torch.eye(8, dtype=torch.int64))
    image = tv_tensors.Image(torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8))
    changed, kept = jitter(image, mask)
    assert torch.equal(kept, mask)
    assert not torch.equal(changed, image)


def test_draws_depend_on_seed_epoch_and_row_alone(processor, rows):
    transform = TrainTransform(processor, seed=7)
    data = rows.with_transform(transform)

    def epoch(number: int, order: list[int]) -> dict[int, torch.Tensor]:
        transform.set_epoch(number)
        return {i: data[i]["pixel_values"] for i in order}

    first, again, second = epoch(0, [0, 1, 2]), epoch(0, [2, 0, 1]), epoch(1, [0, 1, 2])
    assert all(torch.equal(first[i], again[i]) for i in range(3))
    assert all(not torch.equal(first[i], second[i]) for i in range(3))
    other_seed = rows.with_transform(TrainTransform(processor, seed=8))
    assert not torch.equal(other_seed[0]["pixel_values"], first[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches_in_every_epoch(processor, rows, workers):
    transform = TrainTransform(processor, seed=7)
    data = rows.with_transform(transform)
    loaders = [
        DataLoader(data, batch_size=5, collate_fn=SegmentationCollator(), **options)
        for options in ({}, {"num_workers": workers, "persistent_workers": True})
    ]
    for number in range(2):
        transform.set_epoch(number)
        for alone, shared in zip(*loaders, strict=True):
            assert torch.equal(alone["pixel_values"], shared["pixel_values"])
            assert torch.equal(alone["labels"], shared["labels"])


def test_the_global_generator_is_left_as_it_was(processor):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    TrainTransform(processor)(marked_row())
    assert torch.equal(torch.rand(2), expected)


def test_evaluation_is_the_processor_alone(processor):
    row = marked_row()
    example = EvalTransform(processor)(row)
    direct = processor(Image.open(io.BytesIO(row["image"][0]["bytes"])), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(example["pixel_values"][0], direct)
    assert example["labels"][0].sum() == 193


def test_normalisation_comes_after_the_augmentation():
    """A processor that normalises changes the training images by exactly that."""
    plain = UNetImageProcessor(size={"height": SIZE, "width": SIZE})
    settings = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    normalising = UNetImageProcessor(size={"height": SIZE, "width": SIZE}, **settings)
    expected = (TrainTransform(plain, seed=1)(marked_row())["pixel_values"][0] - 0.5) / 0.25
    torch.testing.assert_close(TrainTransform(normalising, seed=1)(marked_row())["pixel_values"][0], expected)


def test_a_mask_of_three_classes_is_named_with_the_remedy(processor):
    levels = np.zeros((SIZE, SIZE), np.uint8)
    levels[:20], levels[40:] = 1, 2
    row = cells(Image.new("RGB", (SIZE, SIZE)), Image.fromarray(levels))
    with pytest.raises(DatasetError, match=r"row 0: .*--foreground_values"):
        EvalTransform(processor)(row)
    chosen = EvalTransform(processor, foreground_values=[2])(row)["labels"][0]
    assert torch.equal(chosen, torch.tensor(levels == 2).long())


@pytest.mark.parametrize("rows_that_fit", [0, 1, 12])
def test_the_cache_changes_nothing_and_keeps_to_its_bound(processor, rows, rows_that_fit):
    row_bytes = 4 * SIZE * SIZE
    plain, caching = (TrainTransform(processor, seed=1, cache_bytes=n) for n in (0, rows_that_fit * row_bytes + 1))
    for number in range(2):
        for transform in (plain, caching):
            transform.set_epoch(number)
        for i in range(12):
            expected, got = rows.with_transform(plain)[i], rows.with_transform(caching)[i]
            assert torch.equal(got["pixel_values"], expected["pixel_values"])
            assert torch.equal(got["labels"], expected["labels"])
    assert len(caching._cache) == rows_that_fit


def known_by_their_pixels(examples) -> list[bytes]:
    return [example["labels"].numpy().tobytes() + example["pixel_values"].numpy().tobytes() for example in examples]


@pytest.fixture
def stream(rows, processor, tmp_path) -> TrainingStream:
    """Twelve rows in two shards, left as they are by the augmentation so that they can be told apart."""
    for shard in range(2):
        part = rows.remove_columns("row").shard(2, shard)
        part.to_parquet(str(tmp_path / "data" / f"train-0000{shard}-of-00002.parquet"))
    part.to_parquet(str(tmp_path / "data" / "validation-00000-of-00001.parquet"))
    transform = TrainTransform(processor, seed=0)
    transform.augmentation = v2.Identity()
    return TrainingStream(load_splits(str(tmp_path), streaming=True)["train"], transform, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_gives_each_row_once_an_epoch_in_another_order(stream, processor, rows, workers):
    data = rows.with_transform(EvalTransform(processor))
    expected = sorted(known_by_their_pixels(data[i] for i in range(12)))
    orders = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        orders.append(known_by_their_pixels(DataLoader(stream, batch_size=None, num_workers=workers)))
        assert sorted(orders[-1]) == expected
    assert orders[0] != orders[1]


def test_a_stream_shared_by_two_processes_gives_each_row_once_an_epoch(stream, processor, rows):
    """As accelerate shares it, batch by batch, each process with two workers."""
    data = rows.with_transform(EvalTransform(processor))
    expected = sorted(known_by_their_pixels(data[i] for i in range(12)))
    for epoch in range(2):
        seen = []
        for process in range(2):
            shard = IterableDatasetShard(stream, batch_size=3, num_processes=2, process_index=process)
            shard.set_epoch(epoch)
            seen += known_by_their_pixels(DataLoader(shard, batch_size=None, num_workers=2))
        assert sorted(seen) == expected


def test_a_stream_knows_its_rows(stream):
    with pytest.raises(TypeError, match="does not say how many rows"):
        len(stream)
