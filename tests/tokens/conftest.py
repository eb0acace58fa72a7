"""A sandbox on a socket, and a client of it with the Page's token."""

from collections.abc import Iterator

import pytest

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.sandbox.server import server
from mm_pipelines.sandbox.settings import Settings
from tests.servers import serving

PAGE_ID = "134141414124123"
PEOPLE = 600


@pytest.fixture(scope="session")
def sandbox_url() -> Iterator[str]:
    """An open sandbox with `PEOPLE` opted in to every Page."""
    with serving(server("127.0.0.1", 0, Settings(optin_people_per_page=PEOPLE))) as url:
        yield url


@pytest.fixture
def client(sandbox_url: str) -> Iterator[GraphApiClient]:
    with GraphApiClient("page-token", base_url=sandbox_url) as client:
        yield client
