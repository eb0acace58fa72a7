"""A sandbox on a socket, and a client of it with the Page's token."""

import threading
import time
from collections.abc import Iterator

import pytest

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.sandbox.server import server
from mm_pipelines.sandbox.settings import Settings

PAGE_ID = "134141414124123"
PEOPLE = 600


@pytest.fixture(scope="session")
def sandbox_url() -> Iterator[str]:
    """An open sandbox with `PEOPLE` opted in to every Page."""
    running = server("127.0.0.1", 0, Settings(optin_people_per_page=PEOPLE))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join()


@pytest.fixture
def client(sandbox_url: str) -> Iterator[GraphApiClient]:
    with GraphApiClient("page-token", base_url=sandbox_url) as client:
        yield client
