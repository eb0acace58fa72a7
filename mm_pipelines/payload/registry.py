"""The current hashed payload of each partition, in ``mm.hashed_payload``."""

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, text

# Makes a payload current; the same content again changes nothing.
_RECORD = text("""
insert into mm.hashed_payload (audience, day, sha256, path, rows, no_row_lost)
values (:audience, :day, :sha256, :path, :rows, :no_row_lost)
on conflict (audience, day) do update
set sha256 = excluded.sha256, path = excluded.path, rows = excluded.rows,
    no_row_lost = excluded.no_row_lost, created_at = now()
where hashed_payload.sha256 <> excluded.sha256
   or hashed_payload.no_row_lost <> excluded.no_row_lost
""")

# Returns the current payload of a partition.
_CURRENT = text("""
select sha256, path, rows, no_row_lost, created_at from mm.hashed_payload
where audience = :audience and day = :day
""")

# Returns the files of current payloads of a time or later without a completed delivery.
_UNDELIVERED_PATHS = text("""
select path from mm.hashed_payload as payload
where created_at >= :since and not exists (
    select 1 from mm.upload_delta
    where audience = payload.audience and day = payload.day and origin = 'payload'
      and source_sha256 = payload.sha256 and completed_at is not null
)
""")

FORMER_PHONE = "former_phone"
"""The column with the hash that earlier rules gave to a row's phone, where it is another one. Files
in which no row has one lack the column."""


@dataclass(frozen=True)
class HashedPayload:
    """An immutable Parquet file: columns of schema keys and ``row_number``, one row per person.

    Attributes:
        no_row_lost: Whether every row of the list is accounted for. If not, the payload must not
            be uploaded.
        created_at: When it was first recorded; None before.
    """

    audience: str
    day: date
    sha256: str
    path: str
    rows: int
    no_row_lost: bool = True
    created_at: datetime | None = None


def record(connection: Connection, payload: HashedPayload) -> None:
    """Make ``payload`` current for its partition; the same content again changes nothing."""
    connection.execute(
        _RECORD,
        {
            "audience": payload.audience,
            "day": payload.day,
            "sha256": payload.sha256,
            "path": payload.path,
            "rows": payload.rows,
            "no_row_lost": payload.no_row_lost,
        },
    )


def current(connection: Connection, audience: str, day: date) -> HashedPayload | None:
    """Return the partition's current payload; None before the first is published."""
    row = connection.execute(_CURRENT, {"audience": audience, "day": day}).one_or_none()
    if row is None:
        return None
    return HashedPayload(audience, day, **row._asdict())


def undelivered_paths(connection: Connection, since: datetime) -> set[str]:
    """Return the files of current payloads of a time or later without a completed delivery."""
    return set(connection.scalars(_UNDELIVERED_PATHS, {"since": since}))
