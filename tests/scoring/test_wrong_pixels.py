"""AUROC and risk against coverage, against scikit-learn and sorted pixels."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from unet_kvasir_seg.scoring.sources import Maps
from unet_kvasir_seg.scoring.wrong_pixels import BINS, MAPS, aurc, auroc, count_pixels, count_wrong, risk_at


def pixels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    uncertainty = 10 ** generator.uniform(-5.9, -0.4, (80, 90))
    return uncertainty, generator.random((80, 90)) < 0.3 * uncertainty**0.3


def test_auroc_is_that_of_scikit_learn():
    uncertainty, is_wrong = pixels(0)
    counts = count_pixels(uncertainty.astype(np.float32), is_wrong)
    assert counts.sum() == is_wrong.size
    assert counts[1].sum() == is_wrong.sum()
    expected = roc_auc_score(is_wrong.ravel(), uncertainty.ravel())
    assert auroc(counts[None])[0] == pytest.approx(expected, abs=2e-3)


def test_risk_is_that_of_the_sorted_pixels():
    uncertainty, is_wrong = pixels(1)
    counts = count_pixels(uncertainty, is_wrong)
    in_order = is_wrong.ravel()[np.argsort(uncertainty.ravel())]
    risks = in_order.cumsum() / np.arange(1, in_order.size + 1)
    for share in (0.5, 0.95, 1.0):
        assert risk_at(counts, share) == pytest.approx(risks[round(share * in_order.size) - 1], abs=2e-3)
    assert aurc(counts[None])[0] == pytest.approx(risks.mean(), rel=0.02)


def test_extremes():
    is_wrong = np.array([[False, False, True, True]])
    perfect = count_pixels(np.array([[0.0, 1e-4, 0.1, 0.5]]), is_wrong)
    blind = count_pixels(np.full((1, 4), 0.2), is_wrong)
    inverse = count_pixels(np.array([[1.0, 0.4, 1e-9, 0.0]]), is_wrong)
    assert auroc(np.stack([perfect, blind, inverse])) == pytest.approx([1, 0.5, 0])
    assert [risk_at(perfect, share) for share in (0.5, 0.75, 1)] == pytest.approx([0, 1 / 3, 0.5])
    assert aurc(blind[None]) == pytest.approx([0.5])
    assert np.isnan(auroc(count_pixels(np.full((1, 4), 0.2), np.zeros((1, 4), bool))[None])[0])
    assert perfect.shape == (2, BINS)


def test_pixels_that_the_network_never_saw_do_not_count():
    """A frame of 8x10 with a picture of 4x5 in it; a right and certain border would raise AUROC and lower the risk."""
    generator = np.random.default_rng(0)
    picture = [generator.uniform(0, 0.5, (4, 5)).astype(np.float32) for _ in range(3)]
    wrong = generator.random((4, 5)) < 0.4
    whole = [np.zeros((8, 10), np.float32) for _ in range(3)]
    whole_wrong = np.ones((8, 10), bool)  # even polyp outside, which no map could have pointed at
    for frame, part in zip((*whole, whole_wrong), (*picture, wrong), strict=True):
        frame[3:7, 2:7] = part
    alone = count_wrong(Maps(picture[0], None, picture[1], picture[2]), wrong)
    assert alone.shape == (len(MAPS), 2, BINS)
    assert alone.sum() == 3 * 20
    framed = Maps(whole[0], None, whole[1], whole[2], field_of_view=(2, 3, 7, 7))
    np.testing.assert_array_equal(count_wrong(framed, whole_wrong), alone)
