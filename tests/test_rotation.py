"""The steps of "Rotating secrets" in docs/operations.md, in their order: no run fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg
import httpx
import pytest
from pydantic import SecretStr

from mm_pipelines.assets.audiences_at_meta import audiences_at_meta
from mm_pipelines.assets.subscription_tokens import subscription_tokens
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.sandbox.server import server
from mm_pipelines.sandbox.settings import Settings
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings
from tests.servers import serving
from tests.webhooks.conftest import receiving
from tests.webhooks.meta import VERIFY_TOKEN, body, changes, signed, upload_status

PAGE_ID = "134141414124123"


@dataclass
class Location:
    """Dagster's code location: its environment, and runs with it."""

    database: Database
    variables: pytest.MonkeyPatch

    def set(self, **values: str) -> None:
        """Restart it with these variables; an empty one is unset."""
        for name, value in values.items():
            self.variables.setenv(name, value)

    def succeeds(self, url: str) -> bool:
        """Whether a run for the ad account and one for the Page succeed."""
        resources = {
            "mm_database": DatabaseResource(url=self.database.url),
            "mm_graph_api": GraphApiResource(base_url=url, version="v26.0"),
            "mm_suppression": SuppressionResource(key="suppression key of the tests"),
        }
        runs = [
            dg.materialize(
                [asset], resources=resources, partition_key=key, raise_on_error=False
            ).success
            for asset, key in ((audiences_at_meta, None), (subscription_tokens, "acme"))
        ]
        assert len(set(runs)) == 1
        return runs[0]


@pytest.fixture
def location(database: Database, monkeypatch: pytest.MonkeyPatch) -> Location:
    for name in ("MM_APP_ID", "MM_APP_SECRET"):
        monkeypatch.delenv(name, raising=False)
    return Location(database, monkeypatch)


@contextmanager
def meta(
    token: str | None, app_secret: str = "old-secret", *, requires_proof: bool = False
) -> Iterator[str]:
    """The Graph API at one step, with its valid token; None makes old and new ones valid."""
    settings = Settings(
        system_user_tokens=(SecretStr(f"system-{token}"),) if token else (),
        page_tokens={PAGE_ID: SecretStr(f"page-{token}")} if token else {},
        app_secret=SecretStr(app_secret),
        enforce_appsecret_proof=requires_proof,
        optin_people_per_page=3,
    )
    with serving(server("127.0.0.1", 0, settings)) as url:
        yield url


def test_tokens_are_replaced_while_both_are_valid(location: Location) -> None:
    old = {"MM_SYSTEM_USER_TOKEN": "system-old", "ACME_PAGE_TOKEN": "page-old"}
    new = {"MM_SYSTEM_USER_TOKEN": "system-new", "ACME_PAGE_TOKEN": "page-new"}
    location.set(**old)
    with meta("old") as url:
        assert location.succeeds(url)
    with meta(None) as url:  # step 1: the new token exists
        assert location.succeeds(url)
        location.set(**new)  # step 2
        assert location.succeeds(url)
    with meta("new") as url:  # step 3: the old one is revoked
        assert location.succeeds(url)


def test_a_token_that_was_revoked_too_early_is_used_again_as_soon_as_it_is_replaced(
    location: Location,
) -> None:
    location.set(MM_SYSTEM_USER_TOKEN="system-old", ACME_PAGE_TOKEN="page-old")
    with meta("new") as url:
        assert not location.succeeds(url)
        location.set(MM_SYSTEM_USER_TOKEN="system-new", ACME_PAGE_TOKEN="page-new")
        assert location.succeeds(url)


def test_calls_go_on_through_a_reset_of_the_app_secret(location: Location) -> None:
    location.set(
        MM_SYSTEM_USER_TOKEN="system-t", ACME_PAGE_TOKEN="page-t", MM_APP_SECRET="old-secret"
    )
    with meta("t", requires_proof=True) as url:
        assert location.succeeds(url)
    with meta("t") as url:  # step 1: the proof is no longer required, then no longer sent
        assert location.succeeds(url)
        location.set(MM_APP_SECRET="")
        assert location.succeeds(url)
    with meta("t", app_secret="new-secret") as url:  # step 2
        assert location.succeeds(url)
        location.set(MM_APP_SECRET="old-secret")  # what step 1 prevents
        assert not location.succeeds(url)
        location.set(MM_APP_SECRET="new-secret")  # step 4
        assert location.succeeds(url)
    with meta("t", app_secret="new-secret", requires_proof=True) as url:
        assert location.succeeds(url)


def test_webhooks_refused_during_a_reset_are_stored_when_delivered_again(
    database: Database,
) -> None:
    content = body(changes(upload_status(1)))
    before = ReceiverSettings(app_secrets=("old-secret",), verify_token=VERIFY_TOKEN)
    with receiving(before, database) as client:
        assert post(client, content, "old-secret") == 200
        assert post(client, content, "new-secret") == 403  # step 2: Meta delivers it again
    after = ReceiverSettings(app_secrets=("new-secret", "old-secret"), verify_token=VERIFY_TOKEN)
    with receiving(after, database) as client:  # step 3
        assert post(client, content, "new-secret") == 200
        assert post(client, content, "old-secret") == 200


def post(client: httpx.Client, content: bytes, secret: str) -> int:
    """The answer to a webhook signed with this secret."""
    return client.post("/webhooks", content=content, headers=signed(content, secret)).status_code
