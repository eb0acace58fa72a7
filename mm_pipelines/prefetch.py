"""The next items made while the present one is used."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def ahead(items: Iterator[T], held: int = 1) -> Iterator[T]:
    """The same items, made in a thread of its own while those before them are used.

    At most ``held`` items are ready or in the making, so that the memory stays bounded. What making
    one raises is raised here.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = deque(thread.submit(next, items, _END) for _ in range(held))
        while (item := coming.popleft().result()) is not _END:
            coming.append(thread.submit(next, items, _END))
            yield item  # type: ignore[misc]  # it is not the end
