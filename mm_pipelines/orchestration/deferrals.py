"""Work that is postponed to a stated time, so that no run holds a slot while it waits.

A run that would have to wait longer than a minute, or for another run's lock, records a deferral
and ends. The deferred work sensor requests the partition when the deferral is due and the lock is
free. A run that finishes the work deletes the row
(docs/decisions/0010-defer-instead-of-waiting.md).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

# Returns the recorded deferral. An attempt that made progress starts the count again.
_DEFER = text("""
insert into mm.deferred_work as known
    (asset, partition_key, due_at, reason, waits_for_lock, attempts, run_id)
values (:asset, :partition_key, now() + :wait, :reason, :waits_for_lock, 1, :run_id)
on conflict (asset, partition_key) do update
set due_at = excluded.due_at, reason = excluded.reason, deferred_at = excluded.deferred_at,
    waits_for_lock = excluded.waits_for_lock,
    attempts = case when :made_progress then 1 else known.attempts + 1 end,
    run_id = excluded.run_id
returning asset, partition_key, due_at, reason, waits_for_lock, attempts, deferred_at
""")

# Returns the deferral of one partition, if there is one.
_FIND = text("""
select asset, partition_key, due_at, reason, waits_for_lock, attempts, deferred_at
from mm.deferred_work
where asset = :asset and partition_key = :partition_key
""")

_FINISH = text("""
delete from mm.deferred_work where asset = :asset and partition_key = :partition_key
""")

# Makes deferrals due that wait for the end of a pause.
_MAKE_PAUSED_WORK_DUE = text("""
update mm.deferred_work set due_at = least(due_at, now())
where asset = 'audience_upload' and reason like 'UploadsPausedError:%'
  and (cast(:audience as text) is null or split_part(partition_key, '|', 1) = :audience)
""")

# Returns every deferral, the one that is due first at the top.
_ALL = text("""
select asset, partition_key, due_at, reason, waits_for_lock, attempts, deferred_at
from mm.deferred_work
order by due_at, asset, partition_key
""")


@dataclass(frozen=True)
class Deferral:
    """A partition's work, postponed.

    Attributes:
        partition_key: Empty for an asset without partitions.
        due_at: When the work should be requested again.
        reason: Why it had to wait.
        waits_for_lock: The lock that has to be free as well, if any.
        attempts: Attempts in a row that made no progress, this one included.
        deferred_at: When the run recorded it.
    """

    asset: str
    partition_key: str
    due_at: datetime
    reason: str
    waits_for_lock: str | None
    attempts: int
    deferred_at: datetime

    def __str__(self) -> str:
        if self.waits_for_lock:
            return f"deferred until the lock on {self.waits_for_lock} is free"
        return f"deferred until {self.due_at:%Y-%m-%d %H:%M:%S} UTC: {self.reason}"


def defer(
    connection: Connection,
    asset: str,
    partition_key: str,
    *,
    wait: timedelta,
    reason: str,
    waits_for_lock: str | None = None,
    made_progress: bool,
    run_id: str,
) -> Deferral:
    """Postpone a partition's work, in place of an earlier deferral of it."""
    row = connection.execute(
        _DEFER,
        {
            "asset": asset,
            "partition_key": partition_key,
            "wait": wait,
            "reason": reason,
            "waits_for_lock": waits_for_lock,
            "made_progress": made_progress,
            "run_id": run_id,
        },
    ).one()
    return Deferral(**row._asdict())


def find(connection: Connection, asset: str, partition_key: str) -> Deferral | None:
    """The deferral of a partition's work; None if it is not deferred."""
    row = connection.execute(_FIND, {"asset": asset, "partition_key": partition_key}).one_or_none()
    return Deferral(**row._asdict()) if row else None


def finish(connection: Connection, asset: str, partition_key: str) -> None:
    """Delete the deferral of work that is done."""
    connection.execute(_FINISH, {"asset": asset, "partition_key": partition_key})


def make_paused_work_due(connection: Connection, audience: str | None) -> None:
    """Request the uploads of an audience, or of all, that a pause has deferred."""
    connection.execute(_MAKE_PAUSED_WORK_DUE, {"audience": audience})


def pending(connection: Connection) -> list[Deferral]:
    """Every deferral, the one that is due first at the top."""
    return [Deferral(**row._asdict()) for row in connection.execute(_ALL)]
