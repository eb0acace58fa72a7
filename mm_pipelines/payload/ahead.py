"""A few chunks worked on side by side, their results in the order of the chunks."""

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
