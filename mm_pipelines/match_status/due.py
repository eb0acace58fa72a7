"""Finds the match statuses and the Pages' tokens that are out of date. Reading claims nothing.

Every query is bounded and runs per configured audience, so that neither a flood of events nor
the events of an unconfigured audience delay the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Connection, text

from mm_pipelines.match_status.assignments import CLOCKS_DIFFER_BY
from mm_pipelines.webhooks.webhook_event import UPLOAD_STATUS

# The run of any day assigns all pending reports of its audience: ask for the day that the oldest
# of them most likely means, else for the newest day that was delivered.
_PENDING = text(f"""
select known.audience, coalesce(meant.day, newest.day) as day, event.received_at as since,
       last_event.received_at as newest_at
from mm.custom_audience as known
cross join lateral (
    select received_at, payload ->> 'num_rows' as num_rows from mm.webhook_event
    where processed_at is null and field = '{UPLOAD_STATUS}'
      and custom_audience_id = known.custom_audience_id
    order by id limit 1
) as event
cross join lateral (
    select received_at from mm.webhook_event
    where processed_at is null and field = '{UPLOAD_STATUS}'
      and custom_audience_id = known.custom_audience_id
    order by id desc limit 1
) as last_event
left join lateral (
    select day from mm.upload_batch
    where audience = known.audience and status = 'acknowledged' and reported_event_id is null
      and cast(row_count as text) = event.num_rows
    order by acknowledged_at limit 1
) as meant on true
left join lateral (
    select max(day) as day from mm.upload_batch where audience = known.audience
) as newest on true
where known.audience = any(:audiences)
order by event.received_at
limit :limit
""")

# Reported while another day's status was computed.
_REPORTED = text("""
select audience, day, due_since as since, due_since as newest_at from mm.match_status_due
where audience = any(:audiences) and day >= :first_day
order by due_since limit :limit
""")

# Reports that arrived before our acknowledgement of their batch.
_OUTRUN = text("""
select batch.audience, batch.day, min(event.received_at) as since,
       max(batch.acknowledged_at) as newest_at
from mm.webhook_event as event
join mm.custom_audience as known on known.custom_audience_id = event.custom_audience_id
join mm.upload_batch as batch
  on batch.audience = known.audience and batch.status = 'acknowledged'
 and batch.reported_event_id is null
 and cast(batch.row_count as text) = event.payload ->> 'num_rows'
 and least(batch.sent_at, batch.acknowledged_at) <= event.received_at + :clocks_differ_by
where event.left_over_at is not null and batch.acknowledged_at > event.left_over_at
  and known.audience = any(:audiences) and batch.day >= :first_day
group by batch.audience, batch.day
order by since limit :limit
""")

# Overdue batches: at once, then at intervals that grow with the time overdue.
_OVERDUE = text("""
select batch.audience, batch.day, min(batch.acknowledged_at) + :overdue_after as since,
       max(batch.acknowledged_at) + :overdue_after as newest_at
from mm.upload_batch as batch
left join mm.match_status as known using (audience, day)
where batch.audience = any(:audiences) and batch.day >= :first_day
  and batch.status = 'acknowledged' and batch.reported_event_id is null
  and batch.acknowledged_at <= now() - cast(:overdue_after as interval)
  and (known.audience is null or known.as_of < batch.acknowledged_at
       or (known.status not in ('complete', 'failed')
           and (known.as_of < batch.acknowledged_at + :overdue_after
                or now() - known.as_of > greatest(
                    interval '1 hour',
                    known.as_of - batch.acknowledged_at - :overdue_after))))
group by batch.audience, batch.day
order by since limit :limit
""")

_AS_OF = text("""
select as_of from mm.match_status where audience = :audience and day = :day
""")

# Events of audiences that mm.yaml does not name.
_UNCONFIGURED = text(f"""
select count(*) from (
    select from mm.webhook_event as event
    where processed_at is null and field = '{UPLOAD_STATUS}'
      and not exists (
          select from mm.custom_audience as known
          where known.custom_audience_id = event.custom_audience_id
            and known.audience = any(:audiences)
      )
    limit :limit
) as event
""")

_TOKENS = text("""
select known.page_id, max(status.last_event_at) as newest_at, pull.started_at, pull.finished_at
from mm.match_status as status
join mm.custom_audience as known using (audience)
left join lateral (
    select started_at, finished_at from mm.token_pull
    where page_id = known.page_id and finished_at is not null order by started_at desc limit 1
) as pull on true
where known.page_id = any(:page_ids)
group by known.page_id, pull.started_at, pull.finished_at
having max(status.last_event_at) > coalesce(pull.started_at, '-infinity')
   and coalesce(pull.started_at, '-infinity') <= now() - cast(:at_most_every as interval)
order by newest_at
""")


@dataclass(frozen=True)
class DueStatus:
    """A partition whose row is out of date.

    Attributes:
        since: The oldest reason's time.
        newest_at: The newest reason's time.
        as_of: When it was computed last.
    """

    audience: str
    day: date
    since: datetime
    newest_at: datetime
    as_of: datetime | None


@dataclass(frozen=True)
class DuePull:
    """A Page with newer tokens than its last pull saw, by the newest report; when that ended."""

    page_id: str
    newest_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class Due:
    """The partitions to compute, the longest due first, and what cannot be asked for.

    Attributes:
        statuses: At most one of a partition.
        without_upload: Audiences with pending events and no batch that they could be about.
        unconfigured_events: Pending events of audiences that mm.yaml does not have; counted up to
            the query's limit.
    """

    statuses: Sequence[DueStatus]
    without_upload: Sequence[str]
    unconfigured_events: int


def match_status_due(
    connection: Connection,
    audiences: Sequence[str],
    *,
    first_day: date,
    overdue_after: timedelta,
    limit: int,
) -> Due:
    """Find what is out of date by the stored events, the ledger and the clock.

    Args:
        connection: Read from, never written to.
        audiences: The configured ones; events of others are counted.
        first_day: The first day that has a partition.
        overdue_after: How long a batch may go without a report.
        limit: The most partitions that are of interest at once.
    """
    asked = {"audiences": list(audiences), "first_day": first_day, "limit": limit}
    pending = connection.execute(_PENDING, asked).all()
    rows = [
        *pending,
        *connection.execute(_REPORTED, asked),
        *connection.execute(_OUTRUN, {**asked, "clocks_differ_by": CLOCKS_DIFFER_BY}),
        *connection.execute(_OVERDUE, {**asked, "overdue_after": overdue_after}),
    ]
    since: dict[tuple[str, date], datetime] = {}
    newest_at: dict[tuple[str, date], datetime] = {}
    for row in rows:
        if row.day is not None:
            partition = (row.audience, row.day)
            since[partition] = min(row.since, since.get(partition, row.since))
            newest_at[partition] = max(row.newest_at, newest_at.get(partition, row.newest_at))
    longest_due = sorted(since, key=lambda partition: since[partition])[:limit]
    return Due(
        statuses=[
            DueStatus(
                audience,
                day,
                since[audience, day],
                newest_at[audience, day],
                _as_of(connection, audience, day),
            )
            for audience, day in longest_due
        ],
        without_upload=[row.audience for row in pending if row.day is None],
        unconfigured_events=connection.scalar(_UNCONFIGURED, asked) or 0,
    )


def token_pulls_due(
    connection: Connection, page_ids: Sequence[str], *, at_most_every: timedelta
) -> list[DuePull]:
    """Pages whose newest report came after their last pull began, if that is long enough ago."""
    rows = connection.execute(_TOKENS, {"page_ids": list(page_ids), "at_most_every": at_most_every})
    return [DuePull(row.page_id, row.newest_at, row.finished_at) for row in rows]


def _as_of(connection: Connection, audience: str, day: date) -> datetime | None:
    as_of: datetime | None = connection.scalar(_AS_OF, {"audience": audience, "day": day})
    return as_of
