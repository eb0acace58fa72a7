"""A Page's day in numbers, from the list's rows to the people who may be messaged."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, text

# The bounds are the whole audience's, so the newest status of each until that day has them. The
# day's snapshot knows its tokens; until it is made, they are as they are now.
_REFRESH = text("""
insert into mm.growth_report as former (
    page_id, day, list_rows, valid, delivered, processed, matched, tokens, sendable, asked,
    opted_in, left_page
)
select
    :page_id, :day, :list_rows,
    (select coalesce(sum(rows), 0) from mm.hashed_payload
     where audience = any(:audiences) and day = :day),
    (select coalesce(sum(row_count), 0) from mm.upload_batch
     where audience = any(:audiences) and day = :day and status = 'acknowledged'),
    (select coalesce(sum(rows_processed), 0) from mm.match_status
     where audience = any(:audiences) and day = :day),
    (select sum(lower_bound) from (
        select distinct on (audience) lower_bound from mm.match_status
        where audience = any(:audiences) and day <= :day and lower_bound is not null
        order by audience, day desc
    ) newest),
    coalesce(
        (select live from mm.token_snapshot where page_id = :page_id and day = :day),
        (select count(*) from mm.subscription_token
         where page_id = :page_id and gone_at is null and :is_today)
    ),
    coalesce(
        (select sendable from mm.token_snapshot where page_id = :page_id and day = :day),
        (select count(*) from mm.sendable_token where page_id = :page_id and :is_today)
    ),
    (select count(*) from mm.optin_request
     where page_id = :page_id and asked_at >= :begin and asked_at < :end
       and state in ('reserved', 'sent', 'unknown')),
    (select count(*) from mm.optin_request
     where page_id = :page_id and asked_at >= :begin and asked_at < :end
       and granted_at is not null),
    (select count(*) from mm.unsubscribe_request
     where page_id = :page_id and requested_at >= :begin and requested_at < :end
       and state <> 'rejected')
on conflict (page_id, day) do update
set as_of = now(), list_rows = coalesce(excluded.list_rows, former.list_rows),
    valid = excluded.valid, delivered = excluded.delivered, processed = excluded.processed,
    matched = excluded.matched, asked = excluded.asked, opted_in = excluded.opted_in,
    left_page = excluded.left_page,
    tokens = case when :is_today then excluded.tokens
                  else coalesce(former.tokens, excluded.tokens) end,
    sendable = case when :is_today then excluded.sendable
                    else coalesce(former.sendable, excluded.sendable) end
""")

_UNTIL = text("""
select day, list_rows, valid, delivered, processed, matched, tokens, sendable, asked, opted_in,
       left_page
from mm.growth_report
where page_id = :page_id and day <= :day
order by day desc
limit :days
""")


@dataclass(frozen=True)
class Growth:
    """One day of a Page; None is what is not known.

    Attributes:
        list_rows: Rows of the day's customer lists.
        valid: People in the day's payloads.
        delivered: People that were new in them, acknowledged by Meta.
        processed: Of them, those in batches that Meta has reported on.
        matched: People matched in the Page's audiences so far, at least.
        tokens: Live tokens at the end of the day.
        sendable: Of them, those that might be messaged.
        asked: People sent an opt-in request that day.
        opted_in: Of them, those who agreed.
        left_page: Requests to leave made that day.
    """

    day: date
    list_rows: int | None
    valid: int
    delivered: int
    processed: int
    matched: int | None
    tokens: int | None
    sendable: int | None
    asked: int
    opted_in: int
    left_page: int


@dataclass(frozen=True)
class DayOfPage:
    """What is counted.

    Attributes:
        audiences: Of the Page, by their keys.
        begin: When the day begins in the time zone of mm.yaml.
        end: When it ends.
        is_today: Whether the tokens as they are now are the day's.
        list_rows: Of the customer lists, if they were validated.
    """

    page_id: str
    audiences: Sequence[str]
    day: date
    begin: datetime
    end: datetime
    is_today: bool
    list_rows: int | None


def refresh(connection: Connection, counted: DayOfPage) -> None:
    """Count a day of a Page again from what is stored."""
    connection.execute(_REFRESH, {**vars(counted), "audiences": list(counted.audiences)})


def until(connection: Connection, page_id: str, day: date, days: int) -> list[Growth]:
    """The last days up to and with ``day`` that were counted, oldest first."""
    rows = connection.execute(_UNTIL, {"page_id": page_id, "day": day, "days": days}).all()
    return [Growth(**row._asdict()) for row in reversed(rows)]
