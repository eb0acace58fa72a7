"""Ordered work in threads: mapping several chunks at once, and prefetching the next items."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = 3
"""Threads of `ordered_map`. Polars releases Python's lock while it works, so threads are enough:
a third keeps two cores busy while the others run Python, and more would only hold more memory."""

_END = object()


def ordered_map(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield ``work(item)`` in the order of the items, with `WORKERS` items in flight."""
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="chunk") as threads:
        in_flight: deque[Future[Result]] = deque()
        for item in items:
            in_flight.append(threads.submit(work, item))
            if len(in_flight) > WORKERS:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()


def prefetch(items: Iterator[Item], count: int = 1) -> Iterator[Item]:
    """Yield the same items, made in a thread while the previous ones are used.

    At most ``count`` items are ready or in progress, so memory stays bounded. An exception raised
    while making an item is raised here.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = deque(thread.submit(next, items, _END) for _ in range(count))
        while (item := coming.popleft().result()) is not _END:
            coming.append(thread.submit(next, items, _END))
            yield item  # type: ignore[misc]  # it is not the end
