"""Resizing without PyTorch that gives PyTorch's values, for ONNX files.

resize_frame(frame, (256, 256))    # what torchvision makes of a frame, to the grey level
resize_map(logits, (288, 384))     # what torch.nn.functional.interpolate makes of a map
"""

from functools import lru_cache

import numpy as np
from scipy import sparse


def resize_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a frame (H, W, C) uint8 to (h, w, C) uint8, bilinear and antialiased.

    The grey levels are those of PyTorch on x86 processors, which computes in integers as Pillow-SIMD does. Pillow
    itself rounds about one grey level in a thousand differently, and then single pixels of a mask differ.
    """
    height, width = size
    across = _resize_rows(frame.swapaxes(0, 1), width).swapaxes(0, 1)
    return _resize_rows(across, height)


def _resize_rows(frame: np.ndarray, length: int) -> np.ndarray:
    """Resize the first axis."""
    before, *others = frame.shape
    if before == length:
        return frame
    weights, bits = _integer_weights(before, length)
    sums = weights @ np.ascontiguousarray(frame).reshape(before, -1).astype(np.int32)
    levels = (sums + (1 << (bits - 1))) >> bits  # rounded
    return levels.clip(0, 255).astype(np.uint8).reshape(length, *others)


@lru_cache(maxsize=64)
def _integer_weights(before: int, after: int) -> tuple[sparse.csr_matrix, int]:
    """Weights (after, before) of each pixel in each resized pixel, int32, in units of 2**-bits; and bits.

    As in PyTorch, the largest weight takes 15 bits.
    """
    scale = before / after
    reach = max(scale, 1.0)  # of the triangle around the centre of a resized pixel
    rows, columns, weights = [], [], []
    for row in range(after):
        centre = scale * (row + 0.5)
        pixels = np.arange(max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), before))
        triangle = np.maximum(0, 1 - np.abs((pixels - centre + 0.5) / reach))
        rows.append(np.full(len(pixels), row))
        columns.append(pixels)
        weights.append(triangle / triangle.sum())
    values = np.concatenate(weights)
    bits = 0
    while bits < 22 and int(0.5 + values.max() * 2 ** (bits + 1)) < 2**15:
        bits += 1
    integers = np.floor(values * 2**bits + 0.5).astype(np.int32)
    places = np.concatenate(rows), np.concatenate(columns)
    return sparse.csr_matrix((integers, places), shape=(after, before)), bits


def resize_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map (h, w) float32 to (H, W) float32, bilinear as PyTorch with `align_corners=False`.

    `scipy.ndimage.zoom` gives the same in three times the time.
    """
    for axis, length in enumerate(size):
        before = values.shape[axis]
        scale, half = np.float32(before / length), np.float32(0.5)
        places = (scale * (np.arange(length, dtype=np.float32) + half) - half).clip(0, before - 1)
        lower = places.astype(np.intp)
        weight = (places - lower.astype(np.float32)).reshape((-1, 1) if axis == 0 else (1, -1))
        low = np.take(values, lower, axis)
        step = np.take(values, np.minimum(lower + 1, before - 1), axis)
        step -= low  # in place: a map of a large image takes memory
        step *= weight
        low += step
        values = low
    return values
