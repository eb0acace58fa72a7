"""Joins of frames of people that are too large for memory.

A person is known by the pair of their EMAIL and PHONE hashes ("" where there is none). That is what
Meta matches a marketing audience by, so a changed name or country does not make a new person.

The joins run in DuckDB, which spills. They carry keys of 32 bytes and positions instead of rows;
the rows are then picked in one pass over the frame.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mm_pipelines.large_frames import LargeFrames
from mm_pipelines.scratch import ScratchFolder

IDENTITY = ("EMAIL", "PHONE")

ROWS_PER_GROUP = 100_000
"""Rows of a Parquet row group: what reading a slice decodes at the least."""

EMAIL_KEY = "email_1, email_2"
PHONE_KEY = "phone_1, phone_2"
PERSON_KEY = f"{EMAIL_KEY}, {PHONE_KEY}"
"""The columns of `keyed`, for SQL: 128 bits of each identifier."""

_SEEDS = (1, 2)


def identities(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Only the identity of each row, with "" for a column that the frame does not have."""
    present = frame.collect_schema().names()
    return frame.select(
        pl.col(name).fill_null("") if name in present else pl.lit("").alias(name)
        for name in IDENTITY
    )


def keyed(frame: pl.LazyFrame, *more: str) -> pl.LazyFrame:
    """The key of each row's person, with ``more`` of its columns.

    Keys are for joins within this process: another version of Polars may make others.
    """
    return frame.select(
        *more,
        *(
            pl.col(name).fill_null("").hash(seed).alias(f"{name.lower()}_{seed}")
            for name in IDENTITY
            for seed in _SEEDS
        ),
    )


@dataclass(frozen=True)
class PeopleQuery:
    """Some rows of a frame, found by a query on keys.

    Attributes:
        frame: Rows in an order that does not change, each with EMAIL and PHONE.
        tables: What the query reads, by name; made by `keyed` of the frame, with ``position`` in
            it, and of others.
        chosen: The query. It returns ``position``, each once, and further columns for ``sent``.
        sent: Makes what is written of the chosen rows and the further columns.
    """

    frame: pl.LazyFrame
    tables: Mapping[str, pl.LazyFrame]
    chosen: str
    sent: Callable[[pl.LazyFrame], pl.LazyFrame]

    def count(self) -> int:
        """The number of chosen rows."""
        return self._find().height

    def write(self, destination: Path) -> None:
        """Write what is sent of the chosen rows as one Parquet file."""
        found = self._find().sort("position")
        positions, further = found["position"], found.drop("position")
        height = self.frame.select(pl.len()).collect().item()
        is_chosen = pl.repeat(value=False, n=height, dtype=pl.Boolean, eager=True)
        mask = pl.LazyFrame({"is_chosen": is_chosen.scatter(positions, values=True)})
        rows = pl.concat([self.frame, mask], how="horizontal").filter("is_chosen")
        parts = [rows.drop("is_chosen"), *([further.lazy()] if further.width else [])]
        sent = self.sent(pl.concat(parts, how="horizontal"))
        sent.sink_parquet(
            destination, compression="zstd", compression_level=1, row_group_size=ROWS_PER_GROUP
        )

    def _find(self) -> pl.DataFrame:
        with ScratchFolder() as scratch, closing(LargeFrames(scratch.path)) as frames:
            for name, table in self.tables.items():
                frames.load(name, table)
            return frames.fetch(self.chosen)


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
