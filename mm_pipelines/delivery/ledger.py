"""The ledger: every batch recorded before it is sent, and acknowledged after.

Uploads stand in ``mm.upload_batch`` and removals in ``mm.removal_batch``: Meta reports on uploads
only, and only they count as delivered. Both have the same columns for what is done here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, TextClause, text

from mm_pipelines.delivery.deltas import Delta, Operation


@dataclass(frozen=True)
class Session:
    """An upload session at Meta.

    Attributes:
        session_id: Positive int64, ours, never used twice.
        estimated_num_total: Rows that the session was opened for.
        opened_at: Before its first batch was sent; Meta closes it 90 minutes later.
    """

    session_id: int
    estimated_num_total: int
    opened_at: datetime


@dataclass(frozen=True)
class Batch:
    """A slice of a delta in its place in a session.

    Attributes:
        first_row: Position in the delta's file, from 0.
        content_sha256: Of the rows' bytes in the request's body.
        last_batch: Whether it closes its session.
    """

    session: Session
    batch_seq: int
    first_row: int
    row_count: int
    content_sha256: str
    last_batch: bool


@dataclass(frozen=True)
class Received:
    """What Meta said to a batch: ``num_received`` is cumulative within the session."""

    num_received: int
    num_invalid_entries: int


@dataclass(frozen=True)
class Progress:
    """What is acknowledged of a delta or a partition."""

    batches: int
    rows: int
    invalid_entries: int


_TABLES: Mapping[Operation, str] = {"add": "mm.upload_batch", "remove": "mm.removal_batch"}


def _for_each_ledger(statement: str) -> Mapping[Operation, TextClause]:
    return {operation: text(statement.format(table=table)) for operation, table in _TABLES.items()}


_OPEN_SESSION = text("""
insert into mm.upload_session (session_id, delta_id, estimated_num_total, opened_at)
values (:session_id, :delta_id, :estimated_num_total, :opened_at)
""")

_RECORD_SENT = _for_each_ledger("""
insert into {table}
    (audience, day, session_id, batch_seq, row_count, content_sha256, status, delta_id, first_row,
     last_batch)
values
    (:audience, :day, :session_id, :batch_seq, :row_count, :content_sha256, 'sent', :delta_id,
     :first_row, :last_batch)
""")

_ACKNOWLEDGE = _for_each_ledger("""
update {table}
set status = 'acknowledged', acknowledged_at = now(), num_received = :num_received,
    num_invalid_entries = :num_invalid_entries
where session_id = :session_id and batch_seq = :batch_seq and status = 'sent'
""")

_SUPERSEDE = _for_each_ledger("""
update {table} set status = 'superseded'
where session_id = :session_id and batch_seq = :batch_seq and status = 'sent'
""")

_UNACKNOWLEDGED = _for_each_ledger("""
select batch.batch_seq, batch.first_row, batch.row_count, batch.content_sha256, batch.last_batch,
       session.session_id, session.estimated_num_total, session.opened_at
from {table} as batch join mm.upload_session as session using (session_id)
where batch.delta_id = :delta_id and batch.status = 'sent'
order by batch.first_row
""")

_UNCLOSED_SESSIONS = _for_each_ledger("""
select session.session_id, session.estimated_num_total, session.opened_at,
       max(batch.batch_seq) as last_seq
from {table} as batch join mm.upload_session as session using (session_id)
where batch.delta_id = :delta_id
group by session.session_id
having bool_and(batch.status = 'acknowledged' and not batch.last_batch)
order by session.opened_at
""")

_SLICES = _for_each_ledger("""
select first_row, row_count from {table}
where delta_id = :delta_id and status <> 'superseded'
order by first_row
""")

_PROGRESS = _for_each_ledger("""
select count(*) as batches, coalesce(sum(row_count), 0)::bigint as rows,
       coalesce(sum(num_invalid_entries), 0)::bigint as invalid_entries
from {table} where delta_id = :delta_id and status = 'acknowledged'
""")

_DELIVERED = text("""
select count(*) as batches, coalesce(sum(row_count), 0)::bigint as rows,
       coalesce(sum(num_invalid_entries), 0)::bigint as invalid_entries
from mm.upload_batch
where audience = :audience and day = :day and status = 'acknowledged'
""")

# A batch without a delta was not recorded by us: it counts for whatever audience it names.
_PEOPLE_ACKNOWLEDGED = text("""
select coalesce((
    select sum(batch.row_count)
    from mm.upload_batch as batch
    left join mm.upload_delta as delta on delta.id = batch.delta_id
    where batch.audience = :audience and batch.status = 'acknowledged'
      and (delta.id is null or delta.custom_audience_id = current.custom_audience_id)
), 0)::bigint - coalesce((
    select sum(batch.row_count)
    from mm.removal_batch as batch
    join mm.upload_delta as delta on delta.id = batch.delta_id
    where batch.audience = :audience and batch.status = 'acknowledged'
      and delta.custom_audience_id = current.custom_audience_id
), 0)::bigint
from mm.custom_audience as current
where current.audience = :audience
""")


def open_session(connection: Connection, delta: Delta, session: Session) -> None:
    """Record a session just before its first batch is sent."""
    connection.execute(_OPEN_SESSION, {"delta_id": delta.id, **vars(session)})


def record_sent(connection: Connection, delta: Delta, batch: Batch) -> None:
    """Record a batch before it is sent.

    Raises:
        sqlalchemy.exc.IntegrityError: The slice stands in the ledger already.
    """
    connection.execute(
        _RECORD_SENT[delta.operation],
        {
            "audience": delta.audience,
            "day": delta.day,
            "session_id": batch.session.session_id,
            "batch_seq": batch.batch_seq,
            "row_count": batch.row_count,
            "content_sha256": batch.content_sha256,
            "delta_id": delta.id,
            "first_row": batch.first_row,
            "last_batch": batch.last_batch,
        },
    )


def acknowledge(connection: Connection, delta: Delta, batch: Batch, received: Received) -> None:
    """Note that Meta took a batch."""
    connection.execute(
        _ACKNOWLEDGE[delta.operation],
        {
            "session_id": batch.session.session_id,
            "batch_seq": batch.batch_seq,
            "num_received": received.num_received,
            "num_invalid_entries": received.num_invalid_entries,
        },
    )


def supersede(connection: Connection, delta: Delta, batch: Batch) -> None:
    """Give up a batch whose outcome is unknown: its slice goes into another session."""
    connection.execute(
        _SUPERSEDE[delta.operation],
        {"session_id": batch.session.session_id, "batch_seq": batch.batch_seq},
    )


def unacknowledged(connection: Connection, delta: Delta) -> list[Batch]:
    """The batches that were sent and never acknowledged: what a dead run leaves behind."""
    rows = connection.execute(_UNACKNOWLEDGED[delta.operation], {"delta_id": delta.id})
    return [
        Batch(
            session=Session(row.session_id, row.estimated_num_total, row.opened_at),
            batch_seq=row.batch_seq,
            first_row=row.first_row,
            row_count=row.row_count,
            content_sha256=row.content_sha256,
            last_batch=row.last_batch,
        )
        for row in rows
    ]


def unclosed_sessions(connection: Connection, delta: Delta) -> list[tuple[Session, int]]:
    """The sessions that can take another batch, each with its last ``batch_seq``, oldest first.

    Every batch of theirs is acknowledged and none closed them. Their age is not looked at.
    """
    rows = connection.execute(_UNCLOSED_SESSIONS[delta.operation], {"delta_id": delta.id})
    return [
        (Session(row.session_id, row.estimated_num_total, row.opened_at), row.last_seq)
        for row in rows
    ]


def unrecorded_ranges(connection: Connection, delta: Delta) -> list[range]:
    """The rows of a delta that no batch holds yet, as ranges of positions, ascending."""
    gaps = []
    position = 0
    for row in connection.execute(_SLICES[delta.operation], {"delta_id": delta.id}):
        if row.first_row > position:
            gaps.append(range(position, row.first_row))
        position = row.first_row + row.row_count
    if position < delta.row_count:
        gaps.append(range(position, delta.row_count))
    return gaps


def progress(connection: Connection, delta: Delta) -> Progress:
    """What of a delta is acknowledged."""
    row = connection.execute(_PROGRESS[delta.operation], {"delta_id": delta.id}).one()
    return Progress(row.batches, row.rows, row.invalid_entries)


def delivered(connection: Connection, audience: str, day: date) -> Progress:
    """What of a partition was uploaded so far, by all runs."""
    row = connection.execute(_DELIVERED, {"audience": audience, "day": day}).one()
    return Progress(row.batches, row.rows, row.invalid_entries)


def people_acknowledged(connection: Connection, audience: str) -> int:
    """How many distinct people stand in the audience: acknowledged adds less removals.

    A delta adds only people who are not members and removes only members, so its rows are people.
    """
    people: int | None = connection.scalar(_PEOPLE_ACKNOWLEDGED, {"audience": audience})
    return people or 0
