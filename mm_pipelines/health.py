"""Everything that should not wait, in the view ``mm.health``: for monitoring, checks and alerts."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, text

Kind = Literal["audience", "page"]

# Returns one row for each thing that waits, the longest waiting of each item at the top.
_HEALTH = text("""
select item, subject, waiting, since, age_seconds from mm.health
order by item, since, subject
""")

# Adds the expectations that are new, and updates those that changed.
_EXPECT = text("""
insert into mm.freshness as known (kind, key, page_id, fresh_within)
values (:kind, :key, :page_id, :fresh_within)
on conflict (kind, key) do update
set page_id = excluded.page_id, fresh_within = excluded.fresh_within
where (known.page_id, known.fresh_within) is distinct from (excluded.page_id, excluded.fresh_within)
""")

# Removes the expectations of audiences and Pages that mm.yaml no longer has.
_FORGET = text("""
delete from mm.freshness
where (kind = 'audience' and key <> all (:audiences)) or (kind = 'page' and key <> all (:pages))
""")

# Returns when each configured audience and Page was last fresh, and when it is no longer.
_FRESHNESS = text("""
select 'audience' as kind, audience as key, fresh_within, fresh_at, stale_at, stale_at < now()
    as is_stale
from mm.audience_freshness
union all
select 'page', page, fresh_within, fresh_at, stale_at, stale_at < now() from mm.page_freshness
order by kind, key
""")

_RECORD_TOKEN = text("""
insert into mm.access_token (variable, is_valid, error, expires_at, missing_permissions)
values (:variable, :is_valid, :error, :expires_at, :missing_permissions)
on conflict (variable) do update
set is_valid = excluded.is_valid, error = excluded.error, expires_at = excluded.expires_at,
    missing_permissions = excluded.missing_permissions, checked_at = excluded.checked_at
""")

_FORGET_TOKENS = text("delete from mm.access_token where variable <> all (:variables)")


@dataclass(frozen=True)
class HealthItem:
    """One thing that should not wait.

    Attributes:
        item: What waits, such as ``pending_event``; docs/operations.md lists them.
        subject: The audience, Page, field, asset, quota or variable.
        waiting: How many wait.
        since: When the oldest began to wait; in the future for work that is not due.
        age_seconds: The seconds since then, at least 0.
    """

    item: str
    subject: str
    waiting: int
    since: datetime
    age_seconds: float


@dataclass(frozen=True)
class ExpectedFreshness:
    """How old the data of an audience or a Page may become, by mm.yaml."""

    kind: Kind
    key: str
    page_id: str
    fresh_within: timedelta


@dataclass(frozen=True)
class Freshness:
    """When the data of an audience or a Page was last fresh, and when it is no longer."""

    kind: Kind
    key: str
    fresh_within: timedelta
    fresh_at: datetime
    stale_at: datetime
    is_stale: bool


@dataclass(frozen=True)
class AccessTokenState:
    """What Meta said about the access token in a variable.

    Attributes:
        expires_at: The earlier end of the token and of its data access; None means never.
    """

    variable: str
    is_valid: bool
    error: str | None
    expires_at: datetime | None
    missing_permissions: tuple[str, ...]


def read(connection: Connection) -> list[HealthItem]:
    """Everything that waits, by item, the longest waiting first."""
    return [HealthItem(**row._asdict()) for row in connection.execute(_HEALTH)]


def expect(connection: Connection, expected: Collection[ExpectedFreshness]) -> None:
    """Make these, and no others, the expectations of the view."""
    keys = {
        f"{kind}s": [each.key for each in expected if each.kind == kind]
        for kind in ("audience", "page")
    }
    connection.execute(_FORGET, keys)
    connection.execute(_EXPECT, [asdict(each) for each in expected])


def freshness(connection: Connection) -> list[Freshness]:
    """The freshness of every expected audience and Page."""
    return [Freshness(**row._asdict()) for row in connection.execute(_FRESHNESS)]


def record_access_tokens(connection: Connection, states: Collection[AccessTokenState]) -> None:
    """Replace what is known about access tokens."""
    connection.execute(_FORGET_TOKENS, {"variables": [state.variable for state in states]})
    rows = [
        asdict(state) | {"missing_permissions": list(state.missing_permissions)} for state in states
    ]
    connection.execute(_RECORD_TOKEN, rows)
