"""A sandbox and a receiver over real HTTP, and a Page whose people opt in and out."""

from collections.abc import Iterator

import httpx
import pytest

from mm_pipelines.sandbox import Settings
from mm_pipelines.sandbox.server import server as sandbox_server
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings
from mm_pipelines.webhooks.server import server as receiver_server
from tests.consent.page import APP_SECRET, Page
from tests.servers import free_port, serving


@pytest.fixture(scope="session")
def receiver_port() -> int:
    """Where the sandbox finds the receiver, which is another one in every test."""
    return free_port()


@pytest.fixture(scope="session")
def sandbox_url(receiver_port: int) -> Iterator[str]:
    settings = Settings.model_validate(
        {
            "webhook_url": f"http://127.0.0.1:{receiver_port}/webhooks",
            "app_secret": APP_SECRET,
            "match_delay_seconds": 0,
            "match_jitter_seconds": 0,
            "match_rate": 1,
            "audience_floor": 1,
            "optin_people_per_page": 0,
        }
    )
    with serving(sandbox_server("127.0.0.1", 0, settings)) as url:
        yield url


@pytest.fixture
def page(
    database: Database, storage: Storage, sandbox_url: str, receiver_port: int
) -> Iterator[Page]:
    """A Page in an empty sandbox that sends its webhooks to a receiver."""
    httpx.post(f"{sandbox_url}/_sandbox/reset").raise_for_status()
    settings = ReceiverSettings(app_secrets=(APP_SECRET,), verify_token="unused")
    with serving(receiver_server(settings, database, host="127.0.0.1", port=receiver_port)):
        yield Page(database, storage, sandbox_url)
