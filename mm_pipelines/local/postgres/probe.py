"""Whether a PostgreSQL server answers, and which processes it has."""

import contextlib
import time
from enum import Enum
from pathlib import Path

import psutil
import psycopg2

_CONNECT_SECONDS = 5


class ServerState(Enum):
    """How a server responds to a connection."""

    READY = "ready"
    REFUSING = "refusing"
    """It is alive but accepts no connection: it starts, recovers, stops, or lacks the database."""
    UNREACHABLE = "unreachable"
    """Nothing listens, or the server hangs."""


def probe(url: str) -> ServerState:
    """Try to connect. Only a connection that works proves that a server runs."""
    try:
        psycopg2.connect(url, connect_timeout=_CONNECT_SECONDS).close()
    except psycopg2.OperationalError as error:
        # libpq has no error code for a refused connection. The server's messages are in English
        # because it runs with the locale C.
        if "too many clients" in str(error):
            return ServerState.READY
        return ServerState.REFUSING if "FATAL" in str(error) else ServerState.UNREACHABLE
    return ServerState.READY


def find_processes(data: Path) -> list[psutil.Process]:
    """The live PostgreSQL processes of a data directory; it is their working directory."""
    found = []
    for process in psutil.process_iter():
        # A zombie has no working directory; that of another account's process is not readable.
        with contextlib.suppress(psutil.Error, OSError):
            if _works_in(process, data):
                found.append(process)
    return found


def find_postmaster(data: Path) -> psutil.Process | None:
    """The postmaster named by the data directory's pid file, if it is alive.

    The process id alone proves nothing: it may belong to another program by now.
    """
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if _works_in(process, data):
            return process
    return None


def wait_until_gone(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until the processes have ended, for at most `seconds`. A zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(_is_alive(process) for process in processes):
            return
        time.sleep(0.02)


def _works_in(process: psutil.Process, data: Path) -> bool:
    if not process.name().startswith("postgres"):
        return False
    directory = process.cwd()
    return bool(directory) and Path(directory).samefile(data)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
