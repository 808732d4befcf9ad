"""The losses: by hand, against numpy in float64, and at the extremes of half precision."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from unet_kvasir_seg.losses_unet import LOSSES, bce_dice_loss, box_mean, structure_loss

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LN2, LN3 = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        # p = 1/2 everywhere, one pixel of four is polyp: Dice = 2 * 1/2 / (2 + 1)
        ([[[0, 0], [0, 0]]], [[[1, 0], [0, 0]]], LN2 + 1 - 1 / 3),
        # p = 3/4 and 1/4: BCE = -ln(3/4), Dice = 2 * 3/4 / (1 + 1)
        ([[[LN3, -LN3]]], [[[1, 0]]], math.log(4 / 3) + 1 / 4),
        # An empty mask: Dice = 0
        ([[[0, 0], [0, 0]]], [[[0, 0], [0, 0]]], LN2 + 1),
        # A full mask: Dice = 2 * 2 / (2 + 4)
        ([[[0, 0], [0, 0]]], [[[1, 1], [1, 1]]], LN2 + 1 / 3),
        # Dice is averaged over images, (1/3 + 0) / 2; pooled over both it would be 2 * 1/2 / (4 + 1).
        ([[[0, 0], [0, 0]]] * 2, [[[1, 0], [0, 0]], [[0, 0], [0, 0]]], LN2 + 1 - 1 / 6),
        # Certain and right; certain and wrong
        ([[[1e4, -1e4]]], [[[1, 0]]], 0),
        ([[[-1e4, -1e4]]], [[[0, 0]]], 0),
        ([[[1e4, -1e4]]], [[[0, 1]]], 1e4 + 1),
    ],
)
def test_loss_by_hand(logits: list, labels: list, expected: float):
    loss = bce_dice_loss(torch.tensor(logits).float().unsqueeze(1), torch.tensor(labels).unsqueeze(1))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_equals_numpy_in_float64(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(3, 1, 50, 70, generator=generator)).to(dtype)
    labels = torch.rand(3, 1, 50, 70, generator=generator) < torch.tensor([0.01, 0.3, 0.9]).view(3, 1, 1, 1)
    z, y = logits.double().numpy(), labels.double().numpy()
    cross_entropy = np.mean(y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z))
    p = 1 / (1 + np.exp(-z))
    dice = [(2 * np.sum(p[i] * y[i]) + 1e-6) / (np.sum(p[i]) + np.sum(y[i]) + 1e-6) for i in range(3)]
    assert bce_dice_loss(logits, labels).item() == pytest.approx(cross_entropy + 1 - np.mean(dice), rel=1e-6)


def weights_by_hand(mask: np.ndarray) -> np.ndarray:
    """1 + 5 |mean of the 31x31 pixels around - mask|, each mean a sum over a slice."""
    height, width = mask.shape
    padded = np.pad(mask, 15)
    means = [[padded[i : i + 31, j : j + 31].sum() / 961 for j in range(width)] for i in range(height)]
    return 1 + 5 * np.abs(np.array(means) - mask)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(9, 14), (40, 33)])
def test_structure_loss_equals_numpy_in_float64(dtype: torch.dtype, size: tuple[int, int]):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(3, 1, *size, generator=generator)).to(dtype)
    labels = torch.rand(3, 1, *size, generator=generator) < torch.tensor([0.0, 0.3, 0.9]).view(3, 1, 1, 1)
    losses = []
    for z, y in zip(logits[:, 0].double().numpy(), labels[:, 0].double().numpy(), strict=True):
        w, p = weights_by_hand(y), 1 / (1 + np.exp(-z))
        cross_entropy = y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)
        intersection, union = np.sum(w * p * y), np.sum(w * (p + y - p * y))
        losses.append(np.sum(w * cross_entropy) / np.sum(w) + 1 - (intersection + 1) / (union + 1))
    loss = structure_loss(logits, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-6)


def test_structure_loss_by_hand():
    """For a mask that is all polyp all weights are equal: p = 1/2, n = 4 pixels.

    Outside is background, so the mean around each pixel is 4/961 and all weigh w = 1 + 5 (1 - 4/961): the
    cross-entropy is ln 2, the intersection 4 w / 2, the union 4 w.
    """
    w = 1 + 5 * (1 - 4 / 961)
    loss = structure_loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert loss.item() == pytest.approx(LN2 + 1 - (2 * w + 1) / (4 * w + 1), rel=1e-6)


@pytest.mark.parametrize("others", [0, 3])
def test_what_an_example_without_polyp_contributes(others: int):
    """Alone, and beside images with polyp. Logits are -ln 3, so p = 1/4 in each of its 6 pixels.

    BCE + Dice: -ln(3/4) and, as the Dice is 0, 1; the gradient is that of the cross-entropy alone, p / 6 a pixel.
    Weighted BCE + IoU: weights are 1, the IoU is (0 + 1) / (6/4 + 1) = 2/5, whose gradient is 1 / (5/2)^2 * p (1 - p).
    """
    logits = torch.full((1 + others, 1, 2, 3), -LN3, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(1 + others, 1, 2, 3)
    labels[1:, 0, 0] = 1
    cross_entropy = math.log(4 / 3)
    expected = {
        bce_dice_loss: (cross_entropy + 1, 1 / 24),
        structure_loss: (cross_entropy + 3 / 5, 1 / 24 + 4 / 25 * 3 / 16),
    }
    for loss, (value, gradient) in expected.items():
        of_others = loss(logits[1:], labels[1:]) if others else torch.tensor(0.0)
        total = loss(logits, labels)
        # The batch's loss is the mean over its images, so that none is lost and none weighs more.
        assert ((1 + others) * total - others * of_others).item() == pytest.approx(value, abs=1e-5)
        (of_logits,) = torch.autograd.grad(total, logits)
        assert of_logits[0].flatten().tolist() == pytest.approx([gradient / (1 + others)] * 6, abs=1e-6)


@pytest.mark.parametrize("side", [1, 3, 31])
def test_box_mean_is_average_pooling(side: int):
    images = torch.randint(0, 2, (2, 1, 20, 37), generator=torch.Generator().manual_seed(0)).float()
    torch.testing.assert_close(box_mean(images, side), F.avg_pool2d(images, side, stride=1, padding=side // 2))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("extreme", [-1e4, 0.0, 1e4])
def test_loss_is_finite_and_float32_at_the_extremes(extreme: float, label: int, dtype: torch.dtype, autocast: bool):
    # 66,000 pixels: a sum over one image overflows float16.
    logits = torch.full((2, 1, 256, 258), extreme, dtype=dtype, requires_grad=True)
    value = logits[0, 0, 0, 0].item()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = bce_dice_loss(logits, torch.full((2, 1, 256, 258), label))
    loss.backward()
    p = {-1e4: 0.0, 0.0: 0.5, 1e4: 1.0}[extreme]
    cross_entropy = LN2 if extreme == 0 else abs(value) * (p != label)
    dice = 1.0 if p == label else 2 * p * label / (p + label)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(cross_entropy + 1 - dice, rel=1e-5)
    assert logits.grad.dtype == dtype
    assert logits.grad.isfinite().all()
    if extreme == 0:
        assert (logits.grad.sign() == (-1 if label else 1)).all()


def test_every_loss_is_a_scalar_in_float32_and_has_names():
    for name, loss in LOSSES.items():
        value = loss.function(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.int64))
        assert (value.shape, value.dtype) == ((), torch.float32), name
        assert loss.short_name
        assert loss.long_name
