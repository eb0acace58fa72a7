"""Exact deduplication in bounded memory: one row per person, in the list's order.

Rows with equal EMAIL and PHONE are one person. Hashed rows, each with a 64-bit key of its person,
are kept in memory up to a limit and then written to scratch. DuckDB finds the keys that occur more
than once and merges their rows, grouped by the identifiers themselves, so that two people with the
same key stay two people.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import polars as pl

from mm_pipelines.identity import IDENTIFIERS
from mm_pipelines.large_frames import LargeFrames
from mm_pipelines.lists.rows import ROW_NUMBER

_KEY = "person"
BYTES_IN_MEMORY = 256 << 20
"""Rows beyond these go to scratch: a list of some 700,000 people needs none."""

# Returns the positions of the rows whose key occurs more than once.
_SHARED_POSITIONS = """
select position from keys
semi join (select person from keys group by person having count(*) > 1) using (person)
"""

# Creates the rows that share a key, each with the person's values and its place among their rows:
# the fullest is first, and its blanks are filled from the others.
_RANK = """
create table ranked as
select position, {values}, row_number, {unchanged} as is_unchanged,
       row_number() over fullest_first as place
from people
window fullest_first as (
    partition by {identifiers} order by {fullness} desc, row_number
    rows between unbounded preceding and unbounded following
)
"""

# Returns the positions of the rows that are a person's row as they are.
_UNCHANGED_POSITIONS = "select position from ranked where place = 1 and is_unchanged"

# Returns how many rows were merged into others.
_MERGED = "select count(*) from ranked where place > 1"

# Writes the rows of people who got values from their other rows.
_WRITE_FILLED = """
copy (
    select {columns} from ranked where place = 1 and not is_unchanged order by row_number
) to '{filled}' (format parquet, compression uncompressed)
"""


def with_person_key(rows: pl.DataFrame, identifiers: Sequence[str]) -> pl.DataFrame:
    """Add a 64-bit key that is equal for rows with equal identifiers."""
    first, *others = (pl.col(key).hash(seed) for seed, key in enumerate(identifiers))
    person = first
    for other in others:
        person = person.xor(other)
    return rows.with_columns(person.alias(_KEY))


class Deduplicator:
    """Collects the rows of one list chunk by chunk, then gives one row per person.

    Args:
        keys: The schema keys that are columns.
        scratch: A folder for the hashed rows.
        further: Text columns that are filled like keys but do not make a row fuller.

    Attributes:
        added: The rows added.
        merged: The rows merged into another row of the same person, once `merge` has run.
    """

    def __init__(self, keys: Sequence[str], scratch: Path, further: Sequence[str] = ()) -> None:
        self._keys = list(keys)
        self._values = [*keys, *further]
        self._scratch = scratch
        self._kept: list[pl.DataFrame | Path] = []
        self._free_bytes = BYTES_IN_MEMORY
        self._is_kept: pl.Series | None = None
        self.added = 0
        self.merged = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows with ``row_number``, the columns and that of `with_person_key`, in order."""
        if rows.is_empty():
            return
        self.added += rows.height
        chunk = rows.select(*self._values, ROW_NUMBER, _KEY)
        self._free_bytes -= int(chunk.estimated_size())
        if self._free_bytes >= 0:
            self._kept.append(chunk)
            return
        path = self._scratch / f"{len(self._kept)}.arrow"
        chunk.write_ipc(path)
        self._kept.append(path)

    def merge(self) -> None:
        """Find people with several rows and merge these rows.

        Raises:
            SpillError: The disk of the scratch folder is full, for example.
        """
        if not self._kept:
            return
        parts = [
            rows.lazy() if isinstance(rows, pl.DataFrame) else pl.scan_ipc(rows)
            for rows in self._kept
        ]
        keys = pl.concat(part.select(_KEY) for part in parts)
        with closing(LargeFrames(self._scratch)) as frames:
            frames.load("keys", keys.with_row_index("position"))
            shared = frames.fetch(_SHARED_POSITIONS)["position"]
            if not shared.is_empty():
                self._merge(frames, shared)

    def _merge(self, frames: LargeFrames, shared: pl.Series) -> None:
        is_shared = _mask(self.added, shared)
        for position, rows in self._chunks():
            placed = rows.with_row_index("position", position)
            frames.insert("people", placed.filter(is_shared[position : position + rows.height]))
        frames.execute(self._statement(_RANK))
        unchanged = frames.fetch(_UNCHANGED_POSITIONS)["position"]
        self._is_kept = ~is_shared | _mask(self.added, unchanged)
        self.merged = frames.fetch(_MERGED).item()
        # Most people with several rows have the same row twice, and then no value is filled in.
        if shared.len() > unchanged.len() + self.merged:
            frames.execute(self._statement(_WRITE_FILLED))

    def people(self) -> Iterator[pl.DataFrame]:
        """Yield one row per person, ordered by ``row_number``, which is the last column."""
        filled = pl.scan_parquet(self._filled) if self._filled.exists() else None
        for position, rows in self._chunks():
            kept = rows.drop(_KEY)
            if self._is_kept is not None:
                kept = kept.filter(self._is_kept[position : position + rows.height])
            if filled is not None:
                numbers = rows[ROW_NUMBER]
                here = pl.col(ROW_NUMBER).is_between(numbers[0], numbers[-1])
                kept = kept.merge_sorted(filled.filter(here).collect(), key=ROW_NUMBER)
            yield kept

    def _chunks(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the rows as they were added, each time with the position of the first."""
        position = 0
        for kept in self._kept:
            rows = pl.read_ipc(kept) if isinstance(kept, Path) else kept
            yield position, rows
            position += rows.height

    @property
    def _filled(self) -> Path:
        return self._scratch / "filled.parquet"

    def _statement(self, template: str) -> str:
        identifiers = [key for key in self._keys if key in IDENTIFIERS]
        person = {key: key for key in identifiers} | {
            key: f"coalesce(first_value(nullif({key}, '') ignore nulls) over fullest_first, '')"
            for key in self._values
            if key not in IDENTIFIERS
        }
        return template.format(
            columns=", ".join((*self._values, ROW_NUMBER)),
            values=", ".join(f"{person[key]} as {key}" for key in self._values),
            unchanged=" and ".join(f"people.{key} = {person[key]}" for key in self._values),
            identifiers=", ".join(identifiers),
            fullness=" + ".join(f"({key} <> '')::int" for key in self._keys),
            filled=self._filled,
        )


def _mask(height: int, positions: pl.Series) -> pl.Series:
    nowhere = pl.repeat(value=False, n=height, dtype=pl.Boolean, eager=True)
    return nowhere.scatter(positions, values=True)


def payload_schema(columns: Sequence[str]) -> pl.Schema:
    """Return the columns of a payload file: those named, as text, then ``row_number``."""
    return pl.Schema({**dict.fromkeys(columns, pl.String()), ROW_NUMBER: pl.Int64()})
