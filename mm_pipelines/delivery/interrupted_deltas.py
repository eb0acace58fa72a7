"""Open deltas that no run works on any more, because their run was killed."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Connection, text

# Returns the open deltas without a batch sent or acknowledged for `idle_for`, the oldest first. A
# deferred upload is not interrupted: its deferral says when to go on. Nor is a parked removal:
# every upload of the audience tries it again.
_INTERRUPTED = text("""
select audience, day, last_active_at from (
    select delta.id, delta.audience, delta.day,
           greatest(delta.created_at, max(batch.sent_at), max(batch.acknowledged_at))
               as last_active_at
    from mm.upload_delta as delta
    left join (
        select delta_id, sent_at, acknowledged_at from mm.upload_batch
        union all
        select delta_id, sent_at, acknowledged_at from mm.removal_batch
    ) as batch on batch.delta_id = delta.id
    where delta.completed_at is null and delta.closed_at is null and delta.parked_at is null
      and not exists (
          select from mm.deferred_work as deferred
          where deferred.asset = 'audience_upload'
            and deferred.partition_key = delta.audience || '|' || delta.day
      )
    group by delta.id
) as open_delta
where last_active_at < now() - cast(:idle_for as interval)
order by id
""")


@dataclass(frozen=True)
class InterruptedDelta:
    """An open delta that no run works on, and when its last batch was sent or acknowledged."""

    audience: str
    day: date
    last_active_at: datetime


def find(connection: Connection, *, idle_for: timedelta) -> list[InterruptedDelta]:
    """The open deltas without any activity for so long, the oldest first."""
    rows = connection.execute(_INTERRUPTED, {"idle_for": idle_for})
    return [InterruptedDelta(**row._asdict()) for row in rows]
