"""Joins examples into a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class SegmentationCollator:
    """Stacks examples into the batch that `UNetForSemanticSegmentation` takes.

    Called with a sequence of examples {"pixel_values": (3, H, W) float, "labels": (H, W) integer}, it returns
    {"pixel_values": (B, 3, H, W), "labels": (B, H, W)}; "labels" only if the examples have them. If they
    are still to be augmented, "augmentation_parameters" is the list of their augmentation parameters.

    Raises:
        ValueError: If the examples differ in size.
    """

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {
            name: self._stack(name, [example[name] for example in examples])
            for name in ("pixel_values", "labels")
            if name in examples[0]
        }
        if "augmentation_parameters" in examples[0]:
            batch["augmentation_parameters"] = [example["augmentation_parameters"] for example in examples]
        return batch

    @staticmethod
    def _stack(name: str, tensors: list[Tensor]) -> Tensor:
        shapes = sorted({tuple(tensor.shape) for tensor in tensors})
        if len(shapes) > 1:
            raise ValueError(
                f"`{name}` of one batch must have one shape, got {shapes}. Let the image processor resize "
                "(do_resize=True), or use a batch size of 1."
            )
        return torch.stack(tensors)
