"""Who wrote to a Page and when last: the 24-hour window in which they may be asked to opt in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

WINDOW = timedelta(hours=24)
"""Meta's standard messaging window, counted from a person's last message (graph-api-facts 2.11)."""

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

_INSIDE_WINDOW = text("""
select count(*) from mm.conversation
where page_id = :page_id and last_message_at > now() - :window
""")


@dataclass(frozen=True, slots=True)
class Message:
    """That a person wrote to a Page; never what."""

    page_id: str
    psid: str = field(repr=False)
    sent_at: datetime
    timezone: str | None


def record(connection: Connection, messages: Sequence[Message]) -> None:
    """Let the newest message of each person open their window; the order of calls is no matter."""
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
    """How many people of a Page wrote within the window."""
    found = connection.scalar(_INSIDE_WINDOW, {"page_id": page_id, "window": WINDOW})
    return int(found or 0)
