"""Resizing without PyTorch, compared with PyTorch and with weights worked out by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.resize import resize_frame, resize_map

SIZES = [(1, 1), (5, 4), (17, 31), (32, 48), (40, 56), (64, 96), (300, 7), (288, 384), (1072, 1920)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resized", [(32, 48), (256, 256)])
def test_frames_have_the_grey_levels_of_torchvision(size, resized):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = UNetImageProcessor(size={"height": resized[0], "width": resized[1]})
    levels = processor.preprocess(Image.fromarray(frame), do_rescale=False, return_tensors="pt")["pixel_values"][0]
    found = resize_frame(frame, resized).astype(int)
    difference = np.abs(found - levels.permute(1, 2, 0).numpy().astype(int))
    # PyTorch computes in integers with AVX2 or AVX-512, and in floats on other processors.
    assert difference.max() <= (0 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 1)


def test_a_frame_by_hand():
    frame = np.array([0, 100, 200, 40], np.uint8).reshape(1, 4, 1)
    # The triangle around the middle of the first two pixels: weights 3/8, 3/8 and 1/8 over their sum.
    expected = [(3 * 0 + 3 * 100 + 1 * 200) / 7, (1 * 100 + 3 * 200 + 3 * 40) / 7]
    assert resize_frame(frame, (1, 2)).ravel().tolist() == [round(level) for level in expected]
    assert resize_frame(frame, (1, 4)).tolist() == frame.tolist()


@pytest.mark.parametrize("size", SIZES)
def test_maps_are_those_of_interpolate(size):
    values = np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)
    tensor = torch.from_numpy(values)[None, None]
    expected = F.interpolate(tensor, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
    found = resize_map(values, size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
