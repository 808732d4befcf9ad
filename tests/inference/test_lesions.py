"""Lesions by hand and against scikit-image, and rows of their table."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops
from unet_kvasir_seg.inference.lesions import COLUMNS, Lesion, bounding_box, find_lesions, lesion_numbers, lesion_row
from unet_kvasir_seg.inference.prediction import Prediction


def test_lesions_by_hand():
    probability = np.zeros((4, 10), dtype=np.float32)
    probability[0, 0] = 0.75
    probability[1:3, 1] = 1.0  # touches the first at a corner: one lesion of 3 pixels
    probability[3, 8] = 0.625
    prediction = Prediction(probability, probability, threshold=0.5)
    assert prediction.lesions == [
        Lesion((0, 0, 2, 3), (2 / 3, 1.0), 3, 3 / 40, pytest.approx(2.75 / 3)),
        Lesion((8, 3, 9, 4), (8.0, 3.0), 1, 1 / 40, pytest.approx(0.625)),
    ]
    assert Prediction(probability, probability, threshold=1.0).lesions == []


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8])
def test_lesions_are_those_of_scikit_image(threshold):
    probability = ndimage.gaussian_filter(np.random.default_rng(0).random((90, 130)), 3)
    probability = ((probability - probability.min()) / np.ptp(probability)).astype(np.float32)
    mask = probability > threshold
    regions = regionprops(label(mask, connectivity=2), intensity_image=probability)
    lesions = find_lesions(mask, probability)
    assert len(lesions) == len(regions) > 3
    assert [lesion.pixels for lesion in lesions] == sorted((int(r.area) for r in regions), reverse=True)
    by_box = {lesion.box: lesion for lesion in lesions}
    for region in regions:
        top, left, bottom, right = region.bbox
        lesion = by_box[left, top, right, bottom]
        assert lesion.pixels == region.area
        assert lesion.share == pytest.approx(region.area / mask.size)
        assert lesion.centroid == pytest.approx(region.centroid[::-1])
        assert lesion.probability == pytest.approx(region.intensity_mean)


def test_a_mean_probability_is_summed_in_float64():
    probability = np.full((2000, 2000), 0.1, dtype=np.float32)
    (lesion,) = find_lesions(np.ones((2000, 2000), bool), probability)
    assert lesion.probability == pytest.approx(float(np.float32(0.1)), abs=1e-12)


def test_the_bounding_box_holds_all_pixels():
    mask = np.zeros((5, 7), bool)
    assert bounding_box(mask) is None
    mask[1, 2] = mask[3, 6] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 7))


def test_a_row_has_a_value_for_each_column():
    lesion = Lesion((1, 2, 3, 4), (1.5, 2.25), 4, 0.25, 0.123456789)
    row = lesion_row("a.png", 1, lesion_numbers(lesion))
    assert dict(zip(COLUMNS, row, strict=True)) == {
        "image": "a.png",
        "lesion": "1",
        "left": "1",
        "top": "2",
        "right": "3",
        "bottom": "4",
        "centroid_x": "1.50",
        "centroid_y": "2.25",
        "area_pixels": "4",
        "area_percent": "25.0000",
        "mean_probability": "0.123457",
    }
