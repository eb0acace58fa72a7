"""How far a delivery is, told at a rate that a person can read."""

import threading
import time
from collections.abc import Callable

from mm_pipelines.delivery.deltas import Delta
from mm_pipelines.delivery.ledger import Progress

SECONDS_BETWEEN_LINES = 15.0
_VERBS = {"add": "uploading", "remove": "removing"}


class ProgressLog:
    """Counts what is acknowledged and says so every 15 seconds; thread-safe.

    Args:
        say: Takes a line.
        clock: Seconds that only grow.
    """

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._began_at = self._said_at = clock()
        self._doing = ""
        self._rows_to_do = 0
        self._rows_here = 0
        self.batches = 0
        self.rows = 0
        self.invalid_entries = 0

    def begin(self, delta: Delta, before: Progress) -> None:
        """A delta begins, of which ``before`` was delivered by earlier runs."""
        with self._lock:
            self._began_at = self._said_at = self._clock()
            self._doing = f"{delta.audience}, {delta.day}: {_VERBS[delta.operation]}"
            self._rows_here = 0
            self._rows_to_do = delta.row_count - before.rows
            already = f", {before.rows:,} were acknowledged before" if before.rows else ""
            line = f"{self._doing} {self._rows_to_do:,} people{already}"
        self._say(line)

    def acknowledged(self, rows: int, invalid_entries: int) -> None:
        """Another batch is acknowledged."""
        with self._lock:
            self.batches += 1
            self.rows += rows
            self.invalid_entries += invalid_entries
            self._rows_here += rows
            now = self._clock()
            if now - self._said_at < SECONDS_BETWEEN_LINES:
                return
            self._said_at = now
            rate = self._rows_here / (now - self._began_at)
            left = (self._rows_to_do - self._rows_here) / rate
            line = (
                f"{self._doing}: {self._rows_here:,} of {self._rows_to_do:,} people, "
                f"{rate:,.0f} a second, about {_duration(left)} left"
            )
        self._say(line)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if seconds < 100 else f"{minutes} min"
