"""A list that is the result of a query."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from mm_pipelines.lists.consent import ConsentColumns, ConsentSetting, match_consent
from mm_pipelines.lists.databases import Parameters, QueryResult, execute
from mm_pipelines.lists.errors import ListError, ListMissingError, ListUnreadableError
from mm_pipelines.lists.headers import Columns, match_columns
from mm_pipelines.lists.list_file import ListFormat
from mm_pipelines.lists.query_faults import QueryFault, explain
from mm_pipelines.lists.reading import FileRead
from mm_pipelines.lists.rows import places_read, to_rows
from mm_pipelines.lists.statement import Statement, parse_statement

_SEEDS = (1, 2)


@dataclass(frozen=True)
class QuerySource:
    """A list that a database gives.

    Attributes:
        name: How messages name it.
        query: One SELECT, or the path of a file that contains it.
        connection_env: The environment variable that holds the database's URL.
        audience: Bound as ``:audience``.
        day: Bound as ``:day``; the day before as ``:previous_day``.
        key: A unique column by which the rows are ordered; None: the query's own order.
        timeout_minutes: The time that the query may take.
        columns: ``source.columns`` of mm.yaml; empty: the header is recognized.
        consent: ``source.consent`` of mm.yaml; None: known columns of consent are recognized.
    """

    name: str
    query: str | Path
    connection_env: str
    audience: str
    day: date
    key: str | None = None
    timeout_minutes: float = 60
    columns: Mapping[str, str] = field(default_factory=dict)
    consent: ConsentSetting = None

    def exists(self) -> bool:
        """Return True: whether the query has rows is only known when it runs."""
        return True

    def mark(self) -> str | None:
        """Return None: a change of the rows cannot be seen without reading them."""
        return None

    def open(self) -> "QueryRows":
        """Execute the query.

        Raises:
            ListMissingError: There is no file with the query.
            ListError: The database cannot be reached, or refuses the query.
        """
        statement = parse_statement(self.name, self._sql())
        if self.key is not None:
            statement = statement.ordered_by(self.key)
        url = os.environ.get(self.connection_env)
        if not url:
            fault = f"the environment variable {self.connection_env} is not set"
            raise ListUnreadableError(self.name, "", fault)
        return QueryRows(self, statement, self._execute(url, statement))

    def explain(self, error: Exception) -> QueryFault:
        """Explain the error of a driver."""
        return explain(
            error, connection_env=self.connection_env, timeout_minutes=self.timeout_minutes
        )

    def _sql(self) -> str:
        if isinstance(self.query, str):
            return self.query
        try:
            return self.query.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ListMissingError(self.name, "", "there is no such file") from None
        except (OSError, UnicodeDecodeError):
            raise ListUnreadableError(self.name, "", "the file cannot be read") from None

    def _execute(self, url: str, statement: Statement) -> QueryResult:
        parameters: Parameters = {
            "day": self.day,
            "previous_day": self.day - timedelta(days=1),
            "audience": self.audience,
        }
        try:
            return execute(self.name, url, statement, parameters, self.timeout_minutes)
        except ListError:
            raise
        except Exception as error:  # noqa: BLE001 - every driver has errors of its own
            fault = self.explain(error)
            if fault.passes:
                raise ListUnreadableError(self.name, "", fault.sentence) from None
        # Outside the block above, because a fault of the driver behind it would be tried again.
        raise ListUnreadableError(self.name, "", fault.sentence)


class QueryRows:
    """The rows of one query, read once.

    Attributes:
        columns: Which columns are which schema keys.
        consent: Which columns record consent.
        format: ``query``.
        ordered: Whether the rows have the same numbers each time.
    """

    def __init__(self, source: QuerySource, statement: Statement, result: QueryResult) -> None:
        self._source, self._result = source, result
        self.format = ListFormat("query", gzipped=False)
        self.delimiter: str | None = None
        self.encoding: str | None = None
        self.size: int | None = None
        self.files: Sequence[FileRead] = ()
        self.ordered = statement.has_order
        self._fingerprint = _Fingerprint()
        try:
            self.columns: Columns = match_columns(source.name, result.header, source.columns)
            self.consent: ConsentColumns = match_consent(source.name, result.header, source.consent)
        except ListError:
            result.close()
            raise

    @property
    def fingerprint(self) -> str:
        """Of all rows in any order, a row that occurs twice counting twice."""
        return self._fingerprint.digest()

    def chunks(self) -> Iterator[pl.DataFrame]:
        """Frames of ``row_number``, ``agreed`` and one text column per key (blank is ``""``).

        Raises:
            ListUnreadableError: The connection was lost, the time is over, or a value cannot be
                read.
        """
        places = places_read(self.columns, self.consent)
        done = 0
        try:
            with closing(self._result.chunks(places)) as chunks:
                for cells in chunks:
                    self._fingerprint.add(cells)
                    yield to_rows(cells, self.columns, self.consent, done)
                    done += cells.height
        except ListError:
            raise
        except Exception as error:  # noqa: BLE001 - every driver has errors of its own
            fault = self._source.explain(error)
            if fault.passes:
                raise ListUnreadableError(self._source.name, "", fault.sentence) from None
        else:
            return
        finally:
            self._result.close()
        raise ListUnreadableError(self._source.name, "", fault.sentence)


class _Fingerprint:
    """A digest of rows that does not depend on their order.

    It is the sum of the rows' hashes. Polars keeps its hashes only within one version, so after an
    upgrade a list has to be validated again.
    """

    def __init__(self) -> None:
        self._rows, self._sums = 0, [0] * len(_SEEDS)

    def add(self, cells: pl.DataFrame) -> None:
        # A separator that no cell has, so that a value moved to the next cell is another row.
        row = pl.concat_str(pl.all(), separator="\x1f")
        hashes = cells.select(row.hash(seed).alias(str(seed)) for seed in _SEEDS)
        low, high = pl.all() & 0xFFFF_FFFF, pl.all() // (1 << 32)
        lows, highs = hashes.select(low.sum()).row(0), hashes.select(high.sum()).row(0)
        self._rows += cells.height
        for number, (low_sum, high_sum) in enumerate(zip(lows, highs, strict=True)):
            # Python's integers do not overflow.
            self._sums[number] += low_sum + (high_sum << 32)

    def digest(self) -> str:
        text = f"{pl.__version__} {self._rows} {self._sums}"
        return hashlib.sha256(text.encode()).hexdigest()
