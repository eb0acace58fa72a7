"""The pending webhook events of a Page, for the asset that acknowledges their field."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

# Returns the oldest pending events and locks them: a concurrent run waits, then finds none.
_PENDING = text("""
select id, field, page_id, coalesce(event_time, received_at) as happened_at, payload
from mm.webhook_event
where processed_at is null and field = any(:fields) and page_id = :page_id
order by id
limit :limit
for update
""")

# Returns one row per Page with pending events.
_PAGES = text("""
select pending.page_id, pending.events, newest.received_at as newest_at
from (
    select page_id, count(*) as events, max(id) as newest_id
    from mm.webhook_event
    where processed_at is null and field = any(:fields) and page_id is not null
    group by page_id
) as pending
join mm.webhook_event as newest on newest.id = pending.newest_id
order by pending.page_id
""")


@dataclass(frozen=True, slots=True)
class PageEvent:
    """One pending event.

    Attributes:
        happened_at: Meta's time of the event; else when it was received.
        payload: The event's value.
    """

    id: int
    field: str
    page_id: str
    happened_at: datetime
    payload: dict[str, Any] = dataclasses.field(repr=False)


@dataclass(frozen=True)
class PendingPage:
    """The number of pending events of a Page, and when the newest was received."""

    page_id: str
    events: int
    newest_at: datetime


def pending(
    connection: Connection, page_id: str, fields: Sequence[str], limit: int
) -> list[PageEvent]:
    """Return the oldest pending events of a Page, locked for the caller's transaction."""
    values = {"page_id": page_id, "fields": list(fields), "limit": limit}
    return [
        PageEvent(
            id=row.id,
            field=row.field,
            page_id=row.page_id,
            happened_at=row.happened_at,
            payload=row.payload if isinstance(row.payload, dict) else {},
        )
        for row in connection.execute(_PENDING, values)
    ]


def pages_pending(connection: Connection, fields: Sequence[str]) -> list[PendingPage]:
    """Return the Pages with pending events of these fields."""
    rows = connection.execute(_PAGES, {"fields": list(fields)})
    return [PendingPage(**row._asdict()) for row in rows]
