"""The frames to calibrate and to verify on: from folders of images, data sets, and without any."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.onnx_export.images import frames_of_unusual_sizes, load_frames, spread

PROCESSOR = UNetImageProcessor(size={"height": 32, "width": 32})


def save_image(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (level, 0, 0)).save(path)


def levels(frames: list[np.ndarray]) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]


def test_entries_are_evenly_spread():
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 10) == [0, 1, 2]
    assert spread([], 10) == []


def test_no_image_of_a_folder_is_used_for_both(tmp_path):
    for index in range(20):
        save_image(tmp_path / f"{index:02}.png", index)
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image")
    frames = load_frames(str(tmp_path), PROCESSOR, calibration_images=100)
    assert [int(frame.pixels[0, 0, 0]) for frame in frames.verification] == [0, 5, 10, 15]
    assert levels(frames.calibration) == [level for level in range(20) if level % 5]
    assert frames.calibration[0].shape == (4, 6, 3)
    assert {frame.ground_truth for frame in frames.verification} == {None}
    assert len(load_frames(str(tmp_path), PROCESSOR, calibration_images=8).calibration) == 8

    frames = load_frames(str(tmp_path), PROCESSOR, calibration_images=0)
    assert (len(frames.calibration), len(frames.verification)) == (0, 20)


def test_splits_of_a_data_set_are_kept_apart(tmp_path):
    for split, count, first in (("train", 16, 0), ("validation", 3, 100), ("test", 2, 200)):
        for index in range(count):
            save_image(tmp_path / split / "images" / f"{index:02}.png", first + index)
            mask = np.zeros((4, 6), np.uint8)
            mask[0] = 255
            (tmp_path / split / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{index:02}.png")
    frames = load_frames(str(tmp_path), PROCESSOR, calibration_images=100)
    assert levels(frames.calibration) == list(range(16))
    assert [int(frame.pixels[0, 0, 0]) for frame in frames.verification] == [100, 101, 102]
    np.testing.assert_array_equal(frames.verification[0].ground_truth, [[True] * 6] + [[False] * 6] * 3)
    assert frames.source == "a local data set, verified on its validation split"


def test_too_few_images_to_calibrate_on_are_refused(tmp_path):
    for index in range(15):
        save_image(tmp_path / f"{index}.png", index)
    with pytest.raises(UserError, match="has 15 images to calibrate on: expected 16 or more"):
        load_frames(str(tmp_path), PROCESSOR, calibration_images=100)
    assert len(load_frames(str(tmp_path), PROCESSOR, calibration_images=0).verification) == 15


def test_without_images_the_frames_are_synthetic():
    frames = load_frames(None, PROCESSOR, calibration_images=0)
    assert frames.source == "8 synthetic frames"
    assert {frame.pixels.shape for frame in frames.verification} == {(288, 384, 3)}
    assert [frame.pixels.shape[:2] for frame in frames_of_unusual_sizes()] == [
        (1, 1),
        (17, 31),
        (256, 256),
        (1072, 1920),
    ]
