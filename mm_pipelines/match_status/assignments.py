"""Assigns each upload-status webhook to one batch.

Meta sends one webhook per processed batch and names neither session nor sequence number, so an
event is assigned, once and in the order of arrival, to the oldest batch of the audience that has as
many rows and no report yet. The assignment is stored and never revised:
docs/decisions/0006-assign-each-webhook-to-one-batch.md.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Connection, Row, text

from mm_pipelines.webhooks.webhook_event import UPLOAD_STATUS

CLOCKS_DIFFER_BY = timedelta(minutes=10)
"""A webhook may outrun our acknowledgement, never our request: as far as clocks agree."""

BIGINT_DIGITS = 18
"""Every number of so many digits fits into a bigint; Meta's counts have at most eleven."""

LEFT_OVER_IS_NEWS_FOR = timedelta(days=7)
"""How long the check reports a left-over event."""

# Only one run assigns the reports of an audience at a time, whichever day it is for.
_LOCK = text("select pg_advisory_xact_lock(hashtextextended('batch_report:' || :audience, 0))")

_UNASSIGNED = text(f"""
select id, value_key, coalesce(object, '') as object, received_at,
       payload ->> 'num_rows' as num_rows,
       coalesce(payload ->> 'app_id' <> cast(:app_id as text), false) as is_of_another_app,
       exists (select from mm.upload_batch where reported_event_id = event.id) as is_assigned
from mm.webhook_event as event
where custom_audience_id = :custom_audience_id and field = '{UPLOAD_STATUS}'
  and (processed_at is null or left_over_at is not null)
order by id
""")

_EQUAL_VALUES = text(f"""
select id, value_key, coalesce(object, '') as object from mm.webhook_event
where custom_audience_id = :custom_audience_id and field = '{UPLOAD_STATUS}'
  and value_key = any(:value_keys)
order by id
""")

# Batches that a poll showed as finished come last: their own webhook is most likely lost.
_UNREPORTED = text("""
select batch.session_id, batch.batch_seq, batch.day, batch.row_count,
       least(batch.sent_at, batch.acknowledged_at) as sent_at
from mm.upload_batch as batch
left join mm.upload_delta as delta on delta.id = batch.delta_id
where batch.audience = :audience and batch.status = 'acknowledged'
  and batch.reported_event_id is null
  and coalesce(delta.custom_audience_id, :custom_audience_id) = :custom_audience_id
order by exists (
    select from mm.session_observation as session
    join mm.upload_observation as observation on observation.id = session.observation_id
    where session.session_id = batch.session_id and session.finished
      and observation.observed_at >= batch.acknowledged_at
), batch.acknowledged_at, batch.session_id, batch.batch_seq
""")

_ASSIGN = text("""
update mm.upload_batch as batch set reported_event_id = report.event_id
from unnest(
    cast(:session_ids as bigint[]), cast(:batch_seqs as integer[]), cast(:event_ids as bigint[])
) as report (session_id, batch_seq, event_id)
where batch.session_id = report.session_id and batch.batch_seq = report.batch_seq
""")

_ACKNOWLEDGE = text("""
update mm.webhook_event
set processed_at = coalesce(processed_at, now()),
    processed_run_id = coalesce(processed_run_id, :run_id),
    left_over_at = case when id = any(:left_over) then now() end
where id = any(:ids)
""")

_LEFT_OVER = text("""
select count(*) from mm.webhook_event
where custom_audience_id = :custom_audience_id and left_over_at is not null
  and received_at >= now() - cast(:for_so_long as interval)
""")


@dataclass(frozen=True)
class Assignment:
    """The outcome of an assignment.

    Attributes:
        assigned: How many were assigned to a batch now.
        repeated: How many repeat a report of the other object (``page``, ``ad_account``).
        left_over: How many reports of the audience's last seven days match no batch of ours.
        days: The days whose batches were reported now.
    """

    assigned: int
    repeated: int
    left_over: int
    days: frozenset[date]


@dataclass
class _Batch:
    session_id: int
    batch_seq: int
    day: date
    row_count: int
    sent_at: datetime


def assign(
    connection: Connection,
    audience: str,
    custom_audience_id: str,
    run_id: str,
    app_id: str | None = None,
) -> Assignment:
    """Assign all of an audience's pending reports and acknowledge them, in this transaction.

    A report that matches no batch is acknowledged too, as left over, and later runs try it again:
    our own acknowledgement of the batch may follow it. A report on another app's upload is
    acknowledged and never takes a batch of ours.

    Args:
        connection: With the caller's transaction.
        audience: The audience's key.
        custom_audience_id: Its Custom Audience.
        run_id: The run that acknowledges the reports.
        app_id: Our app. None treats every report as ours.
    """
    connection.execute(_LOCK, {"audience": audience})
    whose = {"custom_audience_id": custom_audience_id}
    events = connection.execute(_UNASSIGNED, {**whose, "app_id": app_id}).all()
    repeated = _repeated_events(connection, whose, events)
    free = _Unreported(connection, audience, custom_audience_id)
    pairs: list[tuple[_Batch, int]] = []
    left_over, resolved = [], []
    for event in events:
        if event.is_assigned or event.is_of_another_app or event.id in repeated:
            resolved.append(event.id)
        elif batch := free.take(count_of(event.num_rows), event.received_at):
            pairs.append((batch, event.id))
        else:
            left_over.append(event.id)
    _store(connection, pairs)
    assigned = [event_id for _, event_id in pairs]
    connection.execute(
        _ACKNOWLEDGE,
        {"ids": [*assigned, *resolved, *left_over], "left_over": left_over, "run_id": run_id},
    )
    return Assignment(
        assigned=len(assigned),
        repeated=len(repeated),
        left_over=connection.scalar(_LEFT_OVER, {**whose, "for_so_long": LEFT_OVER_IS_NEWS_FOR})
        or 0,
        days=frozenset(batch.day for batch, _ in pairs),
    )


class _Unreported:
    """The batches without a report, by their number of rows, the oldest first."""

    def __init__(self, connection: Connection, audience: str, custom_audience_id: str) -> None:
        rows = connection.execute(
            _UNREPORTED, {"audience": audience, "custom_audience_id": custom_audience_id}
        )
        self._batches: defaultdict[int, list[_Batch]] = defaultdict(list)
        for row in rows:
            self._batches[row.row_count].append(_Batch(**row._asdict()))

    def take(self, row_count: int | None, received_at: datetime) -> _Batch | None:
        """The oldest batch with this row count that was sent before the report arrived."""
        batches = self._batches.get(row_count, []) if row_count is not None else []
        for place, batch in enumerate(batches):
            if batch.sent_at <= received_at + CLOCKS_DIFFER_BY:
                return batches.pop(place)
        return None


def _repeated_events(
    connection: Connection, whose: dict[str, str], events: Sequence[Row[tuple[object, ...]]]
) -> set[int]:
    """The ids of those events that repeat an earlier one through the other object.

    Two batches can end with equal values, so equal values are counted: the second one through one
    object is the same event as the second one through the other.
    """
    keys = list({event.value_key for event in events if event.value_key is not None})
    equal = connection.execute(_EQUAL_VALUES, {**whose, "value_keys": keys}).all()
    waiting = {event.id for event in events if not event.is_assigned}
    heard: defaultdict[tuple[str, str], int] = defaultdict(int)
    most: defaultdict[str, int] = defaultdict(int)
    repeated = set()
    for event in equal:
        heard[event.value_key, event.object] += 1
        times = heard[event.value_key, event.object]
        if times > most[event.value_key]:
            most[event.value_key] = times
        elif event.id in waiting:
            repeated.add(event.id)
    return repeated


def _store(connection: Connection, pairs: Sequence[tuple[_Batch, int]]) -> None:
    if not pairs:
        return
    connection.execute(
        _ASSIGN,
        {
            "session_ids": [batch.session_id for batch, _ in pairs],
            "batch_seqs": [batch.batch_seq for batch, _ in pairs],
            "event_ids": [event_id for _, event_id in pairs],
        },
    )


def count_of(text_: str | None) -> int | None:
    """A webhook's count; None if it is not a number or does not fit into a bigint."""
    if text_ is None or not (text_.isascii() and text_.isdigit() and len(text_) <= BIGINT_DIGITS):
        return None
    return int(text_)
