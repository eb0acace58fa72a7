"""The sensors that watch for customer lists and removal lists."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import fsspec
import pytest
from dagster._core.test_utils import create_run_for_test

from mm_pipelines.definitions import defs
from mm_pipelines.partitions import CONFIG, AudienceDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors import customer_list_sensor, removal_list_sensor
from mm_pipelines.sensors.customer_list import DAYS_WATCHED
from mm_pipelines.sensors.run_records import REQUESTED_FOR_TAG
from mm_pipelines.sensors.run_requests import wait_after
from tests.runs import changed_earlier

TODAY = datetime.now(CONFIG.zone).date()


@pytest.fixture
def instance(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("MM_DATABASE_URL", database_url)
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def lists(tmp_path: Path) -> Iterator[Path]:
    """The folder that mm.yaml's relative paths start from."""
    before = CONFIG.directory
    CONFIG._directory = tmp_path
    yield tmp_path
    CONFIG._directory = before


def put(lists: Path, content: str, *, audience: str = "acme_newsletter", days_ago: int = 0) -> str:
    partition = AudienceDay(audience, TODAY - timedelta(days=days_ago))
    path = Path(partition.customer_list.name)
    assert path.is_relative_to(lists)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return str(partition.key)


def resources() -> dict[str, object]:
    return {"mm_database": DatabaseResource(url=os.environ["MM_DATABASE_URL"])}


def tick(
    instance: dg.DagsterInstance,
    cursor: str | None = None,
    sensor: dg.SensorDefinition = customer_list_sensor,
) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources=resources()
    ) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def keys(result: dg.SensorResult) -> list[str | None]:
    return [request.partition_key for request in result.run_requests or []]


def materialize(instance: dg.DagsterInstance, asset: str, key: str) -> None:
    """The asset did its work for a partition."""
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key))


def test_a_new_list_is_requested_until_it_is_uploaded(
    lists: Path, instance: dg.DagsterInstance
) -> None:
    key = put(lists, "email\n")
    first = tick(instance)
    assert keys(first) == [key]
    again = tick(instance, first.cursor)
    assert [request.run_key for request in again.run_requests or []] == [
        request.run_key for request in first.run_requests or []
    ]
    materialize(instance, "audience_upload", key)
    assert keys(tick(instance, again.cursor)) == []


def test_a_list_whose_run_failed_is_requested_again_with_another_key(
    lists: Path, instance: dg.DagsterInstance
) -> None:
    key = put(lists, "email\n")
    first = tick(instance)
    create_run_for_test(
        instance,
        job_name="daily_upload",
        status=dg.DagsterRunStatus.FAILURE,
        tags={REQUESTED_FOR_TAG: "audience_upload", "dagster/partition": key},
    )
    waiting = tick(instance, first.cursor)
    assert keys(waiting) == []
    assert "next attempt at" in str(waiting.skip_reason)
    changed_earlier(instance, wait_after(1))
    (request,) = tick(instance, waiting.cursor).run_requests or []
    assert str(request.run_key).endswith("attempt-2")


def test_a_removal_list_that_comes_late_is_requested_until_it_is_carried_out(
    instance: dg.DagsterInstance,
) -> None:
    day = TODAY - timedelta(days=2)
    with fsspec.open(f"memory://removals/acme_newsletter/{day}.csv", "wt") as file:
        file.write("email\n")
    try:
        first = tick(instance, sensor=removal_list_sensor)
        key = f"acme_newsletter|{day}"
        assert keys(first) == [key]
        materialize(instance, "audience_removals", key)
        assert keys(tick(instance, first.cursor, sensor=removal_list_sensor)) == []
    finally:
        fsspec.filesystem("memory").rm("/removals", recursive=True)


def test_a_changed_list_is_requested_with_another_key(
    lists: Path, instance: dg.DagsterInstance
) -> None:
    key = put(lists, "email\n")
    first = tick(instance)
    put(lists, "email\na@example.com\n")
    second = tick(instance, first.cursor)
    assert keys(second) == [key]
    run_keys = {request.run_key for tick in (first, second) for request in tick.run_requests or []}
    assert len(run_keys) == 2


def test_without_lists_the_tick_is_skipped_with_a_reason(
    lists: Path, instance: dg.DagsterInstance
) -> None:
    result = tick(instance)
    assert keys(result) == []
    assert result.skip_reason is not None


@pytest.mark.parametrize("cursor", ["", "no json", "[]", '{"marks": 7}', '{"other": 1}'])
def test_a_cursor_that_cannot_be_read_starts_empty(
    lists: Path, instance: dg.DagsterInstance, cursor: str
) -> None:
    key = put(lists, "email\n")
    assert keys(tick(instance, cursor)) == [key]


def test_lists_older_than_the_watched_days_are_ignored(
    lists: Path, instance: dg.DagsterInstance
) -> None:
    put(lists, "email\n", days_ago=DAYS_WATCHED)
    assert keys(tick(instance)) == []


def test_an_unreachable_list_does_not_delay_the_others(
    lists: Path, instance: dg.DagsterInstance
) -> None:
    key = put(lists, "email\n")
    (lists / "customers" / "acme_loyalty").symlink_to(lists / "customers" / "acme_loyalty")
    assert keys(tick(instance)) == [key]


def test_a_folder_is_no_list(lists: Path, instance: dg.DagsterInstance) -> None:
    key = put(lists, "email\n")
    Path(AudienceDay("acme_loyalty", TODAY).customer_list.name).mkdir(parents=True)
    assert keys(tick(instance)) == [key]


# Dagster names its own tags of multi-partition keys so.
@pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")
def test_dagster_accepts_the_requests(lists: Path, instance: dg.DagsterInstance) -> None:
    key = put(lists, "email\n")
    with dg.build_sensor_context(
        instance=instance, repository_def=defs.get_repository_def(), resources=resources()
    ) as context:
        (request,) = customer_list_sensor.evaluate_tick(context).run_requests or []
    assert request.partition_key == key
