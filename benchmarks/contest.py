"""Times contestants in turn, so that a disturbance of the machine meets all of them alike.

This project's contestants run in one process and their rivals in another: process-wide settings of one side, such as
how memory is allocated, must neither help nor hinder the other.
"""

import contextlib
import math
import multiprocessing
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from transformers.utils import logging
from unet_kvasir_seg.benchmarks.measurement import Measurement
from unet_kvasir_seg.common.errors import UserError, first_line


@dataclass(frozen=True, kw_only=True)
class Entry(ABC):
    """A contestant at one job. It travels to another process: its fields must be picklable.

    The fields are those of `Measurement`.
    """

    part: str
    name: str
    images: int
    dtype: str | None = None
    flops: int | None = None
    compared_with: str | None = None
    axis: str | None = None
    value: int | None = None

    side: ClassVar[str]

    @abstractmethod
    def start(self, device: torch.device) -> Callable[[], object]:
        """Build what is needed and return the call that is timed."""

    def measured(
        self, device: str, first_seconds: float, seconds: list[float], peak_bytes: int | None = None
    ) -> Measurement:
        """The entry with its timings."""
        return Measurement(
            part=self.part,
            name=self.name,
            device=device,
            seconds=seconds,
            first_seconds=first_seconds,
            images=self.images,
            dtype=self.dtype,
            flops=self.flops,
            compared_with=self.compared_with,
            peak_bytes=peak_bytes,
            axis=self.axis,
            value=self.value,
        )


def alternate(entries: Sequence[Entry], device: str, rounds: int, block_seconds: float) -> list[Measurement]:
    """Time entries in turn, `rounds` times. An entry that cannot start is left out, and a line says so.

    Args:
        entries: Contestants of one part, and what is measured among them, such as matrix multiplications.
        device: "cpu", "cuda" or "mps".
        rounds: Turns of each.
        block_seconds: A turn repeats its call for about so long, and at least once.

    Raises:
        UserError: If the system ended a process, most likely because memory is short.
    """
    print(f"  {entries[0].part}, {device}: {len(entries)} contestants, {rounds} rounds", flush=True)
    with contextlib.ExitStack() as stack:
        sides = {side: stack.enter_context(_process()) for side in sorted({entry.side for entry in entries})}
        first_seconds, seconds = {}, {}
        for index, entry in enumerate(entries):
            with _named(entry):
                try:
                    start = sides[entry.side].submit(_start, index, entry, device, block_seconds)
                    first_seconds[index] = start.result()
                    seconds[index] = [math.nan] * rounds
                except BrokenProcessPool:
                    raise
                except RuntimeError as error:
                    print(f"{entry.part}: {entry.name} is left out: {error}", flush=True)
        for turn in range(rounds):
            for index, times in seconds.items():
                with _named(entries[index]):
                    times[turn] = sides[entries[index].side].submit(_turn, index).result()
    return [entries[index].measured(device, first_seconds[index], times) for index, times in seconds.items()]


def measure_alone(entry: Entry, device: str, rounds: int) -> Measurement | None:
    """Time an entry in a process of its own and take its peak memory; None if it cannot run."""
    with _process() as process:
        try:
            first_seconds, seconds, peak_bytes = process.submit(_run_alone, entry, device, rounds).result()
        except RuntimeError as error:  # also where the system ended the process
            print(f"{entry.part}: {entry.name} is left out: {error}", flush=True)
            return None
    return entry.measured(device, first_seconds, seconds, peak_bytes)


@contextlib.contextmanager
def _named(entry: Entry):
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            f"The process of {entry.name} ({entry.part}) was ended, most likely since memory is short. Free some, or "
            "measure other --parts."
        ) from error


def _process() -> ProcessPoolExecutor:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    # The server forks processes that have imported everything already and have computed nothing yet.
    preloaded = [f"unet_kvasir_seg.benchmarks.{name}" for name in ("inference", "training", "data_path", "scaling")]
    context.set_forkserver_preload(preloaded)
    return ProcessPoolExecutor(1, mp_context=context, initializer=logging.disable_progress_bar)


# What follows runs in the contestants' processes.

_blocks: dict[int, Callable[[], float]] = {}


def _start(index: int, entry: Entry, device: str, block_seconds: float) -> float:
    """Make an entry ready for its turns; returns the seconds of its first call."""
    with _as_plain_errors():
        call = entry.start(torch.device(device))
        first_seconds = _seconds(call, device)
        calls = max(1, round(block_seconds / _seconds(call, device)))
        _blocks[index] = lambda: _seconds(call, device, calls)
    return first_seconds


def _turn(index: int) -> float:
    return _blocks[index]()


def _run_alone(entry: Entry, device: str, rounds: int) -> tuple[float, list[float], int | None]:
    with _as_plain_errors():
        call = entry.start(torch.device(device))
        first_seconds = _seconds(call, device)
        return first_seconds, [_seconds(call, device) for _ in range(rounds)], _peak_bytes(device)


def _seconds(call: Callable[[], object], device: str, calls: int = 1) -> float:
    """Mean seconds of a call, over `calls` calls.

    Not `torch.utils.benchmark.Timer`: it makes two further calls before each timed one, which costs minutes with
    training steps, and does not wait for Apple's GPU.
    """
    _synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    _synchronize(device)
    return (time.perf_counter() - started) / calls


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def _peak_bytes(device: str) -> int | None:
    """Peak memory so far, of the GPU's allocator or of the process; None if the system does not say."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if device == "cpu" and sys.platform == "linux":
        # Not `getrusage`: its peak is inherited from the parent process.
        status = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), None)
    return None


@contextlib.contextmanager
def _as_plain_errors():
    """Turn errors of libraries, some of which cannot be pickled, into ones that can travel between processes."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {first_line(error)}") from None
