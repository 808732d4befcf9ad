"""The losses that a U-Net can be trained with. To add one, write its function and its entry in `LOSSES`.

Shapes are written (B, C, H, W): batch, channels, height, width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_SMOOTH = 1e-6


@dataclass(frozen=True)
class Loss:
    """A loss that `UNetConfig.loss` can name.

    Attributes:
        function: Takes logits (B, 1, H, W), float, and labels (B, 1, H, W), {0, 1}; returns a scalar, float32.
        short_name: For the axes of figures.
        long_name: For the model card.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    short_name: str
    long_name: str


def bce_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice loss (Milletari et al., 2016, https://arxiv.org/abs/1606.04797).

    Dice is computed for each image and averaged over the batch, so that gradient accumulation and data parallelism
    give the gradients of one big batch. The computation is in float32 whatever the dtype of the logits: a sum over
    an image overflows float16 and loses small polyps in bfloat16.

    Args:
        logits: (B, 1, H, W), float.
        labels: (B, 1, H, W), values in {0, 1}, any dtype.

    Returns:
        The scalar loss, float32, at least 0. For an image without polyp the Dice term is 1, and has no gradient
        to speak of, unless all probabilities are almost 0: such an image teaches by its cross-entropy alone.
    """
    logits = logits.float()
    labels = labels.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels)

    probabilities = logits.sigmoid()
    intersection = (probabilities * labels).sum(dim=(1, 2, 3))
    total = probabilities.sum(dim=(1, 2, 3)) + labels.sum(dim=(1, 2, 3))
    dice = (2 * intersection + DICE_SMOOTH) / (total + DICE_SMOOTH)
    return cross_entropy + (1 - dice).mean()


def structure_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Weighted cross-entropy plus weighted IoU (PraNet; Fan et al., 2020, https://arxiv.org/abs/2006.11392, 2.3).

    A pixel's weight is 1 plus five times the absolute difference between its label and the mean label of the 31x31
    pixels around it, so pixels near outlines weigh up to 6. Pixels outside the image count as background. The weights,
    and the 1 added to numerator and denominator of the IoU, are those of the authors' code. As in `bce_dice_loss`,
    both terms are computed for each image in float32 and averaged over the batch.

    Args:
        logits: (B, 1, H, W), float.
        labels: (B, 1, H, W), values in {0, 1}, any dtype.

    Returns:
        The scalar loss, float32, at least 0. For an image without polyp all weights are 1, and the IoU is 1 divided by
        1 plus the sum of the probabilities.
    """
    logits = logits.float()
    labels = labels.float()
    weights = 1 + 5 * (box_mean(labels, 31) - labels).abs()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    cross_entropy = (weights * cross_entropy).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))

    probabilities = logits.sigmoid()
    intersection = (weights * probabilities * labels).sum(dim=(1, 2, 3))
    union = (weights * (probabilities + labels)).sum(dim=(1, 2, 3)) - intersection
    iou = (intersection + 1) / (union + 1)
    return (cross_entropy + 1 - iou).mean()


def box_mean(masks: Tensor, side: int) -> Tensor:
    """Mean of the `side` x `side` pixels around each pixel, with 0 outside the image.

    Computed from differences of running sums. `avg_pool2d` adds up each square anew, which takes a CPU fifty times as
    long for 31x31 pixels of a 256x256 mask. Sums of integers are exact, and on CUDA the same in every run.

    Args:
        masks: (B, C, H, W), values in {0, 1}.
        side: An odd number.

    Returns:
        (B, C, H, W), float32.
    """
    sums = masks.to(torch.int32)
    before, after = side // 2 + 1, side // 2
    for axis, padding in ((2, (0, 0, before, after)), (3, (before, after, 0, 0))):
        length = sums.shape[axis]
        running = F.pad(sums, padding).cumsum(axis, dtype=torch.int32)
        sums = running.narrow(axis, side, length) - running.narrow(axis, 0, length)
    return sums / side**2


LOSSES = {
    "bce_dice": Loss(bce_dice_loss, short_name="BCE + Dice", long_name="binary cross-entropy plus per-image Dice"),
    "structure": Loss(
        structure_loss,
        short_name="weighted BCE + IoU",
        long_name="weighted cross-entropy plus weighted IoU (PraNet; Fan et al., 2020, section 2.3)",
    ),
}
