"""The commands that ask Meta something, against the sandbox on a socket."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr
from sqlalchemy import text
from typer.testing import CliRunner, Result

from mm_pipelines.cli import app
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.custom_audiences import create_custom_audience
from mm_pipelines.sandbox.server import server as sandbox_server
from mm_pipelines.sandbox.settings import Settings
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings
from mm_pipelines.webhooks.server import server as receiver_server
from tests.servers import serving

SAMPLES = Path(__file__).parents[2] / "examples/mm.yaml"

SECRETS = {
    "MM_APP_ID": "1231312312312301",
    "MM_APP_SECRET": "the-app-secret",
    "MM_WEBHOOK_VERIFY_TOKEN": "the-verify-token",
    "MM_SYSTEM_USER_TOKEN": "the-system-user-token",
    "ACME_PAGE_TOKEN": "the-token-of-acme",
    "GLOBEX_PAGE_TOKEN": "the-token-of-globex",
}


@pytest.fixture
def meta(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str
) -> Iterator[pytest.MonkeyPatch]:
    """A sandbox that knows the tokens, and an environment that holds them."""
    settings = Settings(
        app_secret=SecretStr(SECRETS["MM_APP_SECRET"]),
        system_user_tokens=(SecretStr(SECRETS["MM_SYSTEM_USER_TOKEN"]),),
        page_tokens={
            "134141414124123": SecretStr(SECRETS["ACME_PAGE_TOKEN"]),
            "245252525235234": SecretStr(SECRETS["GLOBEX_PAGE_TOKEN"]),
        },
    )
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MM_CONFIG", str(SAMPLES))
    monkeypatch.setenv("MM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MM_DATABASE_URL", database_url)
    with serving(sandbox_server("127.0.0.1", 0, settings)) as url:
        monkeypatch.setenv("MM_GRAPH_API_URL", url)
        yield monkeypatch


@pytest.fixture
def receiver(database_url: str) -> Iterator[str]:
    """The address that Meta is to call."""
    database = Database(database_url)
    settings = ReceiverSettings(
        app_secrets=(SECRETS["MM_APP_SECRET"],), verify_token=SECRETS["MM_WEBHOOK_VERIFY_TOKEN"]
    )
    with serving(receiver_server(settings, database, host="127.0.0.1", port=0)) as url:
        yield f"{url}/webhooks"
    database.dispose()


def mm(*arguments: str) -> Result:
    done = CliRunner().invoke(app, arguments)
    assert not any(secret in done.output for name, secret in SECRETS.items() if name != "MM_APP_ID")
    return done


def findings() -> dict[str, tuple[bool, str]]:
    rows = json.loads(mm("doctor", "--json").stdout)
    return {row["subject"]: (row["ok"], row["detail"]) for row in rows}


def test_subscribing_satisfies_the_doctor(meta: pytest.MonkeyPatch, receiver: str) -> None:
    before = findings()
    assert before["database"][0]
    assert before["storage"][0]
    assert before["Graph API"][0]
    assert before["token MM_SYSTEM_USER_TOKEN"][0]
    assert before["token ACME_PAGE_TOKEN"][0]
    assert not before["webhooks of the app"][0]
    assert "mm webhooks subscribe" in before["webhooks of Page acme"][1]
    assert mm("doctor").exit_code == 1

    subscribed = mm("webhooks", "subscribe", "--callback-url", receiver)
    assert subscribed.exit_code == 0, subscribed.output
    assert all(ok for ok, _ in findings().values()), findings()
    assert mm("doctor").exit_code == 0
    shown = json.loads(mm("webhooks", "status", "--json").stdout)
    assert {(row["level"], row["of"]) for row in shown} == {
        ("app", "page"),
        ("page", "acme"),
        ("page", "globex"),
    }
    assert all("marketing_messages_subscriber_upload_status" in row["fields"] for row in shown)


def test_a_receiver_that_meta_cannot_reach_is_reported(meta: pytest.MonkeyPatch) -> None:
    refused = mm("webhooks", "subscribe", "--callback-url", "http://127.0.0.1:1/webhooks")
    assert refused.exit_code == 1
    assert "Callback verification failed" in refused.stderr


def test_the_doctor_reports_every_failed_check(meta: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meta.setenv("ACME_PAGE_TOKEN", "a-token-that-was-revoked")
    meta.delenv("GLOBEX_PAGE_TOKEN")
    meta.setenv("MM_DATABASE_URL", "postgresql://127.0.0.1:1/mm")
    (tmp_path / "file").write_text("")
    meta.setenv("MM_STORAGE_URL", str(tmp_path / "file/storage"))
    found = findings()
    assert "is not valid" in found["token ACME_PAGE_TOKEN"][1]
    assert found["token GLOBEX_PAGE_TOKEN"] == (False, "GLOBEX_PAGE_TOKEN is not set")
    assert "refused" in found["database"][1]
    assert not found["storage"][0]
    assert found["token MM_SYSTEM_USER_TOKEN"][0]


def test_the_doctor_checks_every_token_of_an_ad_account(
    meta: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samples = yaml.safe_load(SAMPLES.read_text())
    first, *_, last = samples["audiences"].values()
    last["ad_account_id"] = first["ad_account_id"]
    first["system_user_token_env"] = "FIRST_TOKEN"
    (tmp_path / "mm.yaml").write_text(yaml.safe_dump(samples))
    meta.setenv("MM_CONFIG", str(tmp_path / "mm.yaml"))
    meta.setenv("FIRST_TOKEN", "a-token-that-was-revoked")
    account = first["ad_account_id"]

    found = findings()

    assert "is not valid" in found["token FIRST_TOKEN"][1]
    assert not found[f"ad account {account} with FIRST_TOKEN"][0]
    assert found["token MM_SYSTEM_USER_TOKEN"][0]
    assert found[f"ad account {account} with MM_SYSTEM_USER_TOKEN"][0]


def test_audiences_at_meta_shows_what_meta_has_now(
    meta: pytest.MonkeyPatch, database: Database
) -> None:
    samples = yaml.safe_load(SAMPLES.read_text())
    key, audience = next(iter(samples["audiences"].items()))
    page_id = samples["pages"][audience["page"]]["page_id"]
    with GraphApiClient(
        SECRETS["MM_SYSTEM_USER_TOKEN"],
        base_url=os.environ["MM_GRAPH_API_URL"],
        app_secret=SECRETS["MM_APP_SECRET"],
    ) as client:
        audience_id = create_custom_audience(
            client, audience["ad_account_id"], page_id=page_id, name="News", description="Readers"
        )
    with database.transaction() as connection:
        for name, known in ((key, audience_id), ("gone", "1")):
            connection.execute(
                text("insert into mm.custom_audience values (:key, :id, :page, '1', 'News')"),
                {"key": name, "id": known, "page": page_id},
            )
    recorded = mm("audiences")
    assert "by our ledger" in recorded.stdout
    (row,) = json.loads(mm("audiences", "--at-meta", "--json").stdout)
    assert (row["audience"], row["name"]) == (key, "News")
    assert row["operation"].startswith("410")
