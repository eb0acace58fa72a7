"""Frames of people, too large for the memory: who is in one and not in another.

A person is known by the pair of their EMAIL and PHONE hashes ("" where there is none). That is what
Meta matches a marketing audience by; a changed name or country alone makes nobody a new person.

Joins carry keys of 32 bytes instead of the identifiers, and positions instead of rows, bucket by
bucket; the rows are then picked in one pass over the file. Five million people against five
million take about 400 MB so, where joining the rows themselves took 2.6 GB.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

IDENTITY = ("EMAIL", "PHONE")
ROWS_PER_BUCKET = 2_000_000
"""People that one join holds in memory."""

ROWS_PER_GROUP = 100_000
"""Rows of a Parquet row group: what reading a slice decodes at the least."""

EMAIL_KEY = ("email_1", "email_2")
PHONE_KEY = ("phone_1", "phone_2")
PERSON_KEY = EMAIL_KEY + PHONE_KEY
_SEEDS = (1, 2)


def identities(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Only the identity of each row, with "" for a column that the frame does not have."""
    present = frame.collect_schema().names()
    return frame.select(
        pl.col(name).fill_null("") if name in present else pl.lit("").alias(name)
        for name in IDENTITY
    )


def keyed(frame: pl.LazyFrame, where: pl.Expr | None = None, *more: pl.Expr) -> pl.LazyFrame:
    """The key of each row's person, 128 bits an identifier, of the rows for which ``where`` holds.

    Keys are for joins within this process: another version of Polars may make others.
    """
    email, phone = (pl.col(name).fill_null("") for name in IDENTITY)
    keys = frame.select(
        *more,
        *(email.hash(seed).alias(name) for seed, name in zip(_SEEDS, EMAIL_KEY, strict=True)),
        *(phone.hash(seed).alias(name) for seed, name in zip(_SEEDS, PHONE_KEY, strict=True)),
    )
    return keys if where is None else keys.filter(where)


@dataclass(frozen=True)
class PeopleQuery:
    """Some rows of a frame, found by joins on keys.

    Attributes:
        frame: Rows in an order that does not change, each with EMAIL and PHONE.
        rows: Of the largest frame that the joins hold in memory.
        chosen: Of the frame's keys and ``position`` in a bucket, those that are meant; it is given
            the condition, too, that the keys of the bucket fulfil.
        sent: Makes what is written of the chosen rows.
        carried: Further columns of the frame that ``chosen`` needs.
    """

    frame: pl.LazyFrame
    rows: int
    chosen: Callable[[pl.LazyFrame, pl.Expr], pl.LazyFrame]
    sent: Callable[[pl.LazyFrame], pl.LazyFrame]
    carried: tuple[str, ...] = ()

    def count(self) -> int:
        """How many are chosen."""
        return sum(len(positions) for positions in self._positions())

    def write(self, destination: Path) -> None:
        """Write what is sent of them as one Parquet file."""
        # Picked once, since what is sent may be a join of them with themselves.
        picked = destination.with_name("picked.parquet")
        _sink(self._picked(), picked)
        _sink(self.sent(pl.scan_parquet(picked)), destination)
        picked.unlink()

    def _picked(self) -> pl.LazyFrame:
        height = self.frame.select(pl.len()).collect().item()
        is_chosen = pl.repeat(value=False, n=height, dtype=pl.Boolean, eager=True)
        for positions in self._positions():
            is_chosen = is_chosen.scatter(positions, values=True)
        mask = pl.LazyFrame({"is_chosen": is_chosen})
        picked = pl.concat([self.frame, mask], how="horizontal").filter("is_chosen")
        return picked.drop("is_chosen")

    def _positions(self) -> Iterator[pl.Series]:
        count = max(1, -(-self.rows // ROWS_PER_BUCKET))
        placed = self.frame.with_row_index("position")
        for number in range(count):
            where = _person_hash() % count == number
            keys = keyed(placed, where, pl.col("position", *self.carried))
            found = self.chosen(keys, where).select("position")
            yield found.collect(engine="streaming")["position"]


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
        joined = pl.concat(waiting) if len(waiting) > 1 else chunk
        whole = held - held % size
        for start in range(0, whole, size):
            yield position, joined[start : start + size]
            position += size
        waiting = [joined[whole:]] if held > whole else []
    rest = pl.concat(waiting) if waiting else pl.DataFrame()
    if rest.height:
        yield position, rest


def _person_hash() -> pl.Expr:
    # Both identifiers, so that people without an e-mail are spread over the buckets too.
    return pl.col("email_1") ^ pl.col("phone_1")


def _sink(frame: pl.LazyFrame, path: Path) -> None:
    frame.sink_parquet(path, compression="lz4", row_group_size=ROWS_PER_GROUP)
