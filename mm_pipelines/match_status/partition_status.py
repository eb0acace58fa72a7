"""Stores the match status of each audience's day, computed from the ledger and Meta's reports."""

from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, text

from mm_pipelines.match_status import assignments
from mm_pipelines.match_status.assignments import Assignment
from mm_pipelines.match_status.computation import (
    Basis,
    Batch,
    Facts,
    MatchStatus,
    Report,
    basis_of,
    match_status_of,
    newest_report,
)

# The only value that Meta documents (docs/graph-api.md#q4-values-of-batch_uploading_status).
_SUCCESS = "SUCCESS"

# Returns the Custom Audience of a key.
_FIND_AUDIENCE = text("""
select custom_audience_id from mm.custom_audience where audience = :audience
""")

_NOW = text("select now()")

# Returns the batches of a partition with their reports: the webhook assigned to each or, without
# one, the first answer to a poll that showed its session finished.
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

# Returns the people in the audience at a time. They are distinct, because a delta contains only
# people who are not in the audience yet.
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

# Returns when the upload of a day without new people was frozen.
_EMPTY_DELTA = text("""
select max(created_at) from mm.upload_delta
where audience = :audience and day = :day and operation = 'add'
having bool_and(row_count = 0)
""")

# Returns whether an upload of the day is open. Batches are recorded one by one as they are sent, so
# some may be missing.
_UNFINISHED_DELTA = text("""
select exists (
    select from mm.upload_delta
    where audience = :audience and day = :day and operation = 'add'
      and completed_at is null and closed_at is null
)
""")

# Returns the audience's newest report until a time; several if Meta's time is the same.
_NEWEST_REPORTS = text("""
select * from (
    select batch.row_count, batch.status, batch.acknowledged_at, batch.session_id, batch.batch_seq,
           event.id as event_id, event.received_at, event.event_time,
           event.payload ->> 'approximate_count_lower_bound' as lower_bound,
           event.payload ->> 'approximate_count_upper_bound' as upper_bound,
           event.payload ->> 'batch_uploading_status' as uploading_status
    from mm.webhook_event as event
    join mm.upload_batch as batch on batch.reported_event_id = event.id
    where batch.audience = :audience and event.custom_audience_id = :custom_audience_id
      and event.received_at <= :at
    order by coalesce(event.event_time, event.received_at) desc
    fetch first row with ties
) as newest
order by acknowledged_at, session_id, batch_seq
""")

# Returns Meta's newest answer to a poll.
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

# Returns the median match rate of the complete days before, and how many there are.
_USUAL_RATE = text("""
select percentile_cont(0.5) within group (order by match_rate_lower) as rate, count(*) as days
from mm.match_status
where audience = :audience and day < :day and day >= :day - :days
  and status = 'complete' and match_rate_lower is not null
""")


def refresh(
    connection: Connection,
    audience: str,
    day: date,
    *,
    overdue_after: timedelta,
    run_id: str,
    app_id: str | None = None,
) -> tuple[MatchStatus, Assignment]:
    """Assign the audience's pending reports, then compute and store the partition's row.

    All of it is one transaction, the caller's: ``run_id`` acknowledges the reports exactly when the
    row that counts them is stored. Other days whose batches were reported become due.
    """
    custom_audience_id = connection.scalar(_FIND_AUDIENCE, {"audience": audience})
    assignment = Assignment(assigned=0, repeated=0, left_over=0, days=frozenset())
    if custom_audience_id is not None:
        assignment = assignments.assign(connection, audience, custom_audience_id, run_id, app_id)
    others = [other for other in assignment.days if other != day]
    connection.execute(_NOTE_DUE, {"audience": audience, "days": others})
    connection.execute(_DONE, {"audience": audience, "day": day})
    facts = _facts(connection, audience, day, custom_audience_id, overdue_after)
    basis = basis_of(facts)
    status = match_status_of(facts, basis, _people(connection, facts, basis))
    connection.execute(_REPLACE, vars(status))
    return status, assignment


def find(connection: Connection, audience: str, day: date) -> MatchStatus | None:
    """The row of a partition as it was computed last."""
    row = connection.execute(_FIND, {"audience": audience, "day": day}).one_or_none()
    return MatchStatus(**row._asdict()) if row else None


def usual_rate(connection: Connection, audience: str, day: date, days: int = 30) -> float | None:
    """The median lower match rate of the days before; None if fewer than three are complete."""
    row = connection.execute(_USUAL_RATE, {"audience": audience, "day": day, "days": days}).one()
    return row.rate if row.days >= 3 else None


def _facts(
    connection: Connection,
    audience: str,
    day: date,
    custom_audience_id: str | None,
    overdue_after: timedelta,
) -> Facts:
    partition = {"audience": audience, "day": day}
    whose = {"audience": audience, "custom_audience_id": custom_audience_id or ""}
    batches = [_batch(row) for row in connection.execute(_BATCHES, partition)]
    emptied_at = None if batches else connection.scalar(_EMPTY_DELTA, partition)
    earlier = []
    if emptied_at is not None:
        rows = connection.execute(_NEWEST_REPORTS, {**whose, "at": emptied_at})
        earlier = [_batch(row) for row in rows]
    poll = connection.execute(_NEWEST_POLL, whose).one_or_none()
    return Facts(
        audience=audience,
        day=day,
        custom_audience_id=custom_audience_id,
        as_of=connection.execute(_NOW).scalar_one(),
        overdue_after=overdue_after,
        batches=batches,
        emptied_at=emptied_at,
        is_unfinished=bool(connection.scalar(_UNFINISHED_DELTA, partition)),
        earlier=newest_report(earlier),
        poll=_poll(poll.observed_at, poll.lower_bound, poll.upper_bound) if poll else None,
    )


def _people(connection: Connection, facts: Facts, basis: Basis) -> int:
    people: int = connection.execute(
        _PEOPLE,
        {
            "audience": facts.audience,
            "custom_audience_id": facts.custom_audience_id or "",
            "at": basis.at,
            "event_id": basis.event_id,
        },
    ).scalar_one()
    return people


def _batch(row: Row[Any]) -> Batch:
    report = None
    if row.event_id is not None:
        report = _webhook(row)
    elif row.polled_at is not None:
        report = _poll(row.polled_at, row.polled_lower, row.polled_upper)
    return Batch(row.row_count, row.status == "acknowledged", row.acknowledged_at, report)


def _poll(at: datetime, lower_bound: int | None, upper_bound: int | None) -> Report:
    return Report(at, at, None, "poll", lower_bound, upper_bound)


def _webhook(row: Row[Any]) -> Report:
    return Report(
        received_at=row.received_at,
        happened_at=row.event_time or row.received_at,
        event_id=row.event_id,
        source="webhook",
        # -1 means that there is none (docs/graph-api.md#reading-a-custom-audience).
        lower_bound=assignments.count_of(row.lower_bound),
        upper_bound=assignments.count_of(row.upper_bound),
        succeeded=row.uploading_status == _SUCCESS,
    )
