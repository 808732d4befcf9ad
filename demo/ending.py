"""Ends the page within seconds of a signal, whatever its threads are doing at that moment.

with exiting_at_once(), interruptions("app.py", "..."):
    signals = caught_signals()
    ...
    number = wait_for(signals)
    end_soon(number)
    ...  # clean up
    raise Interrupted(number)
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from ..common.interruptions import SIGNALS

END_SECONDS = 4.0  # a container is killed ten seconds after it was asked to end

logger = logging.getLogger(__name__)


def caught_signals() -> "SimpleQueue[int]":
    """A queue for the numbers of signals that ask this program to end. Those that are ignored stay so.

    Unlike an exception, such a signal does not break off what it comes to. Further ones change nothing.
    """
    caught: SimpleQueue[int] = SimpleQueue()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda caught_number, _: caught.put(caught_number))
    return caught


def wait_for(caught: "SimpleQueue[int]") -> int:
    """Wait for a signal; returns its number."""
    while True:
        with suppress(Empty):
            return caught.get(timeout=1)  # without a timeout, Windows would not see Ctrl-C


def end_soon(number: int) -> None:
    """End this program in `END_SECONDS`, if it does not end before, with the status of a signal."""
    timer = threading.Timer(END_SECONDS, _end_anyway, [128 + number])
    timer.daemon = True
    timer.start()


def _end_anyway(status: int) -> None:
    logger.error("app.py: ended before all uploads were deleted. The next start of app.py deletes them.")
    os._exit(status)


@contextmanager
def exiting_at_once() -> Iterator[None]:
    """Let `sys.exit` in the block end this program at once.

    Otherwise it would wait for threads that still compute, and libraries' own clean-up would crash some of them.
    """
    try:
        yield
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError):  # it may be closed
                stream.flush()
        os._exit(int(end.code or 0))
