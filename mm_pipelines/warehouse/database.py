"""Connections to PostgreSQL: one door for statements, one for bulk frames, one for locks.

Nothing connects at import or construction: the first use does.
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
    """MM_DATABASE_URL is no address of a PostgreSQL database; no part of it is told."""


class LockTakenError(Exception):
    """Another session holds the lock and is at work on the same thing."""


class LockLostError(LockTakenError):
    """PostgreSQL ended the session that held the lock, so that another may hold it by now."""


# libpq takes these as options of the URL, too.
_SECRET_OPTIONS = frozenset({"password", "sslpassword"})


class HeldLock:
    """An advisory lock for as long as its session lives; thread-safe."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._connection = connection
        self._turn = Lock()
        self._is_lost = False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction on the very session that holds the lock.

        Once it is committed the lock was held until then: what is recorded so may be done.

        Raises:
            LockLostError: The session has ended; nothing of the transaction stays.
        """
        with self._turn, without_values():
            if self._is_lost:
                raise self._lost()
            try:
                with self._connection.begin():
                    yield self._connection
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # Used again, the connection would quietly be another session, without the lock.
                self._is_lost = True
                raise self._lost() from None

    def confirm(self) -> None:
        """Make sure that the lock is still held: before an effect elsewhere.

        Raises:
            LockLostError: Its session has ended.
        """
        with self.transaction() as connection:
            connection.execute(_CONFIRM)

    def _lost(self) -> LockLostError:
        return LockLostError(
            f"the lock on {self._name} was lost: PostgreSQL ended the session that held it, and "
            "another run may be at work by now; run this again"
        )


class Database:
    """One PostgreSQL database, addressed by the plain URL that people are given.

    An error that leaves one of its doors tells no value of a statement or row.

    Args:
        url: ``postgresql://`` or ``postgres://``, libpq options such as ``sslmode`` included.

    Raises:
        DatabaseUrlError: It is no such URL.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            # Their texts quote what a password with a bare / or @ makes of the port.
            raise DatabaseUrlError(
                "MM_DATABASE_URL: this is no postgresql:// address; special characters of a "
                "password are written as %40 for @, %3A for :, %2F for /"
            ) from None
        if parsed.get_backend_name() not in ("postgresql", "postgres"):
            raise DatabaseUrlError(
                f"MM_DATABASE_URL: {parsed.get_backend_name()} is no PostgreSQL; "
                "give a postgresql:// address"
            )
        self._url = parsed.set(drivername="postgresql")

    def __repr__(self) -> str:
        return f"Database({self.masked_url!r})"

    @property
    def url(self) -> str:
        """The plain libpq URL, password included: for drivers, never for people."""
        return self._url.render_as_string(hide_password=False)

    @property
    def masked_url(self) -> str:
        """The URL with its password masked: for people."""
        hidden = dict.fromkeys(_SECRET_OPTIONS & self._url.query.keys(), "hidden")
        return self._url.update_query_dict(hidden).render_as_string(hide_password=True)

    @property
    def driver_url(self) -> URL:
        """The URL with its driver named, as dagster-postgres wants it (design 7.1)."""
        return self._url.set(drivername="postgresql+psycopg2")

    @cached_property
    def engine(self) -> Engine:
        """The pool behind :meth:`transaction`; a connection that the server dropped is replaced."""
        return create_engine(self.driver_url, pool_pre_ping=True, **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        options = {} if "options" in self._url.query else {"options": "-c timezone=UTC"}
        # Parameters are customers' data: they stay out of exceptions and logs.
        return {"hide_parameters": True, "connect_args": options}

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back by any exception."""
        with without_values(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def bulk(self) -> Iterator["BulkConnection"]:
        """An ADBC connection for whole frames; the caller commits.

        It is a session of its own: load the staging table and run the merge on the same one.
        """
        from adbc_driver_postgresql import dbapi  # a native library that most runs never need

        with without_values(), dbapi.connect(self.url) as connection:
            yield connection

    @contextmanager
    def lock(self, name: str, *, wait: bool = False) -> Iterator[HeldLock]:
        """Hold the advisory lock ``name``; PostgreSQL frees it when this process dies.

        It frees it, too, when the session ends for another reason: a restart, a failover, an
        administrator. Whoever does something elsewhere under the lock confirms it before, or
        records it by a transaction of the lock's own session.

        Args:
            name: What is locked, such as ``audience:acme_newsletter``.
            wait: Wait for another holder instead of raising.

        Raises:
            LockTakenError: ``wait`` is false and another session holds it.
        """
        digest = hashlib.sha256(name.encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        # A connection outside the pool: returned to the pool, it would keep the lock alive.
        engine = create_engine(self.driver_url, poolclass=NullPool, **self._settings)
        with engine.connect() as connection:
            # The session's, not the transaction's: it outlives the commit.
            with connection.begin():
                if wait:
                    connection.execute(text("select pg_advisory_lock(:key)"), {"key": key})
                elif not connection.scalar(text("select pg_try_advisory_lock(:key)"), {"key": key}):
                    raise LockTakenError(f"{name} is locked by another run")
            yield HeldLock(name, connection)

    def dispose(self) -> None:
        """Close the pool's connections."""
        if "engine" in self.__dict__:
            self.engine.dispose()
