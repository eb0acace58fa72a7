"""Real processes: the stack as `mm` starts it, on ports and in a home of its own."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mm_pipelines.local.postgres import EmbeddedPostgres
from tests.e2e.installation import Installation


@pytest.fixture
def installation() -> Iterator[Installation]:
    parent = Path(tempfile.mkdtemp(prefix="mm-e2e-"))
    parent.chmod(0o755)
    yield Installation(parent / "home")
    EmbeddedPostgres(parent / "home").remove()
    shutil.rmtree(parent)


@pytest.fixture
def ports() -> list[str]:
    """Options that put the stack on free ports."""
    options = []
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        names = ("--port", "--receiver-port", "--sandbox-port")
        for name, probe in zip(names, (one, two, three), strict=True):
            probe.bind(("127.0.0.1", 0))
            options += [name, str(probe.getsockname()[1])]
    return options
