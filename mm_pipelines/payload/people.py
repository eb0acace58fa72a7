"""One row per person, exactly, in bounded memory, with the list's order kept.

Rows with equal EMAIL and PHONE are one person. Hashed rows are laid down on scratch disk in chunks;
beside them stands a 64-bit key per row. Rows whose key is alone are done; those that share a key
are fetched, compared by their identifiers themselves (so that a collision of keys costs time, never
a person) and merged into the fullest. Only hashes ever reach the disk.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from mm_pipelines.identity import IDENTIFIERS
from mm_pipelines.lists.reading import ROW_NUMBER

_KEY = "key"
_KEYS_AT_ONCE = 8_000_000
_SHARED_BYTES_AT_ONCE = 128 << 20
_VALUE_BYTES = 80  # of a hash as text, in memory


class People:
    """The rows of one list, added chunk by chunk, then given back one per person.

    Args:
        keys: The schema keys that are columns.
        scratch: A folder for the hashed rows.
    """

    def __init__(self, keys: Sequence[str], scratch: Path) -> None:
        self._keys, self._scratch = list(keys), scratch
        self._identifiers = [key for key in self._keys if key in IDENTIFIERS]
        self._others = [key for key in self._keys if key not in IDENTIFIERS]
        self._chunks: list[Path] = []
        self._keys_of_chunks: list[Path] = []
        self._shared = pl.DataFrame(schema={_KEY: pl.UInt64, ROW_NUMBER: pl.Int64})
        self._merged_chunks: list[Path] = []
        self.added = 0
        self.merged = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Take rows of ``row_number`` and the keys, hashed, ``""`` where absent; in order."""
        if rows.is_empty():
            return
        path = self._scratch / f"rows-{len(self._chunks)}.arrow"
        rows.write_ipc(path)
        self._chunks.append(path)
        keys = [pl.col(key).hash(seed) for seed, key in enumerate(self._identifiers)]
        path = self._scratch / f"keys-{len(self._keys_of_chunks)}.arrow"
        rows.select(_either(keys).alias(_KEY), ROW_NUMBER).write_ipc(path)
        self._keys_of_chunks.append(path)
        self.added += rows.height

    def merge(self) -> None:
        """Find the people who are there more than once and merge their rows."""
        self._shared = self._rows_that_share_a_key()
        if self._shared.is_empty():
            return
        row_bytes = _VALUE_BYTES * len(self._keys)
        parts = 1 + self._shared.height * row_bytes // _SHARED_BYTES_AT_ONCE
        for part in range(parts):
            shared = self._shared.filter(pl.col(_KEY) % parts == part)
            rows = pl.concat(
                _detached(self._read(path).join(shared, on=ROW_NUMBER, how="semi"))
                for path in self._chunks
            )
            people = self._fullest(rows)
            self.merged += rows.height - people.height
            path = self._scratch / f"merged-{part}.arrow"
            people.write_ipc(path)
            self._merged_chunks.append(path)

    def frames(self) -> Iterator[pl.DataFrame]:
        """One row per person, ordered by ``row_number``: the keys, then ``row_number``."""
        shared = self._shared.select(ROW_NUMBER)
        for path in self._chunks:
            rows = self._read(path)
            if not shared.is_empty():
                first, last = rows[ROW_NUMBER][0], rows[ROW_NUMBER][-1]
                here = pl.col(ROW_NUMBER).is_between(first, last)
                people = [self._read(merged).filter(here) for merged in self._merged_chunks]
                alone = rows.join(shared.filter(here), on=ROW_NUMBER, how="anti")
                rows = pl.concat([alone, *people]).sort(ROW_NUMBER)
            yield rows

    def _rows_that_share_a_key(self) -> pl.DataFrame:
        if not self._chunks:
            return self._shared
        parts = 1 + self.added // _KEYS_AT_ONCE
        scan = pl.scan_ipc(self._keys_of_chunks)
        shared = [
            scan.filter(pl.col(_KEY) % parts == part).collect().filter(pl.col(_KEY).is_duplicated())
            for part in range(parts)
        ]
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

    def _read(self, path: Path) -> pl.DataFrame:
        return pl.read_ipc(path).select(*self._keys, ROW_NUMBER)


def payload_schema(keys: Sequence[str]) -> pl.Schema:
    """The columns of a payload file: the keys as text, then ``row_number``."""
    return pl.Schema({**dict.fromkeys(keys, pl.String()), ROW_NUMBER: pl.Int64()})


def _detached(rows: pl.DataFrame) -> pl.DataFrame:
    """The same rows in memory of their own: a few rows would hold the file they are read from."""
    return rows.select(pl.col(pl.String) + pl.lit(""), ROW_NUMBER)


def _either(keys: Sequence[pl.Expr]) -> pl.Expr:
    key = keys[0]
    for other in keys[1:]:
        key = key.xor(other)
    return key
