"""Real processes: the stack as `mm` starts it, on ports and in a home of its own."""

import socket
from pathlib import Path

import pytest

from tests.e2e.installation import Installation


@pytest.fixture
def installation(home: Path) -> Installation:
    return Installation(home)


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
