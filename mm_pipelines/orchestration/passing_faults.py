"""Recognizes faults of PostgreSQL and of the object store that pass by themselves."""

import builtins
import re
from collections.abc import Iterator
from typing import Final

import psycopg2
from polars.exceptions import ComputeError
from sqlalchemy.exc import DBAPIError

# Connection exceptions, operator intervention (restart, failover) and serialization failures:
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_DATABASE_CLASSES: Final = ("08", "57P", "53", "40")
_SESSION_ENDED: Final = re.compile(r"\[libpq\].*(FATAL:|server closed the connection)", re.DOTALL)

# What s3fs, gcsfs, adlfs and their HTTP clients raise while a store is overloaded or unreachable,
# by name: none of them is a dependency of ours.
_STORE_ERRORS: Final = frozenset(
    {
        "ClientConnectorError",
        "ClientOSError",
        "ClientPayloadError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "IncompleteReadError",
        "ReadTimeoutError",
        "ServerDisconnectedError",
        "ServerTimeoutError",
        "ServiceRequestError",
        "ServiceResponseError",
    }
)
_STORE_CODES: Final = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "ThrottlingException"}
)
_RETRYABLE_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})


def is_passing_fault(error: BaseException) -> bool:
    """Whether another attempt may succeed although nothing is changed."""
    return loses_the_database(error) or any(_is_of_the_store(link) for link in _chain(error))


def loses_the_database(error: BaseException) -> bool:
    """Whether PostgreSQL restarted, failed over or dropped the connection."""
    return any(_is_of_the_database(link) for link in _chain(error))


def _is_of_the_database(error: BaseException) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (
            error.orig is not None and _is_of_the_database(error.orig)
        )
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        # Without a code no server has answered: the connection could not be opened or broke.
        return error.pgcode is None or error.pgcode.startswith(_DATABASE_CLASSES)
    if type(error).__module__.startswith("adbc_driver_manager"):
        state = getattr(error, "sqlstate", None)
        if state is None:
            return type(error).__name__ == "OperationalError"
        return str(state).startswith(_DATABASE_CLASSES)
    # Polars wraps what ADBC raises while it reads rows, and keeps the text only.
    return isinstance(error, ComputeError) and bool(_SESSION_ENDED.search(str(error)))


def _is_of_the_store(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if type(error).__name__ in _STORE_ERRORS:
        return True
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = response.get("Error", {}).get("Code")
        return status in _RETRYABLE_STATUS or code in _STORE_CODES
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return isinstance(error, builtins.OSError) and status in _RETRYABLE_STATUS


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(10):
        if link is None:
            return
        yield link
        # `from None` hides the context from tracebacks; it is still the fault that began it.
        link = link.__cause__ or link.__context__
