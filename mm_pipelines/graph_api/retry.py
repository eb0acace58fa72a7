"""When a failed call is made again, and after how long."""

import random
from dataclasses import dataclass

from mm_pipelines.graph_api.errors import (
    AmbiguousOutcomeError,
    GraphApiError,
    ThrottledError,
    TransientError,
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Repeat only what repeating can help.

    Attributes:
        attempts: calls in all, the first included.
        first_wait: seconds before the second attempt; doubled every time.
        longest_wait: seconds that a wait never exceeds.
        patience: the longest that a throttle is waited for here; beyond it the caller is told, who
            can give its place up meanwhile.
    """

    attempts: int = 5
    first_wait: float = 1.0
    longest_wait: float = 30.0
    patience: float = 60.0

    def wait_after(self, error: GraphApiError, attempt: int, *, repeatable: bool) -> float | None:
        """Seconds to wait before the call is made again; None if it must not be.

        Args:
            error: how attempt number `attempt` (from 1) failed.
            attempt: how many were made.
            repeatable: doing it twice is the same as doing it once.

        Returns:
            For a throttle 0: the throttle itself keeps the next call back.
        """
        if attempt >= self.attempts:
            return None
        if isinstance(error, ThrottledError):
            return 0.0 if error.wait_seconds <= self.patience else None
        if isinstance(error, AmbiguousOutcomeError) and not repeatable:
            return None
        if not isinstance(error, TransientError):
            return None
        ceiling = min(self.longest_wait, self.first_wait * 2 ** (attempt - 1))
        # Jitter over the upper half: runs that failed together do not come back together.
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - no secret rests on it
