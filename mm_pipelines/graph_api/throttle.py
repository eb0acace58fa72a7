"""Staying below Meta's rate limits: usage headers, refusals, and the waits that follow.

Meta sends no `Retry-After`. Three headers state how much of each quota is used
(docs/graph-api.md#throttling). At 100 % calls fail, and calls made then prolong the block. So calls
are spaced out from 75 % and stopped at 95 %, for as long as Meta says it takes to regain access. A
refusal stops them too, for longer each time in a row. After the wait a single call tries whether
access is regained.

Each kind of quota has a state of its own, because a refusal of one does not concern calls that
another covers. The rules are pure functions over `ThrottleState`. `MemoryThrottle` keeps the states
in this process; `mm_pipelines.shared_throttle` shares them between processes.
"""

import enum
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

SLOW_DOWN_AT: Final = 75.0
"""Percent of a quota from which calls are spaced out."""
PAUSE_AT: Final = 95.0
"""Percent of a quota from which no call is made until access is regained."""
LONGEST_SPACING: Final = 10.0
"""Seconds between two calls just below the pause."""
SHORTEST_PAUSE: Final = 60.0
"""Seconds of the shortest pause whose length Meta does not state."""
LONGEST_PAUSE: Final = 3600.0
"""Seconds after which Meta's counters have run out, so that no growing wait exceeds them."""
PROBE_SPACING: Final = 60.0
"""Seconds after the first call that follows a refusal in which no second call is made."""
WAKE_TOLERANCE: Final = 0.1
"""Seconds by which a caller may wake before the end of a pause."""


class Quota(enum.StrEnum):
    """A kind of quota, with the codes of its refusals."""

    APPLICATION = "application"
    """4: all calls of the app."""
    AD_ACCOUNT = "ad_account"
    """17, 80004: calls with one ad account."""
    CUSTOM_AUDIENCE = "custom_audience"
    """80003: calls for the Custom Audiences of one ad account."""
    PAGE = "page"
    """32, 80001, 80006: calls with one Page."""
    TOKEN_LISTING = "token_listing"  # noqa: S105 - not a secret
    """2300080: listings of one Page's subscription tokens; other calls of the Page go on."""


_LISTING_EDGE = "/notification_message_tokens"

_USE_CASES = {
    "custom_audience": Quota.CUSTOM_AUDIENCE,
    "ads_management": Quota.AD_ACCOUNT,
    "ads_insights": Quota.AD_ACCOUNT,
    "pages": Quota.PAGE,
    "messenger": Quota.PAGE,
}


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of one quota is used, by the headers of one answer.

    Attributes:
        percent: Share of the quota; at 100 calls are refused.
        regain_seconds: Time until access is regained; 0 if it is not lost or not stated.
        quota: The kind of quota; None for a use case that is not listed in `Quota`.
    """

    percent: float
    regain_seconds: float = 0.0
    quota: Quota | None = None

    @property
    def pause_seconds(self) -> float:
        """The pause that this usage asks for; 0 below 95 %."""
        if self.percent < PAUSE_AT:
            return 0.0
        return self.regain_seconds or assumed_pause(self.percent)


def parse_usage(headers: Mapping[str, str]) -> tuple[Usage, ...]:
    """The usage of each quota that the headers of an answer name.

    Args:
        headers: A mapping that ignores case (as httpx's does), or one with lower-case names.

    Returns:
        One `Usage` per quota: its fullest reading with its longest wait.
    """
    fullest: dict[Quota | None, Usage] = {}
    for usage in _readings(headers):
        known = fullest.get(usage.quota, usage)
        regain = max(known.regain_seconds, usage.regain_seconds)
        fullest[usage.quota] = Usage(max(known.percent, usage.percent), regain, usage.quota)
    return tuple(fullest.values())


def _readings(headers: Mapping[str, str]) -> Iterator[Usage]:
    if app := _document(headers, "x-app-usage"):
        yield Usage(_fullest_share(app), quota=Quota.APPLICATION)
    if account := _document(headers, "x-ad-account-usage"):
        percent = _number(account.get("acc_id_util_pct"))
        # In seconds; Meta sends it even if nearly nothing is used.
        reset = _number(account.get("reset_time_duration"))
        yield Usage(percent, reset if percent >= PAUSE_AT else 0.0, Quota.AD_ACCOUNT)
    for rows in _document(headers, "x-business-use-case-usage").values():
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict):
                minutes = _number(row.get("estimated_time_to_regain_access"))
                quota = _USE_CASES.get(str(row.get("type", "")))
                yield Usage(_fullest_share(row), 60 * minutes, quota)


def _document(headers: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        document = json.loads(headers.get(name) or "{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


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
    """What is remembered of one quota between calls.

    Attributes:
        next_call_at: Unix seconds before which no call is made.
        spacing: Seconds between two calls.
        percent: Share of the quota that was last seen used.
        paused_until: Unix seconds at which the last pause ends or ended.
        refusals: Refusals in a row; calls in flight when a pause begins do not count.
        last_wait: Seconds that the last refusal stated.
    """

    next_call_at: float = 0.0
    spacing: float = 0.0
    percent: float = 0.0
    paused_until: float = 0.0
    refusals: int = 0
    last_wait: float = 0.0


States = Mapping[Quota, ThrottleState]
"""The states of the quotas that cover a call."""


def spacing_at(percent: float) -> float:
    """Seconds between two calls at that usage: 0 below 75 %, then rising to 10 at 95 %."""
    if percent < SLOW_DOWN_AT:
        return 0.0
    return LONGEST_SPACING * min(1.0, (percent - SLOW_DOWN_AT) / (PAUSE_AT - SLOW_DOWN_AT))


def assumed_pause(percent: float) -> float:
    """Seconds of a pause whose length Meta does not state: a minute, doubled for each percent more.

    The pauses from 95 to 100 % together last an hour, which is how far back Meta counts. So the
    last calls of a quota are never used up.
    """
    return SHORTEST_PAUSE * 2 ** (min(percent, 100.0) - PAUSE_AT)


def observed(state: ThrottleState, usage: Usage, now: float) -> ThrottleState:
    """The state after an answer whose headers state `usage` at `now` (unix seconds).

    A pause lasts until its end, whatever answers to earlier calls still arrive.
    """
    paused_until = state.paused_until
    if usage.percent >= PAUSE_AT:
        paused_until = max(paused_until, now + usage.pause_seconds)
    return replace(
        state,
        next_call_at=max(state.next_call_at, paused_until),
        spacing=spacing_at(usage.percent),
        percent=usage.percent,
        paused_until=paused_until,
    )


def accepted(state: ThrottleState, now: float) -> ThrottleState:
    """The state after a call was not refused: refusals in a row end, unless a pause goes on."""
    if not state.refusals or now < state.paused_until:
        return state
    next_call_at = min(state.next_call_at, now + state.spacing)
    return replace(state, refusals=0, last_wait=0.0, next_call_at=next_call_at)


def refused(
    state: ThrottleState, now: float, *, at_least: float = 0.0
) -> tuple[ThrottleState, float]:
    """The state after a throttling refusal.

    The first wait is a minute or `at_least`. Each further refusal in a row doubles it, up to an
    hour. A refusal during a pause answers a call that was in flight when the pause began: it does
    not count as a further one.

    Args:
        state: The state before.
        now: Unix seconds.
        at_least: Seconds that the answer itself asks for.

    Returns:
        The new state, and the seconds for which no call is made from `now` on.
    """
    in_flight = state.refusals > 0 and now < state.paused_until
    if in_flight:
        wait = max(state.paused_until - now, at_least)
        count, stated = state.refusals, max(state.last_wait, wait)
    else:
        # A refusal that is older than Meta's counters says nothing about this one.
        in_a_row = state.refusals > 0 and now < state.paused_until + LONGEST_PAUSE
        grown = min(LONGEST_PAUSE, 2 * state.last_wait) if in_a_row else 0.0
        wait = max(SHORTEST_PAUSE, grown, at_least, state.paused_until - now)
        count, stated = (state.refusals if in_a_row else 0) + 1, wait
    paused_until = now + wait
    return (
        ThrottleState(
            next_call_at=max(state.next_call_at, paused_until),
            spacing=LONGEST_SPACING,
            percent=100.0,
            paused_until=paused_until,
            refusals=count,
            last_wait=stated,
        ),
        wait,
    )


def reserve(
    states: States, now: float, *, longest_wait: float
) -> tuple[dict[Quota, ThrottleState], float]:
    """Reserve the next call, if it is due within `longest_wait` seconds.

    Returns:
        The states, and the seconds until the call is due. If these exceed `longest_wait`, nothing
        is reserved.
    """
    due = max((now, *(state.next_call_at for state in states.values())))
    if due - now > longest_wait:
        return dict(states), due - now
    return {quota: _taken(state, now, due) for quota, state in states.items()}, due - now


def _taken(state: ThrottleState, now: float, due: float) -> ThrottleState:
    if state.refusals:
        return replace(state, next_call_at=due + PROBE_SPACING)
    if not state.spacing:
        return state
    # At its own pace: the call may be due later because of another quota, which must not hold up
    # calls that only this one covers.
    return replace(state, next_call_at=max(now, state.next_call_at) + state.spacing)


def recheck(
    states: States, now: float, *, longest_wait: float
) -> tuple[dict[Quota, ThrottleState], float]:
    """Check a reserved call after its wait, and reserve again if a pause began meanwhile.

    Returns:
        The states, and the seconds until the call is due: 0 if it is due now. As for `reserve`,
        nothing is reserved beyond `longest_wait`.
    """
    if all(state.paused_until <= now + WAKE_TOLERANCE for state in states.values()):
        return dict(states), 0.0
    return reserve(states, now, longest_wait=longest_wait)


def covers(quota: Quota, path: str) -> bool:
    """Whether a quota covers a call; the ad account or Page is the throttle's own."""
    return quota is not Quota.TOKEN_LISTING or path.endswith(_LISTING_EDGE)


class Throttle(Protocol):
    """The quotas that cover the calls with one ad account or Page."""

    def before(self, path: str, longest_wait: float) -> float:
        """Seconds to wait before a call to `path`, which is reserved unless they are too many."""
        ...

    def recheck_after_wait(self, path: str, longest_wait: float) -> float:
        """Seconds to wait further: 0 unless a pause began meanwhile."""
        ...

    def succeeded(self, path: str, usages: Sequence[Usage]) -> None:
        """Remember an answer that was not refused."""
        ...

    def observed(self, usages: Sequence[Usage]) -> None:
        """Remember the usage in any other answer."""
        ...

    def refused(self, quota: Quota | None, usages: Sequence[Usage], at_least: float) -> float:
        """Remember a refusal; returns the seconds for which no call is made from now on."""
        ...


def after_answer(
    states: States, usages: Sequence[Usage], now: float, own: Quota
) -> dict[Quota, ThrottleState]:
    """The states after an answer with usage headers; `own` is the quota of unlisted use cases."""
    changed = dict(states)
    for usage in usages:
        quota = usage.quota if usage.quota in changed else own
        changed[quota] = observed(changed.get(quota, ThrottleState()), usage, now)
    return changed


def after_refusal(
    states: States, quota: Quota, usages: Sequence[Usage], now: float, *, at_least: float
) -> tuple[dict[Quota, ThrottleState], float]:
    """The states after a refusal of one quota, and the wait.

    The wait is at least what the usage headers alone ask for.
    """
    # The limit of token listings is one of its own, whatever header it appears in: opt-outs of the
    # Page must not wait for it.
    of_others = [
        usage
        for usage in usages
        if not (quota is Quota.TOKEN_LISTING and usage.quota is Quota.PAGE)
    ]
    changed = after_answer(states, of_others, now, quota)
    longest = max((usage.pause_seconds for usage in usages), default=0.0)
    changed[quota], wait = refused(states[quota], now, at_least=max(at_least, longest))
    return changed, wait


class MemoryThrottle:
    """A throttle for one process; thread-safe.

    Args:
        now: The time in unix seconds.
        own: The quota of refusals and use cases that name none.
    """

    def __init__(
        self, now: Callable[[], float] = time.time, *, own: Quota = Quota.AD_ACCOUNT
    ) -> None:
        self._now = now
        self._own = own
        self._lock = threading.Lock()
        self._states: dict[Quota, ThrottleState] = dict.fromkeys(Quota, ThrottleState())

    def before(self, path: str, longest_wait: float) -> float:
        """Seconds to wait before a call to `path`, which is reserved unless they are too many."""
        with self._lock:
            taken, wait = reserve(self._covering(path), self._now(), longest_wait=longest_wait)
            self._states |= taken
        return wait

    def recheck_after_wait(self, path: str, longest_wait: float) -> float:
        """Seconds to wait further: 0 unless a pause began meanwhile."""
        with self._lock:
            taken, wait = recheck(self._covering(path), self._now(), longest_wait=longest_wait)
            self._states |= taken
        return wait

    def succeeded(self, path: str, usages: Sequence[Usage]) -> None:
        """Remember an answer that was not refused."""
        with self._lock:
            now = self._now()
            covering = {quota: accepted(s, now) for quota, s in self._covering(path).items()}
            self._states = after_answer(self._states | covering, usages, now, self._own)

    def observed(self, usages: Sequence[Usage]) -> None:
        """Remember the usage in any other answer."""
        with self._lock:
            self._states = after_answer(self._states, usages, self._now(), self._own)

    def refused(self, quota: Quota | None, usages: Sequence[Usage], at_least: float) -> float:
        """Remember a refusal; returns the seconds for which no call is made from now on."""
        with self._lock:
            self._states, wait = after_refusal(
                self._states, quota or self._own, usages, self._now(), at_least=at_least
            )
        return wait

    def _covering(self, path: str) -> dict[Quota, ThrottleState]:
        return {quota: state for quota, state in self._states.items() if covers(quota, path)}
