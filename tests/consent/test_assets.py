"""The consent assets and sensors, as Dagster runs them."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import httpx
import pytest

from mm_pipelines.assets.audience_upload import audience_upload
from mm_pipelines.assets.messaging_optins import messaging_optins
from mm_pipelines.assets.optin_requests import optin_requests
from mm_pipelines.assets.unsubscribes import unsubscribes
from mm_pipelines.delivery.upload import upload
from mm_pipelines.jobs import retention
from mm_pipelines.partitions import CONFIG, AudienceDay, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.sensors import optin, optin_sensor, unsubscribe_sensor
from mm_pipelines.sensors.run_requests import MAX_ATTEMPTS, wait_after
from mm_pipelines.storage import Storage
from tests.consent.day import context as delivery_context
from tests.consent.day import hash_list, upload_plan
from tests.consent.page import KEY, Page, optin_event
from tests.runs import changed_earlier, failed_until_paused, recorded_earlier

TODAY = datetime.now(UTC).date()
PARTITION = PageDay("acme", TODAY).key
Run = Callable[[dg.AssetsDefinition, str], dg.ExecuteInProcessResult]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def run(
    page: Page, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Materialize one partition of one asset."""
    monkeypatch.setenv("ACME_PAGE_TOKEN", "EAApage")
    monkeypatch.setenv("MM_SYSTEM_USER_TOKEN", "EAAsystemuser")

    def materialize(asset: dg.AssetsDefinition, partition: str) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [asset],
            partition_key=partition,
            instance=instance,
            raise_on_error=False,
            resources={
                "mm_database": DatabaseResource(url=page.database.url),
                "mm_storage": StorageResource(base_url=str(tmp_path / "storage")),
                "mm_suppression": SuppressionResource(key=KEY.current.decode()),
                "mm_graph_api": GraphApiResource(base_url=page.url, version="v26.0"),
            },
        )

    return materialize


def asked_for(
    page: Page, instance: dg.DagsterInstance, sensor: dg.SensorDefinition
) -> set[tuple[str, str | None]]:
    """What a tick asks for: assets and partitions."""
    return {
        (key.to_user_string(), request.partition_key)
        for request in tick(page, instance, sensor).run_requests or []
        for key in request.asset_selection or []
    }


def tick(page: Page, instance: dg.DagsterInstance, sensor: dg.SensorDefinition) -> dg.SensorResult:
    resources = {"mm_database": DatabaseResource(url=page.database.url)}
    with dg.build_sensor_context(instance, resources=resources) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def failed_checks(result: dg.ExecuteInProcessResult) -> set[str]:
    return {check.check_name for check in result.get_asset_check_evaluations() if not check.passed}


def test_an_opt_out_is_requested_carried_out_and_followed_by_a_pull(
    page: Page, instance: dg.DagsterInstance, run: Run
) -> None:
    assert asked_for(page, instance, unsubscribe_sensor) == set()
    page.request("table", email="mary@example.com")
    assert asked_for(page, instance, unsubscribe_sensor) == {("unsubscribes", PARTITION)}
    result = run(unsubscribes, PARTITION)
    assert result.success
    assert failed_checks(result) == set()
    assert asked_for(page, instance, unsubscribe_sensor) == {("subscription_tokens", "acme")}
    page.pull()
    assert asked_for(page, instance, unsubscribe_sensor) == set()


def test_an_opted_out_person_in_a_stale_payload_is_removed_after_its_upload(
    page: Page, instance: dg.DagsterInstance, run: Run, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path / "storage"))
    people = [f"person{number}@example.com,Mary" for number in range(20)]
    (tmp_path / "customers.csv").write_text("email,first_name\n" + "\n".join(people) + "\n")
    hash_list(page.database, storage, str(tmp_path / "customers.csv"), "acme_newsletter", TODAY)
    page.request("table", email="person7@example.com")
    assert run(unsubscribes, PARTITION).success
    with page.client() as client:
        plan = upload_plan("acme_newsletter", TODAY)
        upload(delivery_context(page.database, storage, client), plan)
    page.pull()
    assert len(members(page)) == 20
    assert ("unsubscribes", PARTITION) in asked_for(page, instance, unsubscribe_sensor)
    result = run(unsubscribes, PARTITION)
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["removed_from_audiences"].value == 1
    assert len(members(page)) == 19
    assert hashlib.sha256(b"person7@example.com").hexdigest() not in str(members(page))
    assert asked_for(page, instance, unsubscribe_sensor) == set()


def test_a_person_who_opted_out_after_hashing_is_not_uploaded(
    page: Page, run: Run, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path / "storage"))
    path = tmp_path / "customers.csv"
    partition = AudienceDay("acme_newsletter", TODAY).key

    def hash_people(first: int, last: int) -> None:
        people = [f"person{number}@example.com,Mary" for number in range(first, last)]
        path.write_text("email,first_name\n" + "\n".join(people) + "\n")
        hash_list(page.database, storage, str(path), "acme_newsletter", TODAY)

    def materialized() -> dict[str, object]:
        result = run(audience_upload, partition)
        assert result.success
        *_, event = result.asset_materializations_for_node("audience_upload")
        return {name: value.value for name, value in event.metadata.items()}

    hash_people(0, 20)
    page.request("table", email="person7@example.com")
    assert run(unsubscribes, PARTITION).success
    first = materialized()
    assert (first["new_people"], first["left_out_people"]) == (19, 1)

    hash_people(0, 30)
    page.request("table", email="person25@example.com")
    assert run(unsubscribes, PARTITION).success
    second = materialized()
    assert (second["new_people"], second["left_out_people"]) == (9, 1)

    gone = [hashlib.sha256(f"person{n}@example.com".encode()).hexdigest() for n in (7, 25)]
    assert len(members(page)) == 28
    assert not any(person in key for person in gone for key in members(page))
    assert sum(rows for (rows,) in page.rows("select row_count from mm.removal_batch")) == 0


def members(page: Page) -> list[str]:
    """The members of the only audience in the sandbox."""
    (audience,) = httpx.get(f"{page.url}/_sandbox/audiences", timeout=60).json()
    url = f"{page.url}/_sandbox/audiences/{audience['audience_id']}/members"
    return list(httpx.get(url, timeout=60).json()["keys"])


def test_a_list_is_requested_until_it_is_read(
    page: Page, instance: dg.DagsterInstance, run: Run, tmp_path: Path
) -> None:
    folder = CONFIG.directory / "unsubscribes" / "acme"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{TODAY}.csv"
    try:
        path.write_text("email\nmary@example.com\n")
        assert asked_for(page, instance, unsubscribe_sensor) == {("unsubscribes", PARTITION)}
        assert run(unsubscribes, PARTITION).success
        page.pull()
        assert asked_for(page, instance, unsubscribe_sensor) == set()
        path.write_text("email\nmary@example.com\njohn@example.com\n")
        assert asked_for(page, instance, unsubscribe_sensor) == {("unsubscribes", PARTITION)}
    finally:
        path.unlink()
        folder.rmdir()
        folder.parent.rmdir()


def test_earlier_failures_do_not_delay_a_new_opt_out(
    page: Page, instance: dg.DagsterInstance
) -> None:
    page.request("table", email="mary@example.com")
    failed_until_paused(instance, "unsubscribes", PARTITION)
    assert asked_for(page, instance, unsubscribe_sensor) == set()
    page.request("table", email="john@example.com")
    assert asked_for(page, instance, unsubscribe_sensor) == {("unsubscribes", PARTITION)}


def test_a_new_message_resumes_paused_opt_in_requests(
    page: Page, instance: dg.DagsterInstance
) -> None:
    page.act("message")
    page.apply_webhooks()
    failed_until_paused(instance, "optin_requests", PARTITION)
    changed_earlier(instance, wait_after(MAX_ATTEMPTS))
    assert asked_for(page, instance, optin_sensor) == set()
    page.act("message")
    page.apply_webhooks()
    assert asked_for(page, instance, optin_sensor) == {("optin_requests", PARTITION)}


@pytest.mark.parametrize(
    ("asset", "partition"), [("optin_requests", PARTITION), ("messaging_optins", "acme")]
)
def test_a_new_event_resumes_its_paused_asset(
    page: Page, instance: dg.DagsterInstance, asset: str, partition: str
) -> None:
    def happens(number: int) -> None:
        if asset == "messaging_optins":
            page.store(optin_event(number, "5551", "8123", datetime.now(UTC)))
        else:
            page.act("message")

    happens(1)
    failed_until_paused(instance, asset, partition)
    changed_earlier(instance, wait_after(MAX_ATTEMPTS))
    assert asked_for(page, instance, optin_sensor) == set()
    happens(2)
    assert asked_for(page, instance, optin_sensor) == {(asset, partition)}


def test_a_run_that_succeeds_by_hand_ends_the_pause(
    page: Page, instance: dg.DagsterInstance, run: Run
) -> None:
    page.act("message")
    page.apply_webhooks()
    failed_until_paused(instance, "optin_requests", PARTITION)
    assert asked_for(page, instance, optin_sensor) == set()
    assert run(optin_requests, PARTITION).success
    page.act("message")
    recorded_earlier(instance, optin.AT_MOST_EVERY)
    assert asked_for(page, instance, optin_sensor) == {("optin_requests", PARTITION)}


def test_messages_are_taken_in_at_most_every_five_minutes(
    page: Page, instance: dg.DagsterInstance, run: Run
) -> None:
    for _ in range(3):
        page.act("message")
    assert asked_for(page, instance, optin_sensor) == {("optin_requests", PARTITION)}
    result = run(optin_requests, PARTITION)
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["messages"].value == 3
    page.act("message")
    assert asked_for(page, instance, optin_sensor) == set()
    recorded_earlier(instance, optin.AT_MOST_EVERY)
    assert asked_for(page, instance, optin_sensor) == {("optin_requests", PARTITION)}


def test_messages_to_a_page_without_opt_in_requests_start_no_run(
    page: Page, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    other = CONFIG.pages["globex"].page_id
    page.rows(
        "insert into mm.webhook_event (dedupe_key, field, page_id, payload) values"
        f" ('1', 'messages', '{other}', '{{\"sender\": {{\"id\": \"5551\"}}}}') returning id"
    )
    assert asked_for(page, instance, optin_sensor) == set()
    resources = {
        "mm_database": DatabaseResource(url=page.database.url),
        "mm_storage": StorageResource(base_url=str(tmp_path)),
        "mm_suppression": SuppressionResource(key=KEY.current.decode()),
    }
    assert retention.execute_in_process(resources=resources, instance=instance).success
    assert page.rows("select from mm.webhook_event where processed_at is null") == []
    assert [row.psid for row in page.rows("select psid from mm.conversation")] == ["5551"]


def test_a_sensor_claims_nothing(page: Page, instance: dg.DagsterInstance) -> None:
    page.request("table", email="mary@example.com")
    for _ in range(2):
        assert asked_for(page, instance, unsubscribe_sensor) == {("unsubscribes", PARTITION)}


def test_opt_outs_of_an_unknown_page_are_reported_and_delay_no_others(
    page: Page, instance: dg.DagsterInstance
) -> None:
    with page.database.transaction() as connection:
        connection.exec_driver_sql(
            "insert into mm.unsubscribe_request (page_id, email) values ('999', 'a@example.com')"
        )
    result = tick(page, instance, unsubscribe_sensor)
    assert "999" in str(result.skip_reason)


def test_a_refused_page_token_fails_the_run_after_the_suppression(page: Page, run: Run) -> None:
    page.request("table", email="mary@example.com")
    page.sandbox("faults", path="*/unsubscribe", error={"code": 190, "subcode": 463})
    result = run(unsubscribes, PARTITION)
    assert not result.success
    assert page.rows("select from mm.suppression")
    shown = "\n".join(str(event) for event in result.all_events)
    assert "mary@example.com" not in shown
    assert "EAApage" not in shown


def test_unusable_opt_outs_fail_a_check(page: Page, run: Run) -> None:
    page.request("table", email="nobody")
    assert failed_checks(run(unsubscribes, PARTITION)) == {"no_request_rejected"}


def test_people_in_messenger_go_from_message_to_token_to_stop(
    page: Page, instance: dg.DagsterInstance, run: Run
) -> None:
    psid = page.act("message")["psid"]
    assert asked_for(page, instance, optin_sensor) == {("optin_requests", PARTITION)}
    assert run(optin_requests, PARTITION).success
    assert asked_for(page, instance, optin_sensor) == set()
    token = page.act("accept", psid)["subscription_token"]
    assert asked_for(page, instance, optin_sensor) == {("messaging_optins", "acme")}
    assert run(messaging_optins, "acme").success
    assert page.sendable() == {token}
    page.act("stop", psid)
    assert run(messaging_optins, "acme").success
    assert page.sendable() == set()
    assert asked_for(page, instance, unsubscribe_sensor) == {("unsubscribes", PARTITION)}
    assert run(unsubscribes, PARTITION).success
    page.pull()
    assert page.sendable() == set()


def test_an_unknown_event_fails_a_check(page: Page, run: Run) -> None:
    page.store(optin_event(1, "5551", "8123", datetime.now(UTC), "PAUSE"))
    assert failed_checks(run(messaging_optins, "acme")) == {"every_event_recognized"}


def test_people_who_stay_in_a_small_audience_fail_a_check(page: Page, run: Run) -> None:
    with page.database.transaction() as connection:
        connection.exec_driver_sql(
            "insert into mm.upload_delta (audience, day, custom_audience_id, operation, origin, "
            "source_sha256, path, row_count, keys, parked_at) values "
            "('acme_newsletter', '2026-11-20', '7', 'remove', 'leavers', 'x', 'x', 3, "
            "array['EMAIL'], now())"
        )
    result = run(unsubscribes, PARTITION)
    assert failed_checks(result) == {"everyone_removed"}
    (materialized,) = result.asset_materializations_for_node("unsubscribes")
    assert materialized.metadata["parked_people"].value == 3
