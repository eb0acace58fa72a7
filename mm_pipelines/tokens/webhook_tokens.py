"""Merges the subscription tokens that webhooks contain, before the next pull lists them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime

from sqlalchemy import Connection, text

from mm_pipelines.tokens import sender_file

# Serializes the merges of one Page, by pulls and by webhooks.
_LOCK = text("""
select pg_advisory_xact_lock(hashtextextended('subscription_token:' || :page_id, 0))
""")

# An event may lack a value that an earlier one has: a RESUME does not repeat the expiry.
_NEWEST_VALUES = ", ".join(
    f"(array_agg({name} order by granted_at desc) filter (where {name} is not null))[1] as {name}"
    for name in (
        "recipient_id",
        "topic_title",
        "payload",
        "user_token_status",
        "timezone",
        "expires_at",
    )
)

# Adds tokens, updates known ones and records the changes. The newest of a token's events and pulls
# decides; ``last_seen_at`` is the time of the newest. Missing values never erase known ones.
_MERGE = text(f"""
with event as (
    select * from unnest(
        cast(:token as text[]), cast(:recipient_id as text[]), cast(:topic_title as text[]),
        cast(:payload as text[]), cast(:user_token_status as text[]), cast(:timezone as text[]),
        cast(:expires_at as timestamptz[]), cast(:granted_at as timestamptz[])
    ) as event (token, recipient_id, topic_title, payload, user_token_status, timezone,
                expires_at, granted_at)
),
newest as (
    select token, max(granted_at) as granted_at, min(granted_at) as created_at,
           {_NEWEST_VALUES}
    from event group by token
),
known as (
    select token, gone_at, user_token_status, expires_at from mm.subscription_token
    where page_id = :page_id and token in (select token from newest)
),
merged as (
    insert into mm.subscription_token as held (
        page_id, token, recipient_id, topic_title, payload, user_token_status, timezone,
        created_at, expires_at, source, first_seen_at, last_seen_at
    )
    select :page_id, token, recipient_id, topic_title, payload, user_token_status, timezone,
           created_at, expires_at, 'opt_in', created_at, granted_at
    from newest
    on conflict (page_id, token) do update
    set recipient_id = coalesce(held.recipient_id, excluded.recipient_id),
        created_at = least(held.created_at, excluded.created_at),
        first_seen_at = least(held.first_seen_at, excluded.first_seen_at),
        (topic_title, payload, user_token_status, timezone, expires_at, last_seen_at, gone_at) = (
            select coalesce(excluded.topic_title, held.topic_title),
                   coalesce(excluded.payload, held.payload),
                   coalesce(excluded.user_token_status, held.user_token_status),
                   coalesce(excluded.timezone, held.timezone),
                   coalesce(excluded.expires_at, held.expires_at),
                   excluded.last_seen_at,
                   case when excluded.last_seen_at <= held.gone_at then held.gone_at end
            where excluded.last_seen_at > held.last_seen_at
            union all
            select coalesce(held.topic_title, excluded.topic_title),
                   coalesce(held.payload, excluded.payload),
                   coalesce(held.user_token_status, excluded.user_token_status),
                   coalesce(held.timezone, excluded.timezone),
                   coalesce(held.expires_at, excluded.expires_at),
                   held.last_seen_at, held.gone_at
            where excluded.last_seen_at <= held.last_seen_at
        )
    returning token, gone_at, user_token_status, expires_at
)
insert into mm.token_change (page_id, token, event, happened_at, old_value, new_value)
select :page_id, merged.token, 'returned', now(), null, null
from merged join known using (token)
where known.gone_at is not null and merged.gone_at is null
union all
select :page_id, merged.token, 'status_changed', now(), known.user_token_status,
       merged.user_token_status
from merged join known using (token)
where known.user_token_status is distinct from merged.user_token_status
union all
select :page_id, merged.token, 'expiry_changed', now(), known.expires_at::text,
       merged.expires_at::text
from merged join known using (token)
where known.expires_at is distinct from merged.expires_at
""")


@dataclass(frozen=True, slots=True)
class GrantedToken:
    """A token from the webhook of an opt-in or a RESUME."""

    token: str = field(repr=False)
    recipient_id: str | None = field(repr=False)
    topic_title: str | None
    payload: str | None
    user_token_status: str | None
    timezone: str | None
    expires_at: datetime | None
    granted_at: datetime


def lock_page(connection: Connection, page_id: str) -> None:
    """Wait for the lock on a Page's tokens and hold it until the transaction ends.

    Take it before any row lock of the transaction: a merge holds it while it updates tokens, so the
    opposite order deadlocks.
    """
    connection.execute(_LOCK, {"page_id": page_id})


def merge(connection: Connection, page_id: str, tokens: Sequence[GrantedToken]) -> None:
    """Merge tokens of webhooks into a Page's tokens, in the caller's transaction.

    An event older than the last pull or event of its token does not overwrite known values.
    """
    lock_page(connection, page_id)
    names = [field.name for field in fields(GrantedToken)]
    columns = {name: [getattr(token, name) for token in tokens] for name in names}
    connection.execute(_MERGE, {**columns, "page_id": page_id})
    sender_file.note_change(connection, page_id, "tokens")
