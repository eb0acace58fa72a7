"""What PostgreSQL says of a failure, less the values that it quotes.

Its first line names a table, a constraint or a column. What follows quotes rows (``DETAIL: Key
(token)=(…) already exists``), lines of a ``COPY``, or the statement with psycopg2's parameters in
it. And where a value itself is at fault, the first line quotes that.
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
    """ADBC's error, known by its attributes: most runs never load its native library."""

    args: tuple[object, ...]
    sqlstate: str | None
    details: list[tuple[str, str | bytes]]


@contextmanager
def without_values() -> Iterator[None]:
    """Let errors of the block pass, with whatever they came from, but no value in their texts."""
    try:
        yield
    except Exception as error:
        for link in _chain(error):
            _redact(link)
        raise


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that a traceback prints with it."""
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
        error.args = (_told(str(error), error.pgcode),)
    elif isinstance(error, DBAPIError) and isinstance(error.orig, psycopg2.Error):
        kind = type(error.orig)
        told = _told(str(error.orig), error.orig.pgcode)
        error.args = (f"({kind.__module__}.{kind.__name__}) {told}",)
    elif type(error).__module__.startswith("adbc_driver_manager") and hasattr(error, "sqlstate"):
        bulk = cast("_BulkError", error)
        bulk.args, bulk.details = (_told(str(error), bulk.sqlstate),), []


def _told(text: str, sqlstate: str | None) -> str:
    if sqlstate is None:  # no server has answered: the driver speaks of the connection
        return text
    if sqlstate.startswith(_DATA_EXCEPTION) or sqlstate == _SYNTAX_ERROR:
        name = errorcodes.lookup(sqlstate).replace("_", " ").lower()
        return f"{name} (SQLSTATE {sqlstate}); PostgreSQL's own words quote the value"
    return text.partition("\n")[0]
