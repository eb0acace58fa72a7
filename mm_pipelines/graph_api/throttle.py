"""Stays below Meta's rate limits: reads the usage headers and decides how long to wait.

Meta sends no `Retry-After`. Three headers state how much of a quota is used
(docs/graph-api.md#throttling). At 100 % calls fail, and calls made then prolong the block. So calls
are spaced out from 75 % and paused at 95 %, for as long as Meta says it takes to regain access.

The rules are pure functions over `ThrottleState`. `MemoryThrottle` holds one state in this
process. A `Throttle` that several processes share keeps its numbers elsewhere.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

SLOW_DOWN_AT = 75.0
"""Percent of a quota from which calls are spaced out."""
PAUSE_AT = 95.0
"""Percent of a quota from which no call is made until access is regained."""
LONGEST_SPACING = 10.0
"""Seconds between two calls just below the pause."""
SHORTEST_PAUSE = 60.0
"""Seconds of a pause at 95 % whose length Meta does not tell, as it does not until calls fail."""
A_MOMENT = 0.1
"""Seconds by which who waited for the end of a pause may wake before it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of the fullest quota is used, by one answer's headers.

    Attributes:
        percent: of the fullest quota; 100 means throttled.
        regain_seconds: until access is regained, 0 if Meta does not tell or it is not lost.
        quota: whose figure it is: `app`, `ad_account`, or a use case such as `custom_audience`.
    """

    percent: float
    regain_seconds: float = 0.0
    quota: str = ""


def parse_usage(headers: Mapping[str, str]) -> Usage | None:
    """The usage that an answer's headers tell; None if they tell nothing.

    Args:
        headers: with names in any case if the mapping ignores it (httpx's does), else lower case.

    Returns:
        The fullest of all quotas named, with the longest wait named.
    """
    readings = [
        *_app(_document(headers, "x-app-usage")),
        *_ad_account(_document(headers, "x-ad-account-usage")),
        *_use_cases(_document(headers, "x-business-use-case-usage")),
    ]
    if not readings:
        return None
    fullest = max(readings, key=lambda reading: reading.percent)
    return replace(fullest, regain_seconds=max(reading.regain_seconds for reading in readings))


def _document(headers: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        document = json.loads(headers.get(name) or "{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _app(document: dict[str, Any]) -> Iterator[Usage]:
    if document:
        yield Usage(_fullest_share(document), quota="app")


def _ad_account(document: dict[str, Any]) -> Iterator[Usage]:
    if document:
        percent = _number(document.get("acc_id_util_pct"))
        # In seconds; it is named even when nearly nothing is used.
        reset = _number(document.get("reset_time_duration"))
        yield Usage(percent, reset if percent >= PAUSE_AT else 0.0, "ad_account")


def _use_cases(document: dict[str, Any]) -> Iterator[Usage]:
    for rows in document.values():
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict):
                yield Usage(
                    _fullest_share(row),
                    60 * _number(row.get("estimated_time_to_regain_access")),  # minutes
                    str(row.get("type", "")),
                )


def _fullest_share(document: dict[str, Any]) -> float:
    return max(
        _number(document.get(name)) for name in ("call_count", "total_cputime", "total_time")
    )


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if 0 <= number < float("inf") else 0.0


@dataclass(frozen=True, slots=True)
class ThrottleState:
    """All that must be remembered of a quota between calls.

    Attributes:
        next_call_at: unix seconds before which nobody calls.
        spacing: seconds between two calls.
        percent: of the quota last seen used, for people.
        paused_until: unix seconds at which the last pause ends or ended.
    """

    next_call_at: float = 0.0
    spacing: float = 0.0
    percent: float = 0.0
    paused_until: float = 0.0


def spacing_at(percent: float) -> float:
    """Seconds between two calls at that usage: 0 below 75 %, then rising to 10 at 95 %."""
    if percent < SLOW_DOWN_AT:
        return 0.0
    return LONGEST_SPACING * min(1.0, (percent - SLOW_DOWN_AT) / (PAUSE_AT - SLOW_DOWN_AT))


def assumed_pause(percent: float) -> float:
    """Seconds of a pause whose length Meta does not tell: a minute, doubled by every percent more.

    The pauses from 95 to 100 % together last an hour, which is how far back Meta counts: the last
    calls are never used up.
    """
    return SHORTEST_PAUSE * 2 ** (min(percent, 100.0) - PAUSE_AT)


def observed(state: ThrottleState, usage: Usage, now: float) -> ThrottleState:
    """The state after an answer that told `usage` at `now` (unix seconds).

    A pause stands until it is over, whatever answers of calls made before it still arrive.
    """
    paused_until = state.paused_until
    if usage.percent >= PAUSE_AT:
        pause = usage.regain_seconds or assumed_pause(usage.percent)
        paused_until = max(paused_until, now + pause)
    return ThrottleState(
        next_call_at=max(state.next_call_at, paused_until),
        spacing=spacing_at(usage.percent),
        percent=usage.percent,
        paused_until=paused_until,
    )


def reserved(state: ThrottleState, now: float) -> tuple[ThrottleState, float]:
    """Take the next place in the queue of callers.

    Returns:
        The state in which the place is taken, and the seconds until it is due.
    """
    due = max(now, state.next_call_at)
    return replace(state, next_call_at=due + state.spacing), due - now


def called_up(state: ThrottleState, now: float) -> tuple[ThrottleState, float]:
    """What becomes of a place that was waited for: a pause that began meanwhile takes it away.

    Returns:
        The state, and the seconds until the caller's new place behind the pause is due; 0 if it is
        their turn.
    """
    if state.paused_until <= now + A_MOMENT:
        return state, 0.0
    return reserved(state, now)


class Throttle(Protocol):
    """The memory of one quota: one ad account's, or one Page's."""

    def before(self) -> float:
        """Seconds to wait before the next call, which takes its place in the queue."""
        ...

    def after_waiting(self) -> float:
        """Seconds to wait more, in a new place: 0 unless a pause began in the meantime."""
        ...

    def after(self, usage: Usage) -> None:
        """Remember what an answer told."""
        ...


class MemoryThrottle:
    """A throttle for one process; thread-safe."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._state = ThrottleState()

    @property
    def state(self) -> ThrottleState:
        """What is remembered now."""
        return self._state

    def before(self) -> float:
        """Seconds to wait before the next call, which takes its place in the queue."""
        with self._lock:
            self._state, wait = reserved(self._state, self._now())
        return wait

    def after_waiting(self) -> float:
        """Seconds to wait more, in a new place: 0 unless a pause began in the meantime."""
        with self._lock:
            self._state, wait = called_up(self._state, self._now())
        return wait

    def after(self, usage: Usage) -> None:
        """Remember what an answer told."""
        with self._lock:
            self._state = observed(self._state, usage, self._now())
