"""Daily counts of a Page's tokens, from which growth is plotted."""

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, text

# Counts a day and stores it. Whether a token is sendable depends on hours, which the history does
# not keep: that number is counted while the day lasts, and later counts of the day keep it.
_TAKE = text("""
insert into mm.token_snapshot (
    page_id, day, as_of, live, deduplicated, sendable, custom_audience, opt_in,
    click_to_messenger, automation, appeared, returned, vanished
)
select
    :page_id, :day, least(:ends_at, now()),
    count(*),
    count(*) filter (where recipient_id is null) + count(distinct recipient_id),
    case when now() < :ends_at
        then (select count(*) from mm.sendable_token where page_id = :page_id) end,
    count(*) filter (where source = 'custom_audience'),
    count(*) filter (where source = 'opt_in'),
    count(*) filter (where source = 'click_to_messenger'),
    count(*) filter (where source = 'automation'),
    (select count(*) from mm.token_event where page_id = :page_id and event = 'appeared'
        and happened_at >= :begins_at and happened_at < :ends_at),
    (select count(*) from mm.token_event where page_id = :page_id and event = 'returned'
        and happened_at >= :begins_at and happened_at < :ends_at),
    (select count(*) from mm.token_event where page_id = :page_id and event = 'vanished'
        and happened_at >= :begins_at and happened_at < :ends_at)
from mm.token_at(:page_id, least(:ends_at, now()))
where live
on conflict (page_id, day) do update
set as_of = excluded.as_of,
    live = excluded.live,
    deduplicated = excluded.deduplicated,
    sendable = coalesce(excluded.sendable, token_snapshot.sendable),
    custom_audience = excluded.custom_audience,
    opt_in = excluded.opt_in,
    click_to_messenger = excluded.click_to_messenger,
    automation = excluded.automation,
    appeared = excluded.appeared,
    returned = excluded.returned,
    vanished = excluded.vanished
returning day, as_of, live, deduplicated, sendable, custom_audience, opt_in, click_to_messenger,
    automation, appeared, returned, vanished
""")


@dataclass(frozen=True)
class TokenSnapshot:
    """The counts of one Page's tokens at the end of a day, or now if the day lasts.

    Attributes:
        day: The day.
        as_of: The time of the counts.
        live: Tokens not gone.
        deduplicated: One per known recipient, and all tokens without one.
        sendable: Those of them that could be messaged; None if the day was only counted afterwards.
        custom_audience: Live tokens made from an audience.
        opt_in: Live tokens of people who opted in.
        click_to_messenger: Live tokens of people who responded to a Click to Messenger ad.
        automation: Live tokens of people invited by an organic automation.
        appeared: Tokens first seen on the day.
        returned: Tokens listed again on the day.
        vanished: Tokens no longer listed on the day.
    """

    day: date
    as_of: datetime
    live: int
    deduplicated: int
    sendable: int | None
    custom_audience: int
    opt_in: int
    click_to_messenger: int
    automation: int
    appeared: int
    returned: int
    vanished: int


def take_snapshot(
    connection: Connection, page_id: str, day: date, *, begins_at: datetime, ends_at: datetime
) -> TokenSnapshot:
    """Count a Page's tokens as they were when a day ended, and store the counts.

    Every call for a day that has ended gives the same counts.

    Args:
        connection: A transaction.
        page_id: Of the Page.
        day: The day.
        begins_at: Its first moment.
        ends_at: The first moment of the next day.
    """
    row = connection.execute(
        _TAKE, {"page_id": page_id, "day": day, "begins_at": begins_at, "ends_at": ends_at}
    ).one()
    return TokenSnapshot(**row._asdict())
