from collections.abc import Iterator
from pathlib import Path

import pytest

from mm_pipelines.local.postgres import EmbeddedPostgres
from tests.temporary_home import reachable_home


@pytest.fixture
def server(home: Path) -> EmbeddedPostgres:
    """The server of an empty home, not started yet."""
    return EmbeddedPostgres(home, durable=False)


@pytest.fixture(scope="session")
def running() -> Iterator[EmbeddedPostgres]:
    """A server that runs, for tests that leave it as it is."""
    with reachable_home() as home:
        server = EmbeddedPostgres(home, durable=False)
        server.start()
        yield server
