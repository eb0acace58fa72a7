"""Frozen deltas: who is to be added to or removed from a Custom Audience, as an immutable file.

What is delivered is always a slice of such a file, so a rerun finishes the same work instead of
computing another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, text

Operation = Literal["add", "remove"]
Origin = Literal["payload", "mirror", "removals", "leavers"]
"""Why a delta was made: a payload's new people, those a mirrored list no longer has, a list of
removals, or people who leave."""

_COLUMNS = """
id, audience, day, custom_audience_id, operation, origin, source_sha256, path, row_count, keys,
completed_at
"""

_FREEZE = text(f"""
insert into mm.upload_delta
    (audience, day, custom_audience_id, operation, origin, source_sha256, path, row_count, keys,
     completed_at)
values
    (:audience, :day, :custom_audience_id, :operation, :origin, :source_sha256, :path, :row_count,
     :keys, case when :row_count = 0 then now() end)
returning {_COLUMNS}
""")

_OPEN = text(f"""
select {_COLUMNS} from mm.upload_delta
where custom_audience_id = :custom_audience_id and completed_at is null
""")

_LATEST = text(f"""
select {_COLUMNS} from mm.upload_delta
where custom_audience_id = :custom_audience_id and day = :day and origin = :origin
order by id desc limit 1
""")

_NEWEST_DAY = text("""
select max(day) from mm.upload_delta
where custom_audience_id = :custom_audience_id and origin = 'payload'
""")

_COMPLETE = text("update mm.upload_delta set completed_at = now() where id = :id")

_COMPLETED_AFTER = text(f"""
select {_COLUMNS} from mm.upload_delta
where custom_audience_id = :custom_audience_id and id > :id
  and completed_at is not null and row_count > 0
order by id
""")

_PATHS_IN_USE = text("""
select path from mm.upload_delta as delta
where completed_at is null
   or not exists (select 1 from mm.membership
                  where custom_audience_id = delta.custom_audience_id
                    and through_delta_id >= delta.id)
union
select path from mm.membership
""")


@dataclass(frozen=True)
class Delta:
    """One frozen delta.

    Attributes:
        custom_audience_id: The Custom Audience it is for; a new one begins without members.
        source_sha256: The content it was made from: of the payload or the list.
        path: The Parquet file in the storage: the columns ``keys`` and ``row_number``.
        keys: The schema keys sent for each row, in this order.
        completed_at: When its last slice was acknowledged.
    """

    id: int
    audience: str
    day: date
    custom_audience_id: str
    operation: Operation
    origin: Origin
    source_sha256: str
    path: str
    row_count: int
    keys: tuple[str, ...]
    completed_at: datetime | None


def freeze(
    connection: Connection,
    *,
    audience: str,
    day: date,
    custom_audience_id: str,
    operation: Operation,
    origin: Origin,
    source_sha256: str,
    path: str,
    row_count: int,
    keys: Sequence[str],
) -> Delta:
    """Record a published file as the work to do; one without rows is complete at once.

    Raises:
        sqlalchemy.exc.IntegrityError: The Custom Audience has an open delta already.
    """
    row = connection.execute(
        _FREEZE,
        {
            "audience": audience,
            "day": day,
            "custom_audience_id": custom_audience_id,
            "operation": operation,
            "origin": origin,
            "source_sha256": source_sha256,
            "path": path,
            "row_count": row_count,
            "keys": list(keys),
        },
    ).one()
    return _delta(row)


def find_open(connection: Connection, custom_audience_id: str) -> Delta | None:
    """The delta that is not delivered to its end yet, whichever day it is of."""
    found = connection.execute(_OPEN, {"custom_audience_id": custom_audience_id}).one_or_none()
    return _delta(found) if found else None


def latest(
    connection: Connection, custom_audience_id: str, day: date, origin: Origin
) -> Delta | None:
    """The newest delta of a day and origin."""
    found = connection.execute(
        _LATEST, {"custom_audience_id": custom_audience_id, "day": day, "origin": origin}
    ).one_or_none()
    return _delta(found) if found else None


def newest_day(connection: Connection, custom_audience_id: str) -> date | None:
    """The newest day whose payload was delivered, or begun to be."""
    day: date | None = connection.scalar(_NEWEST_DAY, {"custom_audience_id": custom_audience_id})
    return day


def complete(connection: Connection, delta: Delta) -> None:
    """Note that every slice is acknowledged."""
    connection.execute(_COMPLETE, {"id": delta.id})


def completed_after(connection: Connection, custom_audience_id: str, delta_id: int) -> list[Delta]:
    """The completed deltas with rows that are newer than ``delta_id``, oldest first."""
    rows = connection.execute(
        _COMPLETED_AFTER, {"custom_audience_id": custom_audience_id, "id": delta_id}
    )
    return [_delta(row) for row in rows]


def paths_in_use(connection: Connection) -> set[str]:
    """The files of the storage that deliveries still need: retention must leave them."""
    return set(connection.scalars(_PATHS_IN_USE))


def _delta(row: Row[Any]) -> Delta:
    return Delta(**{**row._asdict(), "keys": tuple(row.keys)})
