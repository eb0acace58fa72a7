"""The time of each person's last message to a Page, which opens a 24-hour messaging window."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

WINDOW = timedelta(hours=24)
"""Meta's messaging window after a person's last message (docs/graph-api.md#opt-in-requests)."""

# Keeps the newest message time of each person.
_RECORD = text("""
insert into mm.conversation as known (page_id, psid, last_message_at, timezone)
select page_id, psid, max(last_message_at),
       (array_agg(timezone order by last_message_at desc) filter (where timezone is not null))[1]
from unnest(
    cast(:page_id as text[]), cast(:psid as text[]), cast(:last_message_at as timestamptz[]),
    cast(:timezone as text[])
) as message (page_id, psid, last_message_at, timezone)
group by page_id, psid
order by page_id, psid
on conflict (page_id, psid) do update
set last_message_at = greatest(known.last_message_at, excluded.last_message_at),
    timezone = coalesce(excluded.timezone, known.timezone)
""")

# Returns the number of people whose window is open.
_INSIDE_WINDOW = text("""
select count(*) from mm.conversation
where page_id = :page_id and last_message_at > now() - :window
""")

# Deletes people whose last message and last opt-in request are older than a time.
_FORGET = text("""
delete from mm.conversation where ctid = any (array(
    select ctid from mm.conversation
    where last_message_at < :before and coalesce(asked_at < :before, true) limit :limit
))
""")


@dataclass(frozen=True, slots=True)
class Message:
    """A message to a Page: its sender and its time, never its content."""

    page_id: str
    psid: str = field(repr=False)
    sent_at: datetime
    timezone: str | None


def record(connection: Connection, messages: Sequence[Message]) -> None:
    """Record messages in the caller's transaction; calls may come in any order."""
    connection.execute(
        _RECORD,
        {
            "page_id": [message.page_id for message in messages],
            "psid": [message.psid for message in messages],
            "last_message_at": [message.sent_at for message in messages],
            "timezone": [message.timezone for message in messages],
        },
    )


def count_inside_window(connection: Connection, page_id: str) -> int:
    """Return the number of people who wrote to a Page within the window."""
    found = connection.scalar(_INSIDE_WINDOW, {"page_id": page_id, "window": WINDOW})
    return int(found or 0)


def forget(connection: Connection, before: datetime, limit: int) -> int:
    """Delete up to ``limit`` people who last wrote before a time, and return how many."""
    return connection.execute(_FORGET, {"before": before, "limit": limit}).rowcount
