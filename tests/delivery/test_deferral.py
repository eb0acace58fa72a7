"""An upload that has to wait is deferred, and the sensor requests it when it is due."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import text

from mm_pipelines.assets.audience_upload import audience_upload
from mm_pipelines.orchestration import deferrals
from mm_pipelines.orchestration.failures import MOST_RETRIES
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.sensors import deferred_work_sensor
from mm_pipelines.sensors.run_requests import MAX_ATTEMPTS
from tests.delivery.sandbox_delivery import DAY, SPEC, TOKEN, SandboxDelivery, keys, people
from tests.runs import changed_earlier, failed_until_paused

KEY = f"{SPEC.audience}|{DAY}"
USAGE = {
    "type": "custom_audience",
    "call_count": 100,
    "total_cputime": 1,
    "total_time": 1,
    "estimated_time_to_regain_access": 60,
}
Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def run(
    delivery: SandboxDelivery,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Materialize one asset for the audience's day."""
    monkeypatch.setenv("MM_SYSTEM_USER_TOKEN", TOKEN)

    def materialize(asset: dg.AssetsDefinition = audience_upload) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [asset],
            partition_key=dg.MultiPartitionKey({"audience": SPEC.audience, "day": str(DAY)}),
            instance=instance,
            raise_on_error=False,
            resources={
                "mm_database": DatabaseResource(url=delivery.database.url),
                "mm_storage": StorageResource(base_url=str(tmp_path / "storage")),
                "mm_graph_api": GraphApiResource(base_url=delivery.sandbox.url, version="v26.0"),
                "mm_suppression": SuppressionResource(key="the suppression key"),
            },
        )

    return materialize


@pytest.fixture
def tick(delivery: SandboxDelivery, instance: dg.DagsterInstance) -> Callable[[], dg.SensorResult]:
    """Evaluate the sensor."""

    def evaluate() -> dg.SensorResult:
        resources = {"mm_database": DatabaseResource(url=delivery.database.url)}
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            result = deferred_work_sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    return evaluate


Tick = Callable[[], dg.SensorResult]


def requested(tick: Tick) -> list[tuple[str, str | None]]:
    return [
        (str((request.asset_selection or [dg.AssetKey("")])[0].path[-1]), request.partition_key)
        for request in tick().run_requests or []
    ]


def is_due(delivery: SandboxDelivery) -> None:
    """The time of every deferral has come."""
    with delivery.database.transaction() as connection:
        connection.execute(text("update mm.deferred_work set due_at = now()"))
        connection.execute(
            text(
                "update mm.throttle set next_call_at = '-infinity', paused_until = '-infinity', "
                "spacing_seconds = 0"
            )
        )


def attempts(delivery: SandboxDelivery) -> list[int]:
    with delivery.database.transaction() as connection:
        return list(connection.scalars(text("select attempts from mm.deferred_work")))


def throttle(delivery: SandboxDelivery, *, nth: int = 1) -> None:
    """Meta refuses uploads from the nth on, for an hour."""
    delivery.sandbox.post(
        "faults",
        method="POST",
        path="*/users",
        nth=nth,
        times=None,
        error={"code": 80003, "message": "too many calls", "status": 400},
        headers={"X-Business-Use-Case-Usage": json.dumps({SPEC.ad_account_id: [USAGE]})},
    )


def test_a_throttled_upload_ends_at_once_and_is_finished_when_it_is_due(
    delivery: SandboxDelivery, run: Run, tick: Tick
) -> None:
    delivery.publish(people(150))
    throttle(delivery)

    result = run()

    assert result.success
    (materialized,) = result.asset_materializations_for_node("audience_upload")
    assert {"deferred_until", "deferred_because"} <= materialized.metadata.keys()
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks["delivered_in_full"] is False
    assert requested(tick) == []
    assert "is deferred until" in str(tick().skip_reason)

    delivery.sandbox.clear_faults()
    is_due(delivery)
    assert requested(tick) == [("audience_upload", KEY)]
    result = run()
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks["delivered_in_full"] is True
    assert delivery.sandbox.members() == keys(people(150))
    assert requested(tick) == []


def test_attempts_without_progress_are_counted_until_the_run_fails(
    delivery: SandboxDelivery, run: Run
) -> None:
    delivery.publish(people(150))
    throttle(delivery)
    for number in range(1, MOST_RETRIES):
        assert run().success
        assert attempts(delivery) == [number]
        is_due(delivery)
    assert not run().success


def test_progress_resets_the_attempts(delivery: SandboxDelivery, run: Run) -> None:
    delivery.publish(people(10_050))  # two batches
    throttle(delivery)
    for number in (1, 2):
        run()
        assert attempts(delivery) == [number]
        is_due(delivery)
    delivery.sandbox.clear_faults()
    throttle(delivery, nth=2)
    run()
    assert delivery.acknowledged_rows() == 10_000
    assert attempts(delivery) == [1]


def test_every_deferral_is_requested_under_a_run_key_of_its_own(
    delivery: SandboxDelivery, run: Run, tick: Tick
) -> None:
    delivery.publish(people(150))
    throttle(delivery)
    run_keys = set()
    for _ in range(3):
        run()
        is_due(delivery)
        (request,) = tick().run_requests or []
        run_keys.add(request.run_key)
    assert len(run_keys) == 3


def test_deferred_work_whose_runs_keep_failing_is_paused_and_shown(
    delivery: SandboxDelivery, run: Run, tick: Tick, instance: dg.DagsterInstance
) -> None:
    delivery.publish(people(150))
    throttle(delivery)
    run()
    is_due(delivery)
    failed_until_paused(instance, "audience_upload", KEY)
    changed_earlier(instance, timedelta(hours=1))
    assert f"is paused after {MAX_ATTEMPTS} failed runs" in str(tick().skip_reason)


def test_an_open_delta_whose_run_was_killed_is_requested(
    delivery: SandboxDelivery, tick: Tick, instance: dg.DagsterInstance
) -> None:
    with delivery.database.transaction() as connection:
        connection.execute(
            text(
                "insert into mm.upload_delta (audience, day, custom_audience_id, operation, "
                "origin, source_sha256, path, row_count, keys) values "
                "(:audience, :day, '7', 'add', 'payload', 'x', 'x', 5, array['EMAIL'])"
            ),
            {"audience": SPEC.audience, "day": DAY},
        )
    assert requested(tick) == []
    with delivery.database.transaction() as connection:
        connection.execute(
            text("update mm.upload_delta set created_at = now() - interval '16 min'")
        )
    assert requested(tick) == [("audience_upload", KEY)]
    # A run of any partition may work on it:
    with delivery.database.lock(f"audience:{SPEC.audience}"):
        assert requested(tick) == []
    create_run_for_test(
        instance,
        job_name="daily_upload",
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": KEY},
    )
    assert requested(tick) == []


def test_an_upload_beside_another_run_waits_for_its_lock_and_never_fails(
    delivery: SandboxDelivery, run: Run, tick: Tick
) -> None:
    delivery.publish(people(150))
    with delivery.database.lock(f"audience:{SPEC.audience}"):
        for number in range(1, MOST_RETRIES + 2):
            assert run().success
            assert attempts(delivery) == [number]
        assert requested(tick) == []
        assert "until the lock on audience:acme_newsletter is free" in str(tick().skip_reason)
    assert requested(tick) == [("audience_upload", KEY)]
    run()
    assert attempts(delivery) == []


def test_work_that_waits_for_the_same_lock_is_requested_one_at_a_time(
    delivery: SandboxDelivery, tick: Tick, instance: dg.DagsterInstance
) -> None:
    for asset in ("audience_upload", "audience_removals"):
        with delivery.database.transaction() as connection:
            deferrals.defer(
                connection,
                asset,
                KEY,
                wait=timedelta(0),
                reason="another run holds the lock",
                waits_for_lock=f"audience:{SPEC.audience}",
                made_progress=False,
                run_id="run",
            )
    assert requested(tick) == [("audience_removals", KEY)]
    create_run_for_test(
        instance,
        job_name="__ASSET_JOB",
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": KEY},
        asset_selection=frozenset({dg.AssetKey("audience_removals")}),
    )
    assert requested(tick) == []
    assert "another run takes the lock" in str(tick().skip_reason)
