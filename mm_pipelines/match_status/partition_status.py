"""What became of each partition's batches: computed from what is stored, and from nothing else.

Computing a row again gives the same row, but for ``as_of`` and for growing overdue, because every
part of it is as of the partition's newest report: the bounds are those that it told, and the people
they are divided by are those acknowledged in the audience by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, text

from mm_pipelines.match_status import assignments
from mm_pipelines.match_status.assignments import Assignment

Status = Literal["waiting", "processing", "complete", "failed", "overdue"]
Source = Literal["webhook", "poll"]

# The only value that Meta documents (docs/graph-api.md#q4-values-of-batch_uploading_status).
_SUCCESS = "SUCCESS"

_FIND_AUDIENCE = text("""
select custom_audience_id from mm.custom_audience where audience = :audience
""")

_NOW = text("select now()")

# A batch's report is the webhook assigned to it or, where none came, the first answer to a poll
# that showed its session finished.
_BATCHES = text("""
select batch.row_count, batch.status,
       coalesce(batch.acknowledged_at, batch.sent_at) as acknowledged_at,
       event.id as event_id, event.received_at, event.event_time,
       event.payload ->> 'approximate_count_lower_bound' as lower_bound,
       event.payload ->> 'approximate_count_upper_bound' as upper_bound,
       event.payload ->> 'batch_uploading_status' as uploading_status,
       poll.observed_at as polled_at, poll.lower_bound as polled_lower,
       poll.upper_bound as polled_upper
from mm.upload_batch as batch
left join mm.webhook_event as event on event.id = batch.reported_event_id
left join lateral (
    select observed_at, lower_bound, upper_bound
    from mm.session_observation as session
    join mm.upload_observation as observation on observation.id = session.observation_id
    where session.session_id = batch.session_id and session.finished
      and observation.observed_at >= batch.acknowledged_at
    order by observation.id limit 1
) as poll on batch.reported_event_id is null
where batch.audience = :audience and batch.day = :day and batch.status in ('sent', 'acknowledged')
order by batch.acknowledged_at, batch.session_id, batch.batch_seq
""")

# Distinct by construction: a delta holds only people who are not in the audience yet.
_PEOPLE = text("""
select coalesce((
    select sum(coalesce(batch.new_people, batch.row_count)) from mm.upload_batch as batch
    left join mm.upload_delta as delta on delta.id = batch.delta_id
    where batch.audience = :audience and batch.status = 'acknowledged'
      and coalesce(delta.custom_audience_id, :custom_audience_id) = :custom_audience_id
      and (batch.acknowledged_at <= :at or batch.reported_event_id <= :event_id)
), 0) - coalesce((
    select sum(coalesce(batch.removed_people, batch.row_count)) from mm.removal_batch as batch
    join mm.upload_delta as delta on delta.id = batch.delta_id
    where delta.custom_audience_id = :custom_audience_id and batch.status = 'acknowledged'
      and batch.acknowledged_at <= :at
), 0)
""")

_EMPTY_DELTA = text("""
select max(created_at) from mm.upload_delta
where audience = :audience and day = :day and operation = 'add'
having bool_and(row_count = 0)
""")

# Batches are recorded one by one as they are sent, so those recorded may not be all.
_UNFINISHED_DELTA = text("""
select exists (
    select from mm.upload_delta
    where audience = :audience and day = :day and operation = 'add'
      and completed_at is null and closed_at is null
)
""")

_NEWEST_REPORT_BEFORE = text("""
select event.id as event_id, event.received_at, event.event_time,
       event.payload ->> 'approximate_count_lower_bound' as lower_bound,
       event.payload ->> 'approximate_count_upper_bound' as upper_bound,
       event.payload ->> 'batch_uploading_status' as uploading_status
from mm.webhook_event as event
join mm.upload_batch as batch on batch.reported_event_id = event.id
where batch.audience = :audience and event.custom_audience_id = :custom_audience_id
  and event.received_at <= :at
order by coalesce(event.event_time, event.received_at) desc,
         batch.acknowledged_at desc, batch.session_id desc, batch.batch_seq desc
limit 1
""")

_NEWEST_POLL = text("""
select observed_at, lower_bound, upper_bound from mm.upload_observation
where custom_audience_id = :custom_audience_id
order by id desc limit 1
""")

_COLUMNS = (
    "audience",
    "day",
    "custom_audience_id",
    "rows_uploaded",
    "rows_processed",
    "rows_failed",
    "lower_bound",
    "upper_bound",
    "match_rate_lower",
    "match_rate_upper",
    "status",
    "last_event_at",
    "as_of",
    "source",
    "batches_delivered",
    "batches_reported",
    "people_acknowledged",
    "seconds_to_processed",
    "deadline_at",
)

_REPLACE = text(f"""
insert into mm.match_status ({", ".join(_COLUMNS)})
values ({", ".join(f":{column}" for column in _COLUMNS)})
on conflict (audience, day) do update
set {", ".join(f"{column} = excluded.{column}" for column in _COLUMNS[2:])}
""")

_FIND = text(f"""
select {", ".join(_COLUMNS)} from mm.match_status where audience = :audience and day = :day
""")

_NOTE_DUE = text("""
insert into mm.match_status_due (audience, day)
select :audience, day from unnest(cast(:days as date[])) as day
on conflict do nothing
""")

_DONE = text("delete from mm.match_status_due where audience = :audience and day = :day")

_USUAL_RATE = text("""
select percentile_cont(0.5) within group (order by match_rate_lower) as rate, count(*) as days
from mm.match_status
where audience = :audience and day < :day and day >= :day - :days
  and status = 'complete' and match_rate_lower is not null
""")


@dataclass(frozen=True)
class MatchStatus:
    """The row of one partition.

    Attributes:
        rows_uploaded: Rows of the partition that Meta acknowledged.
        rows_processed: Rows in batches that were reported as processed.
        rows_failed: Rows in batches that were reported with another status than SUCCESS.
        lower_bound: How many people the whole audience has matched, at least.
        upper_bound: The same, at most.
        match_rate_lower: ``lower_bound`` divided by ``people_acknowledged``.
        last_event_at: When the partition's newest report reached us.
        as_of: When the row was computed.
        source: Where the bounds come from.
        people_acknowledged: Distinct people in the audience by the time of the bounds.
        seconds_to_processed: The longest time from a batch's acknowledgement to its report.
        deadline_at: When the oldest batch without a report is overdue; None if there is none.
    """

    audience: str
    day: date
    custom_audience_id: str | None
    rows_uploaded: int
    rows_processed: int
    rows_failed: int
    lower_bound: int | None
    upper_bound: int | None
    match_rate_lower: float | None
    match_rate_upper: float | None
    status: Status
    last_event_at: datetime | None
    as_of: datetime
    source: Source | None
    batches_delivered: int
    batches_reported: int
    people_acknowledged: int
    seconds_to_processed: float | None
    deadline_at: datetime | None

    @property
    def rows_unaccounted(self) -> int:
        """Rows that Meta acknowledged and has not reported on."""
        return self.rows_uploaded - self.rows_processed - self.rows_failed


@dataclass(frozen=True)
class _Report:
    """That Meta has processed something, whichever way we heard of it.

    Attributes:
        at: When it reached us.
        told_at: The time of the event at Meta. Webhooks arrive out of order
            (docs/graph-api.md#webhook-delivery).
    """

    at: datetime
    told_at: datetime
    event_id: int | None
    source: Source
    lower_bound: int | None
    upper_bound: int | None
    succeeded: bool = True


@dataclass(frozen=True)
class _Batch:
    row_count: int
    status: str
    acknowledged_at: datetime
    report: _Report | None

    @classmethod
    def of(cls, row: Row[Any]) -> "_Batch":
        report = None
        if row.event_id is not None:
            report = _webhook(row)
        elif row.polled_at is not None:
            report = _poll(row.polled_at, row.polled_lower, row.polled_upper)
        return cls(row.row_count, row.status, row.acknowledged_at, report)


def refresh(
    connection: Connection,
    audience: str,
    day: date,
    *,
    overdue_after: timedelta,
    run_id: str,
    app_id: str | None = None,
) -> tuple[MatchStatus, Assignment]:
    """Assign the audience's waiting reports, then compute and store the partition's row.

    All in the caller's transaction: the reports are acknowledged by ``run_id`` exactly when the row
    that counts them is there. Other days whose batches were reported become due.
    """
    custom_audience_id = connection.scalar(_FIND_AUDIENCE, {"audience": audience})
    assignment = Assignment(assigned=0, repeated=0, left_over=0, days=frozenset())
    if custom_audience_id is not None:
        assignment = assignments.assign(connection, audience, custom_audience_id, run_id, app_id)
    others = [other for other in assignment.days if other != day]
    connection.execute(_NOTE_DUE, {"audience": audience, "days": others})
    connection.execute(_DONE, {"audience": audience, "day": day})
    status = compute(connection, audience, day, custom_audience_id, overdue_after)
    connection.execute(_REPLACE, vars(status))
    return status, assignment


def compute(
    connection: Connection,
    audience: str,
    day: date,
    custom_audience_id: str | None,
    overdue_after: timedelta,
) -> MatchStatus:
    """The partition's row from the ledger and the stored observations."""
    partition = {"audience": audience, "day": day}
    whose = {"audience": audience, "custom_audience_id": custom_audience_id or ""}
    as_of: datetime = connection.execute(_NOW).scalar_one()
    batches = [_Batch.of(row) for row in connection.execute(_BATCHES, partition)]
    delivered = [batch for batch in batches if batch.status == "acknowledged"]
    reports = [batch.report for batch in delivered if batch.report is not None]
    unheard_of = [batch.acknowledged_at for batch in delivered if batch.report is None]
    deadline = min(unheard_of) + overdue_after if unheard_of else None
    is_overdue = deadline is not None and as_of >= deadline
    nothing_new = None if batches else connection.scalar(_EMPTY_DELTA, partition)
    # The bounds are those of the partition's newest report. A day without new people has the bounds
    # known by then, and while reports are overdue the newest poll is used. Meta's times are whole
    # seconds: among reports of the same time, that of the latest batch counts.
    told = max(reversed(reports), key=lambda report: report.told_at, default=None)
    heard_at = max((report.at for report in reports), default=None)
    at = heard_at or as_of
    if nothing_new is not None:
        told, at = _newest_webhook(connection, whose, nothing_new), nothing_new
    elif is_overdue:
        polled = _newest_poll(connection, whose)
        if polled is not None and (heard_at is None or polled.at > heard_at):
            told, at = polled, polled.at
    event_ids = [report.event_id for report in reports if report.event_id is not None]
    people = connection.execute(
        _PEOPLE, {**whose, "at": at, "event_id": max(event_ids, default=None)}
    ).scalar_one()
    return MatchStatus(
        audience=audience,
        day=day,
        custom_audience_id=custom_audience_id,
        rows_uploaded=_rows(delivered),
        rows_processed=_rows([b for b in delivered if b.report and b.report.succeeded]),
        rows_failed=_rows([b for b in delivered if b.report and not b.report.succeeded]),
        lower_bound=told.lower_bound if told else None,
        upper_bound=told.upper_bound if told else None,
        match_rate_lower=_rate(told.lower_bound if told else None, people),
        match_rate_upper=_rate(told.upper_bound if told else None, people),
        status=_status(
            batches,
            is_overdue=is_overdue,
            nothing_new=nothing_new is not None,
            unfinished=bool(connection.scalar(_UNFINISHED_DELTA, partition)),
        ),
        last_event_at=heard_at,
        as_of=as_of,
        source=told.source if told else None,
        batches_delivered=len(delivered),
        batches_reported=len(reports),
        people_acknowledged=people,
        seconds_to_processed=max(
            (_seconds(batch, batch.report) for batch in delivered if batch.report), default=None
        ),
        deadline_at=deadline,
    )


def find(connection: Connection, audience: str, day: date) -> MatchStatus | None:
    """The row of a partition as it was computed last."""
    row = connection.execute(_FIND, {"audience": audience, "day": day}).one_or_none()
    return MatchStatus(**row._asdict()) if row else None


def usual_rate(connection: Connection, audience: str, day: date, days: int = 30) -> float | None:
    """The median lower match rate of the days before; None where fewer than three are complete."""
    row = connection.execute(_USUAL_RATE, {"audience": audience, "day": day, "days": days}).one()
    return row.rate if row.days >= 3 else None


def _status(
    batches: Sequence[_Batch], *, is_overdue: bool, nothing_new: bool, unfinished: bool
) -> Status:
    if any(
        batch.status == "failed" or (batch.report is not None and not batch.report.succeeded)
        for batch in batches
    ):
        return "failed"
    if is_overdue:
        return "overdue"
    reported = [batch for batch in batches if batch.report is not None]
    if nothing_new or (batches and len(reported) == len(batches) and not unfinished):
        return "complete"
    return "processing" if reported else "waiting"


def _newest_webhook(
    connection: Connection, whose: dict[str, str], before: datetime
) -> _Report | None:
    row = connection.execute(_NEWEST_REPORT_BEFORE, {**whose, "at": before}).one_or_none()
    return _webhook(row) if row else None


def _newest_poll(connection: Connection, whose: dict[str, str]) -> _Report | None:
    row = connection.execute(_NEWEST_POLL, whose).one_or_none()
    return _poll(row.observed_at, row.lower_bound, row.upper_bound) if row else None


def _poll(at: datetime, lower_bound: int | None, upper_bound: int | None) -> _Report:
    return _Report(at, at, None, "poll", lower_bound, upper_bound)


def _webhook(row: Row[Any]) -> _Report:
    return _Report(
        at=row.received_at,
        told_at=row.event_time or row.received_at,
        event_id=row.event_id,
        source="webhook",
        # -1 means that there is none (docs/graph-api.md#reading-a-custom-audience).
        lower_bound=assignments.count_of(row.lower_bound),
        upper_bound=assignments.count_of(row.upper_bound),
        succeeded=row.uploading_status == _SUCCESS,
    )


def _rows(batches: Sequence[_Batch]) -> int:
    return sum(batch.row_count for batch in batches)


def _rate(bound: int | None, people: int) -> float | None:
    return bound / people if bound is not None and people > 0 else None


def _seconds(batch: _Batch, report: _Report) -> float:
    # A webhook may outrun the acknowledgement of its own batch.
    return max((report.at - batch.acknowledged_at).total_seconds(), 0.0)
