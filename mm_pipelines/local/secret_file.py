"""Files that contain a secret: readable by their owner alone, and never half written."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write(path: Path, content: str) -> None:
    """Write the file with mode 0600, in one step."""
    partial = _partial(path, content)
    partial.replace(path)


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """The file's content; `make` provides it where there is no file.

    Processes that create it at the same time all get the same content.
    """
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    partial = _partial(path, make() + "\n")
    # A link, unlike a rename, fails when another process was quicker.
    with contextlib.suppress(FileExistsError):
        os.link(partial, path)
    partial.unlink()
    return path.read_text().strip()


def _partial(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp opens with mode 0600.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
