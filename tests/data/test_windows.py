"""Windows without polyp: where they lie, how large they are, and that a seed fixes them."""

import io
import math

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from unet_kvasir_seg.data.columns import PAIR_FEATURES
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import DatasetError, load_sample
from unet_kvasir_seg.data.windows import NegativeWindow, draw_window, negative_windows


def rows_of(*masks: np.ndarray) -> Dataset:
    """A split of frames whose red channel is the column, green the row, with these masks."""
    cells = []
    for mask in masks:
        rows, columns = np.indices(mask.shape)
        pictures = {"image": np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8), "mask": mask}
        encoded = {}
        for name, array in pictures.items():
            buffer = io.BytesIO()
            Image.fromarray(array).save(buffer, "PNG")
            encoded[name] = {"bytes": buffer.getvalue(), "path": None}
        cells.append(encoded)
    return Dataset.from_list(cells, features=PAIR_FEATURES).add_column("index", np.arange(len(masks)))


def largest_side_by_trying_all(ground_truth: np.ndarray) -> int:
    height, width = ground_truth.shape
    return max(
        side
        for side in range(1, min(height, width) + 1)
        for top in range(height - side + 1)
        for left in range(width - side + 1)
        if not ground_truth[top : top + side, left : left + side].any()
    )


def test_windows_are_free_squares_of_all_sides_from_a_quarter_to_the_largest_that_fits():
    ground_truth = np.zeros((24, 30), dtype=bool)
    ground_truth[8:12, 9:14] = True
    generator = np.random.default_rng(0)
    drawn = [draw_window(ground_truth, generator) for _ in range(2000)]
    sides = {rows.stop - rows.start for rows, _ in drawn}
    # Free are 24 - 12 = 12 rows below and 30 - 14 = 16 columns to the right: the square at the right is the largest.
    assert sides == set(range(6, 17))
    assert largest_side_by_trying_all(ground_truth) == 16
    for rows, columns in drawn:
        assert rows.stop - rows.start == columns.stop - columns.start
        assert 0 <= rows.start < rows.stop <= 24
        assert 0 <= columns.start < columns.stop <= 30
        assert not ground_truth[rows, columns].any()
    # Of side 16, the left edge is at 14, and the top at 0 to 8, each as likely as the others.
    largest = [(rows.start, columns.start) for rows, columns in drawn if rows.stop - rows.start == 16]
    assert set(largest) == {(top, 14) for top in range(9)}


@pytest.mark.parametrize("seed", range(8))
def test_the_largest_side_is_that_of_trying_all(seed):
    generator = np.random.default_rng(seed)
    ground_truth = generator.random((17, 23)) < 0.01
    sides = {window[0].stop - window[0].start for window in (draw_window(ground_truth, generator) for _ in range(500))}
    largest = largest_side_by_trying_all(ground_truth)
    assert sides == set(range(5, largest + 1))  # 17 / 4, rounded up, is 5


def test_a_frame_without_polyp_gives_windows_of_up_to_its_short_side():
    generator = np.random.default_rng(1)
    drawn = [draw_window(np.zeros((8, 12), dtype=bool), generator) for _ in range(500)]
    assert {rows.stop - rows.start for rows, _ in drawn} == set(range(2, 9))
    assert {columns.start for rows, columns in drawn if rows.stop - rows.start == 8} == set(range(5))


def test_where_no_window_fits_there_is_none():
    ground_truth = np.zeros((16, 16), dtype=bool)
    ground_truth[2::4, 2::4] = True  # between these points, squares have at most 3 pixels a side; 4 are needed
    assert draw_window(ground_truth, np.random.default_rng(0)) is None
    with pytest.raises(DatasetError, match=r"None of the 2 frames has room for a window without polyp.*25%"):
        negative_windows(rows_of(ground_truth, ground_truth), 3, seed=0)


def test_the_list_is_fixed_by_the_seed_and_takes_a_window_from_every_frame_in_turn():
    free, full = np.zeros((16, 20), dtype=bool), np.ones((16, 20), dtype=bool)
    partly = free.copy()
    partly[:, :10] = True
    rows = rows_of(free, full, partly)
    windows = negative_windows(rows, 7, seed=5)
    assert windows == negative_windows(rows, 7, seed=5)
    assert windows[:4] == negative_windows(rows, 4, seed=5)
    assert windows != negative_windows(rows, 7, seed=6)
    # The frame that is all polyp has none; the other two alternate.
    assert [windows[0].index, windows[1].index] in ([0, 2], [2, 0])
    assert [window.index for window in windows] == [window.index for window in windows[:2] * 4][:7]
    assert all(window.columns.start >= 10 for window in windows if window.index == 2)
    assert len(set(map(str, windows))) == 7


def test_a_window_is_cut_where_it_says():
    window = NegativeWindow(index=0, rows=slice(3, 9), columns=slice(5, 11))
    sample = load_sample(rows_of(np.zeros((12, 14), dtype=bool))[0])
    cut = np.asarray(window.crop(sample.image))
    assert cut.shape == (6, 6, 3)
    assert cut[0, 0].tolist() == [5, 3, 0]
    assert cut[5, 5].tolist() == [10, 8, 0]


def test_real_frames(kvasir_seg):
    rows = load_splits(str(kvasir_seg))["validation"]
    windows = negative_windows(rows, 150, seed=0)
    assert len({window.index for window in windows}) == len(rows)
    for window in windows[:30]:
        ground_truth = load_sample(rows[window.index]).ground_truth
        assert not ground_truth[window.rows, window.columns].any()
        assert (
            math.ceil(min(ground_truth.shape) / 4) <= window.rows.stop - window.rows.start <= min(ground_truth.shape)
        )
