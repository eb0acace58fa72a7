"""Examines many items in turn: in each tick as many as its time allows."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

TICK_SECONDS: Final = 3.0
"""How long a tick of a sensor that runs every 5 s examines items; other sensors wait for it."""


def in_turn(
    keys: Sequence[str],
    last: str | None,
    seconds: float = TICK_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[str]:
    """Yield each key once, starting after ``last``, until the time is over.

    At least one key is yielded, so every key has its turn after as many ticks as there are keys.

    Args:
        keys: The items, in an order that stays the same.
        last: The key that the tick before examined last; the caller stores it in the cursor.
        seconds: The time of this tick.
        clock: Returns seconds.
    """
    start = keys.index(last) + 1 if last in keys else 0
    give_up = clock() + seconds
    for key in [*keys[start:], *keys[:start]]:
        yield key
        if clock() >= give_up:
            return
