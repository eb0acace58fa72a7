"""PostgreSQL's error messages without the values that they quote.

The first line of a message names a table, a constraint or a column. The lines after it quote rows
(``DETAIL: Key (token)=(…) already exists``), lines of a ``COPY``, or the statement with its
parameters. If a value itself is invalid, the first line quotes it too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import psycopg2
from psycopg2 import errorcodes
from sqlalchemy.exc import DBAPIError

_DATA_EXCEPTION = "22"
_SYNTAX_ERROR = "42601"


class _BulkError(Protocol):
    """The attributes of an ADBC error; most runs never load ADBC's native library."""

    args: tuple[object, ...]
    sqlstate: str | None
    details: list[tuple[str, str | bytes]]


@contextmanager
def without_values() -> Iterator[None]:
    """Remove values from the messages of errors raised in the block, and of their causes."""
    try:
        yield
    except Exception as error:
        for link in _chain(error):
            _redact(link)
        raise


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and the errors that a traceback prints with it."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        link = waiting.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [link.__cause__, link.__context__]


def _redact(error: BaseException) -> None:
    if isinstance(error, psycopg2.Error):
        error.args = (_without_values(str(error), error.pgcode),)
    elif isinstance(error, DBAPIError) and isinstance(error.orig, psycopg2.Error):
        kind = type(error.orig)
        message = _without_values(str(error.orig), error.orig.pgcode)
        error.args = (f"({kind.__module__}.{kind.__name__}) {message}",)
    elif type(error).__module__.startswith("adbc_driver_manager") and hasattr(error, "sqlstate"):
        bulk = cast("_BulkError", error)
        bulk.args, bulk.details = (_without_values(str(error), bulk.sqlstate),), []


def _without_values(text: str, sqlstate: str | None) -> str:
    if sqlstate is None:  # the driver reports a connection error; no server answered
        return text
    if sqlstate.startswith(_DATA_EXCEPTION) or sqlstate == _SYNTAX_ERROR:
        name = errorcodes.lookup(sqlstate).replace("_", " ").lower()
        return f"{name} (SQLSTATE {sqlstate}); PostgreSQL's message quotes the value"
    return text.partition("\n")[0]
