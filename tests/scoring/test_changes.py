"""What the changes do to a frame, against values worked out by hand, and that they repeat."""

import io

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.data.samples import Sample
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.scoring.changes import CHANGES, STRENGTHS

GEOMETRY = "border with text"


@pytest.fixture(scope="module")
def sample() -> Sample:
    pair = next(generate(1, (240, 320), seed=3))
    return Sample("frame", pair["image"], np.asarray(pair["mask"]) > 0)


def flat(*colour: int, size: tuple[int, int] = (60, 40)) -> Sample:
    return Sample("flat", Image.new("RGB", size, colour), np.zeros(size[::-1], dtype=bool))


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(sample.image).astype(float)


def over_seeds(name: str, sample: Sample, strength: int) -> set[tuple[int, ...]]:
    """The colours of a flat frame that some seeds give."""
    changed = (CHANGES[name].apply(sample, strength, seed) for seed in range(12))
    return {tuple(np.asarray(one.image)[0, 0].tolist()) for one in changed}


def test_there_are_ten_changes_of_five_strengths():
    assert len(CHANGES) == 10
    assert all(len(change.levels) == STRENGTHS for change in CHANGES.values())
    assert CHANGES["JPEG"].describe(5) == "quality 10"
    assert CHANGES[GEOMETRY].describe(4) == "panel of 30 % of the width"
    assert CHANGES["hue and white balance"].describe(5) == "grey"


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_repeats_by_seed_and_image_and_grows_with_its_strength(name, sample):
    change = CHANGES[name]
    before = sample.image.tobytes()
    renamed = Sample("other", sample.image.copy(), sample.ground_truth)
    distances = []
    for strength in range(1, STRENGTHS + 1):
        changed = change.apply(sample, strength, seed=1)
        assert changed.image.tobytes() == change.apply(renamed, strength, seed=1).image.tobytes()
        assert changed.image.mode == "RGB"
        assert changed.image.size == changed.ground_truth.shape[::-1]
        if name == GEOMETRY:
            distances.append(changed.image.width)
            continue
        assert changed.ground_truth is sample.ground_truth
        distances.append(np.abs(pixels(changed) - pixels(sample)).mean())
    # Grey, the strongest of the colours, is another change than the casts below it.
    compared = distances[:-1] if name == "hue and white balance" else distances
    assert compared == sorted(compared)
    assert distances[0] > 0
    assert sample.image.tobytes() == before


@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"defocus", "JPEG", "lower resolution"}))
def test_other_seeds_and_other_images_draw_otherwise(name, sample):
    by_seed = {CHANGES[name].apply(sample, 4, seed).image.tobytes() for seed in range(8)}
    assert len(by_seed) > 1


def test_colours():
    grey = flat(100, 100, 100)  # which no hue changes
    assert over_seeds("hue and white balance", grey, 4) == {(70, 100, 130), (130, 100, 70)}
    # ITU-R BT.601: 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert over_seeds("hue and white balance", flat(200, 100, 50), 5) == {(124, 124, 124)}
    # Red is at hue 0, of a circle of 255: 8 steps on there is 200 * 6 * 8 / 255 = 38 of green, and 8 steps back, which
    # Pillow's 256 levels make 7, 200 * 6 * 7 / 255 = 33 of blue; then red and blue are multiplied by 0.88 and 1.12.
    turned = over_seeds("hue and white balance", flat(200, 0, 0), 2)
    expected = [(176, 0, 37), (176, 38, 0), (224, 0, 29), (224, 38, 0)]
    assert np.abs(np.array(sorted(turned)) - expected).max() <= 1


def test_brightness():
    assert over_seeds("brightness", flat(90, 60, 30), 5) == {(30, 20, 10), (180, 120, 60)}


@pytest.mark.parametrize("name", ["defocus", "motion blur", "lower resolution", "interlacing"])
def test_a_flat_frame_has_nothing_to_blur_or_displace(name):
    plain = flat(90, 60, 30)
    assert CHANGES[name].apply(plain, 5, seed=2).image.tobytes() == plain.image.tobytes()


def test_motion_spreads_a_point_along_a_line():
    image = Image.new("RGB", (201, 218))
    image.putpixel((100, 100), (240, 240, 240))
    changed = CHANGES["motion blur"].apply(Sample("point", image, np.zeros((218, 201), bool)), 5, seed=0)
    found = pixels(changed)[..., 0]
    rows, columns = np.nonzero(found)
    # 6 % of 201 are 12 pixels, of which an odd number is taken: 13, each of which gets 240 / 13, rounded.
    assert found.sum() == pytest.approx(240, abs=13 * 0.5)
    assert set(found[rows, columns]) <= {18, 37}
    assert 11 <= np.hypot(np.ptp(rows), np.ptp(columns)) <= 13
    assert (rows.mean(), columns.mean()) == (100, 100)
    # On one line: offsets from the mean are along one direction, to the rounding of a pixel.
    offsets = np.stack([rows - rows.mean(), columns - columns.mean()], axis=1)
    assert np.linalg.svd(offsets, compute_uv=False)[1] / np.sqrt(len(rows)) < 0.5


def test_noise_has_the_stated_deviation():
    changed = pixels(CHANGES["noise"].apply(flat(128, 128, 128, size=(200, 150)), 5, seed=0))
    assert changed.std() == pytest.approx(30, abs=0.3)
    assert changed.mean() == pytest.approx(128, abs=0.3)


def test_jpeg_is_pillows(sample):
    file = io.BytesIO()
    sample.image.save(file, "JPEG", quality=10)
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert (np.asarray(CHANGES["JPEG"].apply(sample, 5, seed=0).image) == expected).all()


def test_highlights_add_up_and_are_white():
    plain = flat(90, 60, 30, size=(400, 300))
    few, many = (pixels(CHANGES["specular highlights"].apply(plain, strength, seed=0)) for strength in (1, 5))
    assert (many >= few).all()
    assert (few == 255).all(axis=2).any()
    # 128 ellipses, of 4.5 pixels by 0.65 of that on average, and more where these are larger: some 5 % of the frame.
    assert 0.02 < (many[..., 0] > 172).mean() < 0.08


def test_interlacing_displaces_the_fields_against_each_other():
    image = Image.new("RGB", (400, 20))
    image.paste((200, 200, 200), (200, 0, 400, 20))  # an edge
    changed = CHANGES["interlacing"].apply(Sample("edge", image, np.zeros((20, 400), bool)), 5, seed=0)
    edges = (pixels(changed)[..., 0] > 0).argmax(axis=1)
    assert sorted({*edges[0::2], *edges[1::2]}) == [194, 206]  # 12 pixels are 3 % of the width
    assert len({*edges[0::2]}) == len({*edges[1::2]}) == 1


def test_the_border_leaves_frame_and_ground_truth_as_they_are(sample):
    height, width = sample.ground_truth.shape
    seen = set()
    for seed in range(8):
        changed = CHANGES[GEOMETRY].apply(sample, 5, seed)
        panel = round(width * 0.38 / 0.62)
        margin = round(panel / 12)
        assert changed.image.size == (width + panel + margin, height + 2 * margin)
        assert panel / (width + panel) == pytest.approx(0.38, abs=0.005)
        for left in (panel, margin):
            part = changed.image.crop((left, margin, left + width, margin + height))
            if part.tobytes() != sample.image.tobytes():
                continue
            seen.add(left)
            inside = changed.ground_truth[margin : margin + height, left : left + width]
            assert (inside == sample.ground_truth).all()
            assert changed.ground_truth.sum() == sample.ground_truth.sum()
            side = (0, 0, panel, changed.image.height)
            if left == margin:
                side = (changed.image.width - panel, 0, *changed.image.size)
            text = np.asarray(changed.image.crop(side))
            assert 0.005 < (text > 100).mean() < 0.3  # text on black
            assert text.min() == 0
    assert len(seen) == 2  # the panel is on the left of some frames and on the right of others


def test_frames_of_other_modes_and_of_a_few_pixels_are_changed_too():
    tiny = Sample("tiny", Image.new("L", (3, 2), 90), np.ones((2, 3), dtype=bool))
    for change in CHANGES.values():
        for strength in range(1, STRENGTHS + 1):
            changed = change.apply(tiny, strength, seed=0)
            assert changed.image.size == changed.ground_truth.shape[::-1]


def test_an_unknown_strength_is_refused(sample):
    for strength in (0, 6):
        with pytest.raises(ValueError, match="expected 1 to 5"):
            CHANGES["noise"].apply(sample, strength, seed=0)
