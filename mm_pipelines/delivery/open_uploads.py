"""Lists deliveries that did not end, and closes them on a person's request."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, text

from mm_pipelines.delivery import deltas, ledger
from mm_pipelines.delivery.deltas import Delta
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database

# Returns every delta that is open, or whose undelivered people are due again, oldest first.
_NOT_DELIVERED = text("""
select delta.audience, delta.day, delta.operation, delta.custom_audience_id,
       case when delta.closed_at is null then 'open' else delta.outcome end as state,
       delta.created_at as since, delta.row_count - delta.topped_up as people,
       coalesce((
           select sum(people) from (
               select coalesce(new_people, row_count) as people, delta_id, status
               from mm.upload_batch
               union all select row_count, delta_id, status from mm.removal_batch
           ) as batch
           where batch.delta_id = delta.id and batch.status = 'acknowledged'
       ), 0)::bigint as acknowledged,
       coalesce(delta.close_reason, delta.last_failure) as why
from mm.upload_delta as delta
where delta.completed_at is null and delta.continued_by is null
order by delta.id
""")

# Returns how many people wait in removals that Meta refuses while the audience is small.
_PARKED = text("""
select coalesce(sum(delta.row_count - coalesce(acknowledged.rows, 0)), 0)::bigint
from mm.upload_delta as delta
left join lateral (
    select sum(row_count) as rows from mm.removal_batch
    where delta_id = delta.id and status = 'acknowledged'
) as acknowledged on true
where delta.audience = any(:audiences) and delta.operation = 'remove'
  and delta.parked_at is not null and delta.completed_at is null and delta.closed_at is null
""")

_UNCOUNT = text("update mm.upload_batch set new_people = 0 where delta_id = :id")

REASON = "abandoned with `mm uploads abandon`"


@dataclass(frozen=True)
class OpenUpload:
    """A delivery that did not reach everyone.

    Attributes:
        operation: ``add`` or ``remove``.
        state: ``open``, or how it was closed: ``refused``, ``abandoned``.
        since: When it began.
        people: People of the delta, without members that it is filled up with.
        acknowledged: How many of them Meta acknowledged.
        why: The last failure, or the reason why it was closed.
    """

    audience: str
    day: date
    operation: str
    custom_audience_id: str
    state: str
    since: datetime
    people: int
    acknowledged: int
    why: str | None


def not_delivered(connection: Connection) -> list[OpenUpload]:
    """The deliveries that are open, or whose undelivered people are due again, oldest first."""
    return [OpenUpload(**row._asdict()) for row in connection.execute(_NOT_DELIVERED)]


def parked_people(connection: Connection, audiences: Collection[str]) -> int:
    """How many people of the audiences cannot be removed while their Custom Audience is small."""
    return int(connection.scalar(_PARKED, {"audiences": list(audiences)}) or 0)


def abandon(database: Database, storage: Storage, audience: str) -> list[Delta]:
    """Close the open deliveries of an audience; what was acknowledged stays.

    Undelivered people of an upload become part of the audience's next one. If the file that names
    them is lost, only the day's list can bring them back.

    Returns:
        The deltas that were closed.

    Raises:
        LockTakenError: A run is delivering to the audience.
    """
    with database.lock(f"audience:{audience}"), database.transaction() as connection:
        closed = deltas.open_of_key(connection, audience)
        for delta in closed:
            deltas.close(connection, delta, "abandoned", REASON)
            ledger.abandon_sent(connection, delta)
            if delta.operation == "remove":
                deltas.continue_in(connection, delta, delta)
            elif not storage.exists(delta.path):
                # Its people are unknown: they are counted when they are sent again.
                connection.execute(_UNCOUNT, {"id": delta.id})
                deltas.continue_in(connection, delta, delta)
    return closed
