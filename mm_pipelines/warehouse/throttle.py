"""What the last answers said of an account: how much of its quota is used, which token is refused.

An account is an ad account or a Page, such as ``ad_account:123`` or ``page:123``; one row each,
shared by all runs.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

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
