"""A receiver on a fresh database, with Meta's hand on the other side."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings
from mm_pipelines.webhooks.server import server
from tests.webhooks.meta import PREVIOUS_SECRET, SECRET, VERIFY_TOKEN, body, signed


@contextmanager
def serving(settings: ReceiverSettings, database: Database) -> Iterator[httpx.Client]:
    """A client of a receiver that serves on a free port of its own."""
    running = server(settings, database, host="127.0.0.1", port=0)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.005)
    port = running.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client
    running.should_exit = True
    thread.join()


@pytest.fixture
def settings() -> ReceiverSettings:
    """Two secrets, since one is being replaced."""
    return ReceiverSettings(
        app_secrets=(SECRET, PREVIOUS_SECRET), verify_token=VERIFY_TOKEN, max_body_bytes=4 * 2**20
    )


@pytest.fixture
def client(settings: ReceiverSettings, database: Database) -> Iterator[httpx.Client]:
    """A client of the running receiver."""
    with serving(settings, database) as client:
        yield client


class Meta:
    """What Meta does, and what of it was stored."""

    def __init__(self, client: httpx.Client, database: Database) -> None:
        self._client = client
        self._database = database

    def posts(self, document: Any) -> int:
        """The status that a signed webhook is answered with."""
        return self.posts_bytes(body(document))

    def posts_bytes(self, content: bytes) -> int:
        """The status that signed bytes are answered with."""
        return self._client.post("/webhooks", content=content, headers=signed(content)).status_code

    def stored(self) -> list[Any]:
        """The rows of ``mm.webhook_event``, in the order of arrival."""
        with self._database.transaction() as connection:
            return list(connection.execute(text("select * from mm.webhook_event order by id")))


@pytest.fixture
def meta(client: httpx.Client, database: Database) -> Meta:
    """Meta, calling the receiver."""
    return Meta(client, database)
