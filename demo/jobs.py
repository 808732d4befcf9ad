"""The visitors' jobs in gradio's queue: how many each may have, whose turn it is, and answers that nobody fetches."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio.queueing import Event, Queue

MAX_OF_VISITOR = 16  # jobs that wait or run; the page itself starts a few at once
MAX_OF_ADDRESS = 250  # of all visitors at one address, such as a ward's
MAX_WAITING = 500  # of all visitors
UNREAD_SECONDS = 60  # for which an answer, with a visitor's frame in it, is kept for a visitor who is not listening


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        reason: For the visitor.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Jobs:
    """The jobs of a page.

    Args:
        queue: gradio's. It starts jobs in the order in which they came, so that one visitor may make all others wait,
            and keeps the answers for 2,000 visitors who never fetch them.
    """

    def __init__(self, queue: "Queue"):
        self.queue = queue
        self._listeners: Counter[str] = Counter()
        self._last_seen: dict[str, float] = {}  # visitors, in monotonic seconds

    def check_room(self, session: str, address: str | None) -> None:
        """Take note of a visitor's new job.

        Args:
            session: The visitor.
            address: None if many visitors have the same.

        Raises:
            RefusedError: If the visitor, or all at that address, have too many.
        """
        self._forget_unread()
        jobs = list(self.queue.event_ids_to_events.values())
        own = sum(job.session_hash == session for job in jobs)
        of_address = sum(_address(job) == address for job in jobs)
        if own >= MAX_OF_VISITOR or (address is not None and of_address >= MAX_OF_ADDRESS):
            raise RefusedError(429, "Too many images and videos are waiting already. Wait until some are done.")
        self._last_seen[session] = time.monotonic()

    def is_function(self, number: object) -> bool:
        """Whether the page has a function of that number."""
        return type(number) is int and number in self.queue.blocks.fns

    def take_turns(self) -> None:
        """Order the waiting jobs so that visitors take turns, and within a round the addresses."""
        for waiting in self.queue.event_queue_per_concurrency_id.values():
            of_visitor: Counter[str] = Counter()
            of_address: Counter[tuple[int, str]] = Counter()

            def turn(
                job: "Event", of_visitor: Counter = of_visitor, of_address: Counter = of_address
            ) -> tuple[int, int]:
                of_visitor[job.session_hash] += 1
                round_ = of_visitor[job.session_hash]
                of_address[round_, _address(job)] += 1
                return round_, of_address[round_, _address(job)]

            waiting.queue.sort(key=turn)

    @contextmanager
    def listening(self, session: str) -> Iterator[None]:
        """A visitor waits for answers."""
        self._listeners[session] += 1
        try:
            yield
        finally:
            self._listeners[session] -= 1
            if not self._listeners[session]:
                del self._listeners[session]
            self._last_seen[session] = time.monotonic()

    def _forget_unread(self) -> None:
        """Drop the answers for visitors who stopped listening, or never did."""
        busy = {job.session_hash for job in self.queue.event_ids_to_events.values()}
        for session, seen in list(self._last_seen.items()):
            if session in busy or session in self._listeners or time.monotonic() - seen < UNREAD_SECONDS:
                continue
            del self._last_seen[session]
            self.queue.pending_event_ids_session.pop(session, None)
            if session in self.queue.pending_messages_per_session:
                del self.queue.pending_messages_per_session[session]


def _address(job: "Event") -> str:
    return job.request.client.host if job.request.client else ""
