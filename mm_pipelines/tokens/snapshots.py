"""A Page's tokens in numbers, day by day: what growth is plotted from."""

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, text

# Whether a token may be sent by depends on hours, which history does not keep: that number is
# taken while the day lasts, and a later look at the day leaves it as it is.
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
    """One Page's tokens at the end of a day, or now while it lasts.

    Attributes:
        day: the day.
        as_of: the moment that the numbers are of.
        live: tokens not gone.
        deduplicated: one per known recipient, and all whose recipient Meta does not tell.
        sendable: of them, those that could be messaged; None for a day looked at afterwards only.
        custom_audience: live tokens made from an audience.
        opt_in: live tokens of people who opted in.
        click_to_messenger: live tokens of people who came by an ad.
        automation: live tokens of people whom an automation invited.
        appeared: tokens first seen on the day.
        returned: tokens listed again on the day.
        vanished: tokens no longer listed on the day.
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
    """Count a Page's tokens as they were when a day ended, and keep the numbers.

    For a day that has ended, every call gives the same.

    Args:
        connection: a transaction.
        page_id: of the Page.
        day: the day.
        begins_at: its first moment.
        ends_at: the first moment of the next day.
    """
    row = connection.execute(
        _TAKE, {"page_id": page_id, "day": day, "begins_at": begins_at, "ends_at": ends_at}
    ).one()
    return TokenSnapshot(**row._asdict())
