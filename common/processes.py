"""The processes that share a command's work: one, unless `accelerate launch` or `torchrun` started several."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Protocol

from .errors import UserError
from .launcher import was_launched


class Processes(Protocol):
    """What a command asks of the processes that run it.

    Attributes:
        index: Of this process, from 0.
        count: How many there are.
    """

    index: int
    count: int

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes for all."""

    def gather(self, item: Any) -> list[Any]:
        """The items of all processes, in their order, in each of them."""

    def wait(self) -> None:
        """Return when all processes have come here."""

    def main_first(self) -> contextlib.AbstractContextManager[None]:
        """What is inside is done by the main process before the others."""


class OneProcess:
    """The usual case, which needs neither torch nor accelerate."""

    index, count, is_main = 0, 1, True

    def gather(self, item: Any) -> list[Any]:
        return [item]

    def wait(self) -> None:
        pass

    def main_first(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class LaunchedProcesses:
    """Several processes, as accelerate's `PartialState` knows them."""

    def __init__(self, cpu: bool, timeout: timedelta | None):
        from accelerate import PartialState

        self.state = PartialState(cpu=cpu, **({} if timeout is None else {"timeout": timeout}))
        self.index, self.count = self.state.process_index, self.state.num_processes

    @property
    def is_main(self) -> bool:
        return self.state.is_main_process

    def gather(self, item: Any) -> list[Any]:
        from accelerate.utils import gather_object

        return gather_object([item])

    def wait(self) -> None:
        self.state.wait_for_everyone()

    def main_first(self) -> contextlib.AbstractContextManager[None]:
        return self.state.main_process_first()


@contextlib.contextmanager
def share_work(cpu: bool, timeout: timedelta | None = None) -> Iterator[Processes]:
    """The processes of this command, which end together.

    Args:
        cpu: Whether they compute on the CPU.
        timeout: How long one may wait for the others; None: torch's default.
    """
    if not was_launched():
        yield OneProcess()
        return
    import torch

    processes = LaunchedProcesses(cpu, timeout)
    try:
        yield processes
        # Launchers end the others when one has ended: not before the main process has written.
        processes.wait()
    finally:
        # A process that ends within the group may abort, and be taken for a crash.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextlib.contextmanager
def ending_alike(processes: Processes) -> Iterator[None]:
    """Raise the first `UserError` that a process had in all of them, so that none waits for it."""
    error = None
    try:
        yield
    except UserError as raised:
        error = raised
    for found in processes.gather(error):
        if found is not None:
            raise found
