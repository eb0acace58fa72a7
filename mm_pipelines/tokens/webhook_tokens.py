"""Subscription tokens as webhooks bring them: known at once, long before the next pull."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

# Merges of one Page, a pull's and a webhook's, follow one another.
_LOCK = text("""
select pg_advisory_xact_lock(hashtextextended('subscription_token:' || :page_id, 0))
""")

# Of all that tell of one token the latest counts, a pull among them: `last_seen_at` is its time.
# The token is as old as the first of them says.
_MERGE = text("""
with told as (
    select distinct on (token) event.*, min(granted_at) over (partition by token) as created_at
    from unnest(
        cast(:token as text[]), cast(:recipient_id as text[]), cast(:topic_title as text[]),
        cast(:user_token_status as text[]), cast(:timezone as text[]),
        cast(:expires_at as timestamptz[]), cast(:granted_at as timestamptz[])
    ) as event (token, recipient_id, topic_title, user_token_status, timezone, expires_at,
                granted_at)
    order by token, granted_at desc
),
known as (
    select token, gone_at, user_token_status, expires_at from mm.subscription_token
    where page_id = :page_id and token in (select token from told)
),
merged as (
    insert into mm.subscription_token as held (
        page_id, token, recipient_id, topic_title, user_token_status, timezone, created_at,
        expires_at, source, first_seen_at, last_seen_at
    )
    select :page_id, token, recipient_id, topic_title, user_token_status, timezone, created_at,
           expires_at, 'opt_in', created_at, granted_at
    from told
    on conflict (page_id, token) do update
    set recipient_id = coalesce(held.recipient_id, excluded.recipient_id),
        created_at = least(held.created_at, excluded.created_at),
        first_seen_at = least(held.first_seen_at, excluded.first_seen_at),
        (topic_title, user_token_status, timezone, expires_at, last_seen_at, gone_at) = (
            select coalesce(excluded.topic_title, held.topic_title),
                   coalesce(excluded.user_token_status, held.user_token_status),
                   coalesce(excluded.timezone, held.timezone),
                   excluded.expires_at,
                   excluded.last_seen_at,
                   case when excluded.last_seen_at <= held.gone_at then held.gone_at end
            where excluded.last_seen_at > held.last_seen_at
            union all
            select held.topic_title, held.user_token_status, held.timezone, held.expires_at,
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
    """A token as the webhook of its granting or resuming tells of it."""

    token: str = field(repr=False)
    recipient_id: str | None = field(repr=False)
    topic_title: str | None
    user_token_status: str | None
    timezone: str | None
    expires_at: datetime | None
    granted_at: datetime


def merge(connection: Connection, page_id: str, tokens: Sequence[GrantedToken]) -> None:
    """Bring a Page's tokens up to what webhooks told, in the caller's transaction.

    What a later pull or event told already is left alone, so that the order does not matter.
    """
    connection.execute(_LOCK, {"page_id": page_id})
    names = (
        "token",
        "recipient_id",
        "topic_title",
        "user_token_status",
        "timezone",
        "expires_at",
        "granted_at",
    )
    columns = {name: [getattr(token, name) for token in tokens] for name in names}
    connection.execute(_MERGE, {**columns, "page_id": page_id})
