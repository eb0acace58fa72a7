"""Holds an advisory lock for as long as a process lives."""

import threading
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from mm_pipelines.warehouse.database import Database, LockLostError

_CONFIRM_SECONDS: Final = 15.0
_RECONNECT_SECONDS: Final = 2.0


class LockKeeper:
    """Holds a shared advisory lock in a thread, and takes it again if PostgreSQL ends its session.

    If the lock is free for longer than a reconnection takes, the process died.

    Args:
        database: Where the lock is.
        name: The lock's name.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._hold, name=f"lock {name}", daemon=True)

    def start(self) -> None:
        """Begin to hold the lock; an unreachable server is tried again until it answers."""
        self._thread.start()

    def release(self) -> None:
        """Release the lock."""
        self._released.set()
        self._thread.join()

    def _hold(self) -> None:
        while not self._released.is_set():
            try:
                with self._database.shared_lock(self._name) as lock:
                    while not self._released.wait(_CONFIRM_SECONDS):
                        lock.confirm()
            except (SQLAlchemyError, LockLostError):
                self._released.wait(_RECONNECT_SECONDS)
