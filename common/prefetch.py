"""Work in threads, a bounded number of items ahead of who asks for them.

    for image in prefetch_map(decode, paths, threads=4, ahead=16): ...    # decodes the next while this one is used

So stages overlap, and memory does not grow with the number of items.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import repeat
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result, None, None]:
    """The results of `function` in the order of the items; an error in it, or of the items, is raised in its turn.

    Args:
        function: Called in threads; with one thread, for the items in order.
        items: Taken in the thread of the caller.
        threads: Items that are worked on at the same time.
        ahead: Items that are taken before their result is asked for, at most.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                del item  # a large one must not live on here until the next comes
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def prefetch(items: Iterable[Item], *, ahead: int) -> Generator[Item, None, None]:
    """The same items, made in a thread, at most `ahead` of them before they are asked for."""
    iterator, end = iter(items), object()
    item: Any
    with closing(prefetch_map(lambda _: next(iterator, end), repeat(None), threads=1, ahead=ahead)) as made:
        for item in made:
            if item is end:
                return
            yield item
