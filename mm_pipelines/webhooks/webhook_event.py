"""What Meta told us by webhook: stored once, pending until an asset acknowledges it.

Reading what is pending claims nothing. An asset acknowledges in the transaction of its own write,
so that a run killed anywhere leaves the events pending or their effect done, never one of both.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

UPLOAD_STATUS = "marketing_messages_subscriber_upload_status"
OPTINS = "messaging_optins"
MESSAGES = "messages"

_INSERT = text("""
insert into mm.webhook_event
    (dedupe_key, value_key, object, field, page_id, custom_audience_id, event_time, payload)
select dedupe_key, value_key, object, field, page_id, custom_audience_id, event_time,
       cast(payload as jsonb)
from unnest(
    cast(:dedupe_key as text[]), cast(:value_key as text[]), cast(:object as text[]),
    cast(:field as text[]), cast(:page_id as text[]), cast(:custom_audience_id as text[]),
    cast(:event_time as timestamptz[]), cast(:payload as text[])
) with ordinality as event
    (dedupe_key, value_key, object, field, page_id, custom_audience_id, event_time, payload, place)
order by place
on conflict (dedupe_key) do nothing
""")

_ACKNOWLEDGE = text("""
update mm.webhook_event set processed_at = now(), processed_run_id = :run_id
where id = any(:ids) and processed_at is null
""")

_REPLAY = text("""
update mm.webhook_event set processed_at = null, processed_run_id = null
where processed_at is not null
  and received_at >= :since
  and (cast(:field as text) is null or field = :field)
""")

# What a status was computed from stays for ever: the ledger refers to it.
_FORGET = text("""
delete from mm.webhook_event
where id in (
    select id from mm.webhook_event as event
    where (processed_at < :before
           or processed_at is null and received_at < :before and field <> all (:acknowledged))
      and not exists (select 1 from mm.upload_batch where reported_event_id = event.id)
    limit :limit
)
""")

_COUNTS = text("""
select field, count(*) as events, count(*) filter (where processed_at is null) as pending,
       max(received_at) as last_received_at
from mm.webhook_event group by field order by field
""")


@dataclass(frozen=True)
class WebhookEvent:
    """One event as it is stored.

    Attributes:
        dedupe_key: The same for a redelivery (design 5).
        value_key: The same for an equal value, whichever object or entry brought it.
        object: The webhook's object: ``page``, ``ad_account``; None for a bare event.
        field: The subscribed field, or the kind of a messaging item.
        event_time: When it happened, as Meta says.
        payload: The event's value as JSON text.
    """

    dedupe_key: str
    value_key: str
    object: str | None
    field: str
    page_id: str | None
    custom_audience_id: str | None
    event_time: datetime | None
    payload: str = dataclasses.field(repr=False)


@dataclass(frozen=True)
class FieldCounts:
    """How many events of a field are kept, and how many of them no asset has acknowledged."""

    field: str
    events: int
    pending: int
    last_received_at: datetime


def insert(connection: Connection, events: Sequence[WebhookEvent]) -> int:
    """Store events in their order; those that are there already are left out.

    Returns:
        How many were new.
    """
    names = (
        "dedupe_key",
        "value_key",
        "object",
        "field",
        "page_id",
        "custom_audience_id",
        "event_time",
        "payload",
    )
    columns = {name: [getattr(event, name) for event in events] for name in names}
    return connection.execute(_INSERT, columns).rowcount


def acknowledge(connection: Connection, ids: Sequence[int], run_id: str) -> int:
    """Note in the caller's transaction that ``run_id`` has dealt with these events.

    Returns:
        How many were still pending.
    """
    return connection.execute(_ACKNOWLEDGE, {"ids": list(ids), "run_id": run_id}).rowcount


def replay(connection: Connection, *, since: datetime, only_field: str | None = None) -> int:
    """Offer the events received since a time again, to the assets that acknowledge them.

    Every effect of an event is idempotent, so what was dealt with rightly stays as it is.

    Returns:
        How many are pending again.
    """
    return connection.execute(_REPLAY, {"since": since, "field": only_field}).rowcount


def forget(
    connection: Connection,
    *,
    before: datetime,
    acknowledged_fields: Collection[str],
    limit: int = 10_000,
) -> int:
    """Remove events processed before a time, but none that a match status was computed from.

    Events of fields that no asset acknowledges are never processed; they go by their age.

    Returns:
        How many were removed: at most ``limit``, so call it until it is fewer.
    """
    return connection.execute(
        _FORGET,
        {"before": before, "acknowledged": list(acknowledged_fields), "limit": limit},
    ).rowcount


def counts(connection: Connection) -> list[FieldCounts]:
    """The events kept, by field."""
    return [FieldCounts(**row._asdict()) for row in connection.execute(_COUNTS)]
