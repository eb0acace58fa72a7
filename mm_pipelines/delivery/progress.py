"""Logs the progress of a delivery at a rate that a person can read."""

import threading
import time
from collections.abc import Callable

from mm_pipelines.delivery.batch import Progress
from mm_pipelines.delivery.deltas import Delta

SECONDS_BETWEEN_LINES = 15.0
_VERBS = {"add": "uploading", "remove": "removing"}


class ProgressLog:
    """Counts what is acknowledged and logs it every 15 seconds; thread-safe.

    Args:
        say: Receives a line.
        clock: Returns seconds, monotonically.
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
        self.members_sent_again = 0
        self.invalid_entries = 0
        self.refused_rows = 0

    def begin(self, delta: Delta, before: Progress) -> None:
        """Begin a delta, of which ``before`` was delivered by earlier runs."""
        with self._lock:
            self._began_at = self._said_at = self._clock()
            self._doing = f"{delta.audience}, {delta.day}: {_VERBS[delta.operation]}"
            self._rows_here = 0
            self._rows_to_do = delta.row_count - before.rows
            already = f", {before.rows:,} were acknowledged before" if before.rows else ""
            line = f"{self._doing} {self._rows_to_do:,} rows{already}"
        self._say(line)

    def acknowledged(self, rows: int, invalid_entries: int, members_sent_again: int = 0) -> None:
        """Count another acknowledged batch."""
        with self._lock:
            self.batches += 1
            self.rows += rows
            self.members_sent_again += members_sent_again
            self.invalid_entries += invalid_entries
            self._rows_here += rows
            now = self._clock()
            if now - self._said_at < SECONDS_BETWEEN_LINES:
                return
            self._said_at = now
            rate = self._rows_here / (now - self._began_at)
            left = (self._rows_to_do - self._rows_here) / rate
            line = (
                f"{self._doing}: {self._rows_here:,} of {self._rows_to_do:,} rows, "
                f"{rate:,.0f} a second, about {_duration(left)} left"
            )
        self._say(line)

    def rejected(self, rows: int) -> None:
        """Count rows that Meta refuses."""
        with self._lock:
            self.refused_rows += rows
        self._say(f"{self._doing}: Meta refuses {rows:,} row; it is in mm.rejected_row")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if seconds < 100 else f"{minutes} min"
