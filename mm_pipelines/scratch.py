"""Temporary folders for hashed rows, below ``MM_HOME``. Those of killed processes are removed.

A folder is locked while its process lives, and the kernel releases the lock of a killed process. So
a folder whose lock is free has no owner.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_PREFIX = ".scratch-"


class ScratchFolder:
    """A folder of this process, readable by its user only, until it is closed.

    Creating one removes those that killed processes left beside it.

    Args:
        parent: Where the folder is created; None: ``MM_HOME``.

    Attributes:
        path: The folder.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or Path(os.environ.get("MM_HOME") or ".mm").absolute()
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_abandoned(parent)
        self.path, self._handle = _create_locked(parent)

    def close(self) -> None:
        """Remove the folder. Closing it twice has no further effect."""
        if self._handle is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def remove_abandoned(parent: Path) -> int:
    """Remove the scratch folders in ``parent`` that no process has locked.

    Returns:
        The number of folders removed.
    """
    removed = 0
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # locked by its owner, or removed meanwhile
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                removed += 1
            finally:
                os.close(handle)
    return removed


def _create_locked(parent: Path) -> tuple[Path, int | None]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Another process may have removed the folder before it was locked.
            if path.exists():
                return path, handle
            os.close(handle)
