"""Joins examples into a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class SegmentationCollator:
    """Stacks examples into the batch that `UNetForSemanticSegmentation` takes.

    Called with a sequence of examples {"pixel_values": (3, H, W) float, "labels": (H, W) integer}, it returns
    {"pixel_values": (B, 3, H, W), "labels": (B, H, W)}; "labels" only if the examples have them. Where they have a
    "draw", of an augmentation that is still to come, "draws" is the list of these.

    Raises:
        ValueError: If the examples are of different sizes, which no tensor can hold.
    """

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {
            name: self._stack(name, [example[name] for example in examples])
            for name in ("pixel_values", "labels")
            if name in examples[0]
        }
        if "draw" in examples[0]:
            batch["draws"] = [example["draw"] for example in examples]
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
