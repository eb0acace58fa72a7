"""Connections to PostgreSQL for statements, for bulk frames and for advisory locks.

The first use connects; import and construction do not.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from mm_pipelines.warehouse.server_errors import without_values

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection as BulkConnection


_CONFIRM = text("select 1")


class DatabaseUrlError(ValueError):
    """MM_DATABASE_URL is not a PostgreSQL address. The message contains no part of it."""


class LockTakenError(Exception):
    """Another session holds the lock."""


class LockLostError(LockTakenError):
    """PostgreSQL ended the session that held the lock; another session may hold it now."""


# libpq waits for ever by default. These bound the wait for a connection, and for a server that does
# not acknowledge what is sent or disappeared. In seconds; the last one in milliseconds.
_BOUNDS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

# The same bounds for the server, which then frees the locks of a client that disappeared.
_BOUND_THE_SERVER = text("""
select set_config('tcp_keepalives_idle', '30', false),
       set_config('tcp_keepalives_interval', '10', false),
       set_config('tcp_keepalives_count', '3', false),
       set_config('tcp_user_timeout', '60000', false)
""")

# libpq also accepts these as options of the URL.
_SECRET_OPTIONS = frozenset({"password", "sslpassword"})


class HeldLock:
    """An advisory lock that lasts as long as its session; thread-safe."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._connection = connection
        self._access = Lock()
        self._is_lost = False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run one transaction on the session that holds the lock.

        A successful commit proves that the lock was held until then, so an effect recorded in the
        transaction may be carried out.

        Raises:
            LockLostError: The session has ended, and the transaction is rolled back.
        """
        with self._access, without_values():
            if self._is_lost:
                raise self._lost()
            try:
                with self._connection.begin():
                    yield self._connection
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # SQLAlchemy would silently reconnect: a new session, without the lock.
                self._is_lost = True
                raise self._lost() from None

    def confirm(self) -> None:
        """Check that the lock is still held, before an effect outside PostgreSQL.

        Raises:
            LockLostError: The session has ended.
        """
        with self.transaction() as connection:
            connection.execute(_CONFIRM)

    def _lost(self) -> LockLostError:
        return LockLostError(
            f"The lock on {self._name} was lost: PostgreSQL ended the session that held it, and "
            "another run may hold it now. Run this again."
        )


class Database:
    """One PostgreSQL database, addressed by a plain URL.

    Errors raised here contain no values of statements or rows.

    Args:
        url: ``postgresql://`` or ``postgres://``, libpq options such as ``sslmode`` included.

    Raises:
        DatabaseUrlError: The URL is not a PostgreSQL address.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            # Their messages quote a part of the password if it contains a bare / or @.
            raise DatabaseUrlError(
                "MM_DATABASE_URL is not a postgresql:// address. Write special characters of the "
                "password as %40 for @, %3A for :, %2F for /."
            ) from None
        if parsed.get_backend_name() not in ("postgresql", "postgres"):
            raise DatabaseUrlError(
                f"MM_DATABASE_URL names {parsed.get_backend_name()}, not PostgreSQL. "
                "Set it to a postgresql:// address."
            )
        self._url = parsed.set(drivername="postgresql")

    def __repr__(self) -> str:
        return f"Database({self.masked_url!r})"

    @property
    def url(self) -> str:
        """The plain libpq URL with its password, for drivers only."""
        return self._url.render_as_string(hide_password=False)

    @property
    def masked_url(self) -> str:
        """The URL with its password masked, for messages."""
        hidden = dict.fromkeys(_SECRET_OPTIONS & self._url.query.keys(), "hidden")
        return self._url.update_query_dict(hidden).render_as_string(hide_password=True)

    @property
    def driver_url(self) -> URL:
        """The URL with its driver named, because SQLAlchemy and dagster-postgres need one."""
        return self._url.set(drivername="postgresql+psycopg2")

    @cached_property
    def engine(self) -> Engine:
        """The pool behind `transaction`; it replaces connections that the server dropped."""
        return create_engine(self.driver_url, pool_pre_ping=True, **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        options = {} if "options" in self._url.query else {"options": "-c timezone=UTC"}
        # Parameters are customers' data: they stay out of exceptions and logs.
        return {"hide_parameters": True, "connect_args": options | self._bounds}

    @property
    def _bounds(self) -> dict[str, str]:
        """The bounds of waiting that the URL does not set itself."""
        return {name: value for name, value in _BOUNDS.items() if name not in self._url.query}

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run one transaction: committed at the end, rolled back by any exception."""
        with without_values(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def bulk(self) -> Iterator["BulkConnection"]:
        """Open an ADBC connection for whole frames; the caller commits.

        It is a separate session: load the staging table and run the merge on the same one.
        """
        from adbc_driver_postgresql import dbapi  # most runs never need this native library

        url = self._url.update_query_dict(self._bounds).render_as_string(hide_password=False)
        with without_values(), dbapi.connect(url) as connection:
            yield connection

    @contextmanager
    def lock(self, name: str, *, wait: bool = False) -> Iterator[HeldLock]:
        """Hold the advisory lock ``name``; PostgreSQL releases it when this process dies.

        PostgreSQL also releases it when the session ends for another reason: a restart, a failover,
        an administrator. Before an effect outside PostgreSQL, the caller confirms the lock or
        records the effect in a transaction of the lock's session.

        Args:
            name: The resource, such as ``audience:acme_newsletter``.
            wait: Wait until the lock is free instead of raising.

        Raises:
            LockTakenError: ``wait`` is false and another session holds it.
        """
        digest = hashlib.sha256(name.encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        # Outside the pool, because a connection returned to the pool would keep the lock.
        engine = create_engine(self.driver_url, poolclass=NullPool, **self._settings)
        with engine.connect() as connection:
            # The lock belongs to the session, so it outlives this transaction.
            with connection.begin():
                connection.execute(_BOUND_THE_SERVER)
                if wait:
                    connection.execute(text("select pg_advisory_lock(:key)"), {"key": key})
                elif not connection.scalar(text("select pg_try_advisory_lock(:key)"), {"key": key}):
                    raise LockTakenError(
                        f"Another run holds the lock on {name}. Run this again when it has ended."
                    )
            yield HeldLock(name, connection)

    def dispose(self) -> None:
        """Close the pool's connections."""
        if "engine" in self.__dict__:
            self.engine.dispose()
