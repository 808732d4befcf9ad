"""What ends a command from outside: Ctrl-C, a request to end, and a reader of its output that has gone."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TypeGuard

from .launcher import is_main_process, was_launched

# SIGHUP: the terminal was closed. Windows has no such signal.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
RAISE_AGAIN_SECONDS = 0.05
CLOSED_PIPE = 13  # the number of SIGPIPE, which Windows has not


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end. Libraries clean up as they do for Ctrl-C."""


@contextlib.contextmanager
def interruptions(program: str, kept: str) -> Iterator[None]:
    """Let a signal end the block with a line on stderr, as a full standard output does; a closed one needs no line.

    What the block has open is cleaned up first; a second signal ends the process at once. The exit status is that of
    shells, 128 and the signal's number.

    Args:
        program: Name of the command.
        kept: What is left, and how to go on.
    """
    with _signals_raise() as received:
        try:
            yield
            if sys.stdout is not None:
                sys.stdout.flush()  # while an error can still be handled
        except BaseException as error:
            if isinstance(error, Interrupted):  # also of a signal that the block waited for itself
                received.append(error.args[0])
            if received:  # whatever error a library, or the end of another process, has made of it
                name = "interrupted" if received[0] == signal.SIGINT else signal.Signals(received[0]).name
                if is_main_process():
                    from tqdm.auto import tqdm  # here, so that signals are handled from the start

                    tqdm.write(f"{program}: {name}. {kept}", file=sys.stderr)
                sys.exit(128 + received[0])
            if not _is_of_output(error):
                raise
            # Python writes what is left in its buffer once more when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                sys.exit(128 + CLOSED_PIPE)
            print(f"{program}: error: Standard output cannot be written to: {error.strerror}. {kept}", file=sys.stderr)
            sys.exit(2)


def _is_of_output(error: BaseException) -> TypeGuard[OSError]:
    """Whether an error came of writing to standard output: another line fails too then."""
    if not isinstance(error, OSError):
        return False
    try:
        print(flush=True)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def _signals_raise() -> Iterator[list[int]]:
    """Let the signals raise `Interrupted`, but those that are ignored, as SIGHUP by nohup; gives those received."""
    process = os.getpid()
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        is_forked = os.getpid() != process  # as a data loader's worker
        # Launchers pass on the signal of a terminal, which the process has got too: it comes twice.
        again = signal.SIG_IGN if was_launched() and not is_forked else signal.SIG_DFL
        for caught in before:
            signal.signal(caught, again)
        if is_forked:
            os.kill(os.getpid(), number)
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error if a worker has got the signal too
        received.append(number)
        raise Interrupted(number)

    def raise_again(unraisable: "sys.UnraisableHookArgs") -> None:
        if not received:
            hook_before(unraisable)
        if not isinstance(unraisable.exc_value, Interrupted):
            return  # once a signal has come, the end of objects and further signals need no tracebacks
        # Python drops what is raised while it forks, or deletes an object, and would go on.
        signal.signal(received[0], handle)
        timer = threading.Timer(RAISE_AGAIN_SECONDS, os.kill, [process, received[0]])
        timer.daemon = True
        timer.start()

    hook_before = sys.unraisablehook
    before = {}
    if threading.current_thread() is threading.main_thread():  # others cannot set handlers
        before = {number: found for number in SIGNALS if (found := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    sys.unraisablehook = raise_again
    try:
        yield received
    finally:
        sys.unraisablehook = hook_before
        for number, handler in before.items():
            # While this process ends, Python's own handler of a second Ctrl-C would give tracebacks.
            signal.signal(number, signal.SIG_DFL if received else handler)
