"""Images without polyp that are scored beside a split."""

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.common.mask_rules import USUAL_MASKS
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import DatasetError, load_sample
from unet_kvasir_seg.scoring.negatives import Negatives


def save(folder, name: str, pixels: np.ndarray, mask: np.ndarray | None = None) -> None:
    for kind, array in (("images", pixels), ("masks", mask)):
        if array is not None:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"{name}.png")


@pytest.fixture
def splits(tmp_path):
    """Four frames of noise in each of two splits, a quarter of each labelled."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for index in range(4):
            mask = np.zeros((40, 60), np.uint8)
            mask[:20, :30] = 255
            save(tmp_path / "data" / split, f"{split}{index}", rng.integers(0, 255, (40, 60, 3), np.uint8), mask)
    return load_splits(str(tmp_path / "data"))


def test_windows_are_parts_of_the_frames_without_polyp(splits):
    windows = Negatives.windows_of(splits["test"], "test", 30, 0, USUAL_MASKS)
    assert (len(windows), windows.kind, windows.name) == (30, "windows", "test")
    assert set(windows.frames) == {0, 1, 2, 3}
    for index, frame in enumerate(windows.frames):
        sample, whole = windows.sample(index), load_sample(splits["test"][frame])
        window = windows.windows[index]
        np.testing.assert_array_equal(np.asarray(sample.image), np.asarray(whole.image)[window.rows, window.columns])
        assert sample.ground_truth.shape == np.asarray(sample.image).shape[:2]
        assert not sample.ground_truth.any()
        assert sample.name == whole.name


def test_frames_of_another_data_set(splits, tmp_path):
    rng = np.random.default_rng(1)
    folder = tmp_path / "normal"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(rng.integers(0, 255, (30, 20, 3), np.uint8)).save(folder / f"{index}.png")
    negatives = Negatives.load(str(folder), splits)
    assert (len(negatives), negatives.kind, negatives.frames) == (3, "frames", None)
    assert negatives.name == "a local data set"  # no path in results
    assert negatives.sample(2).image.size == (20, 30)
    assert not negatives.sample(2).ground_truth.any()


def test_frames_of_the_data_set_itself_and_frames_with_polyp_are_refused(splits, tmp_path):
    with pytest.raises(DatasetError, match=r"Among the negatives are frames of the test split.*test0"):
        Negatives.load(str(tmp_path / "data" / "test" / "images"), splits)
    with pytest.raises(DatasetError, match=r"show a polyp: .*test0"):
        Negatives.load(str(tmp_path / "data" / "test"), splits)
