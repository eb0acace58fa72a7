"""A Page's day in numbers, from the rows of its lists to the tokens that may be messaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

from mm_pipelines.tokens.snapshots import take_snapshot

# Counts one day and stores it. Delivered and processed count new people, not the members that small
# uploads are filled up with. The bounds are the whole audience's, so the newest status of each
# audience until that day has them. Tokens are those of the day's snapshot, or the present ones if
# the day is today; a past day without a snapshot keeps what was counted while it lasted, else null.
_REFRESH = text("""
insert into mm.growth_report as former (
    page_id, day, list_rows, valid, delivered, processed, matched, tokens, sendable, asked,
    opted_in, left_page, opt_ins_by_payload
)
select
    :page_id, :day,
    (select sum(rows) from mm.customer_list where audience = any(:audiences) and day = :day),
    (select coalesce(sum(rows), 0) from mm.hashed_payload
     where audience = any(:audiences) and day = :day),
    (select coalesce(sum(coalesce(new_people, row_count)), 0) from mm.upload_batch
     where audience = any(:audiences) and day = :day and status = 'acknowledged'),
    (select coalesce(sum(least(state.rows_processed, batches.people)), 0)
     from mm.match_status as state
     join lateral (
         select sum(coalesce(new_people, row_count)) as people from mm.upload_batch
         where audience = state.audience and day = state.day and status = 'acknowledged'
     ) as batches on true
     where state.audience = any(:audiences) and state.day = :day),
    (select sum(lower_bound) from (
        select distinct on (audience) lower_bound from mm.match_status
        where audience = any(:audiences) and day <= :day and lower_bound is not null
        order by audience, day desc
    ) newest),
    coalesce(
        (select live from mm.token_snapshot where page_id = :page_id and day = :day),
        case when :is_today then (
            select count(*) from mm.subscription_token
            where page_id = :page_id and gone_at is null
        ) end
    ),
    case when :is_today
        then (select count(*) from mm.sendable_token where page_id = :page_id)
        else (select sendable from mm.token_snapshot where page_id = :page_id and day = :day)
    end,
    (select count(*) from mm.optin_request
     where page_id = :page_id and asked_at >= :begin and asked_at < :end
       and state in ('reserved', 'sent', 'unknown')),
    (select count(*) from mm.optin_request
     where page_id = :page_id and asked_at >= :begin and asked_at < :end
       and granted_at is not null),
    (select count(*) from mm.unsubscribe_request
     where page_id = :page_id and requested_at >= :begin and requested_at < :end
       and state <> 'rejected'),
    (select coalesce(jsonb_object_agg(payload, counts), '{}') from (
        select coalesce(payload, '') as payload, jsonb_build_object(
            'asked', count(*) filter (where state in ('reserved', 'sent', 'unknown')),
            'opted_in', count(granted_at)) as counts
        from mm.optin_request
        where page_id = :page_id and asked_at >= :begin and asked_at < :end
          and state <> 'released'
        group by 1
    ) as of_payload)
on conflict (page_id, day) do update
set as_of = now(), list_rows = coalesce(excluded.list_rows, former.list_rows),
    valid = excluded.valid, delivered = excluded.delivered,
    processed = excluded.processed, matched = excluded.matched, asked = excluded.asked,
    opted_in = excluded.opted_in, left_page = excluded.left_page,
    opt_ins_by_payload = excluded.opt_ins_by_payload,
    tokens = coalesce(excluded.tokens, former.tokens),
    sendable = coalesce(excluded.sendable, former.sendable)
""")

# Returns the newest counted days until a day, the newest first.
_UNTIL = text("""
select day, list_rows, valid, delivered, processed, matched, tokens, sendable, asked, opted_in,
       left_page, opt_ins_by_payload
from mm.growth_report
where page_id = :page_id and day <= :day
order by day desc
limit :days
""")

# Returns the days with a payload that were never counted.
_UNCOUNTED = text("""
select distinct day from mm.hashed_payload
where audience = any(:audiences) and day <= :day
except
select day from mm.growth_report where page_id = :page_id
order by day
""")


@dataclass(frozen=True)
class Growth:
    """One day of a Page; None means unknown.

    Attributes:
        list_rows: Rows of the day's customer lists.
        valid: People in the day's payloads.
        delivered: New people among them that Meta acknowledged.
        processed: Rows of the day in batches that Meta has reported on.
        matched: Meta's lower bound of the people matched in the Page's audiences so far.
        tokens: Live tokens at the end of the day.
        sendable: Live tokens that could be messaged then.
        asked: People sent an opt-in request on the day.
        opted_in: Those of them who agreed.
        left_page: Opt-outs requested on the day.
        opt_ins_by_payload: ``asked`` and ``opted_in`` by the payload of the opt-in request.
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
    opt_ins_by_payload: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class DayOfPage:
    """The Page and the day to count.

    Attributes:
        audiences: The Page's audiences, by their keys.
        begin: The start of the day in the time zone of mm.yaml.
        end: The end of the day.
        is_today: Whether the day still lasts, so that the present tokens are the day's.
    """

    page_id: str
    audiences: Sequence[str]
    day: date
    begin: datetime
    end: datetime
    is_today: bool

    @classmethod
    def at(
        cls, page_id: str, audiences: Sequence[str], day: date, zone: ZoneInfo, now: datetime
    ) -> Self:
        """The day in a time zone, as seen ``now``."""
        return cls(
            page_id=page_id,
            audiences=audiences,
            day=day,
            begin=datetime.combine(day, time(), zone),
            end=datetime.combine(day + timedelta(days=1), time(), zone),
            is_today=day == now.astimezone(zone).date(),
        )


def refresh(connection: Connection, counted: DayOfPage) -> None:
    """Count a day of a Page again and store it."""
    connection.execute(_REFRESH, {**vars(counted), "audiences": list(counted.audiences)})


def bring_up_to_date(
    connection: Connection,
    page_id: str,
    audiences: Sequence[str],
    zone: ZoneInfo,
    now: datetime,
) -> None:
    """Count today, and every earlier day with a payload that was never counted."""
    today = DayOfPage.at(page_id, audiences, now.astimezone(zone).date(), zone, now)
    take_snapshot(connection, page_id, today.day, begins_at=today.begin, ends_at=today.end)
    parameters = {"page_id": page_id, "audiences": list(audiences), "day": today.day}
    for day in connection.execute(_UNCOUNTED, parameters).scalars().all():
        refresh(connection, DayOfPage.at(page_id, audiences, day, zone, now))
    refresh(connection, today)


def until(connection: Connection, page_id: str, day: date, days: int) -> list[Growth]:
    """The last counted days up to and with ``day``, the oldest first."""
    rows = connection.execute(_UNTIL, {"page_id": page_id, "day": day, "days": days}).all()
    return [Growth(**row._asdict()) for row in reversed(rows)]
