"""The quotas of an ad account or Page, and its refused token, shared by all runs in PostgreSQL."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Final

from sqlalchemy import Connection, MappingResult, text

from mm_pipelines.graph_api.errors import TokenError
from mm_pipelines.graph_api.throttle import (
    Quota,
    States,
    ThrottleState,
    Usage,
    accepted,
    after_answer,
    after_refusal,
    covers,
    recheck,
    reserve,
)
from mm_pipelines.warehouse.database import Database

# A crash of the server may lose these rows without harm, so no run waits for the disk.
_WITHOUT_WAITING_FOR_THE_DISK = text("set local synchronous_commit to off")

# Creates the rows that are missing.
_CREATE = text("""
insert into mm.throttle (account)
select unnest(cast(:accounts as text[])) order by 1 on conflict do nothing
""")

# The state of each quota, times in unix seconds.
_FIND = text("""
select account,
       coalesce(extract(epoch from nullif(next_call_at, '-infinity')), 0)::double precision
           as next_call_at,
       spacing_seconds as spacing,
       usage_percent as percent,
       coalesce(extract(epoch from nullif(paused_until, '-infinity')), 0)::double precision
           as paused_until,
       refusals,
       wait_seconds as last_wait
from mm.throttle where account = any(:accounts) order by account
""")

# The same rows, locked until the transaction ends.
_LOCK = text(f"{_FIND.text.rstrip()} for update")

_UPDATE = text("""
update mm.throttle
set next_call_at = to_timestamp(:next_call_at), spacing_seconds = :spacing,
    usage_percent = :percent, paused_until = to_timestamp(:paused_until),
    refusals = :refusals, wait_seconds = :last_wait, observed_at = now()
where account = :account
""")

# The token that Meta refused: its fingerprint, the reason and the time.
_FIND_REFUSED_TOKEN = text("""
select refused_token, refused_reason, refused_at
from mm.throttle where account = :account and refused_token = :token
""")

_REFUSE_TOKEN = text("""
insert into mm.throttle (account, refused_token, refused_reason, refused_at)
values (:account, :token, :reason, now())
on conflict (account) do update
set refused_token = excluded.refused_token, refused_reason = excluded.refused_reason,
    refused_at = excluded.refused_at
""")

REFUSED_TOKEN_HOLDS: Final = timedelta(minutes=10)
"""How long a refused token keeps other runs from using it. Some refusals are lifted at Meta without
a new token (a checkpoint passed, an account confirmed)."""

FREE_FOR_SECONDS: Final = 0.1
"""How long a run that found no queue does not look again. Without it, PostgreSQL would slow down
calls that Meta answers at once."""

_WORTH_STORING_PERCENT = 5.0


@dataclass
class Waiting:
    """What one run saw of its quotas, for its metadata."""

    seconds_waited: float = 0.0
    highest_usage_percent: float = 0.0


class SharedThrottle:
    """A `graph_api.throttle.Throttle` whose states all runs share.

    Each quota has a row: `application` for all ad accounts and Pages, and `ad_account:<id>` and
    `custom_audience:<id>`, or `page:<id>` and `token_listing:<id>`.

    Args:
        database: Where ``mm.throttle`` is.
        account: ``ad_account:<id>`` or ``page:<id>``.
        access_token: Only its fingerprint is stored.
        now: The time in unix seconds.
    """

    def __init__(
        self,
        database: Database,
        account: str,
        access_token: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._account = account
        self._fingerprint = hashlib.sha256(access_token.strip().encode()).hexdigest()[:16]
        self._now = now
        kind, _, account_id = account.partition(":")
        self._own = Quota(kind)
        second = Quota.TOKEN_LISTING if self._own is Quota.PAGE else Quota.CUSTOM_AUDIENCE
        self._rows = {
            Quota.APPLICATION: Quota.APPLICATION.value,
            self._own: account,
            second: f"{second}:{account_id}",
        }
        self._lock = Lock()
        self._found_free_at = float("-inf")
        self._saw_refusals = False
        self.waiting = Waiting()

    def __repr__(self) -> str:
        return f"SharedThrottle({self._account!r})"

    def before(self, path: str, longest_wait: float) -> float:
        """Seconds to wait before a call to `path`, which is reserved unless they are too many.

        Raises:
            TokenError: Meta refused this token in another run.
        """
        with self._lock:
            if 0 <= self._now() - self._found_free_at < FREE_FOR_SECONDS:
                return 0.0
        with self._database.transaction() as connection:
            self._stop_if_token_refused(connection)
            states, now = self._find(connection), self._now()
            if all(_is_free(state, now) for state in states.values()):
                with self._lock:
                    self._found_free_at = now
                return 0.0  # The usual case writes nothing.
            covering = self._find_and_lock(connection, path)
            taken, wait = reserve(covering, self._now(), longest_wait=longest_wait)
            self._write(connection, covering, taken)
        self._count_wait(wait, longest_wait)
        return wait

    def recheck_after_wait(self, path: str, longest_wait: float) -> float:
        """Seconds to wait further: 0 unless a pause began meanwhile.

        Raises:
            TokenError: Meta refused this token in another run.
        """
        with self._database.transaction() as connection:
            self._stop_if_token_refused(connection)
            if recheck(self._covering(connection, path), self._now(), longest_wait=0)[1] == 0:
                return 0.0
            covering = self._find_and_lock(connection, path)
            taken, wait = recheck(covering, self._now(), longest_wait=longest_wait)
            self._write(connection, covering, taken)
        self._count_wait(wait, longest_wait)
        return wait

    def succeeded(self, path: str, usages: Sequence[Usage]) -> None:
        """Remember an answer that was not refused: refusals in a row end."""
        self._count_usage(usages)
        if not usages and not self._saw_refusals:
            return

        def change(states: States, now: float) -> States:
            ended = {
                quota: accepted(state, now) if covers(quota, path) else state
                for quota, state in states.items()
            }
            return after_answer(ended, usages, now, self._own)

        self._change(change)
        with self._lock:
            self._saw_refusals = False

    def observed(self, usages: Sequence[Usage]) -> None:
        """Remember the usage in any other answer."""
        self._count_usage(usages)
        if usages:
            self._change(lambda states, now: after_answer(states, usages, now, self._own))

    def refused(self, quota: Quota | None, usages: Sequence[Usage], at_least: float) -> float:
        """Remember a refusal; returns the seconds for which no call is made from now on."""
        self._count_usage([*usages, Usage(100.0)])
        kind = quota if quota in self._rows else self._own
        with self._database.transaction() as connection:
            states = self._find_and_lock(connection)
            changed, wait = after_refusal(states, kind, usages, self._now(), at_least=at_least)
            self._write(connection, states, changed)
        self._forget_free()
        return wait

    @contextmanager
    def remembering_refusals(self) -> Iterator[None]:
        """Store a `TokenError` that passes through, so that other runs stop at once."""
        try:
            yield
        except TokenError as error:
            # Without an HTTP status it was raised here, and must not renew itself.
            if error.status is not None:
                with self._database.transaction() as connection:
                    connection.execute(
                        _REFUSE_TOKEN,
                        {
                            "account": self._account,
                            "token": self._fingerprint,
                            "reason": error.message,
                        },
                    )
            raise

    def states(self) -> dict[Quota, ThrottleState]:
        """The states of all quotas of this ad account or Page."""
        with self._database.transaction() as connection:
            return self._find(connection)

    def _change(self, change: Callable[[States, float], States]) -> None:
        with self._database.transaction() as connection:
            known = self._find(connection)
            changed = change(known, self._now())
            if not any(_differs(known[quota], state) for quota, state in changed.items()):
                return
            states = self._find_and_lock(connection)
            self._write(connection, states, change(states, self._now()))
        self._forget_free()

    def _find(self, connection: Connection) -> dict[Quota, ThrottleState]:
        return self._states(connection.execute(_FIND, self._parameters()).mappings())

    def _covering(self, connection: Connection, path: str) -> dict[Quota, ThrottleState]:
        found = self._find(connection)
        return {quota: state for quota, state in found.items() if covers(quota, path)}

    def _find_and_lock(
        self, connection: Connection, path: str | None = None
    ) -> dict[Quota, ThrottleState]:
        """The states, with their rows locked; those that cover `path` if it is given."""
        connection.execute(_WITHOUT_WAITING_FOR_THE_DISK)
        connection.execute(_CREATE, self._parameters())
        states = self._states(connection.execute(_LOCK, self._parameters()).mappings())
        return {quota: s for quota, s in states.items() if path is None or covers(quota, path)}

    def _states(self, rows: MappingResult) -> dict[Quota, ThrottleState]:
        by_account = {
            str(row["account"]): {name: row[name] for name in row if name != "account"}
            for row in rows
        }
        states = {
            quota: ThrottleState(**by_account.get(account, {}))
            for quota, account in self._rows.items()
        }
        if any(state.refusals for state in states.values()):
            with self._lock:
                self._saw_refusals = True
        return states

    def _parameters(self) -> dict[str, list[str]]:
        return {"accounts": sorted(self._rows.values())}

    def _write(self, connection: Connection, before: States, after: States) -> None:
        """Store the states that changed; their rows are locked."""
        changed = [
            {**asdict(state), "account": self._rows[quota]}
            for quota, state in after.items()
            if state != before[quota]
        ]
        if changed:
            connection.execute(_UPDATE, changed)

    def _forget_free(self) -> None:
        with self._lock:
            self._found_free_at = float("-inf")

    def _count_usage(self, usages: Sequence[Usage]) -> None:
        with self._lock:
            highest = max((usage.percent for usage in usages), default=0.0)
            self.waiting.highest_usage_percent = max(self.waiting.highest_usage_percent, highest)

    def _count_wait(self, wait: float, longest_wait: float) -> None:
        # A longer wait is not waited for.
        if wait <= longest_wait:
            with self._lock:
                self.waiting.seconds_waited += wait

    def _stop_if_token_refused(self, connection: Connection) -> None:
        refused = connection.execute(
            _FIND_REFUSED_TOKEN, {"account": self._account, "token": self._fingerprint}
        ).one_or_none()
        if refused is None:
            return
        held_until = refused.refused_at + REFUSED_TOKEN_HOLDS
        if held_until <= datetime.fromtimestamp(self._now(), UTC):
            return
        raise TokenError(
            f"Meta refused this access token in another run ({refused.refused_reason})",
            next_step="Make a new access token and put it where the old one was set, or repair the "
            f"old one at Meta. With the same token, calls are tried again from {held_until:%H:%M} "
            "UTC on.",
        )


def _is_free(state: ThrottleState, now: float) -> bool:
    return not state.spacing and not state.refusals and state.next_call_at <= now


def _differs(before: ThrottleState, after: ThrottleState) -> bool:
    """Whether a state is worth storing: the percent alone is so only if it changed much."""
    if abs(before.percent - after.percent) >= _WORTH_STORING_PERCENT:
        return True
    return before != replace(after, percent=before.percent)
