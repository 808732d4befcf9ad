"""The synthetic data: repeatable frames, exact masks, and polyps that differ from the wall."""

from collections import deque

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.data import synthetic
from unet_kvasir_seg.data.synthetic import generate

SIZE = 64


def arrays(row: dict) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) float and mask (H, W) bool."""
    return np.asarray(row["image"], float), np.asarray(row["mask"]) == 255


def count_components(mask: np.ndarray) -> int:
    """Number of 4-connected regions, by breadth-first search."""
    left = set(zip(*map(np.ndarray.tolist, np.nonzero(mask)), strict=True))
    count = 0
    while left:
        count += 1
        queue = deque([left.pop()])
        while queue:
            y, x = queue.popleft()
            for neighbour in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    queue.append(neighbour)
    return count


@pytest.fixture(scope="module")
def frames() -> list[tuple[np.ndarray, np.ndarray]]:
    return [arrays(row) for row in generate(200, SIZE, seed=3)]


def test_a_frame_depends_on_seed_index_and_size_alone():
    short, long = list(generate(3, SIZE, seed=1)), list(generate(6, SIZE, seed=1))
    for first, second in zip(short, long, strict=False):
        assert first["image"].tobytes() == second["image"].tobytes()
        assert first["mask"].tobytes() == second["mask"].tobytes()


def test_frames_and_seeds_differ():
    images = [row["image"].tobytes() for seed in (0, 1, 2) for row in generate(4, SIZE, seed)]
    assert len(set(images)) == 12


def test_neither_other_sizes_nor_the_global_generator_matter():
    expected = next(generate(1, SIZE, seed=5))["image"].tobytes()
    np.random.seed(0)
    next(generate(1, (SIZE + 1, 2 * SIZE), seed=5))
    assert next(generate(1, SIZE, seed=5))["image"].tobytes() == expected


@pytest.mark.parametrize(
    ("image_size", "width_height"),
    [(64, (64, 64)), ((48, 80), (80, 48)), ((97, 41), (41, 97)), (synthetic.MIN_SIZE, (32, 32))],
)
def test_sizes_and_modes(image_size, width_height):
    for row in generate(8, image_size, seed=2):
        assert row["image"].size == row["mask"].size == width_height
        assert (row["image"].mode, row["mask"].mode) == ("RGB", "L")
        assert set(np.unique(np.asarray(row["mask"]))) <= {0, 255}


def test_a_larger_frame_shows_the_same_scene():
    for small, large in zip(generate(20, 64, seed=4), generate(20, 128, seed=4), strict=True):
        shrunk = np.asarray(large["mask"].resize((64, 64), Image.Resampling.BOX), float) / 255
        assert np.abs(shrunk - arrays(small)[1]).mean() < 0.02
        brightness = [np.asarray(row["image"].resize((16, 16)), float) for row in (small, large)]
        assert np.abs(brightness[0] - brightness[1]).mean() < 10


def test_an_outline_without_wobble_is_an_ellipse():
    x, y = synthetic._grid(96, 128)
    rng = np.random.default_rng(0)
    circle = synthetic._lobe(rng, x, y, radius=0.5, aspect=1, wobble=0) > 0
    np.testing.assert_array_equal(circle, x * x + y * y < 0.25)
    long = synthetic._lobe(rng, x, y, radius=0.5, aspect=4, wobble=0) > 0
    assert np.hypot(x, y)[long].max() == pytest.approx(1, abs=0.03)
    assert long.sum() == pytest.approx(circle.sum(), rel=0.02)


def test_the_border_is_black_and_holds_no_mask(frames):
    for image, mask in frames:
        for corner in np.ix_([0, -1], [0, -1], [0, 1, 2]), np.ix_([0, 1, 2, -1, -2, -3], [0, 1, -1, -2]):
            assert not image[corner].any()
        assert image.max(axis=2)[mask].min(initial=255) > 0
    # And the border is a border: most of the frame is seen.
    assert 0.6 < np.mean([(image.max(axis=2) > 0).mean() for image, _ in frames]) < 0.95


def test_number_and_area_of_polyps_vary(frames):
    counts = np.array([count_components(mask) for _, mask in frames])
    assert 0.05 < (counts == 0).mean() < 0.25
    assert (counts == 1).mean() > 0.5
    assert (counts == 2).any()
    assert (counts == 3).any()
    shares = np.array([mask.mean() for _, mask in frames])
    assert shares.max() < 0.6
    assert 0.04 < np.median(shares[shares > 0]) < 0.15
    assert np.quantile(shares[shares > 0], 0.1) < 0.04
    assert np.quantile(shares[shares > 0], 0.95) > 0.2


def test_frames_look_like_mucosa(frames):
    for image, _ in frames:
        red, green, blue = image[image.max(axis=2) > 0].mean(axis=0)
        assert 80 < red < 240
        assert red > green > blue


def test_polyps_are_rosier_than_the_wall_but_not_by_much(frames):
    # The signal to learn: blue over green, against a wall whose own spread hides it pixel by pixel.
    differences = []
    for image, mask in frames:
        seen = image.min(axis=2) > 20
        if (mask & seen).sum() < 30:
            continue
        ratio = image[..., 2] / np.maximum(image[..., 1], 1)
        differences.append(ratio[mask & seen].mean() - ratio[~mask & seen].mean())
    assert np.mean(np.array(differences) > 0) > 0.8
    assert 0.02 < np.mean(differences) < 0.4


@pytest.mark.parametrize("num_samples", [0, -1])
def test_less_than_one_sample_is_an_error_at_the_call(num_samples):
    with pytest.raises(ValueError, match=f"num_samples is {num_samples}; expected at least 1"):
        generate(num_samples)


@pytest.mark.parametrize("image_size", [31, (31, 64), (64, 31), 0])
def test_too_small_is_an_error_at_the_call(image_size):
    with pytest.raises(ValueError, match="expected at least 32 pixels a side"):
        generate(1, image_size)


def test_the_command_writes_the_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["synthetic", str(tmp_path / "picture.png"), "--seed", "1"])
    synthetic.main()
    sheet = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"), int)
    assert sheet.shape == (320, 960, 3)
    outlined = (sheet[160:] != sheet[:160]).any(axis=2)
    assert outlined.any()
    assert (sheet[160:][outlined] == synthetic.OUTLINE_COLOUR).all()
