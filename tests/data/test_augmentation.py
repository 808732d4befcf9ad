"""Augmentation: image and mask move together, and a sample's parameters depend on (seed, epoch, index) alone."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2
from unet_kvasir_seg.common.mask_rules import MaskRules
from unet_kvasir_seg.data import augmentation
from unet_kvasir_seg.data.augmentation import (
    BaselineAugmentation,
    BaselineParameters,
    NoAugmentation,
    RobustAugmentation,
    StrongAugmentation,
    StrongColourAugmentation,
    StrongParameters,
    warp,
)
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import DatasetError
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.data.transforms import EvalTransform, TrainingStream, TrainTransform
from unet_kvasir_seg.data_collator import SegmentationCollator
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor

SIZE = 64


@pytest.fixture
def processor() -> UNetImageProcessor:
    return UNetImageProcessor(size={"height": SIZE, "width": SIZE})


@pytest.fixture(scope="module")
def rows():
    return load_splits("synthetic", synthetic_rows=12, synthetic_size=SIZE)["train"]


def cells(image: Image.Image, mask: Image.Image, image_format: str = "PNG") -> dict[str, list]:
    """One sample as a batch of rows of `load_splits`."""
    encoded = []
    for picture in (image, mask):
        buffer = io.BytesIO()
        picture.save(buffer, image_format, quality=90)
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    return {"image": encoded[:1], "mask": encoded[1:], "index": [0]}


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


def card_parameters(matrix: torch.Tensor, aspect_ratio: float) -> tuple[bool, bool, float]:
    """Whether a matrix of `BaselineAugmentation` flips columns and rows, and its angle in degrees."""
    (across, _, _), (down, along, _) = matrix.tolist()
    # Up to 30 degrees a cosine is positive, so a sign on the diagonal is a flip.
    sign = np.sign(along)
    return across < 0, along < 0, np.degrees(np.arctan2(sign * down / aspect_ratio, sign * along))


def test_the_baselines_parameters_have_the_cards_ranges():
    """Of 2,000 samples: half flipped each way, angles uniform in ±30°, factors uniform in 0.7 to 1.3."""
    card = BaselineAugmentation()
    torch.manual_seed(0)
    columns, rows, angles = np.array([card_parameters(card.sample_matrix(1.5), 1.5) for _ in range(2000)]).T
    assert columns.mean() == pytest.approx(0.5, abs=0.04)
    assert rows.mean() == pytest.approx(0.5, abs=0.04)
    assert (columns * rows).mean() == pytest.approx(0.25, abs=0.04)
    assert -30 <= angles.min() < -29
    assert 29 < angles.max() <= 30
    assert np.histogram(angles, bins=6, range=(-30, 30))[0].min() > 2000 / 6 * 0.8
    # On a uniform image contrast changes nothing, so the level is the brightness factor in per cent.
    parameters = [card.sample_parameters((2, 2)) for _ in range(2000)]
    levels = card.change_colours(torch.full((2000, 3, 2, 2), 100.0), parameters)[:, 0, 0, 0]
    assert levels.min() >= 69.999
    assert levels.max() <= 130.001
    assert levels.mean() == pytest.approx(100, abs=1.5)
    assert levels.std() == pytest.approx(60 / 12**0.5, rel=0.06)


@pytest.mark.parametrize("shape", [(48, 48), (40, 60)])
def test_the_baselines_warp_equals_torchvisions_flips_and_rotation(shape):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, *shape)).float()
    mask = (torch.rand(shape) < 0.5).to(torch.uint8)
    aspect_ratio = shape[1] / shape[0]
    flips_seen = set()
    for _ in range(20):
        matrix = BaselineAugmentation().sample_matrix(aspect_ratio)
        columns, rows, angle = card_parameters(matrix, aspect_ratio)
        expected = [tv_tensors.Image(image), tv_tensors.Mask(mask)]
        if columns:
            expected = [v2.functional.horizontal_flip(part) for part in expected]
        if rows:
            expected = [v2.functional.vertical_flip(part) for part in expected]
        expected = [v2.functional.rotate(part, angle, v2.InterpolationMode.BILINEAR) for part in expected]
        warped, labels = warp(image[None], mask[None], matrix[None], shape)
        torch.testing.assert_close(warped[0], expected[0].as_subclass(torch.Tensor), rtol=0, atol=0.05)
        assert (labels[0] != expected[1].as_subclass(torch.Tensor)).sum() <= 2  # where two pixels are equally near
        flips_seen.add((columns, rows))
    assert len(flips_seen) == 4


def test_the_baseline_and_torchvision_give_the_same_statistics():
    """Over 400 samples of each: mean and spread of brightness and contrast, and the mean image and mask."""
    pair = next(generate(1, SIZE, seed=3))
    image = tv_tensors.Image(pair["image"])
    mask = tv_tensors.Mask(np.array(pair["mask"]) // 255)
    plain = v2.Compose(
        [
            v2.RandomHorizontalFlip(p=0.5),
            v2.RandomVerticalFlip(p=0.5),
            v2.RandomRotation(degrees=30, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.3, contrast=0.3),
        ]
    )
    torch.manual_seed(0)
    expected = [torch.stack(parts).float() for parts in zip(*(plain(image, mask) for _ in range(400)), strict=True)]
    card = BaselineAugmentation()
    batch = [part.as_subclass(torch.Tensor).expand(400, *part.shape) for part in (image, mask)]
    got = [part.float() for part in card(*batch, [card.sample_parameters((SIZE, SIZE)) for _ in range(400)])]
    for statistic in (lambda images: images.mean(dim=(1, 2, 3)), lambda images: images.std(dim=(1, 2, 3))):
        ours, theirs = statistic(got[0]), statistic(expected[0])
        assert ours.mean() == pytest.approx(theirs.mean().item(), abs=4 * theirs.std().item() / 200**0.5)
        assert ours.std() == pytest.approx(theirs.std().item(), rel=0.2)
    # Two runs of 400 samples by torchvision itself differ by up to 2.7 grey levels, and masks by 0.043.
    assert (got[0].mean(0) - expected[0].mean(0)).abs().mean() < 5
    assert (got[1].mean(0) - expected[1].mean(0)).abs().mean() < 0.08
    assert got[1].unique().tolist() == [0, 1]


def test_the_baselines_colours_equal_torchvisions_in_both_orders():
    """To less than three grey levels, since torchvision rounds down after each step."""
    image = torch.randint(0, 256, (3, 32, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    change = v2.functional
    cases = [(0.7, 1.3, True), (0.7, 1.3, False), (1.3, 0.7, True), (1.3, 1.3, False)]
    expected = []
    for brightness, contrast, brightness_first in cases:
        if brightness_first:
            expected.append(change.adjust_contrast(change.adjust_brightness(image, brightness), contrast))
        else:
            expected.append(change.adjust_brightness(change.adjust_contrast(image, contrast), brightness))
    parameters = [BaselineParameters((32, 48), [], *case) for case in cases]
    got = BaselineAugmentation().change_colours(image.expand(4, -1, -1, -1).float(), parameters)
    assert (got - torch.stack(expected)).abs().max() < 3


def test_brightness_and_contrast_leave_the_mask_alone():
    class OnlyColours(BaselineAugmentation):
        def sample_matrix(self, aspect_ratio):
            return torch.eye(2, 3)

    mask = torch.eye(8, dtype=torch.uint8)
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    card = OnlyColours()
    changed, kept = card(image[None], mask[None], [card.sample_parameters((8, 8))])
    assert torch.equal(kept[0], mask)
    assert not torch.equal(changed[0], image)


def test_parameters_depend_on_seed_epoch_and_index_alone(processor, rows):
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


def test_the_global_generators_state_is_restored(processor):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    TrainTransform(processor)(marked_row())
    assert torch.equal(torch.rand(2), expected)


def test_evaluation_uses_the_processor_alone(processor):
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


def test_a_mask_of_three_classes_is_refused_with_the_remedy(processor):
    levels = np.zeros((SIZE, SIZE), np.uint8)
    levels[:20], levels[40:] = 1, 2
    row = cells(Image.new("RGB", (SIZE, SIZE)), Image.fromarray(levels))
    with pytest.raises(DatasetError, match=r"row 0: .*--foreground_values"):
        EvalTransform(processor)(row)
    with pytest.raises(DatasetError, match=r"row 0: .*--foreground_values"):
        TrainTransform(processor)(row)
    chosen = EvalTransform(processor, MaskRules([2]))(row)["labels"][0]
    assert torch.equal(chosen, torch.tensor(levels == 2).long())
    assert TrainTransform(processor, MaskRules([2]))(row)["labels"][0].sum() > 0


def unaugmented(processor: UNetImageProcessor, **settings) -> TrainTransform:
    class Nothing(BaselineAugmentation):
        def sample_parameters(self, size, aspect_ratio=1.0):
            return BaselineParameters(
                size, torch.eye(2, 3).tolist(), brightness=1.0, contrast=1.0, brightness_first=True
            )

    transform = TrainTransform(processor, **settings)
    transform.augmentation = Nothing()
    return transform


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(64, 64), (131, 255), (256, 258), (601, 780), (604, 780)])
def test_training_reads_samples_like_evaluation(processor, size, image_format):
    """Masks are equal to the pixel; so are images, except for JPEG images that are decoded at a reduced size."""
    pair = next(generate(1, size, seed=2))
    row = cells(pair["image"], pair["mask"], image_format)
    expected, got = EvalTransform(processor)(row), unaugmented(processor)(row)
    assert torch.equal(got["labels"][0], expected["labels"][0])
    difference = (got["pixel_values"][0] - expected["pixel_values"][0]).abs() * 255
    is_reduced = image_format == "JPEG" and size in ((256, 258), (604, 780))
    assert (difference.max() > 0) == is_reduced
    assert difference.mean() < 0.5
    assert difference.max() < 12


def test_a_large_frame_keeps_its_aspect_ratio(processor):
    row = cells(Image.new("RGB", (518, 264)), Image.new("L", (518, 264)), "JPEG")
    assert TrainTransform(processor)._resized({name: values[0] for name, values in row.items()})[2] == 518 / 264


def test_a_frame_that_is_not_resized_is_read_at_full_size():
    row = cells(*next(generate(1, 512, seed=2)).values(), "JPEG")
    small = {"height": 32, "width": 32}
    as_they_are = UNetImageProcessor(do_resize=False, size=small)
    expected = EvalTransform(as_they_are)(row)
    got = unaugmented(as_they_are)(row)
    assert torch.equal(got["pixel_values"][0], expected["pixel_values"][0])
    assert torch.equal(got["labels"][0], expected["labels"][0])


@pytest.mark.parametrize("samples_that_fit", [0, 1, 12])
def test_the_cache_changes_no_result_and_keeps_its_limit(processor, rows, samples_that_fit):
    sample_bytes = 4 * SIZE * SIZE
    plain, caching = (
        TrainTransform(processor, seed=1, cache_bytes=n) for n in (0, samples_that_fit * sample_bytes + 1)
    )
    for number in range(2):
        for transform in (plain, caching):
            transform.set_epoch(number)
        for i in range(12):
            expected, got = rows.with_transform(plain)[i], rows.with_transform(caching)[i]
            assert torch.equal(got["pixel_values"], expected["pixel_values"])
            assert torch.equal(got["labels"], expected["labels"])
    assert len(caching._cache) == samples_that_fit


def known_by_their_pixels(examples) -> list[bytes]:
    return [example["labels"].numpy().tobytes() + example["pixel_values"].numpy().tobytes() for example in examples]


@pytest.fixture
def stream(rows, processor, tmp_path) -> TrainingStream:
    """Twelve samples in two shards, not augmented, so that each can be recognised."""
    for shard in range(2):
        part = rows.remove_columns("index").shard(2, shard)
        part.to_parquet(str(tmp_path / "data" / f"train-0000{shard}-of-00002.parquet"))
    part.to_parquet(str(tmp_path / "data" / "validation-00000-of-00001.parquet"))
    return TrainingStream(load_splits(str(tmp_path), streaming=True)["train"], unaugmented(processor), seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_gives_each_sample_once_an_epoch_in_another_order(stream, processor, rows, workers):
    data = rows.with_transform(EvalTransform(processor))
    expected = sorted(known_by_their_pixels(data[i] for i in range(12)))
    orders = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        orders.append(known_by_their_pixels(DataLoader(stream, batch_size=None, num_workers=workers)))
        assert sorted(orders[-1]) == expected
    assert orders[0] != orders[1]


def test_a_stream_shared_by_two_processes_gives_each_sample_once_an_epoch(stream, processor, rows):
    """Shared by accelerate, batch by batch, with two workers in each process."""
    data = rows.with_transform(EvalTransform(processor))
    expected = sorted(known_by_their_pixels(data[i] for i in range(12)))
    for epoch in range(2):
        seen = []
        for process in range(2):
            shard = IterableDatasetShard(stream, batch_size=3, num_processes=2, process_index=process)
            shard.set_epoch(epoch)
            seen += known_by_their_pixels(DataLoader(shard, batch_size=None, num_workers=2))
        assert sorted(seen) == expected


def test_a_stream_of_unknown_length_has_no_length(stream):
    with pytest.raises(TypeError, match="does not say how many samples"):
        len(stream)


def test_a_stream_leaves_the_augmentation_to_the_batches(stream, processor, rows):
    stream.transform.in_batches = True
    batches = [SegmentationCollator()(list(examples)) for examples in zip(*[iter(stream)] * 3, strict=True)]
    augmented = [stream.transform.augment(**batch) for batch in batches]
    got = [{name: part[i] for name, part in batch.items()} for batch in augmented for i in range(3)]
    data = rows.with_transform(EvalTransform(processor))
    assert sorted(known_by_their_pixels(got)) == sorted(known_by_their_pixels(data[i] for i in range(12)))


# --- Strong augmentation ---


def test_warp_by_a_known_matrix():
    """A quarter turn, half the size, a shift: the input pixel of each output pixel is known."""
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(3, 8, 8)
    mask = (torch.arange(64).view(8, 8) % 3 == 0).to(torch.uint8)

    def warped(matrix, size):
        images, masks = warp(image[None], mask[None], torch.tensor([matrix]), size)
        return images[0], masks[0]

    # Result (x, y) comes from (-y, x): the image turned counter-clockwise once by numpy's convention.
    turned, labels = warped([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]], (8, 8))
    torch.testing.assert_close(turned, image.rot90(1, (1, 2)).float())
    assert torch.equal(labels, mask.rot90(1, (0, 1)))
    # Twice the range is seen: the image takes the middle half of the result, black around it.
    small, labels = warped([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], (16, 16))
    torch.testing.assert_close(small[:, 4:12, 4:12], image.float())
    assert torch.equal(labels[4:12, 4:12], mask)
    assert small.sum() == image.sum()
    # A shift of 0.5 in a range of 2 is a quarter of the side.
    shifted, _ = warped([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]], (8, 8))
    torch.testing.assert_close(shifted[:, :, :6], image[:, :, 2:].float())


@pytest.mark.parametrize("aspect_ratio", [1.0, 4 / 3])
def test_ranges_of_the_strong_warp(aspect_ratio):
    """In the frame's own aspect ratio: scale log-uniform, half flipped, shift uniform, any angle."""
    torch.manual_seed(0)
    matrices = torch.stack([StrongAugmentation.sample_matrix(aspect_ratio) for _ in range(2000)]).double()
    proportions = torch.diag(torch.tensor([aspect_ratio, 1.0])).double()
    linear = proportions @ matrices[:, :, :2] @ proportions.inverse()
    # Rotation and shear keep areas, flips change their sign.
    areas = torch.linalg.det(linear)
    scales = areas.abs().rsqrt()
    assert 0.6 <= scales.min() < 0.61
    assert 1.48 < scales.max() <= 1.5
    assert scales.log().std() == pytest.approx(np.log(1.5 / 0.6) / 12**0.5, rel=0.05)
    assert (areas < 0).double().mean() == pytest.approx(0.5, abs=0.04)
    shifts = matrices[:, :, 2]
    assert 0.39 < shifts.abs().max() <= 0.4
    assert shifts.std() == pytest.approx(0.8 / 12**0.5, rel=0.04)
    # Where the first axis goes is the angle, as nothing but the rotation turns it.
    angles = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])
    quarters = torch.histc(angles, bins=8, min=-torch.pi, max=torch.pi)
    assert quarters.min() > 2000 / 8 * 0.75
    lengths = linear[:, :, 0].norm(dim=1) * scales
    assert 1.07 < lengths.max() <= np.exp(0.075) + 1e-6


def test_a_round_polyp_stays_round_in_a_wide_frame(processor):
    """For any angle, in a frame of 2:1, which the processor resizes to a square."""
    height, width = 64, 128
    y, x = np.mgrid[:height, :width]
    disc = ((y - 32) ** 2 + (x - 64) ** 2 < 14**2).astype(np.uint8)
    row = cells(Image.fromarray(np.repeat(disc[..., None] * 200, 3, axis=2)), Image.fromarray(disc * 255))
    transform = TrainTransform(processor, seed=3, augmentation="strong")
    _, _, aspect_ratio = transform._resized({name: values[0] for name, values in row.items()})
    assert aspect_ratio == 2.0
    for epoch in range(6):
        transform.set_epoch(epoch)
        rows, columns = (axis.double() for axis in transform(row)["labels"][0].nonzero(as_tuple=True))
        # The disc becomes an ellipse, by shear and stretch; turning the squeezed image in place of the frame
        # would make axes of up to 4:1.
        spread = torch.linalg.eigvalsh(torch.cov(torch.stack([rows, 2 * columns]))).sqrt()
        assert spread[1] / spread[0] < 1.65


def test_strong_colours_stay_near_and_leave_the_mask_alone(processor):
    torch.manual_seed(0)
    strong = StrongAugmentation()
    grey = torch.full((500, 3, 16, 16), 0.5)
    means = strong.change_colours(grey, [strong.sample_parameters((16, 16)) for _ in range(500)]).mean(dim=(2, 3))
    # Brightness 0.7 to 1.3 and the channel's 0.92 to 1.08 act on 0.5; contrast and saturation on grey do nothing
    # but by the channels' difference; gamma may add or take an eighth.
    assert means.min() > 0.5 * 0.7 * 0.88 * 0.75
    assert means.max() < 0.5 * 1.3 * 1.12 * 1.25
    assert means.mean() == pytest.approx(0.5, abs=0.02)
    assert (means.max(dim=1).values - means.min(dim=1).values).max() > 0.05
    example = TrainTransform(processor, augmentation="strong")(marked_row())
    assert example["labels"][0].dtype == torch.int64
    assert example["labels"][0].unique().tolist() == [0, 1]
    assert example["pixel_values"][0].min() >= 0
    assert example["pixel_values"][0].max() <= 1


def test_ranges_and_shares_of_the_strong_colours():
    torch.manual_seed(0)
    sampled = [StrongColourAugmentation().sample_parameters((16, 16)) for _ in range(4000)]
    coloured = [each for each in sampled if each.saturation > 0]
    values = {
        "brightness": ([each.brightness for each in sampled], 0.6, 1.4),
        "contrast": ([each.contrast for each in sampled], 0.6, 1.4),
        "saturation": ([each.saturation for each in coloured], 0.6, 1.4),
        "channels": ([factor for each in coloured for factor in each.channels], 0.75, 1.25),
        "log of gamma": ([np.log(each.gamma) for each in sampled], -0.3, 0.3),
    }
    for name, (found, low, high) in values.items():
        assert low <= min(found) < low + 0.01 * (high - low), name
        assert high >= max(found) > high - 0.01 * (high - low), name
    shares = {
        0.1: [4000 - len(coloured), sum(each.jpeg_quality is not None for each in sampled)],
        0.2: [sum(each.reduction < 1 for each in sampled), sum(each.noise > 0 for each in sampled)],
    }
    for share, counts in shares.items():
        # Four standard deviations of a binomial distribution.
        assert counts == [pytest.approx(4000 * share, abs=4 * (4000 * share * (1 - share)) ** 0.5)] * 2
    assert all(each.channels == [1, 1, 1] for each in sampled if each.saturation == 0)


def test_faults_of_robust_and_their_shares():
    torch.manual_seed(0)
    count, share = 6000, 0.4 / 6
    sampled = [RobustAugmentation().sample_parameters((16, 16)) for _ in range(count)]
    # Each fault, apart from what strong_colour gives too: noise up to 0.06, quality from 20, reduction from 0.25.
    faults = {
        "blur": ([math.log(each.blur) for each in sampled if each.blur], math.log(0.75), math.log(5)),
        "motion": ([math.log(each.motion[0]) for each in sampled if each.motion[0]], math.log(3), math.log(25)),
        "reduction": (
            [math.log(each.reduction) for each in sampled if each.reduction < 0.25],
            math.log(0.1),
            math.log(0.25),
        ),
        "noise": ([each.noise for each in sampled if each.noise > 0.06], 0.06, 0.16),
        "quality": ([each.jpeg_quality for each in sampled if (each.jpeg_quality or 20) < 20], 5, 19),
        "interlacing": ([abs(each.interlacing) for each in sampled if each.interlacing], 2, 12),
    }
    for name, (found, low, high) in faults.items():
        assert low <= min(found) <= low + 0.03 * (high - low), name
        assert high >= max(found) >= high - 0.03 * (high - low), name
        expected = count * share * (15 / 16 if name == "quality" else 1)
        assert len(found) == pytest.approx(expected, abs=4 * expected**0.5), name
    kinds = [
        sum((each.blur > 0, each.motion[0] > 0, each.reduction < 0.25, each.noise > 0.06, each.interlacing != 0))
        for each in sampled
    ]
    assert max(kinds) == 1
    assert {each.interlacing > 0 for each in sampled if each.interlacing} == {True, False}


@pytest.mark.parametrize(("angle", "axis"), [(0.0, 1), (math.pi / 2, 0)])
def test_motion_smears_a_point_to_a_line(angle, axis):
    point = torch.zeros(1, 3, 41, 41)
    point[..., 20, 20] = 1
    smeared = StrongAugmentation.change_colours(point, plain_colours(motion=(10.0, angle)))[0, 0]
    across = smeared.sum(dim=axis)
    assert across[20] == pytest.approx(1, abs=1e-5)
    along = smeared.sum(dim=1 - axis)
    expected = torch.zeros(41)
    expected[15:26] = 0.1
    expected[[15, 25]] = 0.05  # the ends reach half of these pixels
    torch.testing.assert_close(along, expected, atol=0.005, rtol=0)
    assert along[:15].sum() == along[26:].sum() == 0
    torch.testing.assert_close(along, along.flip(0), atol=0.005, rtol=0)


def test_interlacing_moves_odd_rows_alone():
    image = torch.rand(1, 3, 6, 8)
    moved = StrongAugmentation.change_colours(image.clone(), plain_colours(interlacing=2))
    torch.testing.assert_close(moved[:, :, ::2], image[:, :, ::2], atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[:, :, 1::2, 2:], image[:, :, 1::2, :-2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("blur", [1.0, 4.0])
def test_blur_has_the_standard_deviation_that_was_sampled(blur):
    """A point becomes a Gaussian, cut at twice its standard deviation, which leaves 0.77 of its variance."""
    point = torch.zeros(1, 3, 41, 41)
    point[..., 20, 20] = 1
    plain = NoAugmentation().sample_parameters((41, 41))
    colours = dict(brightness=1.0, contrast=1.0, saturation=1.0, channels=[1.0] * 3, gamma=1.0)
    parameters = StrongParameters((41, 41), plain.matrix, **colours, blur=blur, noise=0.0, noise_seed=0)
    blurred = StrongAugmentation.change_colours(point, [parameters])[0, 0]
    offsets = torch.arange(41.0) - 20
    deviation = (blurred.sum(0) * offsets**2).sum().div(blurred.sum()).sqrt()
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert 0.85 * blur < deviation <= blur


def test_none_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 20, 30), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, 2, (3, 20, 30), generator=generator, dtype=torch.uint8)
    none = NoAugmentation()
    changed, labels = none(images, masks, [none.sample_parameters((20, 30)) for _ in range(3)])
    assert torch.equal(changed, images)
    assert torch.equal(labels, masks)


def plain_colours(**changes) -> list:
    """Parameters that leave the colours of one image as they are, apart from the changes."""
    unchanged = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "channels": [1.0] * 3, "gamma": 1.0}
    sampled = StrongColourAugmentation().sample_parameters((SIZE, SIZE))
    return [replace(sampled, **unchanged, noise=0.0, **{"reduction": 1.0, "jpeg_quality": None} | changes)]


def test_a_reduced_image_keeps_its_means_and_loses_its_details():
    checks = (torch.arange(SIZE)[:, None] + torch.arange(SIZE)) % 2
    image = torch.stack([checks, checks, 1 - checks]).float()[None]
    image[:, 0, :, SIZE // 2 :] = 1
    got = StrongColourAugmentation().change_colours(image.clone(), plain_colours(reduction=0.25))
    assert got.mean(dim=(2, 3))[0].tolist() == pytest.approx([0.75, 0.5, 0.5], abs=0.01)
    assert got[0, 1].std() < 0.02  # the checks become grey
    assert got[0, 0, 8, SIZE - 8] == pytest.approx(1, abs=0.01)  # large areas stay
    assert torch.equal(StrongColourAugmentation().change_colours(image.clone(), plain_colours()), image)


def test_an_image_through_jpeg_is_that_of_pillow(rows):
    image = Image.open(io.BytesIO(rows[0]["image"]["bytes"])).convert("RGB")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    got = StrongColourAugmentation().change_colours(pixels.clone(), plain_colours(jpeg_quality=30))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    expected = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)[None] / 255
    assert (got - pixels).abs().mean() > 0.005
    assert (got - expected).abs().mean() < 0.25 * (got - pixels).abs().mean()


# --- Windows without polyp ---


def test_a_share_of_the_examples_are_windows_and_the_others_are_unchanged(processor, rows):
    """Rows are unaugmented, so that a window can be found in its frame; the others are the frames to the pixel."""
    plain, windowed = (unaugmented(processor, negative_window_share=share) for share in (0, 0.5))
    plain_rows, windowed_rows = rows.with_transform(plain), rows.with_transform(windowed)
    windows = 0
    for epoch in range(6):
        for transform in (plain, windowed):
            transform.set_epoch(epoch)
        for frame, example in zip(plain_rows, windowed_rows, strict=True):
            if torch.equal(example["pixel_values"], frame["pixel_values"]):
                assert torch.equal(example["labels"], frame["labels"])
            else:
                windows += 1
                assert not example["labels"].any()
                assert example["labels"].shape == (SIZE, SIZE)
                assert example["labels"].dtype == frame["labels"].dtype
    assert 20 < windows < 52  # 72 * 0.5, and four standard deviations


def test_windows_depend_on_seed_epoch_and_index_alone(processor, rows):
    def examples(order, epoch: int, cache_bytes: int = 0, seed: int = 7) -> dict[int, torch.Tensor]:
        settings = {"augmentation": "strong_colour", "negative_window_share": 0.5, "cache_bytes": cache_bytes}
        transform = TrainTransform(processor, seed=seed, **settings)
        data = rows.with_transform(transform)
        for index in order if cache_bytes else ():
            data[index]  # fills the cache
        transform.set_epoch(epoch)
        return {index: data[index]["pixel_values"] for index in order}

    first = examples(range(12), epoch=1)
    for again in (examples(range(11, -1, -1), epoch=1), examples(range(12), epoch=1, cache_bytes=2**20)):
        assert all(torch.equal(first[index], again[index]) for index in range(12))
    for other in (examples(range(12), epoch=2), examples(range(12), epoch=1, seed=8)):
        assert not any(torch.equal(first[index], other[index]) for index in range(12))


def test_a_window_is_as_sharp_as_its_frame(processor):
    """Cut from the frame at full size: of checks of four pixels in 512x512, resized frames show only grey."""
    y, x = np.mgrid[:512, :512]
    checks = np.repeat((((y // 4 + x // 4) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    mask = np.zeros((512, 512), np.uint8)
    mask[:, 150:] = 255  # leaves room for windows of 128 to 150 pixels
    row = cells(Image.fromarray(checks), Image.fromarray(mask))
    transform = unaugmented(processor, negative_window_share=0.999)
    window = transform(row)["pixel_values"][0]
    frame = unaugmented(processor)(row)["pixel_values"][0]
    assert frame.std() < 0.01
    assert window.std() > 0.1


def test_a_frame_without_room_for_a_window_is_the_example(processor):
    row = marked_row()
    full = cells(Image.open(io.BytesIO(row["image"][0]["bytes"])), Image.new("L", (SIZE, SIZE), 255))
    example = unaugmented(processor, negative_window_share=0.999)(full)
    assert example["labels"][0].all()


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_of_windows_out_of_range_is_refused(processor, share):
    with pytest.raises(ValueError, match="`negative_window_share` must be at least 0 and below 1, got"):
        TrainTransform(processor, negative_window_share=share)


def test_strong_parameters_depend_on_seed_epoch_and_index_alone(processor, rows):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    transform = TrainTransform(processor, seed=7, augmentation="strong", cache_bytes=2**20)
    data = rows.with_transform(transform)
    first = [data[i]["pixel_values"] for i in (0, 1)]
    again = [data[i]["pixel_values"] for i in (1, 0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    transform.set_epoch(1)
    assert not torch.equal(data[0]["pixel_values"], first[0])
    assert torch.equal(torch.rand(2), expected)


def test_progressive_sizes_come_first(processor, rows):
    transform = TrainTransform(processor, augmentation="strong", progressive_sizes=[(16, 2), (32, 3)])
    sides = []
    for epoch in range(4):
        transform.set_epoch(epoch)
        example = rows.with_transform(transform)[0]
        assert example["labels"].shape == example["pixel_values"].shape[1:]
        sides.append(tuple(example["labels"].shape))
    assert sides == [(16, 16), (16, 16), (32, 32), (64, 64)]


def test_an_unknown_augmentation_is_refused(processor):
    with pytest.raises(
        ValueError, match="`augmentation` must be one of card, none, strong, strong_colour, robust, got 'weak'"
    ):
        TrainTransform(processor, augmentation="weak")


# --- In batches, on the device that trains ---


@pytest.mark.parametrize("name", ["card", "none", "strong", "strong_colour", "robust"])
def test_augmenting_a_batch_equals_augmenting_each_sample(processor, rows, name):
    """Images to one grey level, since sums are in another order; masks to the pixel."""
    settings = {"seed": 5, "augmentation": name, "progressive_sizes": [(32, 1)], "negative_window_share": 0.3}
    one_by_one = TrainTransform(processor, **settings)
    in_batches = TrainTransform(processor, **settings, in_batches=True)
    for epoch, side in enumerate((32, SIZE)):
        for transform in (one_by_one, in_batches):
            transform.set_epoch(epoch)
        expected = SegmentationCollator()(list(rows.with_transform(one_by_one)))
        data = rows.with_transform(in_batches)
        for order in (range(12), range(11, 3, -1)):
            batch = SegmentationCollator()([data[i] for i in order])
            assert batch["pixel_values"].dtype == torch.uint8
            got = in_batches.augment(**batch)
            assert got["pixel_values"].shape == (len(order), 3, side, side)
            assert (got["pixel_values"] - expected["pixel_values"][list(order)]).abs().max() < 1.01 / 255
            assert torch.equal(got["labels"], expected["labels"][list(order)])


def test_workers_and_the_main_process_sample_the_same_parameters(processor, rows):
    transform = TrainTransform(processor, seed=2, augmentation="strong", in_batches=True)
    data = rows.with_transform(transform)
    loaders = [DataLoader(data, 5, collate_fn=SegmentationCollator(), num_workers=workers) for workers in (0, 2)]
    for epoch in range(2):
        transform.set_epoch(epoch)
        for alone, shared in zip(*loaders, strict=True):
            assert shared["augmentation_parameters"] == alone["augmentation_parameters"]
            assert torch.equal(shared["pixel_values"], alone["pixel_values"])


@pytest.mark.parametrize("mean", [0.5, [0.5, 0.4, 0.6]])
def test_normalisation_of_a_batch(mean):
    settings = {"do_normalize": True, "image_mean": mean, "image_std": 0.25 if mean == 0.5 else [0.25] * 3}
    processor = UNetImageProcessor(size={"height": SIZE, "width": SIZE}, **settings)
    transform = unaugmented(processor)
    transform.in_batches = True
    got = transform.augment(**SegmentationCollator()([{k: v[0] for k, v in transform(marked_row()).items()}] * 2))
    expected = EvalTransform(processor)(marked_row())
    torch.testing.assert_close(got["pixel_values"][1], expected["pixel_values"][0])
    assert torch.equal(got["labels"][1], expected["labels"][0])


@pytest.mark.parametrize("augment", [BaselineAugmentation(), StrongAugmentation(), StrongColourAugmentation()])
def test_augmentation_runs_on_the_device_of_the_batch(augment):
    """With fake tensors of another device, which raise an error if two devices are mixed."""
    parameters = [augment.sample_parameters((SIZE, SIZE)) for _ in range(4)]
    if isinstance(augment, StrongAugmentation):
        # A generator of random numbers and a JPEG file cannot be faked.
        plain = {"noise": 0.0, "jpeg_quality": None}
        parameters = [replace(each, gamma=1.2, blur=1.0, reduction=0.5, **plain) for each in parameters]
    try:
        with FakeTensorMode():
            images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8, device="cuda")
            augmented, masks = augment(images, images[:, 0], parameters)
            assert (augmented.device.type, masks.device.type) == ("cuda", "cuda")
            assert augmented.shape == (4, 3, SIZE, SIZE)
    finally:
        augmentation._pixel_centres.cache_clear()  # it holds fake ones
