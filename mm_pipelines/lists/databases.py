"""Runs a query and reads its rows in batches: by ADBC where there is a driver, else SQLAlchemy.

Every transaction is read-only where the database knows such a thing, and nothing is written to
disk.
"""

import importlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import Any, Protocol
from urllib.parse import quote

import polars as pl
from sqlalchemy.engine import URL, make_url

from mm_pipelines.lists.errors import ListUnreadableError
from mm_pipelines.lists.statement import Statement
from mm_pipelines.lists.text_cells import ROWS_A_CHUNK, text_chunks, text_of

Parameters = Mapping[str, str | date]


class QueryResult(Protocol):
    """The rows of a query that was executed.

    Attributes:
        header: The column names.
    """

    header: list[str]

    def chunks(self, places: Sequence[int]) -> Generator[pl.DataFrame]:
        """The columns at ``places``, named by their place, in frames of text without nulls."""
        ...

    def close(self) -> None:
        """End the transaction and close the connection."""
        ...


def execute(
    name: str, url: str, statement: Statement, parameters: Parameters, timeout_minutes: float
) -> QueryResult:
    """Connect and execute a query.

    Args:
        name: The source, for messages.
        url: ``postgresql://…``, ``duckdb:///…``, ``sqlite:///…``, ``snowflake://…``,
            ``bigquery://…``, or any SQLAlchemy URL with its driver.
        statement: A SELECT.
        parameters: Name to value; they are bound.
        timeout_minutes: The time that the query may take, enforced by PostgreSQL and MySQL.

    Raises:
        ListUnreadableError: The address is no URL, or its driver is not installed.
        Exception: Of the driver.
    """
    try:
        parsed = make_url(url)
    except Exception:  # noqa: BLE001 - the message of SQLAlchemy's error has the address in it
        fault = "the address of the database is no URL such as postgresql://user@host/database"
        raise ListUnreadableError(name, "", fault) from None
    driver = _ADBC_DRIVERS.get(parsed.drivername)
    try:
        if driver is None:
            return SqlAlchemyResult(name, parsed, statement, parameters, timeout_minutes)
        return AdbcResult(name, driver, parsed, statement, parameters, timeout_minutes)
    except ImportError as error:
        fault = f"the driver for {parsed.drivername}:// is not installed ({error.name})"
        raise ListUnreadableError(name, "", fault) from None


@dataclass(frozen=True)
class _AdbcDriver:
    """How a database is reached by ADBC.

    Attributes:
        module: Has ``connect``.
        arguments: Those of ``connect``.
        placeholder: The mark of a bound parameter, by its position from 0.
        before: Statements that begin the transaction, from the milliseconds that it may take.
        options: Of the ADBC statement.
        has_dates: Whether a date can be bound; else it is bound as ISO text.
    """

    module: str
    arguments: Callable[[URL], dict[str, Any]]
    placeholder: Callable[[int, str], str] = lambda _place, _name: "?"
    before: Callable[[int], Sequence[str]] = lambda _milliseconds: ()
    options: Mapping[str, str] | None = None
    has_dates: bool = True


def _postgresql(url: URL) -> dict[str, Any]:
    return {"uri": url.set(drivername="postgresql").render_as_string(hide_password=False)}


def _duckdb(url: URL) -> dict[str, Any]:
    from adbc_driver_duckdb import driver_path

    # Without a folder for it, DuckDB does not spill values to disk.
    options = {"path": url.database or ":memory:", "temp_directory": ""}
    if url.database:
        options["access_mode"] = "READ_ONLY"
    return {"driver": driver_path(), "entrypoint": "duckdb_adbc_init", "db_kwargs": options}


def _sqlite(url: URL) -> dict[str, Any]:
    return {"uri": f"file:{quote(url.database or '')}?mode=ro"}


def _snowflake(url: URL) -> dict[str, Any]:
    text = url.render_as_string(hide_password=False)
    return {"uri": text.removeprefix("snowflake://")}


def _bigquery(url: URL) -> dict[str, Any]:
    options = {"adbc.bigquery.sql.project_id": url.host or ""}
    if url.database:
        options["adbc.bigquery.sql.dataset_id"] = url.database
    return {"db_kwargs": options}


_POSTGRESQL = _AdbcDriver(
    "adbc_driver_postgresql.dbapi",
    _postgresql,
    placeholder=lambda place, _name: f"${place + 1}",
    before=lambda milliseconds: (
        "set transaction read only",
        f"set local statement_timeout = {milliseconds}",
    ),
)
_ADBC_DRIVERS = {
    "postgresql": _POSTGRESQL,
    "postgres": _POSTGRESQL,
    "duckdb": _AdbcDriver("adbc_driver_manager.dbapi", _duckdb),
    "sqlite": _AdbcDriver(
        "adbc_driver_sqlite.dbapi",
        _sqlite,
        # SQLite sorts in a temporary file otherwise.
        before=lambda _milliseconds: ("pragma temp_store = memory",),
        options={"adbc.sqlite.query.batch_rows": "65536"},
        has_dates=False,
    ),
    # Neither can be run in the tests.
    "snowflake": _AdbcDriver("adbc_driver_snowflake.dbapi", _snowflake),
    "bigquery": _AdbcDriver("adbc_driver_bigquery.dbapi", _bigquery),
}


class AdbcResult:
    """Rows that arrive as Arrow batches.

    Attributes:
        header: The column names.
    """

    def __init__(
        self,
        name: str,
        driver: _AdbcDriver,
        url: URL,
        statement: Statement,
        parameters: Parameters,
        timeout_minutes: float,
    ) -> None:
        self._name = name
        self._scan: pl.LazyFrame | None = None
        self._connection = importlib.import_module(driver.module).connect(**driver.arguments(url))
        self._cursor = self._connection.cursor()
        try:
            for before in driver.before(int(timeout_minutes * 60_000)):
                self._cursor.execute(before)
            if driver.options:
                self._cursor.adbc_statement.set_options(**driver.options)
            values = [
                _bound(parameters[parameter], has_dates=driver.has_dates)
                for parameter in statement.parameters
            ]
            self._cursor.execute(statement.text(driver.placeholder), values or None)
            self._scan = pl.scan_arrow_c_stream(self._cursor.fetch_arrow())
            self.header = self._scan.collect_schema().names()
        except BaseException:
            self.close()
            raise

    def chunks(self, places: Sequence[int]) -> Generator[pl.DataFrame]:
        """The columns at ``places``, named by their place, in frames of text without nulls."""
        assert self._scan is not None  # noqa: S101 - it is until close()
        return text_chunks(self._name, self._scan, places)

    def close(self) -> None:
        """End the transaction and close the connection."""
        # DuckDB crashes if its stream outlives its connection.
        self._scan = None
        # After a lost connection or within a batch, closing fails too; it adds nothing.
        with suppress(Exception):
            self._cursor.close()
        with suppress(Exception):
            self._connection.close()


class SqlAlchemyResult:
    """Rows that a Python driver fetches through a server-side cursor.

    Attributes:
        header: The column names.
    """

    def __init__(
        self,
        name: str,
        url: URL,
        statement: Statement,
        parameters: Parameters,
        timeout_minutes: float,
    ) -> None:
        from sqlalchemy import create_engine, text
        from sqlalchemy.exc import NoSuchModuleError
        from sqlalchemy.pool import NullPool

        self._name = name
        try:
            self._engine = create_engine(url, poolclass=NullPool)
        except NoSuchModuleError:
            raise ImportError(name=url.drivername) from None
        self._connection = self._engine.connect()
        try:
            for before in _before(self._engine.dialect.name, int(timeout_minutes * 60_000)):
                self._connection.execute(text(before))
            escaped = Statement(
                tuple(piece.replace(":", r"\:") for piece in statement.pieces),
                statement.parameters,
                statement.has_order,
            )
            has_dates = self._engine.dialect.name != "sqlite"
            values = {key: _bound(value, has_dates=has_dates) for key, value in parameters.items()}
            used = {key: values[key] for key in statement.parameters}
            query = text(escaped.text(lambda _place, parameter: f":{parameter}"))
            streamed = {"stream_results": True, "max_row_buffer": ROWS_A_CHUNK}
            self._result = self._connection.execute(query, used, execution_options=streamed)
            self.header = list(self._result.keys())
        except BaseException:
            self.close()
            raise

    def chunks(self, places: Sequence[int]) -> Generator[pl.DataFrame]:
        """The columns at ``places``, named by their place, in frames of text without nulls."""
        rows = iter(self._result)
        while chunk := list(islice(rows, ROWS_A_CHUNK)):
            yield pl.DataFrame(
                {
                    str(place): pl.Series(
                        [text_of(self._name, self.header[place], row[place]) for row in chunk],
                        dtype=pl.String,
                    )
                    for place in places
                }
            )

    def close(self) -> None:
        """End the transaction and close the connection."""
        with suppress(Exception):
            self._connection.close()
        self._engine.dispose()


def _before(dialect: str, milliseconds: int) -> tuple[str, ...]:
    return {
        "postgresql": (
            "set transaction read only",
            f"set local statement_timeout = {milliseconds}",
        ),
        "sqlite": ("pragma temp_store = memory",),
        "mysql": (
            f"set session max_execution_time = {milliseconds}",
            "start transaction read only",
        ),
    }.get(dialect, ())


def _bound(value: str | date, *, has_dates: bool) -> str | date:
    return value if has_dates or isinstance(value, str) else value.isoformat()
