"""`mm erase`, and the asset and sensor that erase in bulk."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner, Result

from mm_pipelines.assets.erasures import erasures
from mm_pipelines.cli import app
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.sensors import erasure_sensor
from tests.consent.page import KEY, PAGE_ID, Page


@pytest.fixture
def installation(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MM_HOME", str(tmp_path))
    monkeypatch.setenv("MM_CONFIG", str(Path(__file__).parents[1] / "mm.yaml"))
    monkeypatch.setenv("MM_DATABASE_URL", page.database.url)
    monkeypatch.setenv("MM_SUPPRESSION_KEY", KEY.current.decode())


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def mm(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, [*arguments], input=typed)


def wrote(page: Page, psid: str) -> None:
    page.rows(
        "insert into mm.conversation (page_id, psid, last_message_at)"
        f" values ('{PAGE_ID}', '{psid}', now()) returning psid"
    )


@pytest.mark.usefixtures("installation")
def test_the_receipt_is_printed_and_can_be_printed_again(page: Page) -> None:
    wrote(page, "5551")
    done = json.loads(mm("erase", "--page", "acme", "--psid", "-", "--json", typed="5551\n").stdout)
    (removed,) = [entry for entry in done["receipt"] if entry["kind"] == "table"]
    assert (removed["place"], removed["found"]) == ("mm.conversation", 1)
    assert done["state"] == "removed"
    assert page.rows("select from mm.conversation") == []
    assert page.unsubscribe().confirmed == 1
    printed = mm("erase", "--receipt", str(done["erasure"])).stdout
    assert "mm.conversation" in printed
    assert "5551" not in printed


@pytest.mark.usefixtures("installation")
def test_an_erased_person_can_be_granted_consent_again(page: Page) -> None:
    mm("erase", "--page", "acme", "--psid", "5551")
    arguments = ("--page", "acme", "--psid", "5551", "--reason", "signed form", "--json")
    assert json.loads(mm("consent", "grant", *arguments).stdout) == {"lifted": 1}
    assert page.rows("select from mm.erased_contact") == []


@pytest.mark.usefixtures("installation")
def test_a_request_that_names_no_person_or_no_page_is_refused(page: Page) -> None:
    assert "name the person" in mm("erase", "--email", " ").stderr
    assert "need --page" in mm("erase", "--psid", "1").stderr
    assert "no erasure 7" in mm("erase", "--receipt", "7").stderr
    unusable = mm("erase", "--email", "no address")
    assert unusable.exit_code == 1
    assert "unusable: email" in unusable.stderr
    assert page.rows("select from mm.unsubscribe_request") == []


def test_rows_of_the_table_are_requested_and_carried_out(
    page: Page, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    database = DatabaseResource(url=page.database.url)

    def requested() -> list[str]:
        with dg.build_sensor_context(instance, resources={"mm_database": database}) as context:
            result = erasure_sensor(context)
        assert isinstance(result, dg.SensorResult)
        return [
            key.to_user_string()
            for request in result.run_requests or []
            for key in request.asset_selection or []
        ]

    assert requested() == []
    wrote(page, "5551")
    page.rows(
        f"insert into mm.erasure_request (page_id, psid) values ('{PAGE_ID}', '5551') returning id"
    )
    assert requested() == ["erasures"]
    result = dg.materialize(
        [erasures],
        instance=instance,
        resources={
            "mm_database": database,
            "mm_storage": StorageResource(base_url=str(tmp_path)),
            "mm_suppression": SuppressionResource(key=KEY.current.decode()),
        },
    )
    assert result.success
    assert page.rows("select from mm.conversation") == []
    assert requested() == []
    page.unsubscribe()
    assert requested() == ["erasures"]
