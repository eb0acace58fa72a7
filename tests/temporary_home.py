"""An MM_HOME outside pytest's directory, which the embedded server's account cannot enter."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mm_pipelines.local.postgres import EmbeddedPostgres


@contextmanager
def reachable_home() -> Iterator[Path]:
    """The path of an MM_HOME that every account can reach; its server is removed afterwards."""
    parent = Path(tempfile.mkdtemp(prefix="mm-home-"))
    parent.chmod(0o755)
    try:
        yield parent / "home"
    finally:
        EmbeddedPostgres(parent / "home").remove()
        shutil.rmtree(parent)
