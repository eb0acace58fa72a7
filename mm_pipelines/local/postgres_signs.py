"""Signs of life of a PostgreSQL server: what it answers, and which processes it has."""

import contextlib
import time
from enum import Enum
from pathlib import Path

import psutil
import psycopg2


class Answer(Enum):
    """What a server says to a connection."""

    READY = "ready"
    REFUSES = "refuses"  # it lives: it starts up, shuts down, or lacks this database
    SILENT = "silent"  # nobody listens, or it hangs


def ask(url: str) -> Answer:
    """Try to connect, the only proof that a server runs."""
    try:
        psycopg2.connect(url, connect_timeout=5).close()
    except psycopg2.OperationalError as error:
        # libpq gives no code for a refused connection; the server's messages are English (C).
        if "too many clients" in str(error):
            return Answer.READY
        return Answer.REFUSES if "FATAL" in str(error) else Answer.SILENT
    return Answer.READY


def processes(data: Path) -> list[psutil.Process]:
    """The live PostgreSQL processes of a data directory: each works in that directory."""
    found = []
    for process in psutil.process_iter():
        # A zombie has no directory, another account's process does not tell.
        with contextlib.suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and _same(process.cwd(), data):
                found.append(process)
    return found


def postmaster(data: Path) -> psutil.Process | None:
    """The live postmaster that the data directory's pid file names, if it is one."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if process.name().startswith("postgres") and _same(process.cwd(), data):
            return process
    return None


def _same(directory: str, data: Path) -> bool:
    return bool(directory) and Path(directory).samefile(data)


def wait_until_gone(ending: list[psutil.Process], seconds: float) -> None:
    """Wait for processes to end, for at most so many seconds."""
    # A zombie has ended; whoever started it has yet to notice, which is not ours to wait for.
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if not any(_alive(process) for process in ending):
            return
        time.sleep(0.02)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
