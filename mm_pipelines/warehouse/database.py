"""Connections to PostgreSQL for statements, for bulk frames and for advisory locks.

The first use connects; import and construction do not.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Connection, Engine, TextClause, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from mm_pipelines.warehouse.advisory_locks import lock_key
from mm_pipelines.warehouse.answers import BoundedConnection, BoundedCursor
from mm_pipelines.warehouse.pooler import require_own_session
from mm_pipelines.warehouse.server_errors import without_values

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection as BulkConnection


_CONFIRM = text("select 1")
_TRY_LOCK = text("select pg_try_advisory_lock(:key)")
_UNLOCK = text("select pg_advisory_unlock_all()")
_TRY_LOCK_SHARED = text("select pg_try_advisory_lock_shared(:key)")


class DatabaseUrlError(ValueError):
    """MM_DATABASE_URL is not a PostgreSQL address. The message contains no part of it."""


class LockTakenError(Exception):
    """Another session holds the lock.

    Attributes:
        lock: The lock's name.
    """

    def __init__(self, message: str, lock: str) -> None:
        super().__init__(message)
        self.lock = lock


class LockLostError(LockTakenError):
    """PostgreSQL ended the session that held the lock; another session may hold it now."""


ANSWER_SECONDS: Final = 900.0
"""The longest wait for a statement, unless the caller sets another."""

LOCK_WAIT_SECONDS: Final = 1800.0
"""The longest wait for a lock that another session holds."""

_PING_SECONDS = 5.0
_LOCK_POLL_SECONDS = 0.5
# The server cancels a late statement itself; the connection is closed if that does not arrive.
_GRACE_SECONDS = 2.0

# libpq's own bounds: for a connection to be made, and for a peer that does not acknowledge what is
# sent or disappeared. In seconds; the last one in milliseconds.
_BOUNDS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

# Settings of the session, sent when it begins. With them the server ends the session of a client
# that disappeared within a minute, which frees its locks, also in the middle of a statement.
_SESSION = {
    "timezone": "UTC",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "client_connection_check_interval": "10000",
}

# Bounds the statements of a transaction; a pooler keeps no setting beyond it.
_BOUND_STATEMENTS = text("select set_config('statement_timeout', :milliseconds, true)")

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
        with self.transaction() as connection, _answers_within(connection, _PING_SECONDS):
            connection.execute(_CONFIRM)

    def _lost(self) -> LockLostError:
        return LockLostError(
            f"The lock on {self._name} was lost: PostgreSQL ended the session that held it, and "
            "another run may hold it now. Run this again.",
            self._name,
        )


class Database:
    """One PostgreSQL database, addressed by a plain URL.

    Errors raised here contain no values of statements or rows.

    Args:
        url: ``postgresql://`` or ``postgres://``, libpq options such as ``sslmode`` included.
        answer_seconds: The longest wait for a statement. Then the statement is canceled, or the
            connection is closed if the server does not answer at all.

    Raises:
        DatabaseUrlError: The URL is not a PostgreSQL address.
    """

    def __init__(self, url: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._answer_seconds = answer_seconds
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
        return libpq_url(self._url)

    @property
    def masked_url(self) -> str:
        """The URL with its password masked, for messages."""
        hidden = dict.fromkeys(_SECRET_OPTIONS & self._url.query.keys(), "hidden")
        return self._url.update_query_dict(hidden).render_as_string(hide_password=True)

    @property
    def driver_url(self) -> URL:
        """The URL with its driver named, because SQLAlchemy and dagster-postgres need one."""
        return self._url.set(drivername="postgresql+psycopg2")

    @property
    def bounded_url(self) -> URL:
        """The driver's URL with the bounds of waiting; those in the given URL take precedence."""
        bounds = {name: value for name, value in _BOUNDS.items() if name not in self._url.query}
        session = _SESSION | {"statement_timeout": _milliseconds(self._answer_seconds)}
        ours = " ".join(f"-c {name}={value}" for name, value in session.items())
        given = self._url.query.get("options", ())
        options = (ours, given) if isinstance(given, str) else (ours, *given)
        return self.driver_url.update_query_dict({**bounds, "options": " ".join(options)})

    @cached_property
    def engine(self) -> Engine:
        """The pool behind `transaction`; it replaces connections that the server dropped."""
        return self._create_engine(pool_pre_ping=True)

    def _create_engine(self, **settings: Any) -> Engine:
        engine = create_engine(
            self.bounded_url,
            # Parameters are customers' data: they stay out of exceptions and logs.
            hide_parameters=True,
            connect_args={
                "connection_factory": BoundedConnection,
                "cursor_factory": BoundedCursor,
            },
            **settings,
        )
        # While a connection is in the pool, the next wait is for the test before its use.
        event.listen(engine, "checkin", lambda driver, _: _bound(driver, _PING_SECONDS))
        seconds = self._answer_seconds + _GRACE_SECONDS
        event.listen(engine, "checkout", lambda driver, *_: _bound(driver, seconds))
        return engine

    @contextmanager
    def transaction(self, *, answer_seconds: float | None = None) -> Iterator[Connection]:
        """Run one transaction: committed at the end, rolled back by any exception.

        Args:
            answer_seconds: The longest wait for each statement, instead of the database's.
        """
        with without_values(), self.engine.begin() as connection:
            if answer_seconds is not None:
                _bound(connection.connection.driver_connection, answer_seconds + _GRACE_SECONDS)
                milliseconds = _milliseconds(answer_seconds)
                connection.execute(_BOUND_STATEMENTS, {"milliseconds": milliseconds})
            yield connection

    @contextmanager
    def bulk(self) -> Iterator["BulkConnection"]:
        """Open an ADBC connection for whole frames; the caller commits.

        It is a separate session: load the staging table and run the merge on the same one.
        """
        from adbc_driver_postgresql import dbapi  # most runs never need this native library

        url = libpq_url(self.bounded_url.set(drivername="postgresql"))
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
            wait: Wait until the lock is free, at most half an hour.

        Raises:
            LockTakenError: Another session holds it.
            PoolerError: Locks do not hold through the pooler before PostgreSQL.
        """
        give_up = time.monotonic() + (LOCK_WAIT_SECONDS if wait else 0)
        with self._own_session() as connection:
            while not _try_lock(connection, _TRY_LOCK, name):
                if time.monotonic() >= give_up:
                    raise LockTakenError(
                        f"Another run holds the lock on {name}. Run this again when it has ended.",
                        name,
                    )
                time.sleep(_LOCK_POLL_SECONDS)
            yield HeldLock(name, connection)

    @contextmanager
    def shared_lock(self, name: str) -> Iterator[HeldLock]:
        """Hold an advisory lock that other sessions may share (`held_locks` finds it)."""
        with self._own_session() as connection:
            _try_lock(connection, _TRY_LOCK_SHARED, name)
            yield HeldLock(name, connection)

    @contextmanager
    def _own_session(self) -> Iterator[Connection]:
        with self._lock_engine.connect() as connection:
            try:
                yield connection
            finally:
                _unlock(connection)

    @cached_property
    def _lock_engine(self) -> Engine:
        """Outside the pool, because a connection returned to the pool would keep its locks."""
        engine = self._create_engine(poolclass=NullPool)
        with without_values():
            require_own_session(engine)
        return engine

    def dispose(self) -> None:
        """Close the pool's connections."""
        if "engine" in self.__dict__:
            self.engine.dispose()


def _unlock(connection: Connection) -> None:
    """Free a session's locks. A closed session's are free only once its process has ended."""
    if connection.invalidated:
        return
    with suppress(SQLAlchemyError), connection.begin(), _answers_within(connection, _PING_SECONDS):
        connection.execute(_UNLOCK)


def libpq_url(url: URL) -> str:
    """The URL with its password, readable by libpq as well as by SQLAlchemy."""
    # SQLAlchemy writes a space of an option as a plus sign, which libpq takes literally.
    address, mark, query = url.render_as_string(hide_password=False).partition("?")
    return f"{address}{mark}{query.replace('+', '%20')}"


def _try_lock(connection: Connection, statement: TextClause, name: str) -> bool:
    # The lock belongs to the session, so it outlives this transaction.
    with connection.begin(), _answers_within(connection, _PING_SECONDS):
        return bool(connection.scalar(statement, {"key": lock_key(name)}))


@contextmanager
def _answers_within(connection: Connection, seconds: float) -> Iterator[None]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, BoundedConnection)  # noqa: S101 - made by our factory
    before = driver.answer_seconds
    driver.answer_seconds = seconds
    try:
        yield
    finally:
        driver.answer_seconds = before


def _bound(driver: Any, seconds: float) -> None:
    if driver is not None:  # a connection that was lost returns to the pool as None
        driver.answer_seconds = seconds


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
