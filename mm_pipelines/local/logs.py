"""Log files of processes that run for months: rotated while they are written."""

import shutil
from pathlib import Path

LOG_BYTES = 10_000_000
"""The size at which a log is rotated. One older log is kept."""


def rotate(log: Path) -> None:
    """Copy a log that is too large to ``NAME.log.1`` and empty it.

    The process goes on writing to the same file, which it must have opened for appending. Lines
    that it writes between the copy and the emptying are lost.
    """
    try:
        if log.stat().st_size <= LOG_BYTES:
            return
    except FileNotFoundError:
        return
    shutil.copy2(log, log.with_name(f"{log.name}.1"))
    with log.open("r+b") as content:
        content.truncate(0)
