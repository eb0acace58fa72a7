"""Frames of people, too large for the memory: who is in one and not in another.

A person is known by the pair of their EMAIL and PHONE hashes ("" where there is none). That is what
Meta matches a marketing audience by; a changed name or country alone makes nobody a new person.
Joins run bucket by bucket over the hash, so that the memory they take is that of a bucket.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

IDENTITY = ("EMAIL", "PHONE")
ROWS_PER_BUCKET = 2_000_000
"""People that one join holds in memory: about 300 MB."""

ROWS_PER_GROUP = 100_000
"""Rows of a Parquet row group: what reading a slice decodes at the least."""


def identities(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Only the identity of each row, with "" for a column that the frame does not have."""
    present = frame.collect_schema().names()
    return frame.select(
        pl.col(name).fill_null("") if name in present else pl.lit("").alias(name)
        for name in IDENTITY
    )


def with_identity(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The frame with an EMAIL and a PHONE column, whichever of the two it lacked."""
    present = frame.collect_schema().names()
    return frame.with_columns(pl.lit("").alias(name) for name in IDENTITY if name not in present)


@dataclass(frozen=True)
class PeopleQuery:
    """People to be found by joins, bucket by bucket.

    Attributes:
        rows: Of the largest frame that a join holds in memory.
        of_bucket: Makes a bucket's rows, given the condition that those rows' identity fulfils.
    """

    rows: int
    of_bucket: Callable[[pl.Expr], pl.LazyFrame]

    def count(self) -> int:
        """How many they are."""
        return sum(
            part.select(pl.len()).collect(engine="streaming").item() for part in self._parts()
        )

    def write(self, destination: Path) -> None:
        """Write them as one Parquet file, one bucket in memory at a time."""
        parts = self._parts()
        if len(parts) == 1:
            _sink(parts[0], destination)
            return
        scratch = destination.parent / "buckets"
        scratch.mkdir()
        for number, part in enumerate(parts):
            _sink(part, scratch / f"{number:05}.parquet")
        _sink(pl.scan_parquet(scratch / "*.parquet"), destination)

    def _parts(self) -> list[pl.LazyFrame]:
        count = max(1, -(-self.rows // ROWS_PER_BUCKET))
        if count == 1:
            return [self.of_bucket(pl.lit(value=True))]
        return [self.of_bucket(_in_bucket(number, count)) for number in range(count)]


def slices(frame: pl.LazyFrame, rows: range, size: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """The rows at those positions in order, ``size`` at a time, each with its first position."""
    position = rows.start
    waiting: list[pl.DataFrame] = []
    for chunk in frame.slice(rows.start, len(rows)).collect_batches(
        chunk_size=size, maintain_order=True, lazy=True
    ):
        waiting.append(chunk)
        held = sum(part.height for part in waiting)
        if held < size:
            continue
        joined = pl.concat(waiting)
        whole = held - held % size
        for start in range(0, whole, size):
            yield position, joined[start : start + size]
            position += size
        waiting = [joined[whole:]]
    rest = pl.concat(waiting) if waiting else pl.DataFrame()
    if rest.height:
        yield position, rest


def _in_bucket(number: int, count: int) -> pl.Expr:
    email, phone = (pl.col(name).fill_null("") for name in IDENTITY)
    hashed = pl.when(email != "").then(email).otherwise(phone)
    value = hashed.str.slice(0, 6).str.to_integer(base=16, strict=False).fill_null(0)
    return value % count == number


def _sink(frame: pl.LazyFrame, path: Path) -> None:
    frame.sink_parquet(path, compression="lz4", row_group_size=ROWS_PER_GROUP)
