"""Items in batches, as `itertools.batched` gives them from Python 3.12 on."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, of which the last may be shorter. No item is asked for before its batch is."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
