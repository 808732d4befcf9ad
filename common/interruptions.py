"""What ends a command from outside: Ctrl-C, a request to end, and a reader of its output that has gone."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from .launcher import is_main_process, was_launched

# SIGHUP: the terminal was closed. Windows has no such signal.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what a disk says that cannot be written to
CLOSED_PIPE = 13  # the number of SIGPIPE, which Windows has not
SECONDS_TO_REACT = 0.5  # after a signal, until it is looked whether a library has swallowed the exception


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
            fault = _fault_of_output(error)
            _drop_what_cannot_be_written()
            if isinstance(error, Interrupted):  # also of a signal that the block waited for itself
                received.append(error.args[0])
            if received:  # whatever error a library, or the end of another process, has made of it
                name = "interrupted" if received[0] == signal.SIGINT else signal.Signals(received[0]).name
                if is_main_process():
                    say(f"{program}: {name}. {kept}")
                sys.exit(128 + received[0])
            if fault is None:
                raise
            if isinstance(error, BrokenPipeError):
                sys.exit(128 + CLOSED_PIPE)
            say(f"{program}: error: Standard output cannot be written to: {fault}. {kept}")
            sys.exit(2)


def _fault_of_output(error: BaseException) -> str | None:
    """Why standard output cannot be written to, if an error came of that: another line fails too then."""
    if not isinstance(error, OSError) or error.errno not in (errno.EPIPE, *FULL):
        return None
    try:
        print(flush=True)
    except OSError:
        return error.strerror
    return None


def say(lines: str) -> None:
    """Write to standard error, on lines of their own beside progress bars; nowhere if nobody can read them."""
    from tqdm.auto import tqdm  # here, so that signals are handled from the start

    with contextlib.suppress(OSError):
        tqdm.write(lines, file=sys.stderr)


def _drop_what_cannot_be_written() -> None:
    """Python writes what is left in its buffers when it ends, and an error would take the place of the exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it is closed
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
        if hasattr(signal, "setitimer"):  # Windows has none
            signal.signal(signal.SIGALRM, raise_again)
            signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_REACT, SECONDS_TO_REACT)
        raise Interrupted(number)

    def raise_again(number: int, frame: FrameType | None) -> None:
        # Imports from within C++, for one, drop exceptions. While one is handled, the block is cleaning up.
        if sys.exc_info()[1] is None and not _is_within_del(frame):
            raise Interrupted(received[0])

    def ignore_aloud(unraisable: "sys.UnraisableHookArgs") -> None:
        if not received:  # else it is the signal that Python drops, as it does while it forks: it comes again
            hook_before(unraisable)

    hook_before = sys.unraisablehook
    before = {}
    if threading.current_thread() is threading.main_thread():  # others cannot set handlers
        before = {number: found for number in SIGNALS if (found := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    sys.unraisablehook = ignore_aloud
    try:
        yield received
    finally:
        sys.unraisablehook = hook_before
        if received and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            # While this process ends, Python's own handler of a second Ctrl-C would give tracebacks.
            signal.signal(number, signal.SIG_DFL if received else handler)


def _is_within_del(frame: FrameType | None) -> bool:
    """Whether an object is being deleted, as when an exception leaves a function; errors are then ignored aloud."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None
