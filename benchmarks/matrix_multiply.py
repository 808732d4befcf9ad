"""The peak that a device reaches: large matrix multiplications, timed among the contestants."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from unet_kvasir_seg.benchmarks.contest import Entry
from unet_kvasir_seg.benchmarks.measurement import MATRIX_MULTIPLY
from unet_kvasir_seg.benchmarks.plan import Plan


@dataclass(frozen=True, kw_only=True)
class MatrixMultiply(Entry):
    """Multiplies two square matrices of `size`."""

    size: int

    side = "this project"

    def start(self, device: torch.device) -> Callable[[], object]:
        if device.type == "cuda":
            # TF32, as cuDNN's convolutions use by default: else a share of the float32 peak could be above 1.
            torch.set_float32_matmul_precision("high")
        dtype = getattr(torch, str(self.dtype))
        left, right = (torch.rand(self.size, self.size, device=device).to(dtype) for _ in range(2))
        return lambda: left @ right


def matrix_multiplications(plan: Plan, device: str, dtypes: Iterable[str | None]) -> list[MatrixMultiply]:
    """Matrix multiplications of the device's sizes, in each dtype that contestants compute in."""
    return [
        MatrixMultiply(
            part=MATRIX_MULTIPLY, name=f"{size}x{size}, {dtype}", images=1, dtype=dtype, flops=2 * size**3, size=size
        )
        for size in dict(plan.matrix_sizes)[device]
        for dtype in sorted({dtype for dtype in dtypes if dtype})
    ]
