"""Where the files of an embedded server are.

They are in `MM_HOME/postgres`. Where the server's account cannot reach MM_HOME, they are in a
directory outside; where the socket's path would be too long, the socket is in a short directory.
`MM_HOME/postgres.json` records both.
"""

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from mm_pipelines.local import socket_paths
from mm_pipelines.local.accounts import Account
from mm_pipelines.local.postgres.errors import PostgresStartError

SUPERUSER = "postgres"
PORT = 5432

# For data that the server's account cannot reach inside MM_HOME. Not the temporary directory, which
# the system empties from time to time.
_OUTSIDE = (Path("/var/lib/mm_pipelines"), Path("/var/tmp/mm_pipelines"))  # noqa: S108 - checked

# `unix_socket_directories` is a list, and libpq quotes values of its own.
_UNUSABLE_IN_SETTINGS = frozenset(",\"'\\")


@dataclass(frozen=True)
class ServerDirectories:
    """The directories of one server.

    Attributes:
        home: MM_HOME.
        outside: The directory of data and copied programs, if it is not `MM_HOME/postgres`.
        socket: The directory of the socket, if it is not the same.
    """

    home: Path
    outside: str | None = None
    socket: str | None = None

    @classmethod
    def read(cls, home: Path) -> Self:
        """The recorded directories; the default ones where nothing is recorded."""
        try:
            return cls(home, **json.loads(record_path(home).read_text()))
        except FileNotFoundError:
            return cls(home)

    @property
    def root(self) -> Path:
        """The directory that contains everything but perhaps the socket."""
        return Path(self.outside) if self.outside else self.home / "postgres"

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.root / "data"

    @property
    def log(self) -> Path:
        """The file that the server writes its messages to."""
        return self.root / "server.log"

    @property
    def socket_directory(self) -> Path:
        """The directory that the server creates its socket in."""
        return Path(self.socket) if self.socket else self.root

    @property
    def socket_path(self) -> Path:
        """The server's socket."""
        return self.socket_directory / f".s.PGSQL.{PORT}"

    def url(self, database: str) -> str:
        """The URL of a database of this server."""
        # Without a port in the URL libpq would take PGPORT from the environment.
        host = quote(str(self.socket_directory))
        return f"postgresql://{SUPERUSER}@/{database}?host={host}&port={PORT}"

    def prepare(self, account: Account) -> Self:
        """Create the directories where the account can use them, and record them.

        Raises:
            PostgresStartError: The recorded data are gone, or no directory can be used.
            ForeignDirectoryError: Another user owns the socket's directory.
        """
        outside = self.outside or self._choose_outside(account)
        chosen = type(self)(self.home, outside, self.socket)
        if not socket_paths.fits(chosen.socket_path) or set(str(chosen.root)) & (
            _UNUSABLE_IN_SETTINGS
        ):
            short = socket_paths.short_directory(chosen.root, account)
            chosen = type(self)(self.home, outside, str(short))
        chosen._write()  # noqa: SLF001 - an instance of the same class
        return chosen

    def _choose_outside(self, account: Account) -> str | None:
        with contextlib.suppress(OSError):
            account.make_private(self.root)
        if self.root.exists() and account.can_enter(self.root):
            return None
        with contextlib.suppress(OSError):
            self.root.rmdir()
        return str(_make_outside(account))

    def require_data(self) -> None:
        """Refuse to continue where the data outside of MM_HOME are gone.

        Raises:
            PostgresStartError: They are; a new, empty database would hide the loss.
        """
        if self.outside is not None and not self.root.exists():
            raise PostgresStartError(
                f"the data recorded in {record_path(self.home)} are gone: restore {self.root}, or "
                "delete that file to start with an empty database"
            )

    def _write(self) -> None:
        fields = asdict(self)
        del fields["home"]
        record = record_path(self.home)
        partial = record.with_suffix(".partial")
        partial.write_text(json.dumps(fields))
        partial.replace(record)


def record_path(home: Path) -> Path:
    """The file in MM_HOME that records the directories; it exists once a server was started."""
    return home / "postgres.json"


def _make_outside(account: Account) -> Path:
    """Create a directory outside of MM_HOME that belongs to the account.

    Root owns the directories above it, so no other account can interfere with it.
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
    raise PostgresStartError(
        "the server's account can neither reach MM_HOME nor "
        f"{' nor '.join(map(str, _OUTSIDE))}: set MM_HOME or MM_DATABASE_URL"
    )
