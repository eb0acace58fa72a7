"""The ledger: every batch is recorded before it is sent and acknowledged after.

Uploads are in ``mm.upload_batch`` and removals in ``mm.removal_batch``, since Meta reports on
uploads only. The status of a batch is one of

- ``sent``: no answer yet,
- ``acknowledged``: Meta accepted it,
- ``superseded``: its outcome is unknown and its rows were sent again in another session,
- ``abandoned``: its outcome is unknown and its delta was closed,
- ``refused``: Meta refused it; its rows were sent again in smaller batches,
- ``rejected``: a single row that Meta refuses; it is in ``mm.rejected_row``.
"""

from collections.abc import Mapping, Sequence
from datetime import date

from sqlalchemy import Connection, TextClause, text

from mm_pipelines.delivery.batch import (
    Batch,
    Delivered,
    InSession,
    OpenSession,
    Progress,
    Received,
    Session,
)
from mm_pipelines.delivery.deltas import Delta, Operation

_TABLES: Mapping[Operation, tuple[str, str]] = {
    "add": ("mm.upload_batch", "new_people"),
    "remove": ("mm.removal_batch", "removed_people"),
}


def _for_each_ledger(statement: str) -> Mapping[Operation, TextClause]:
    return {
        operation: text(statement.replace("{table}", table).replace("{people}", people))
        for operation, (table, people) in _TABLES.items()
    }


_OPEN_SESSION = text("""
insert into mm.upload_session (session_id, delta_id, estimated_num_total, opened_at)
values (:session_id, :delta_id, :estimated_num_total, :opened_at)
""")

_RECORD_SENT = _for_each_ledger("""
insert into {table}
    (audience, day, session_id, batch_seq, row_count, content_sha256, status, delta_id, first_row,
     last_batch, {people})
values
    (:audience, :day, :session_id, :batch_seq, :row_count, :content_sha256, 'sent', :delta_id,
     :first_row, :last_batch, :people)
""")

_ACKNOWLEDGE = _for_each_ledger("""
update {table}
set status = 'acknowledged', acknowledged_at = now(), num_received = :num_received,
    num_invalid_entries = :num_invalid_entries
where session_id = :session_id and batch_seq = :batch_seq and status = 'sent'
""")

_RECORD_SUBSCRIBERS = text("""
update mm.upload_batch
set num_subscribers_received = :num_subscribers_received,
    num_subscribers_invalid_entries = :num_subscribers_invalid_entries
where session_id = :session_id and batch_seq = :batch_seq
""")

_UNACKNOWLEDGED = _for_each_ledger("""
select batch.batch_seq, batch.first_row, batch.row_count, batch.content_sha256, batch.last_batch,
       session.session_id, session.estimated_num_total, session.opened_at,
       before.rows as rows_before, before.invalid_entries as invalid_before
from {table} as batch join mm.upload_session as session using (session_id)
cross join lateral (
    select coalesce(sum(row_count), 0)::bigint as rows,
           coalesce(sum(num_invalid_entries), 0)::bigint as invalid_entries
    from {table} as earlier
    where earlier.session_id = batch.session_id and earlier.batch_seq < batch.batch_seq
) as before
where batch.delta_id = :delta_id and batch.status = 'sent'
order by batch.first_row
""")

_UNCLOSED_SESSIONS = _for_each_ledger("""
select session.session_id, session.estimated_num_total, session.opened_at,
       max(batch.batch_seq) as last_seq, sum(batch.row_count)::bigint as rows,
       sum(batch.num_invalid_entries)::bigint as invalid_entries
from {table} as batch join mm.upload_session as session using (session_id)
where batch.delta_id = :delta_id
group by session.session_id
having bool_and(batch.status = 'acknowledged' and not batch.last_batch)
order by session.opened_at
""")

# Returns the slices that need no further batch.
_SLICES = _for_each_ledger("""
select first_row, row_count from {table}
where delta_id = :delta_id and status in ('sent', 'acknowledged', 'rejected')
order by first_row
""")

# Returns the slices of an upload that are delivered, or refused row by row.
_DELIVERED_SLICES = _for_each_ledger("""
select first_row, row_count from {table}
where delta_id = :delta_id and status in ('acknowledged', 'rejected')
order by first_row
""")

# Ends a batch that Meta did not accept.
_END = _for_each_ledger("""
update {table} set status = :status
where session_id = :session_id and batch_seq = :batch_seq and status = any(:former)
""")

_ABANDON_SENT = _for_each_ledger("""
update {table} set status = 'abandoned' where delta_id = :delta_id and status = 'sent'
""")

# Returns the acknowledged rows of each delta as ascending ranges of positions.
_ACKNOWLEDGED_RANGES = _for_each_ledger("""
select delta_id, lower(part) as first_row, upper(part) as end_row
from (
    select delta_id, unnest(range_agg(int8range(first_row, first_row + row_count))) as part
    from {table} where delta_id = any(:delta_ids) and status = 'acknowledged'
    group by delta_id
) as parts
order by delta_id, part
""")

# Returns how many people the acknowledged rows of each delta added or removed.
_PEOPLE_OF_DELTAS = _for_each_ledger("""
select delta_id, sum(coalesce({people}, row_count))::bigint as people
from {table} where delta_id = any(:delta_ids) and status = 'acknowledged'
group by delta_id
""")

# Returns the rows of each upload that Meta may have accepted without our knowledge.
_UNCERTAIN_RANGES = text("""
select delta_id, lower(part) as first_row, upper(part) as end_row
from (
    select delta_id, unnest(
        range_agg(int8range(first_row, first_row + row_count))
            filter (where status in ('sent', 'superseded', 'abandoned'))
        - coalesce(range_agg(int8range(first_row, first_row + row_count))
            filter (where status = 'acknowledged'), '{}')
    ) as part
    from mm.upload_batch where delta_id = any(:delta_ids)
    group by delta_id
) as parts
order by delta_id, part
""")

# Returns the digests of the single rows that Meta refuses.
_REJECTED_CONTENT = text("""
select distinct batch.content_sha256
from mm.upload_batch as batch join mm.upload_delta as delta on delta.id = batch.delta_id
where delta.custom_audience_id = :custom_audience_id and batch.status = 'rejected'
""")

_PROGRESS = _for_each_ledger("""
select count(*) as batches, coalesce(sum(row_count), 0)::bigint as rows,
       coalesce(sum(num_invalid_entries), 0)::bigint as invalid_entries
from {table} where delta_id = :delta_id and status = 'acknowledged'
""")

# Returns the sums of a partition; the subscribers are null where Meta gave no count.
_DELIVERED = text("""
select coalesce(sum(batches), 0)::bigint as batches, coalesce(sum(rows), 0)::bigint as rows,
       coalesce(sum(invalid_entries), 0)::bigint as invalid_entries,
       sum(subscribers)::bigint as subscribers
from (
    select count(*) as batches, sum(row_count) as rows,
           sum(num_invalid_entries) as invalid_entries,
           max(num_subscribers_received) as subscribers
    from mm.upload_batch
    where audience = :audience and day = :day and status = 'acknowledged'
    group by session_id
) as session
""")

# A batch without a delta was not recorded by us: it counts for whatever audience it names.
_PEOPLE_ACKNOWLEDGED = text("""
select coalesce((
    select sum(coalesce(batch.new_people, batch.row_count))
    from mm.upload_batch as batch
    left join mm.upload_delta as delta on delta.id = batch.delta_id
    where batch.audience = :audience and batch.status = 'acknowledged'
      and (delta.id is null or delta.custom_audience_id = current.custom_audience_id)
), 0)::bigint - coalesce((
    select sum(coalesce(batch.removed_people, batch.row_count))
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
        sqlalchemy.exc.IntegrityError: The slice is in the ledger already.
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
            "people": batch.people,
        },
    )


def acknowledge(connection: Connection, delta: Delta, batch: Batch, received: Received) -> None:
    """Record that Meta accepted a batch."""
    connection.execute(
        _ACKNOWLEDGE[delta.operation],
        {
            "session_id": batch.session.session_id,
            "batch_seq": batch.batch_seq,
            "num_received": received.num_received,
            "num_invalid_entries": received.num_invalid_entries,
        },
    )
    if delta.operation == "add" and received.num_subscribers_received is not None:
        connection.execute(
            _RECORD_SUBSCRIBERS,
            {
                "session_id": batch.session.session_id,
                "batch_seq": batch.batch_seq,
                "num_subscribers_received": received.num_subscribers_received,
                "num_subscribers_invalid_entries": received.num_subscribers_invalid_entries,
            },
        )


def supersede(connection: Connection, delta: Delta, batch: Batch) -> None:
    """Give up a batch whose outcome is unknown: its rows go into another session."""
    _end(connection, delta, batch, "superseded", "sent")


def refuse(connection: Connection, delta: Delta, batch: Batch) -> None:
    """Record that Meta refused a batch for good."""
    _end(connection, delta, batch, "refused", "sent")


def reject(connection: Connection, delta: Delta, batch: Batch) -> None:
    """Record that the single row of a refused batch is the cause: it is not sent again."""
    _end(connection, delta, batch, "rejected", "sent", "refused")


def _end(connection: Connection, delta: Delta, batch: Batch, status: str, *former: str) -> None:
    connection.execute(
        _END[delta.operation],
        {
            "session_id": batch.session.session_id,
            "batch_seq": batch.batch_seq,
            "status": status,
            "former": list(former),
        },
    )


def abandon_sent(connection: Connection, delta: Delta) -> None:
    """Record that the unanswered batches of a closed delta are not sent again."""
    connection.execute(_ABANDON_SENT[delta.operation], {"delta_id": delta.id})


def acknowledged_ranges(
    connection: Connection, operation: Operation, delta_ids: Sequence[int]
) -> dict[int, list[range]]:
    """The acknowledged positions of each delta, ascending."""
    return _ranges(connection, _ACKNOWLEDGED_RANGES[operation], delta_ids)


def people_of_deltas(
    connection: Connection, operation: Operation, delta_ids: Sequence[int]
) -> dict[int, int]:
    """How many people the acknowledged rows of each delta added or removed."""
    rows = connection.execute(_PEOPLE_OF_DELTAS[operation], {"delta_ids": list(delta_ids)})
    return {row.delta_id: row.people for row in rows}


def uncertain_ranges(connection: Connection, delta_ids: Sequence[int]) -> dict[int, list[range]]:
    """The positions of each upload that Meta may have accepted without our knowledge."""
    return _ranges(connection, _UNCERTAIN_RANGES, delta_ids)


def _ranges(
    connection: Connection, statement: TextClause, delta_ids: Sequence[int]
) -> dict[int, list[range]]:
    found: dict[int, list[range]] = {}
    for row in connection.execute(statement, {"delta_ids": list(delta_ids)}):
        found.setdefault(row.delta_id, []).append(range(row.first_row, row.end_row))
    return found


def rejected_content(connection: Connection, custom_audience_id: str) -> list[str]:
    """The digests of single rows, as `Batch.content_sha256`, that Meta refuses."""
    statement = {"custom_audience_id": custom_audience_id}
    return list(connection.scalars(_REJECTED_CONTENT, statement))


def unacknowledged(connection: Connection, delta: Delta) -> list[Batch]:
    """The batches that a dead run sent and never acknowledged."""
    rows = connection.execute(_UNACKNOWLEDGED[delta.operation], {"delta_id": delta.id})
    return [
        Batch(
            session=Session(row.session_id, row.estimated_num_total, row.opened_at),
            batch_seq=row.batch_seq,
            first_row=row.first_row,
            row_count=row.row_count,
            content_sha256=row.content_sha256,
            last_batch=row.last_batch,
            before=InSession(row.rows_before, row.invalid_before),
        )
        for row in rows
    ]


def unclosed_sessions(connection: Connection, delta: Delta) -> list[OpenSession]:
    """The sessions that can take another batch, oldest first.

    Every batch of theirs is acknowledged and none closed them. Their age is not considered.
    """
    rows = connection.execute(_UNCLOSED_SESSIONS[delta.operation], {"delta_id": delta.id})
    return [
        OpenSession(
            Session(row.session_id, row.estimated_num_total, row.opened_at),
            row.last_seq,
            InSession(row.rows, row.invalid_entries or 0),
        )
        for row in rows
    ]


def unrecorded_ranges(connection: Connection, delta: Delta) -> list[range]:
    """The rows of a delta still to be sent, as ranges of positions, ascending."""
    return _gaps(connection, _SLICES[delta.operation], delta)


def undelivered_ranges(connection: Connection, delta: Delta) -> list[range]:
    """The rows of a delta not acknowledged yet, as ranges of positions, ascending.

    Rows in ``mm.rejected_row`` are not among them.
    """
    return _gaps(connection, _DELIVERED_SLICES[delta.operation], delta)


def _gaps(connection: Connection, statement: TextClause, delta: Delta) -> list[range]:
    gaps = []
    position = 0
    for row in connection.execute(statement, {"delta_id": delta.id}):
        if row.first_row > position:
            gaps.append(range(position, row.first_row))
        position = row.first_row + row.row_count
    if position < delta.row_count:
        gaps.append(range(position, delta.row_count))
    return gaps


def progress(connection: Connection, delta: Delta) -> Progress:
    """The acknowledged part of a delta."""
    row = connection.execute(_PROGRESS[delta.operation], {"delta_id": delta.id}).one()
    return Progress(row.batches, row.rows, row.invalid_entries)


def delivered(connection: Connection, audience: str, day: date) -> Delivered:
    """The part of a partition that was uploaded so far, by all runs."""
    row = connection.execute(_DELIVERED, {"audience": audience, "day": day}).one()
    return Delivered(row.batches, row.rows, row.invalid_entries, row.subscribers)


def people_acknowledged(connection: Connection, audience: str) -> int:
    """How many distinct people are in the audience: acknowledged additions less removals."""
    people: int | None = connection.scalar(_PEOPLE_ACKNOWLEDGED, {"audience": audience})
    return people or 0
