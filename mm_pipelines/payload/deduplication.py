"""Exact deduplication in bounded memory: one row per person, in the list's order.

Rows with equal EMAIL and PHONE are one person. Hashed rows are kept in chunks, in memory up to a
limit and then spilled to disk, with a 64-bit key per row. Rows with a unique key need no more work.
Rows that share a key are read again, compared by their identifiers (so a collision of keys costs
time, never a person) and merged into the row with the most values. Only hashes reach the disk.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from mm_pipelines.identity import IDENTIFIERS
from mm_pipelines.identity.text import put
from mm_pipelines.lists.reading import ROW_NUMBER

_KEY = "person"
_KEYS_IN_MEMORY = 8_000_000
_SHARED_BYTES_IN_MEMORY = 128 << 20
_BYTES_BEFORE_SPILL = 256 << 20
_VALUE_BYTES = 80  # a hash as text, in memory


def with_person_key(rows: pl.DataFrame, identifiers: Sequence[str]) -> pl.DataFrame:
    """Add a 64-bit key that is equal for rows with equal identifiers."""
    first, *others = (pl.col(key).hash(seed) for seed, key in enumerate(identifiers))
    person = first
    for other in others:
        person = person.xor(other)
    return rows.with_columns(person.alias(_KEY))


class Deduplicator:
    """Collects the rows of one list chunk by chunk, then yields one row per person.

    Args:
        keys: The schema keys that are columns.
        scratch: The folder that hashed rows spill to.
    """

    def __init__(self, keys: Sequence[str], scratch: Path) -> None:
        self._keys = list(keys)
        self._identifiers = [key for key in self._keys if key in IDENTIFIERS]
        self._others = [key for key in self._keys if key not in IDENTIFIERS]
        self._rows = _SpillingFrames(scratch, "rows", _BYTES_BEFORE_SPILL)
        self._keys_of_rows = _SpillingFrames(scratch, "keys", _BYTES_BEFORE_SPILL // 4)
        self._filled_in = _SpillingFrames(scratch, "people", 0)
        self._duplicates = pl.Series(ROW_NUMBER, dtype=pl.Int64)
        self.added = 0
        self.merged = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows with ``row_number``, the keys and the column of `with_person_key`, in order."""
        if rows.is_empty():
            return
        self._keys_of_rows.put(rows.select(_KEY, ROW_NUMBER))
        self._rows.put(rows.select(*self._keys, ROW_NUMBER))
        self.added += rows.height

    def merge(self) -> None:
        """Find people with several rows and merge these rows."""
        shared = self._rows_that_share_a_key()
        row_bytes = _VALUE_BYTES * len(self._keys)
        parts = 1 + shared.height * row_bytes // _SHARED_BYTES_IN_MEMORY
        duplicates = [self._duplicates]
        for part in range(parts if shared.height else 0):
            numbers = shared.filter(pl.col(_KEY) % parts == part)[ROW_NUMBER]
            rows = pl.concat(
                _copied(chunk.filter(_is_in(numbers))) for chunk in self._rows.frames()
            )
            people = self._fullest(rows)
            duplicates.append(rows.filter(~_is_in(people[ROW_NUMBER]))[ROW_NUMBER])
            # Most duplicates are the same row twice, and then no value was filled in.
            self._filled_in.put(people.join(rows, on=people.columns, how="anti"))
        self._duplicates = pl.concat(duplicates)
        self.merged = self._duplicates.len()

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield one row per person, ordered by ``row_number``: the keys, then ``row_number``."""
        for rows in self._rows.frames():
            first, last = rows[ROW_NUMBER][0], rows[ROW_NUMBER][-1]
            here = self._duplicates.filter(self._duplicates.is_between(first, last))
            if not here.is_empty():
                yield self._with_filled_in(rows.filter(~_is_in(here)), first, last)
            else:
                yield rows

    def _with_filled_in(self, rows: pl.DataFrame, first: int, last: int) -> pl.DataFrame:
        here = pl.col(ROW_NUMBER).is_between(first, last)
        people = pl.concat(people.filter(here) for people in self._filled_in.frames())
        if people.is_empty():
            return rows
        people = people.sort(ROW_NUMBER)
        where = rows[ROW_NUMBER].is_in(people[ROW_NUMBER].implode())
        return rows.with_columns(put(rows[key], where, people[key]) for key in self._others)

    def _rows_that_share_a_key(self) -> pl.DataFrame:
        parts = 1 + self.added // _KEYS_IN_MEMORY
        shared = [pl.DataFrame(schema={_KEY: pl.UInt64, ROW_NUMBER: pl.Int64})]
        for part in range(parts):
            keys = [
                chunk.filter(pl.col(_KEY) % parts == part) if parts > 1 else chunk
                for chunk in self._keys_of_rows.frames()
            ]
            if keys:
                # Sorting finds equal keys with less memory than a hash table of all keys.
                ordered = pl.concat(chunk[_KEY] for chunk in keys).sort()
                twice = ordered.filter(ordered == ordered.shift(1))
                shared += [chunk.filter(pl.col(_KEY).is_in(twice.implode())) for chunk in keys]
        return pl.concat(shared)

    def _fullest(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return each person's fullest row, its blanks filled from the person's other rows."""
        # Counting the identifiers too changes nothing: all rows of a person have the same ones.
        fullness = pl.sum_horizontal(pl.col(key) != "" for key in self._keys).cast(pl.Int32)
        ranked = rows.sort(-fullness, ROW_NUMBER)
        known = [
            pl.col(key).filter(pl.col(key) != "").first().fill_null("") for key in self._others
        ]
        people = ranked.group_by(self._identifiers, maintain_order=True).agg(
            *known, pl.col(ROW_NUMBER).first()
        )
        return people.select(*self._keys, ROW_NUMBER).sort(ROW_NUMBER)


class _SpillingFrames:
    """Frames in order: in memory up to a limit, then on disk."""

    def __init__(self, scratch: Path, name: str, bytes_in_memory: int) -> None:
        self._scratch, self._name, self._free_bytes = scratch, name, bytes_in_memory
        self._kept: list[pl.DataFrame | Path] = []

    def put(self, frame: pl.DataFrame) -> None:
        """Add a frame."""
        self._free_bytes -= int(frame.estimated_size())
        if self._free_bytes >= 0:
            self._kept.append(frame)
            return
        path = self._scratch / f"{self._name}-{len(self._kept)}.arrow"
        frame.write_ipc(path)
        self._kept.append(path)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield the frames one at a time."""
        for kept in self._kept:
            yield pl.read_ipc(kept) if isinstance(kept, Path) else kept


def payload_schema(keys: Sequence[str]) -> pl.Schema:
    """Return the columns of a payload file: the keys as text, then ``row_number``."""
    return pl.Schema({**dict.fromkeys(keys, pl.String()), ROW_NUMBER: pl.Int64()})


def _is_in(numbers: pl.Series) -> pl.Expr:
    return pl.col(ROW_NUMBER).is_in(numbers.implode())


def _copied(rows: pl.DataFrame) -> pl.DataFrame:
    """Copy the rows: a few rows would otherwise keep the whole file in memory."""
    return rows.select(pl.col(pl.String) + pl.lit(""), ROW_NUMBER)
