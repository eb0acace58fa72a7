"""A materialization of another team's asset requests the audiences that are made from it."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta

import dagster as dg
import pytest

from mm_pipelines.definitions import defs
from mm_pipelines.naming import asset_key
from mm_pipelines.partitions import CONFIG, AudienceDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors import upstream_sensor
from mm_pipelines.sensors.run_requests import MAX_ATTEMPTS
from tests.runs import failed_until_paused

UPSTREAM = dg.AssetKey(["dbt", "customers"])
TODAY = datetime.now(CONFIG.zone).date()
KEY = str(AudienceDay("acme_loyalty", TODAY).key)


@pytest.fixture
def instance(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("MM_DATABASE_URL", database_url)
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(instance: dg.DagsterInstance) -> dg.SensorResult:
    resources = {"mm_database": DatabaseResource(url=os.environ["MM_DATABASE_URL"])}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        result = upstream_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def keys(result: dg.SensorResult) -> list[str | None]:
    return [request.partition_key for request in result.run_requests or []]


def materialized(instance: dg.DagsterInstance, partition: str | None = None) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(UPSTREAM, partition=partition))


def run_upstream(instance: dg.DagsterInstance, *, passed: bool, severity: str = "ERROR") -> None:
    """Materialize the asset in a run that also evaluates its check."""

    @dg.asset(key=UPSTREAM, check_specs=[dg.AssetCheckSpec("not_empty", asset=UPSTREAM)])
    def customers() -> dg.MaterializeResult:  # type: ignore[type-arg]
        check = dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity(severity))
        return dg.MaterializeResult(check_results=[check])

    dg.materialize([customers], instance=instance)


def test_the_lineage_shows_the_upstream_asset() -> None:
    graph = defs.resolve_asset_graph()
    assert UPSTREAM in graph.get(asset_key("customer_list")).parent_keys


def test_a_materialization_requests_the_audiences_of_the_asset(
    instance: dg.DagsterInstance,
) -> None:
    assert keys(tick(instance)) == []
    materialized(instance)
    result = tick(instance)
    assert keys(result) == [KEY]
    assert result.run_requests
    assert result.run_requests[0].job_name == "daily_upload"


def test_an_upload_after_the_materialization_does_the_work(instance: dg.DagsterInstance) -> None:
    materialized(instance)
    instance.report_runless_asset_event(
        dg.AssetMaterialization(asset_key("audience_upload"), partition=KEY)
    )
    assert keys(tick(instance)) == []
    materialized(instance)
    assert keys(tick(instance)) == [KEY]


def test_a_partition_of_a_day_requests_that_day(instance: dg.DagsterInstance) -> None:
    day = TODAY - timedelta(days=2)
    materialized(instance, day.isoformat())
    expected = [str(AudienceDay("acme_loyalty", day).key)] if day >= CONFIG.start_date else []
    assert keys(tick(instance)) == expected


def test_failed_runs_pause_the_partition_until_the_next_materialization(
    instance: dg.DagsterInstance,
) -> None:
    materialized(instance)
    failed_until_paused(instance, "audience_upload", KEY)
    result = tick(instance)
    assert keys(result) == []
    assert f"paused after {MAX_ATTEMPTS} failed runs" in str(result.skip_reason)


def test_a_failed_check_upstream_holds_the_audience_back(instance: dg.DagsterInstance) -> None:
    run_upstream(instance, passed=False)
    result = tick(instance)
    assert keys(result) == []
    assert "acme_loyalty: the check not_empty of dbt/customers failed" in str(result.skip_reason)
    run_upstream(instance, passed=True)
    assert keys(tick(instance)) == [KEY]


def test_a_warning_upstream_holds_nothing_back(instance: dg.DagsterInstance) -> None:
    run_upstream(instance, passed=False, severity="WARN")
    assert keys(tick(instance)) == [KEY]


def test_an_unfinished_run_upstream_is_waited_for(instance: dg.DagsterInstance) -> None:
    @dg.asset(key=UPSTREAM)
    def customers(context: dg.AssetExecutionContext) -> None:
        context.log_event(dg.AssetMaterialization(UPSTREAM))
        assert keys(tick(instance)) == []

    dg.materialize([customers], instance=instance)
    assert keys(tick(instance)) == [KEY]
