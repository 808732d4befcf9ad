"""Map a function over items in threads, prefetching a bounded number of results.

    for image in prefetch_map(decode, paths, threads=4, ahead=16): ...    # decodes the next while this one is used

So the stages of a run overlap, and memory does not grow with the number of items.
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
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    size: Callable[[Item], int] = lambda _: 0,
    largest_sum: int = 0,
) -> Generator[Result, None, None]:
    """Yield the results of `function` in the order of the items.

    An error in `function` or in the iteration over the items is raised where its result would come.

    Args:
        function: Called in threads; with one thread, for the items in their order.
        items: Iterated over in the caller's thread.
        threads: Number of items worked on at the same time.
        ahead: Highest number of items that are started before their result is asked for.
        size: Size of an item, such as the bytes that it and its result take.
        largest_sum: Highest sum of the sizes of items that are started and whose results are not yet asked for. A
            single item may be larger: it is then the only one, and the next is not started before it is asked for.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Future[Result], int]] = deque()
        try:
            for item in items:
                new = size(item)
                while waiting and sum(each for _, each in waiting) + new > largest_sum:
                    yield waiting.popleft()[0].result()
                waiting.append((pool.submit(function, item), new))
                del item  # else a large item stays in memory until the next one comes
                if len(waiting) > ahead or new > largest_sum:
                    yield waiting.popleft()[0].result()
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()


def prefetch(items: Iterable[Item], *, ahead: int) -> Generator[Item, None, None]:
    """Yield the same items, produced in a thread, at most `ahead` of them before they are asked for."""
    iterator, end = iter(items), object()
    item: Any
    with closing(prefetch_map(lambda _: next(iterator, end), repeat(None), threads=1, ahead=ahead)) as produced:
        for item in produced:
            if item is end:
                return
            yield item
