"""A sandbox over real HTTP, and uploads to it."""

from collections.abc import Iterator

import pytest

from mm_pipelines.sandbox import Settings
from mm_pipelines.sandbox.server import server
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database
from tests.delivery.sandbox_delivery import Sandbox, SandboxDelivery
from tests.servers import serving


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[str]:
    settings = Settings(match_delay_seconds=3600, optin_people_per_page=0)
    with serving(server("127.0.0.1", 0, settings)) as url:
        yield url


@pytest.fixture
def sandbox(sandbox_server: str) -> Sandbox:
    """A sandbox in which nothing has happened yet."""
    sandbox = Sandbox(sandbox_server)
    sandbox.post("reset")
    return sandbox


@pytest.fixture
def delivery(database: Database, storage: Storage, sandbox: Sandbox) -> SandboxDelivery:
    """Uploads with an empty database, storage and sandbox."""
    return SandboxDelivery(database, storage, sandbox)
