"""The next items made while the present one is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

#: Polars leaves Python's lock alone while it works, so that threads are enough. Each waits now and
#: then for the others' Python: a third keeps two cores busy, more would only hold more memory.
SIDE_BY_SIDE = 3


def in_order(work: Callable[[Chunk], Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
    """``map(work, chunks)``, working ahead by ``SIDE_BY_SIDE`` chunks."""
    with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="chunk") as threads:
        under_way: deque[Future[Result]] = deque()
        for chunk in chunks:
            under_way.append(threads.submit(work, chunk))
            if len(under_way) > SIDE_BY_SIDE:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


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
