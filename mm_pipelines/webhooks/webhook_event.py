"""Webhook events in ``mm.webhook_event``: stored once, pending until an asset acknowledges them.

Reading pending events does not claim them. An asset acknowledges events in the transaction of their
effect, so a run that is killed leaves events either pending or applied.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

UPLOAD_STATUS = "marketing_messages_subscriber_upload_status"
OPTINS = "messaging_optins"
MESSAGES = "messages"
UNREADABLE = "unreadable"
"""The field of an item that the receiver could not read; its payload contains no text."""

# Adds events in their order; events that are already stored are skipped.
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

# Marks events as processed.
_ACKNOWLEDGE = text("""
update mm.webhook_event set processed_at = now(), processed_run_id = :run_id
where id = any(:ids) and processed_at is null
""")

# Marks processed events as pending again.
_REPLAY = text("""
update mm.webhook_event set processed_at = null, processed_run_id = null
where processed_at is not null
  and received_at >= :since and payload <> '{}'
  and (cast(:field as text) is null or field = :field)
""")

# Removes the content of events; they keep their dedupe_key.
_EMPTY = text("update mm.webhook_event set payload = '{}' where id = any(:ids)")

# Removes old events, except those that the ledger refers to.
_FORGET = text("""
delete from mm.webhook_event
where id in (
    select id from mm.webhook_event as event
    where (processed_at < :before
           or processed_at is null and received_at < :before
              and (field <> all (:acknowledged) or page_id <> all (:page_ids)))
      and not exists (select 1 from mm.upload_batch where reported_event_id = event.id)
    limit :limit
)
""")

# Returns the stored and pending events by field.
_COUNTS = text("""
select field, count(*) as events, count(*) filter (where processed_at is null) as pending,
       max(received_at) as last_received_at
from mm.webhook_event group by field order by field
""")


@dataclass(frozen=True)
class WebhookEvent:
    """One event to store.

    Attributes:
        dedupe_key: The same for a redelivery.
        value_key: The same for an equal value through any object or entry.
        object: The webhook's object: ``page``, ``ad_account``; None for a bare event.
        field: The subscribed field, or the kind of a messaging item.
        event_time: Meta's time of the event.
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
    """The number of stored events of a field, and the number of pending ones."""

    field: str
    events: int
    pending: int
    last_received_at: datetime


def insert(connection: Connection, events: Sequence[WebhookEvent]) -> int:
    """Store events in their order; events that are already stored are skipped.

    Returns:
        The number of new events.
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
    """Acknowledge events in the caller's transaction.

    Returns:
        The number of events that were pending.
    """
    return connection.execute(_ACKNOWLEDGE, {"ids": list(ids), "run_id": run_id}).rowcount


def empty(connection: Connection, ids: Sequence[int]) -> None:
    """Remove the content of events in the caller's transaction; a redelivery is still known."""
    connection.execute(_EMPTY, {"ids": list(ids)})


def replay(connection: Connection, *, since: datetime, only_field: str | None = None) -> int:
    """Make the events received since a time pending again, except emptied ones.

    Every effect of an event is idempotent, so applying it again changes nothing.

    Returns:
        The number of events that are pending again.
    """
    return connection.execute(_REPLAY, {"since": since, "field": only_field}).rowcount


def forget(
    connection: Connection,
    before: datetime,
    limit: int = 10_000,
    *,
    acknowledged_fields: Collection[str],
    page_ids: Collection[str],
) -> int:
    """Remove events processed before a time, except those that a match status was computed from.

    Events of other fields and other Pages are never processed; they are removed by age.

    Args:
        connection: In the caller's transaction.
        before: Newer events stay.
        limit: The most events to remove.
        acknowledged_fields: The fields that an asset acknowledges.
        page_ids: The Pages of mm.yaml.

    Returns:
        The number of removed events; call it again while it equals ``limit``.
    """
    values = {
        "before": before,
        "acknowledged": list(acknowledged_fields),
        "page_ids": list(page_ids),
        "limit": limit,
    }
    return connection.execute(_FORGET, values).rowcount


def counts(connection: Connection) -> list[FieldCounts]:
    """Return the stored events by field."""
    return [FieldCounts(**row._asdict()) for row in connection.execute(_COUNTS)]
