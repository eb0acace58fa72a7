"""After an erasure and payload_days, no value of the person is found anywhere."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.assets.audience_upload import audience_upload
from mm_pipelines.assets.customer_list import customer_list
from mm_pipelines.assets.erasures import erasures
from mm_pipelines.assets.hashed_payload import hashed_payload
from mm_pipelines.assets.messaging_optins import messaging_optins
from mm_pipelines.assets.optin_requests import optin_requests
from mm_pipelines.assets.sendable_tokens import sendable_tokens
from mm_pipelines.assets.subscription_tokens import subscription_tokens
from mm_pipelines.assets.unsubscribes import unsubscribes
from mm_pipelines.jobs import retention
from mm_pipelines.local.postgres.binaries import find_clients
from mm_pipelines.partitions import CONFIG, AudienceDay, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.storage import Storage
from tests.consent.page import KEY, PAGE_ID, Page

TODAY = datetime.now(UTC).date()
LIST = AudienceDay("acme_newsletter", TODAY).key
EMAIL, PHONE = "canary.person@example.com", "15557654321"
HASHES = [hashlib.sha256(value.encode()).hexdigest() for value in (EMAIL, PHONE)]

# Lets time pass for retention and for everything that is renewed after a time.
AGE = """
update mm.upload_delta set created_at = created_at - {age};
update mm.hashed_payload set created_at = created_at - {age};
update mm.member_digest_file set written_at = written_at - {age}
"""


class Installation:
    """The assets of a Page and an audience, run as the code location runs them."""

    def __init__(self, page: Page, instance: dg.DagsterInstance, storage: Path) -> None:
        self.page = page
        self.instance = instance
        self.storage = storage
        self.resources = {
            "mm_database": DatabaseResource(url=page.database.url),
            "mm_storage": StorageResource(base_url=str(storage)),
            "mm_suppression": SuppressionResource(key=KEY.current.decode()),
            "mm_graph_api": GraphApiResource(base_url=page.url, version="v26.0"),
        }

    def run(self, *assets: dg.AssetsDefinition, partition: str | None = None) -> None:
        for asset in assets:
            result = dg.materialize(
                [asset], partition_key=partition, instance=self.instance, resources=self.resources
            )
            assert result.success

    def opt_outs(self) -> None:
        self.run(unsubscribes, partition=PageDay("acme", TODAY).key)
        self.run(unsubscribes, partition=PageDay("globex", TODAY).key)

    def days_pass(self, days: float) -> None:
        """Let everything stored become older, then run retention."""
        age = timedelta(days=days)
        for path in self.storage.rglob("*"):
            changed_at = path.stat().st_mtime - age.total_seconds()
            os.utime(path, (changed_at, changed_at))
        with self.page.database.transaction() as connection:
            for statement in AGE.format(age=f"interval '{days} days'").split(";"):
                connection.execute(text(statement))
        resources = {
            name: self.resources[name] for name in ("mm_database", "mm_storage", "mm_suppression")
        }
        assert retention.execute_in_process(resources=resources, instance=self.instance).success


@pytest.fixture
def installation(
    page: Page, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    for name in ("ACME_PAGE_TOKEN", "GLOBEX_PAGE_TOKEN", "MM_SYSTEM_USER_TOKEN"):
        monkeypatch.setenv(name, f"EAA{name}")
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield Installation(page, instance, Path(storage.url("")))


@pytest.fixture
def customers() -> Iterator[None]:
    """A list of 30 people, the canary among them."""
    path = CONFIG.directory / "customers" / "acme_newsletter" / f"{TODAY}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [f"person{number}@example.com,1555000{number:04}" for number in range(29)]
    path.write_text("\n".join(["email,phone", *others, f"{EMAIL},{PHONE}"]) + "\n")
    yield
    path.unlink()


def places_with(installation: Installation, canaries: list[str]) -> set[str]:
    """The files and dumps that contain a canary, in any of its forms."""
    found = {
        "database dump": any(canary in dump(installation.page) for canary in canaries),
        **{
            str(path): any(canary.encode() in path.read_bytes() for canary in canaries)
            for path in installation.storage.parent.rglob("*")
            if path.is_file()
        },
    }
    prefixes = {int(canary[:16], 16) for canary in canaries if len(canary) == 64}
    for path in installation.storage.rglob("*.parquet"):
        columns = pl.read_parquet(path)
        values = {str(value) for name in columns.columns for value in columns[name].to_list()}
        shown = {*canaries, *map(str, prefixes)}
        found[f"{path} decoded"] = not values.isdisjoint(shown)
    return {place for place, is_found in found.items() if is_found}


def dump(page: Page) -> str:
    with page.database.transaction() as connection:
        version = connection.scalar(text("show server_version")) or ""
    clients = find_clients(version.split(".")[0], None)
    assert clients is not None
    command = [str(clients / "pg_dump"), "--dbname", page.database.url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.usefixtures("customers")
def test_nothing_of_an_erased_person_is_left_after_payload_days(
    installation: Installation, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    page = installation.page
    installation.run(customer_list, hashed_payload, audience_upload, partition=LIST)
    psid = page.act("message")["psid"]
    installation.run(optin_requests, partition=PageDay("acme", TODAY).key)
    token = page.act("accept", psid)["subscription_token"]
    installation.run(messaging_optins, subscription_tokens, sendable_tokens, partition="acme")
    canaries = [EMAIL, PHONE, *HASHES, psid, token]
    assert len(places_with(installation, canaries)) > 3

    page.rows(
        "insert into mm.erasure_request (page_id, email, phone, psid)"
        f" values ('{PAGE_ID}', '{EMAIL}', '{PHONE}', '{psid}') returning id"
    )
    installation.run(erasures)
    installation.run(sendable_tokens, partition="acme")
    installation.opt_outs()
    installation.run(subscription_tokens, sendable_tokens, partition="acme")
    installation.days_pass(CONFIG.settings.payload_days)
    installation.opt_outs()
    installation.run(erasures)
    installation.days_pass(CONFIG.settings.payload_days)

    assert places_with(installation, canaries) == set()
    (request,) = page.rows("select state, digests from mm.erasure_request")
    assert (request.state, request.digests) == ("completed", [])
    written = caplog.text + "".join(capfd.readouterr())
    assert [canary for canary in canaries if canary in written] == []
