"""A sandbox and a receiver over real HTTP, and a Page whose people join and leave."""

from collections.abc import Iterator

import pytest

from mm_pipelines.sandbox import Settings
from mm_pipelines.sandbox.server import server as sandbox_server
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings
from mm_pipelines.webhooks.server import server as receiver_server
from tests.people.page import APP_SECRET, Page
from tests.servers import serving


@pytest.fixture
def receiver_url(database: Database) -> Iterator[str]:
    """A receiver on the test's own database."""
    settings = ReceiverSettings(app_secrets=(APP_SECRET,), verify_token="unused")
    with serving(receiver_server(settings, database, host="127.0.0.1", port=0)) as url:
        yield url


@pytest.fixture
def page(database: Database, storage: Storage, receiver_url: str) -> Iterator[Page]:
    """A Page in a sandbox of its own, which tells the receiver what people do."""
    settings = Settings.model_validate(
        {
            "webhook_url": f"{receiver_url}/webhooks",
            "app_secret": APP_SECRET,
            "match_delay_seconds": 0,
            "match_jitter_seconds": 0,
            "match_rate": 1,
            "audience_floor": 1,
            "optin_people_per_page": 0,
        }
    )
    with serving(sandbox_server("127.0.0.1", 0, settings)) as url:
        yield Page(database, storage, url)
