"""A receiver on a fresh database, with Meta's hand on the other side."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings
from mm_pipelines.webhooks.server import server
from tests.servers import serving
from tests.webhooks.meta import PREVIOUS_SECRET, SECRET, VERIFY_TOKEN, body, signed


@contextmanager
def receiving(settings: ReceiverSettings, database: Database) -> Iterator[httpx.Client]:
    """A client of a receiver that serves on a free port of its own."""
    with (
        serving(server(settings, database, host="127.0.0.1", port=0)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


@pytest.fixture
def settings() -> ReceiverSettings:
    """Two secrets, since one is being replaced."""
    return ReceiverSettings(
        app_secrets=(SECRET, PREVIOUS_SECRET), verify_token=VERIFY_TOKEN, max_body_bytes=4 * 2**20
    )


@pytest.fixture
def client(settings: ReceiverSettings, database: Database) -> Iterator[httpx.Client]:
    """A client of the running receiver."""
    with receiving(settings, database) as client:
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
