"""How far long work is, on standard error: a bar on a terminal, and a line now and then in a log.

with show_progress("Images", "image", total=900) as progress:
    for image in images:
        progress.update()
"""

import sys
import time

from tqdm.auto import tqdm

from .interruptions import say

LOG_SECONDS = 10.0  # between two lines of a log
WITH_TOTAL = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
WITHOUT_TOTAL = "{desc}: {n_fmt} {unit}s [{elapsed}, {rate_fmt}]"


def show_progress(description: str, unit: str, total: int | None = None, *, shown: bool = True) -> "tqdm | LogLines":
    """Show how many are done, of how many, at what speed, and the time that is left.

    Args:
        description: What stands in front.
        unit: What is counted, such as "image".
        total: How many there are; None if nobody knows. It may be set later.
        shown: Whether to show anything.
    """
    if shown and sys.stderr is not None and not sys.stderr.isatty():
        return LogLines(description, unit, total)
    # Smoothing 0 shows the speed of the whole run.
    bar = tqdm(desc=description, unit=unit, total=total, smoothing=0, disable=not shown or sys.stderr is None)
    bar.initial = 0  # which one that is disabled lacks
    return bar


class LogLines:
    """A line each `LOG_SECONDS` and one at the end; used as a bar of tqdm is.

    Attributes:
        n, total: How many are done, of how many; None if nobody knows.
        initial: How many of `n` do not count for the speed.
    """

    def __init__(self, description: str, unit: str, total: int | None):
        self.description, self.unit, self.total = description, unit, total
        self.n = self.initial = self.told_of = 0
        self.started = self.told = time.monotonic()

    def __enter__(self) -> "LogLines":
        return self

    def __exit__(self, *_: object) -> None:
        if self.n != self.told_of:
            self._tell()

    def update(self) -> None:
        """One more is done."""
        self.n += 1
        if time.monotonic() - self.told >= LOG_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self.told, self.told_of = time.monotonic(), self.n
        total = self.total if self.total and self.total >= self.n else None  # a file may state too few
        line = tqdm.format_meter(
            self.n,
            total,
            self.told - self.started,
            prefix=self.description,
            unit=self.unit,
            initial=self.initial,
            bar_format=WITH_TOTAL if total else WITHOUT_TOTAL,
        )
        say(line)
