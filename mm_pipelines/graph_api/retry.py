"""When a failed call is repeated, and after how long."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from mm_pipelines.graph_api.errors import (
    AmbiguousOutcomeError,
    GraphApiError,
    TransientError,
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Repeat only calls that repeating can help.

    Attributes:
        attempts: Calls in all, the first included.
        first_wait: Seconds before the second attempt; doubled for each further one.
        longest_wait: Seconds that a wait never exceeds.
        throttle_wait_limit: Seconds that one call waits for quotas in all. A call that would wait
            longer fails with `ThrottledError`, so that its run can end and come back.
        jitter: A random number between two bounds; runs that failed together do not return
            together.
    """

    attempts: int = 5
    first_wait: float = 1.0
    longest_wait: float = 30.0
    throttle_wait_limit: float = 60.0
    jitter: Callable[[float, float], float] = random.uniform

    def wait_after(self, error: GraphApiError, attempt: int, *, repeatable: bool) -> float | None:
        """Seconds to wait before a failed call is repeated; None if it must not be.

        Throttling is not decided here.

        Args:
            error: The failure of attempt number `attempt`.
            attempt: Counted from 1.
            repeatable: Whether doing it twice is the same as doing it once.
        """
        if attempt >= self.attempts:
            return None
        if isinstance(error, AmbiguousOutcomeError) and not repeatable:
            return None
        if not isinstance(error, TransientError):
            return None
        ceiling = min(self.longest_wait, self.first_wait * 2 ** (attempt - 1))
        return self.jitter(ceiling / 2, ceiling)
