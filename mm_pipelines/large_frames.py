"""SQL over Polars frames that are larger than memory.

DuckDB reads the frames as streams, and spills what exceeds its memory limit to a scratch folder. It
runs inside the process and never uses the network: extensions are neither downloaded nor loaded.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import polars as pl

_MEMORY_LIMIT = "300MB"
_MOST_THREADS = 4  # each thread needs memory of its own
_ROWS_PER_BATCH = 100_000


class SpillError(Exception):
    """A query over large frames failed, most often because the disk of ``MM_HOME`` is full."""


class LargeFrames:
    """Tables made from frames, for queries; they exist until it is closed.

    Args:
        scratch: The folder to spill to.
        memory_limit: What DuckDB may hold in memory, as in ``500MB``.
    """

    def __init__(self, scratch: Path, memory_limit: str = _MEMORY_LIMIT) -> None:
        self._duckdb = duckdb.connect(
            config={
                "memory_limit": memory_limit,
                "threads": min(os.cpu_count() or 1, _MOST_THREADS),
                "temp_directory": str(scratch / "duckdb"),
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        self._duckdb.execute("set enable_progress_bar = false")
        self._tables: set[str] = set()

    def load(self, table: str, frame: pl.LazyFrame) -> None:
        """Create a table from a frame, which is read once, as a stream.

        The stream holds dozens of batches in memory, so the rows must be narrow. See `insert`.

        Raises:
            SpillError: It failed.
        """
        self._duckdb.register("frame", _Stream(frame))
        self.execute(f"create table {table} as from frame")
        self._tables.add(table)

    def insert(self, table: str, rows: pl.DataFrame) -> None:
        """Add rows to a table, which the first call creates.

        Raises:
            SpillError: It failed.
        """
        if table in self._tables:
            self._duckdb.register("frame", _Stream(rows.lazy()))
            self.execute(f"insert into {table} from frame")
        else:
            self.load(table, rows.lazy())

    def execute(self, statement: str) -> None:
        """Run a statement.

        Raises:
            SpillError: It failed.
        """
        with _without_values():
            self._duckdb.execute(statement)

    def fetch(self, query: str) -> pl.DataFrame:
        """The result of a query.

        Raises:
            SpillError: It failed.
        """
        with _without_values():
            return pl.DataFrame(self._duckdb.sql(query))

    def close(self) -> None:
        """Release the memory and the spilled files."""
        self._duckdb.close()


class _Stream:
    """A lazy frame as DuckDB reads it, without pyarrow."""

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame

    def __arrow_c_schema__(self) -> object:
        return self._frame.collect_schema().__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        batches = self._frame.collect_batches(
            chunk_size=_ROWS_PER_BATCH, maintain_order=True, lazy=True
        )
        return batches.__arrow_c_stream__(requested_schema)


@contextmanager
def _without_values() -> Iterator[None]:
    """Raise errors without DuckDB's message, which can quote a value."""
    try:
        yield
    except duckdb.Error as error:
        raise SpillError(
            f"DuckDB reports {type(error).__name__} while it works on more rows than fit in "
            "memory. Check the free space below MM_HOME, then run it again"
        ) from None
