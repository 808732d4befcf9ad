"""Device and precision: one policy for all commands.

CUDA: bfloat16 where the GPU supports it. MPS: float32, since half precision gives NaN there in public reports.
CPU: bfloat16 if the cores have instructions for it, else float32. Convolutions run in channels_last. Networks are
compiled only on request: on two Zen 4 cores that took 13 s and made width 64 faster by 3 % (medians of 7
single images in bfloat16, 122.0 ms against 125.8), which pays back after 3,000 images.
"""

import ctypes
import sys
from dataclasses import dataclass

import torch

from .errors import UserError
from .processors import usable_processors


@dataclass(frozen=True)
class Runtime:
    """Device, dtype of the computation, layout of the images in memory, and whether the network is compiled."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format = torch.channels_last
    compiles: bool = False

    def __str__(self) -> str:
        dtype, layout = (str(part).removeprefix("torch.") for part in (self.dtype, self.memory_format))
        return f"{self.device.type}, {dtype}, {layout}{', compiled' if self.compiles else ''}"


def choose_runtime(device: str = "auto", dtype: str = "auto", compile: bool | str = "auto") -> Runtime:
    """Resolve "auto", and check that this machine can do what is asked for.

    Args:
        device: "auto", "cuda", "mps" or "cpu".
        dtype: "auto", "float32", "bfloat16" or "float16".
        compile: True, False or "auto".

    Raises:
        UserError: If this machine lacks the device, the device does not support the dtype or compilation, or `compile`
            has another value.
    """
    present = available_devices()
    if device == "auto":
        device = present[0]
    if device not in present:
        raise UserError(f'There is no device {device!r} here; there is {", ".join(present)}, or say "auto".')
    choices = supported_dtypes(device)
    if dtype == "auto":
        dtype = choices[0]
    if dtype not in choices:
        raise UserError(f'{device} does not compute in {dtype} here; choose {", ".join(choices)}, or "auto".')
    if compile not in (True, False, "auto"):
        raise UserError(f'compile={compile!r} cannot be: expected True, False or "auto".')
    if compile is True and device == "mps":
        raise UserError('torch.compile fails on mps in public reports; leave "compile" out, or compute on the cpu.')
    return Runtime(torch.device(device), getattr(torch, dtype), compiles=compile is True)


def available_devices() -> list[str]:
    """Devices of this machine, the fastest first."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [device for device, there in present.items() if there]


def supported_dtypes(device: str) -> list[str]:
    """Dtypes that `device` computes in, the recommended one first."""
    if device == "mps":
        return ["float32"]
    half = ["float16"] if device == "cuda" else []
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else _cpu_has_bfloat16()
    # bfloat16 is slow but correct without the instructions: offered to those who reproduce a result.
    return ["bfloat16", "float32", *half] if fast else ["float32", "bfloat16", *half]


def _cpu_has_bfloat16() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch cannot tell
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def limit_threads() -> None:
    """Let PyTorch compute with no more threads than it has processors; it knows their affinity, but no quota."""
    torch.set_num_threads(min(torch.get_num_threads(), usable_processors()))


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, which speeds up computing on a CPU; does nothing with another C library.

    By default glibc returns the activations to the system after each step, and getting them back page by page takes
    longer than some layers do. The peak memory stays the same; with many threads too, since they share two pools of
    memory in place of one each.
    """
    trim_threshold, mmap_threshold, pools = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        for option, value in ((trim_threshold, 2**31 - 1), (mmap_threshold, 2**31 - 1), (pools, 2)):
            set_option(option, value)
