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

# Returns one row per given Page with pending events. One index lookup per field and Page, so that
# neither a backlog nor events of other Pages cost anything.
_PAGES = text("""
select page.page_id, max(newest.received_at) as newest_at
from unnest(cast(:page_ids as text[])) as page (page_id)
cross join unnest(cast(:fields as text[])) as subscribed (field)
cross join lateral (
    select received_at from mm.webhook_event
    where processed_at is null and field = subscribed.field and page_id = page.page_id
    order by field, page_id, id desc
    limit 1
) as newest
group by page.page_id
order by page.page_id
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
    """A Page with pending events, and when the newest was received."""

    page_id: str
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


def pages_pending(
    connection: Connection, page_ids: Sequence[str], fields: Sequence[str]
) -> list[PendingPage]:
    """Return those of the Pages that have pending events of these fields."""
    rows = connection.execute(_PAGES, {"page_ids": list(page_ids), "fields": list(fields)})
    return [PendingPage(**row._asdict()) for row in rows]
