"""The sensor that watches for lists."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mm_pipelines.definitions import defs
from mm_pipelines.partitions import CONFIG, AudienceDay
from mm_pipelines.sensors import customer_list_sensor
from mm_pipelines.sensors.customer_list import DAYS_WATCHED

TODAY = datetime.now(CONFIG.zone).date()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
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
    path = Path(partition.list_url)
    assert path.is_relative_to(lists)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return str(partition.key)


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
        result = customer_list_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def keys(result: dg.SensorResult) -> list[str | None]:
    return [request.partition_key for request in result.run_requests or []]


def test_a_new_list_asks_for_its_partition_once(lists: Path, instance: dg.DagsterInstance) -> None:
    key = put(lists, "email\n")
    first = tick(instance)
    assert keys(first) == [key]
    assert keys(tick(instance, first.cursor)) == []


def test_a_changed_list_asks_again_under_another_key(
    lists: Path, instance: dg.DagsterInstance
) -> None:
    key = put(lists, "email\n")
    first = tick(instance)
    put(lists, "email\na@example.com\n")
    second = tick(instance, first.cursor)
    assert keys(second) == [key]
    run_keys = {request.run_key for tick in (first, second) for request in tick.run_requests or []}
    assert len(run_keys) == 2


def test_without_lists_nothing_is_asked_and_the_reason_told(
    lists: Path, instance: dg.DagsterInstance
) -> None:
    result = tick(instance)
    assert keys(result) == []
    assert result.skip_reason is not None


@pytest.mark.parametrize("cursor", ["", "no json", "[]", '{"marks": 7}', '{"other": 1}'])
def test_a_cursor_that_cannot_be_read_begins_anew(
    lists: Path, instance: dg.DagsterInstance, cursor: str
) -> None:
    key = put(lists, "email\n")
    assert keys(tick(instance, cursor)) == [key]


def test_lists_from_before_the_watched_days_are_left_alone(
    lists: Path, instance: dg.DagsterInstance
) -> None:
    put(lists, "email\n", days_ago=DAYS_WATCHED)
    assert keys(tick(instance)) == []


def test_a_list_that_cannot_be_looked_at_does_not_hold_up_the_others(
    lists: Path, instance: dg.DagsterInstance
) -> None:
    key = put(lists, "email\n")
    (lists / "customers" / "acme_loyalty").symlink_to(lists / "customers" / "acme_loyalty")
    assert keys(tick(instance)) == [key]


def test_a_folder_is_no_list(lists: Path, instance: dg.DagsterInstance) -> None:
    key = put(lists, "email\n")
    Path(AudienceDay("acme_loyalty", TODAY).list_url).mkdir(parents=True)
    assert keys(tick(instance)) == [key]


# Dagster names its own tags of multi-partition keys so.
@pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")
def test_dagster_accepts_what_is_asked_for(lists: Path, instance: dg.DagsterInstance) -> None:
    key = put(lists, "email\n")
    with dg.build_sensor_context(
        instance=instance, repository_def=defs.get_repository_def()
    ) as context:
        (request,) = customer_list_sensor.evaluate_tick(context).run_requests or []
    assert request.partition_key == key
