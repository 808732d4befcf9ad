"""Synthetic clips: what the camera sees, where the polyps are, and the data set that is made of them."""

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.data import clips
from unet_kvasir_seg.data.clips import NOISE, Clip, clip_samples, generate_clips
from unet_kvasir_seg.data.dataset import describe_data, load_splits
from unet_kvasir_seg.data.samples import load_sample

SIZE = (48, 64)


def test_a_clip_depends_on_seed_index_and_its_settings_alone():
    short, long = (list(generate_clips(count, num_frames=2, size=SIZE, seed=1)) for count in (1, 2))
    first, again = (next(clip.frames()) for clip in (short[0], long[0]))
    assert first.image.tobytes() == again.image.tobytes()
    assert np.array_equal(first.labels, again.labels)
    assert next(long[1].frames()).image.tobytes() != first.image.tobytes()
    (other,) = generate_clips(1, num_frames=2, size=SIZE, seed=2)
    assert next(other.frames()).image.tobytes() != first.image.tobytes()


def test_frames_are_what_the_camera_sees():
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 200, (40, 60, 3), np.uint8)
    labels = np.zeros((40, 60), np.uint8)
    labels[10:20, 15:30] = 7
    visible = np.ones((20, 30), bool)
    visible[:, :3] = False
    views = np.array([[30, 20, 0, 1], [34, 17, 0, 1], [30, 20, np.pi, 1]])  # centre, shifted, upside down
    clip = Clip(Image.fromarray(scene), Image.fromarray(labels), views, visible, 25.0, [0])
    centre, shifted, turned = clip.frames()
    for frame, (top, left) in ((centre, (10, 15)), (shifted, (7, 19))):
        shown = (slice(top, top + 20), slice(left, left + 30))
        assert np.array_equal(frame.labels, labels[shown] * visible)
        pixels = np.asarray(frame.image, float)
        assert not pixels[~visible].any()
        difference = (pixels - scene[shown])[visible]
        assert np.abs(difference).mean() < 4 * NOISE  # and the brightness
    assert np.array_equal(turned.labels, labels[10:30, 15:45][::-1, ::-1] * visible)


def test_the_camera_moves_little_and_passes_over_all_polyps():
    for clip in generate_clips(3, num_frames=100, size=SIZE, polyps=2, seed=3):
        seen = [set(np.unique(frame.labels)) - {0} for frame in clip.frames()]
        assert set.union(*seen) == {1, 2}
        steps = np.abs(np.diff(clip.views, axis=0))
        assert steps[:, 0].max() < 0.05 * SIZE[1]
        assert steps[:, 2].max() < np.radians(2)


def test_numbers_of_polyps_take_turns():
    shown = []
    for clip in generate_clips(5, num_frames=1, size=SIZE, polyps=(2, 0)):
        shown.append(len(set(np.unique(np.asarray(clip.labels))) - {0}))
    assert shown == [2, 0, 2, 0, 2]


@pytest.mark.parametrize(
    "wrong",
    [{"num_clips": 0}, {"num_frames": 0}, {"size": (31, 64)}, {"polyps": -1}, {"polyps": (1, -1)}, {"rate": 0}],
)
def test_numbers_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="expected at least"):
        generate_clips(**{"num_clips": 1, **wrong})


def test_a_data_set_of_clips(monkeypatch):
    monkeypatch.setattr(clips, "NUM_FRAMES", 3)
    columns = {"sequence": "sequence", "frame": "frame"}
    splits = load_splits("synthetic-clips", synthetic_rows=8, synthetic_size=36, further_columns=columns)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 9, "validation": 3, "test": 3}
    train = splits["train"]
    assert train["sequence"][:] == ["clip-0000"] * 3 + ["clip-0001"] * 3 + ["clip-0002"] * 3
    assert train["frame"][:] == [0, 1, 2] * 3
    samples = [load_sample(row) for row in train]
    assert {sample.image.size for sample in samples} == {(48, 36)}
    expected = list(clip_samples(8, 36, seed=3 * 42))
    for sample, made in zip(samples, expected, strict=True):
        assert np.array_equal(sample.ground_truth, np.asarray(made["mask"]) == 255)
    assert not any(sample.ground_truth.any() for sample in samples[3:6])
    images = [row["image"]["bytes"] for rows in splits.values() for row in rows]
    assert len(set(images)) == len(images)
    described = describe_data("synthetic-clips", None, {"test": splits["test"]}, "test")
    assert (described["name"], described["on_the_hub"]) == ("synthetic-clips", False)
    assert "sequence" not in load_splits("synthetic-clips", synthetic_rows=8, synthetic_size=36)["train"].column_names
