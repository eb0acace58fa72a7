"""Rejected rows in ``mm.rejected_row``: their number in the source and the reasons, no values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.warehouse.database import Database

Stage = Literal["hashed_payload", "audience_upload"]

FRAME_SCHEMA = pl.Schema([("row_number", pl.Int64()), ("reasons", pl.List(pl.String))])
"""The frames of `replace`: one line per row; the first data row of the source is 1."""

_CREATE_STAGING = "create temporary table rejected_row_staging (row_number bigint, reasons text[])"

_DELETE_STAGE = "delete from mm.rejected_row where audience = $1 and day = $2::date and stage = $3"

_MERGE_STAGING = """
insert into mm.rejected_row (audience, day, stage, row_number, reasons)
select $1, $2::date, $3, row_number, reasons from rejected_row_staging
"""

_ADD = text("""
insert into mm.rejected_row as known (audience, day, stage, row_number, reasons)
select :audience, :day, :stage, row_number, array[cast(:reason as text)]
from unnest(cast(:row_numbers as bigint[])) as row_number
on conflict (audience, day, stage, row_number) do update
set reasons = case when :reason = any (known.reasons) then known.reasons
                   else array_append(known.reasons, :reason) end
""")

# The rejected rows of one partition in the order of the list.
_FIND = text("""
select row_number, stage, reasons from mm.rejected_row
where audience = :audience and day = :day
  and (cast(:stage as text) is null or stage = :stage)
order by row_number, stage limit :limit
""")

# Deletes rows recorded before a time.
_FORGET = text("""
delete from mm.rejected_row where ctid = any (array(
    select ctid from mm.rejected_row where recorded_at < :before limit :limit
))
""")

# The number of rejected rows of one partition.
_COUNT = text("select count(*) from mm.rejected_row where audience = :audience and day = :day")


@dataclass(frozen=True)
class RejectedRow:
    """One rejected row, without its values.

    Attributes:
        row_number: The first data row of the source is 1.
        stage: The stage that rejected it.
        reasons: The codes of the reasons.
    """

    row_number: int
    stage: str
    reasons: Sequence[str]


def find(
    connection: Connection, audience: str, day: date, limit: int, *, stage: Stage | None = None
) -> list[RejectedRow]:
    """The first rejected rows of one partition, at most ``limit``; of all stages or of one."""
    values = {"audience": audience, "day": day, "limit": limit, "stage": stage}
    return [RejectedRow(*row) for row in connection.execute(_FIND, values)]


def count(connection: Connection, audience: str, day: date) -> int:
    """The number of rejected rows of one partition, of all stages."""
    rows: int = connection.scalar(_COUNT, {"audience": audience, "day": day}) or 0
    return rows


def replace(
    database: Database,
    audience: str,
    day: date,
    stage: Stage,
    frames: Iterable[pl.DataFrame],
) -> int:
    """Replace the rows that ``stage`` rejected of one partition, in one transaction.

    Args:
        database: Holds ``mm.rejected_row``.
        audience: The audience's key in mm.yaml.
        day: The partition's day.
        stage: The stage that rejected them; the rows of the other stage stay.
        frames: Frames of `FRAME_SCHEMA`, read one at a time, each row number at most once.

    Returns:
        The number of rows written.
    """
    partition = (audience, day.isoformat(), stage)
    rows = 0
    with database.bulk() as bulk, bulk.cursor() as cursor:
        cursor.execute(_CREATE_STAGING)
        for frame in frames:
            if frame.is_empty():
                continue
            cursor.adbc_ingest(
                "rejected_row_staging",
                frame.select("row_number", "reasons").cast(FRAME_SCHEMA),
                mode="append",
                temporary=True,
            )
            rows += frame.height
        cursor.execute(_DELETE_STAGE, partition)
        cursor.execute(_MERGE_STAGING, partition)
        bulk.commit()
    return rows


def add(
    connection: Connection,
    audience: str,
    day: date,
    stage: Stage,
    row_numbers: Iterable[int],
    reason: str,
) -> None:
    """Add one reason to each of a few rows; adding it twice has no further effect."""
    numbers = sorted(set(row_numbers))
    if numbers:
        connection.execute(
            _ADD,
            {
                "audience": audience,
                "day": day,
                "stage": stage,
                "row_numbers": numbers,
                "reason": reason,
            },
        )


def forget(connection: Connection, before: datetime, limit: int) -> int:
    """Delete up to ``limit`` rows recorded before a time, and return how many."""
    return connection.execute(_FORGET, {"before": before, "limit": limit}).rowcount
