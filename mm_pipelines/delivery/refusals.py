"""Finds out why Meta refuses a batch for good: some of its rows, a schema key, or neither.

Single rows from different places of the batch are sent first. If Meta accepts one, the refusal is
about rows, and they are isolated by halving; everyone else is delivered on the way. If it accepts
none, the refusal is about the request: the row is sent with fewer schema keys, to name the one that
is refused.
"""

import threading
from collections.abc import Callable, Sequence

import polars as pl

from mm_pipelines.delivery.anti_join import IDENTITY
from mm_pipelines.graph_api.errors import PermanentError

MOST_CALLS = 200
"""Calls that a run spends on isolating refused rows."""

Attempt = Callable[["Part"], PermanentError | None]
"""Sends the rows in a session of their own; returns Meta's refusal, or None if it accepts them."""


class Part:
    """Some consecutive rows of a delta.

    Args:
        first_row: Position in the delta's file, from 0.
        rows: The schema keys, and columns of our own in lower case.
    """

    def __init__(self, first_row: int, rows: pl.DataFrame) -> None:
        self.first_row = first_row
        self.rows = rows

    def __len__(self) -> int:
        return self.rows.height

    def slice(self, start: int, stop: int) -> "Part":
        """The rows from ``start`` up to ``stop``, counted within the part."""
        return Part(self.first_row + start, self.rows[start:stop])

    def without_keys(self, keys: Sequence[str]) -> "Part":
        """The same rows without some of the schema keys."""
        return Part(self.first_row, self.rows.drop(keys))


class CallsExhaustedError(Exception):
    """The run has spent its calls on isolating refused rows."""


class RequestRefusedError(Exception):
    """Meta refuses the request whatever the rows.

    Attributes:
        refusal: Meta's answer.
        suspects: The schema keys of which at least one is refused; empty if none was found.
    """

    def __init__(self, refusal: PermanentError, suspects: Sequence[str]) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.suspects = tuple(suspects)


class CallBudget:
    """Counts the calls that a run spends on refusals; thread-safe."""

    def __init__(self, calls: int = MOST_CALLS) -> None:
        self._left = calls
        self._lock = threading.Lock()

    def spend(self) -> None:
        """Take one call.

        Raises:
            CallsExhaustedError: None is left.
        """
        with self._lock:
            if self._left == 0:
                raise CallsExhaustedError
            self._left -= 1


class RefusalSearch:
    """Isolates what Meta refuses in one batch.

    Args:
        attempt: Sends some of its rows.
        reject: Records that a single row is refused.
        budget: The calls of the run.
    """

    def __init__(
        self, attempt: Attempt, reject: Callable[[Part], None], budget: CallBudget
    ) -> None:
        self._attempt_unlimited = attempt
        self._reject = reject
        self._budget = budget

    def isolate(self, batch: Part, refusal: PermanentError) -> None:
        """Deliver everyone in a refused batch but the rows that Meta refuses.

        Raises:
            RequestRefusedError: Meta refuses every probe.
            CallsExhaustedError: The run has spent its calls.
        """
        refused: list[int] = []
        accepted = None
        for place in dict.fromkeys((0, len(batch) - 1, len(batch) // 2)):
            if self._attempt(batch.slice(place, place + 1)) is None:
                accepted = place
                break
            refused.append(place)
        if accepted is None:
            raise RequestRefusedError(refusal, self._refused_keys(batch))
        for place in refused:
            self._reject(batch.slice(place, place + 1))
        probed = sorted([*refused, accepted])
        for start, stop in zip([-1, *probed], [*probed, len(batch)], strict=True):
            # With no other row refused, the refused one is among the rest.
            self._deliver(batch.slice(start + 1, stop), is_refused=not refused)

    def _deliver(self, part: Part, *, is_refused: bool) -> None:
        while len(part):
            if not is_refused and self._attempt(part) is None:
                return
            found = self._first_refused(part)
            if self._attempt(part.slice(found, found + 1)) is not None:
                self._reject(part.slice(found, found + 1))
            part = part.slice(found + 1, len(part))
            is_refused = False

    def _first_refused(self, part: Part) -> int:
        """The position of the first refused row of a refused part; delivers those before it."""
        start, stop = 0, len(part)
        while stop - start > 1:
            middle = (start + stop) // 2
            if self._attempt(part.slice(start, middle)) is None:
                start = middle
            else:
                stop = middle
        return start

    def _refused_keys(self, batch: Part) -> list[str]:
        """The optional schema keys among which the refused one is, in at most five calls."""
        keys = [name for name in batch.rows.columns if name != name.lower()]
        suspects = [name for name in keys if name not in IDENTITY]
        if not suspects:
            return []
        # An accepted row is delivered, so each call that is accepted needs another row.
        place = 0
        if self._attempt(batch.slice(0, 1).without_keys(suspects)) is not None:
            return []
        while len(suspects) > 1 and (place := place + 1) < len(batch):
            left, right = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
            row = batch.slice(place, place + 1)
            others = [name for name in keys if name not in (*IDENTITY, *left)]
            suspects = right if self._attempt(row.without_keys(others)) is None else left
        return suspects

    def _attempt(self, part: Part) -> PermanentError | None:
        self._budget.spend()
        return self._attempt_unlimited(part)
