"""Hashes of frames, beside those of the library imagehash."""

import imagehash
import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.common.frame_hashes import BITS, HASH_SIZE, MARGIN, REDUCED_SIDE, TURNS, frame_hash, frame_hashes
from unet_kvasir_seg.data.synthetic import generate


def test_hashes_are_those_of_imagehash_in_each_turn():
    for pair in generate(5, 100, seed=3):
        grey = Image.fromarray(np.maximum(np.array(pair["image"].convert("L")), 30))  # no dark border is cut off
        cut = 100 * MARGIN
        size, box = (REDUCED_SIDE, REDUCED_SIDE), (cut, cut, 100 - cut, 100 - cut)
        middle = grey.resize(size, Image.Resampling.LANCZOS, box=box)
        found = frame_hashes(grey)
        assert found.shape == (len(TURNS), BITS)
        np.testing.assert_array_equal(found[0], frame_hash(grey))
        for bits, turn in zip(found, TURNS, strict=True):
            turned = middle if turn is None else middle.transpose(turn)
            expected = [one(turned, HASH_SIZE).hash for one in (imagehash.dhash, imagehash.dhash_vertical)]
            np.testing.assert_array_equal(bits, np.concatenate(expected).ravel())


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 64)])
def test_dark_and_tiny_frames_can_be_hashed(size):
    assert frame_hash(Image.new("RGB", size)).shape == (BITS,)
