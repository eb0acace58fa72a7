"""Bounds the wait for PostgreSQL's answers, on top of psycopg2.

libpq waits for an answer without a limit. TCP notices a peer that disappeared, but not a proxy that
acknowledges every packet and forwards none. So one thread closes each connection whose answer is
late: the waiting call then fails like any lost connection.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from typing import Any

import psycopg2
from psycopg2 import extensions

_LOOK_SECONDS = 0.25


class BoundedConnection(extensions.connection):
    """A connection that is closed when an answer takes longer than ``answer_seconds``."""

    answer_seconds: float = 60.0

    def commit(self) -> None:
        """Commit within ``answer_seconds``."""
        with _WATCHDOG.watching(self):
            super().commit()

    def rollback(self) -> None:
        """Roll back within ``answer_seconds``."""
        with _WATCHDOG.watching(self):
            super().rollback()


class BoundedCursor(extensions.cursor):
    """A cursor of a `BoundedConnection`."""

    connection: BoundedConnection

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - psycopg2's signature
        """Execute a statement within the connection's ``answer_seconds``."""
        with _WATCHDOG.watching(self.connection):
            super().execute(query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:
        """Execute a statement for each row, all of them within ``answer_seconds``."""
        with _WATCHDOG.watching(self.connection):
            super().executemany(query, vars_list)


class _Watchdog:
    """The thread that closes connections whose answer is late; one for the process."""

    def __init__(self) -> None:
        self._access = Lock()
        self._deadlines: dict[BoundedConnection, float] = {}
        self._thread: Thread | None = None

    @contextmanager
    def watching(self, connection: BoundedConnection) -> Iterator[None]:
        with self._access:
            self._deadlines[connection] = time.monotonic() + connection.answer_seconds
            if self._thread is None or not self._thread.is_alive():  # a fork has no threads
                self._thread = Thread(target=self._watch, name="answer-watchdog", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._access:
                del self._deadlines[connection]

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            # Under the lock no call returns, so no descriptor is closed and used again meanwhile.
            with self._access:
                for connection, deadline in self._deadlines.items():
                    if now > deadline:
                        _shut_down(connection)


def _shut_down(connection: BoundedConnection) -> None:
    # psycopg2.Error: it is closed already.
    with (
        suppress(OSError, psycopg2.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as duplicate,
    ):
        duplicate.shutdown(socket.SHUT_RDWR)


_WATCHDOG = _Watchdog()
