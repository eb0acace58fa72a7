"""deploy/grants.sql is enough for every process, and no more."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import httpx
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from mm_pipelines.asset_graph import ASSETS
from mm_pipelines.jobs import daily_report, daily_upload, retention, token_refresh
from mm_pipelines.local.environment import dagster_database_url
from mm_pipelines.partitions import CONFIG
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.sandbox.server import server
from mm_pipelines.sandbox.settings import Settings
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import head, upgrade
from mm_pipelines.webhooks.app import ReceiverSettings
from tests.servers import serving
from tests.webhooks.conftest import receiving
from tests.webhooks.meta import SECRET, VERIFY_TOKEN, body, signed

GRANTS = Path(__file__).parents[2] / "deploy" / "grants.sql"
ROLES = ("migrator", "runner", "receiver", "sender")
PAGE_ID = "134141414124123"


@dataclass
class Roles:
    """A database of its own whose roles have the grants of the file."""

    owner: Database
    suffix: str

    def grant(self) -> None:
        script = GRANTS.read_text()
        for role in ROLES:
            script = script.replace(f"mm_{role}", self.name(role))
        with self.owner.transaction() as connection:
            connection.exec_driver_sql(script.replace("%", "%%"))

    def name(self, role: str) -> str:
        return f"mm_{role}_{self.suffix}"

    def url(self, role: str) -> str:
        url = make_url(self.owner.url).set(username=self.name(role))
        return url.render_as_string(hide_password=False)


@pytest.fixture
def roles(server_url: str) -> Iterator[Roles]:
    suffix = uuid.uuid4().hex[:8]
    server = create_engine(Database(server_url).driver_url, isolation_level="AUTOCOMMIT")
    url = make_url(server_url).set(database=f"grants_{suffix}")
    roles = Roles(Database(url.render_as_string(hide_password=False)), suffix)
    with server.connect() as connection:
        connection.execute(text(f"create database grants_{suffix}"))
        # By default everyone may create temporary tables and, in old servers, tables in public.
        connection.execute(text(f"revoke all on database grants_{suffix} from public"))
        for role in ROLES:
            connection.execute(text(f"create role {roles.name(role)} login"))
            grant = f"grant connect on database grants_{suffix} to {roles.name(role)}"
            connection.execute(text(grant))
        roles.grant()
        migrator = Database(roles.url("migrator"))
        assert upgrade(migrator) == head()
        migrator.dispose()
        roles.grant()
        yield roles
        roles.owner.dispose()
        connection.execute(text(f"drop database grants_{suffix} with (force)"))
        for role in ROLES:
            connection.execute(text(f"drop role {roles.name(role)}"))
    server.dispose()


def test_runs_work_with_the_runners_grants(roles: Roles, tmp_path: Path) -> None:
    (CONFIG.directory / "customers" / "acme_newsletter").mkdir(parents=True, exist_ok=True)
    customers = CONFIG.directory / "customers" / "acme_newsletter" / "2026-11-20.csv"
    customers.write_text("email\na@example.com\nb@example.com\n")
    storage = {
        "postgres": {"postgres_url": dagster_database_url(roles.url("runner"))},
    }
    with (
        serving(server("127.0.0.1", 0, Settings(optin_people_per_page=3))) as sandbox,
        pytest.MonkeyPatch.context() as variables,
        dg.DagsterInstance.local_temp(
            str(tmp_path), overrides={"storage": storage, "telemetry": {"enabled": False}}
        ) as instance,
    ):
        for name in CONFIG.token_variables():
            variables.setenv(name, "token")
        resources = {
            "mm_database": DatabaseResource(url=roles.url("runner")),
            "mm_storage": StorageResource(base_url=str(tmp_path)),
            "mm_graph_api": GraphApiResource(base_url=sandbox, version="v26.0"),
            "mm_suppression": SuppressionResource(key="a key"),
        }
        location = dg.Definitions(
            assets=ASSETS,
            jobs=[daily_upload, token_refresh, daily_report, retention],
            resources=resources,
        )
        for job, partition in (
            ("daily_upload", "acme_newsletter|2026-11-20"),
            ("token_refresh", "acme"),
            ("daily_report", "2026-11-20|acme"),
            ("retention", None),
        ):
            run = location.resolve_job_def(job).execute_in_process(
                partition_key=partition, instance=instance
            )
            assert run.success
        for asset in ("unsubscribes", "messaging_optins", "erasures"):
            partition = {"unsubscribes": "2026-11-20|acme", "messaging_optins": "acme"}.get(asset)
            run = location.resolve_implicit_global_asset_job_def().execute_in_process(
                asset_selection=[dg.AssetKey(asset)], partition_key=partition, instance=instance
            )
            assert run.success
    customers.unlink()


def test_the_receiver_stores_events_and_shows_health_and_reads_nothing_else(roles: Roles) -> None:
    receiver = Database(roles.url("receiver"))
    settings = ReceiverSettings(app_secrets=(SECRET,), verify_token=VERIFY_TOKEN)
    stop = {
        "sender": {"id": "77"},
        "recipient": {"id": PAGE_ID},
        "timestamp": 1763000000000,
        "optin": {
            "type": "notification_messages",
            "notification_messages_token": "8123",
            "notification_messages_status": "STOP NOTIFICATIONS",
        },
    }
    content = body({"object": "page", "entry": [{"id": PAGE_ID, "time": 1, "messaging": [stop]}]})
    with receiving(settings, receiver) as client:
        assert post(client, content) == 200
        assert "mm_health_readable 1.0" in client.get("/metrics").text
    with roles.owner.transaction() as connection:
        stopped = connection.scalars(text("select contact from mm.messenger_consent order by 1"))
        assert list(stopped) == ["77", "8123"]
    assert not may(roles, "receiver", "select * from mm.webhook_event")
    assert not may(roles, "receiver", "select * from mm.subscription_token")
    assert not may(roles, "receiver", "delete from mm.webhook_event")


def test_a_sender_reads_sendable_tokens_only(roles: Roles) -> None:
    assert may(roles, "sender", "select * from mm.sendable_token")
    assert not may(roles, "sender", "select * from mm.subscription_token")
    assert not may(roles, "sender", "select * from mm.messenger_consent")


def test_a_runner_cannot_change_the_schema(roles: Roles) -> None:
    assert not may(roles, "runner", "drop table mm.upload_batch cascade")
    assert not may(roles, "runner", "create table mm.theirs ()")


def post(client: httpx.Client, content: bytes) -> int:
    return client.post("/webhooks", content=content, headers=signed(content)).status_code


def may(roles: Roles, role: str, statement: str) -> bool:
    database = Database(roles.url(role))
    try:
        with database.transaction() as connection:
            connection.execute(text(statement))
    except ProgrammingError as error:
        if "permission denied" in str(error) or "must be owner" in str(error):
            return False
        raise
    finally:
        database.dispose()
    return True
