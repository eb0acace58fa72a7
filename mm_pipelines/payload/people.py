"""One row per person, exactly, in bounded memory, with the list's order kept.

Rows with equal EMAIL and PHONE are one person. Hashed rows are kept in chunks, in memory while they
are few and then on scratch disk; beside them stands a 64-bit key per row. Rows whose key is alone
are done; those that share a key are fetched, compared by their identifiers themselves (so that a
collision of keys costs time, never a person) and merged into the fullest. Only hashes ever reach
the disk.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from mm_pipelines.identity import IDENTIFIERS
from mm_pipelines.identity.text import put
from mm_pipelines.lists.reading import ROW_NUMBER

_KEY = "person"
_KEYS_AT_ONCE = 8_000_000
_SHARED_BYTES_AT_ONCE = 128 << 20
_HELD_BYTES = 256 << 20
_VALUE_BYTES = 80  # of a hash as text, in memory


def with_person(rows: pl.DataFrame, identifiers: Sequence[str]) -> pl.DataFrame:
    """The rows with a number that is the same wherever the identifiers are."""
    first, *others = (pl.col(key).hash(seed) for seed, key in enumerate(identifiers))
    person = first
    for other in others:
        person = person.xor(other)
    return rows.with_columns(person.alias(_KEY))


class People:
    """The rows of one list, added chunk by chunk, then given back one per person.

    Args:
        keys: The schema keys that are columns.
        scratch: A folder for the hashed rows that are more than is held in memory.
    """

    def __init__(self, keys: Sequence[str], scratch: Path) -> None:
        self._keys = list(keys)
        self._identifiers = [key for key in self._keys if key in IDENTIFIERS]
        self._others = [key for key in self._keys if key not in IDENTIFIERS]
        self._rows = _Shelf(scratch, "rows", _HELD_BYTES)
        self._keys_of_rows = _Shelf(scratch, "keys", _HELD_BYTES // 4)
        self._filled_in = _Shelf(scratch, "people", 0)
        self._superfluous = pl.Series(ROW_NUMBER, dtype=pl.Int64)
        self.added = 0
        self.merged = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Take rows of ``row_number``, the keys and ``with_person``'s column; in their order."""
        if rows.is_empty():
            return
        self._keys_of_rows.put(rows.select(_KEY, ROW_NUMBER))
        self._rows.put(rows.select(*self._keys, ROW_NUMBER))
        self.added += rows.height

    def merge(self) -> None:
        """Find the people who are there more than once and merge their rows."""
        shared = self._rows_that_share_a_key()
        row_bytes = _VALUE_BYTES * len(self._keys)
        parts = 1 + shared.height * row_bytes // _SHARED_BYTES_AT_ONCE
        superfluous = [self._superfluous]
        for part in range(parts if shared.height else 0):
            numbers = shared.filter(pl.col(_KEY) % parts == part)[ROW_NUMBER]
            rows = pl.concat(
                _detached(chunk.filter(_among(numbers))) for chunk in self._rows.frames()
            )
            people = self._fullest(rows)
            superfluous.append(rows.filter(~_among(people[ROW_NUMBER]))[ROW_NUMBER])
            # Most rows of one person are the same row twice, and then nothing was filled in.
            self._filled_in.put(people.join(rows, on=people.columns, how="anti"))
        self._superfluous = pl.concat(superfluous)
        self.merged = self._superfluous.len()

    def frames(self) -> Iterator[pl.DataFrame]:
        """One row per person, ordered by ``row_number``: the keys, then ``row_number``."""
        for rows in self._rows.frames():
            first, last = rows[ROW_NUMBER][0], rows[ROW_NUMBER][-1]
            here = self._superfluous.filter(self._superfluous.is_between(first, last))
            if not here.is_empty():
                yield self._with_filled_in(rows.filter(~_among(here)), first, last)
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
        parts = 1 + self.added // _KEYS_AT_ONCE
        shared = [pl.DataFrame(schema={_KEY: pl.UInt64, ROW_NUMBER: pl.Int64})]
        for part in range(parts):
            keys = [
                chunk.filter(pl.col(_KEY) % parts == part) if parts > 1 else chunk
                for chunk in self._keys_of_rows.frames()
            ]
            if keys:
                # Sorting finds equal keys with less memory than a table of them all.
                ordered = pl.concat(chunk[_KEY] for chunk in keys).sort()
                twice = ordered.filter(ordered == ordered.shift(1))
                shared += [chunk.filter(pl.col(_KEY).is_in(twice.implode())) for chunk in keys]
        return pl.concat(shared)

    def _fullest(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The fullest row of each person, its blanks filled from the others in their order."""
        # The identifiers count too: rows of one person have the same of them.
        fullness = pl.sum_horizontal(pl.col(key) != "" for key in self._keys).cast(pl.Int32)
        ranked = rows.sort(-fullness, ROW_NUMBER)
        known = [
            pl.col(key).filter(pl.col(key) != "").first().fill_null("") for key in self._others
        ]
        people = ranked.group_by(self._identifiers, maintain_order=True).agg(
            *known, pl.col(ROW_NUMBER).first()
        )
        return people.select(*self._keys, ROW_NUMBER).sort(ROW_NUMBER)


class _Shelf:
    """Frames kept in their order: in memory while they are few, then on the scratch disk."""

    def __init__(self, scratch: Path, name: str, held_bytes: int) -> None:
        self._scratch, self._name, self._free_bytes = scratch, name, held_bytes
        self._kept: list[pl.DataFrame | Path] = []

    def put(self, frame: pl.DataFrame) -> None:
        """Keep a frame."""
        self._free_bytes -= int(frame.estimated_size())
        if self._free_bytes >= 0:
            self._kept.append(frame)
            return
        path = self._scratch / f"{self._name}-{len(self._kept)}.arrow"
        frame.write_ipc(path)
        self._kept.append(path)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The frames, one at a time."""
        for kept in self._kept:
            yield pl.read_ipc(kept) if isinstance(kept, Path) else kept


def payload_schema(keys: Sequence[str]) -> pl.Schema:
    """The columns of a payload file: the keys as text, then ``row_number``."""
    return pl.Schema({**dict.fromkeys(keys, pl.String()), ROW_NUMBER: pl.Int64()})


def _among(numbers: pl.Series) -> pl.Expr:
    return pl.col(ROW_NUMBER).is_in(numbers.implode())


def _detached(rows: pl.DataFrame) -> pl.DataFrame:
    """The same rows in memory of their own: a few rows would hold the file they are read from."""
    return rows.select(pl.col(pl.String) + pl.lit(""), ROW_NUMBER)
