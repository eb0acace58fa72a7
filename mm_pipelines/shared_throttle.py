"""An account's quota and refused token, shared by all runs through its row in PostgreSQL."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock

from sqlalchemy import Connection, text

from mm_pipelines.graph_api.errors import TokenError
from mm_pipelines.graph_api.throttle import ThrottleState, Usage, called_up, observed, reserved
from mm_pipelines.warehouse.database import Database

# Nothing is lost when a server's crash forgets these, so no run waits for the disk.
_WITHOUT_WAITING_FOR_THE_DISK = text("set local synchronous_commit to off")

_CREATE = text("insert into mm.throttle (account) values (:account) on conflict do nothing")

_READ = """
select coalesce(extract(epoch from nullif(next_call_at, '-infinity')), 0)::double precision
           as next_call_at,
       coalesce(extract(epoch from nullif(paused_until, '-infinity')), 0)::double precision
           as paused_until,
       spacing_seconds, usage_percent, refused_token, refused_reason, refused_at
from mm.throttle where account = :account
"""

_FIND = text(_READ)

_LOCK = text(f"{_READ} for update")

_UPDATE = text("""
update mm.throttle
set next_call_at = to_timestamp(:next_call_at), spacing_seconds = :spacing_seconds,
    usage_percent = :usage_percent, paused_until = to_timestamp(:paused_until),
    observed_at = now()
where account = :account
""")

_REFUSE = text("""
insert into mm.throttle (account, refused_token, refused_reason, refused_at)
values (:account, :token, :reason, now())
on conflict (account) do update
set refused_token = excluded.refused_token, refused_reason = excluded.refused_reason,
    refused_at = excluded.refused_at
""")


@dataclass(frozen=True)
class RefusedToken:
    """A token that Meta refused, by its fingerprint, and what it said."""

    fingerprint: str
    reason: str
    refused_at: datetime


@dataclass(frozen=True)
class AccountState:
    """An account's row; unix seconds, seconds and percent."""

    next_call_at: float = 0.0
    spacing_seconds: float = 0.0
    usage_percent: float = 0.0
    paused_until: float = 0.0
    refused_token: RefusedToken | None = None


def find(connection: Connection, account: str) -> AccountState:
    """What is known of an account; all zero if nothing is."""
    row = connection.execute(_FIND, {"account": account}).one_or_none()
    return _state(row._asdict()) if row else AccountState()


def lock(connection: Connection, account: str) -> AccountState:
    """The same, with the row locked until the transaction ends."""
    connection.execute(_WITHOUT_WAITING_FOR_THE_DISK)
    connection.execute(_CREATE, {"account": account})
    return _state(connection.execute(_LOCK, {"account": account}).one()._asdict())


def update(
    connection: Connection,
    account: str,
    *,
    next_call_at: float,
    spacing_seconds: float,
    usage_percent: float,
    paused_until: float,
) -> None:
    """Write a locked account's quota."""
    connection.execute(
        _UPDATE,
        {
            "account": account,
            "next_call_at": next_call_at,
            "spacing_seconds": spacing_seconds,
            "usage_percent": usage_percent,
            "paused_until": paused_until,
        },
    )


def refuse_token(connection: Connection, account: str, fingerprint: str, reason: str) -> None:
    """Note that Meta refused a token, so that other runs stop before they use it."""
    connection.execute(_REFUSE, {"account": account, "token": fingerprint, "reason": reason})


def _state(row: dict[str, object]) -> AccountState:
    token = row.pop("refused_token")
    reason, refused_at = row.pop("refused_reason"), row.pop("refused_at")
    refused = RefusedToken(token, reason, refused_at) if token else None  # type: ignore[arg-type]
    return AccountState(refused_token=refused, **row)  # type: ignore[arg-type]


REFUSAL_HOLDS = timedelta(minutes=10)
"""How long a refused token keeps other runs from using it: some refusals are lifted at Meta
without a new token (a checkpoint passed, an account confirmed)."""

GLANCE_HOLDS_SECONDS = 0.1
"""How long a run that found nobody queueing does not look again: a service that answers at once
would be kept waiting by PostgreSQL. What the run itself is told counts from its next call on."""


@dataclass
class Waiting:
    """What a run saw of a throttle: for its metadata."""

    seconds_waited: float = 0.0
    highest_usage_percent: float = 0.0


class SharedThrottle:
    """A `graph_api.throttle.Throttle` whose state every run of the account sees.

    Args:
        database: Where ``mm.throttle`` is.
        account: ``ad_account:<id>`` or ``page:<id>``.
        access_token: Only its fingerprint is kept.
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
        self._lock = Lock()
        self._glanced_at = float("-inf")
        self.waiting = Waiting()

    def __repr__(self) -> str:
        return f"SharedThrottle({self._account!r})"

    def before(self) -> float:
        """Seconds to wait before the next call, which takes its place in the queue.

        Raises:
            TokenError: Another run was told that this token is refused.
        """
        with self._lock:
            if 0 <= self._now() - self._glanced_at < GLANCE_HOLDS_SECONDS:
                return 0.0
        with self._database.transaction() as connection:
            state = find(connection, self._account)
            self._stop_if_refused(state)
            now = self._now()
            if not state.spacing_seconds and state.next_call_at <= now:
                with self._lock:
                    self._glanced_at = now
                return 0.0  # nobody queues: the common case writes nothing
            known = lock(connection, self._account)
            taken, wait = reserved(_quota(known), self._now())
            self._write(connection, taken)
        self._count(wait)
        return wait

    def after_waiting(self) -> float:
        """Seconds to wait more, in a new place: 0 unless a pause began in the meantime.

        Raises:
            TokenError: Another run was told meanwhile that this token is refused.
        """
        with self._database.transaction() as connection:
            state = find(connection, self._account)
            self._stop_if_refused(state)
            if called_up(_quota(state), self._now())[1] == 0:
                return 0.0
            known = lock(connection, self._account)
            taken, wait = called_up(_quota(known), self._now())
            self._write(connection, taken)
        self._count(wait)
        return wait

    def after(self, usage: Usage) -> None:
        """Remember what an answer told."""
        with self._lock:
            highest = max(self.waiting.highest_usage_percent, usage.percent)
            self.waiting.highest_usage_percent = highest
        with self._database.transaction() as connection:
            known = _quota(find(connection, self._account))
            if observed(known, usage, self._now()) == known:
                return
            known = _quota(lock(connection, self._account))
            self._write(connection, observed(known, usage, self._now()))
        with self._lock:
            self._glanced_at = float("-inf")

    @contextmanager
    def remembering_refusals(self) -> Iterator[None]:
        """Tell the other runs of a `TokenError` that passes through, so that they stop at once."""
        try:
            yield
        except TokenError as error:
            # Without an HTTP status it is our own word, handed on: that must not renew itself.
            if error.status is not None:
                with self._database.transaction() as connection:
                    refuse_token(connection, self._account, self._fingerprint, error.message)
            raise

    def _stop_if_refused(self, state: AccountState) -> None:
        refused = state.refused_token
        if refused is None or refused.fingerprint != self._fingerprint:
            return
        held_until = refused.refused_at + REFUSAL_HOLDS
        if held_until <= datetime.fromtimestamp(self._now(), UTC):
            return
        raise TokenError(
            f"Meta refused this access token in another run ({refused.reason})",
            next_step="Make a new access token and put it where the old one was set, or mend the "
            f"old one at Meta; with the same token, calls are tried again from {held_until:%H:%M} "
            "UTC on.",
        )

    def _count(self, wait: float) -> None:
        with self._lock:
            self.waiting.seconds_waited += wait

    def _write(self, connection: Connection, state: ThrottleState) -> None:
        update(
            connection,
            self._account,
            next_call_at=state.next_call_at,
            spacing_seconds=state.spacing,
            usage_percent=state.percent,
            paused_until=state.paused_until,
        )


def _quota(state: AccountState) -> ThrottleState:
    return ThrottleState(
        state.next_call_at, state.spacing_seconds, state.usage_percent, state.paused_until
    )
