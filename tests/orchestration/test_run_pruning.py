"""Which runs retention deletes from Dagster's storage."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test

from mm_pipelines.orchestration.run_pruning import OurRuns, PrunedRuns, prune_runs
from mm_pipelines.sensors.run_records import last_materialized
from mm_pipelines.warehouse.database import Database
from tests.runs import recorded_earlier

BEFORE = datetime.now(UTC) - timedelta(days=90)
OURS = OurRuns(None, {"retention"}, {dg.AssetKey("daily"), dg.AssetKey("whole")})


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def daily() -> None:
    """An asset with partitions."""


@dg.asset
def whole() -> None:
    """An asset without partitions."""


@dg.asset
def foreign() -> None:
    """An asset of another project."""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def materialize(
    instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str | None = None
) -> str:
    job = dg.Definitions(assets=[asset]).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance, partition_key=partition, asset_selection=[asset.key]
    )
    return result.run_id


def runs_of(instance: dg.DagsterInstance) -> set[str]:
    return {record.dagster_run.run_id for record in instance.get_run_records()}


def prune(
    instance: dg.DagsterInstance, database: Database, *, seconds: float = 60, runs_at_once: int = 50
) -> PrunedRuns:
    return prune_runs(instance, database, OURS, BEFORE, seconds=seconds, runs_at_once=runs_at_once)


def test_old_runs_go_except_those_of_the_newest_materializations(
    instance: dg.DagsterInstance, database: Database, tmp_path: Path
) -> None:
    old = {materialize(instance, daily, "a"), materialize(instance, whole)}
    newest = {
        materialize(instance, daily, "a"),
        materialize(instance, daily, "b"),
        materialize(instance, whole),
    }
    materialized_at = last_materialized(instance, "daily", ["a", "b"])
    assert prune(instance, database) == PrunedRuns(0, 0)
    recorded_earlier(instance, timedelta(days=100))
    assert prune(instance, database) == PrunedRuns(5, 2)
    assert runs_of(instance) == newest
    logs = {path.name for path in (tmp_path / "storage").iterdir()}
    assert newest <= logs
    assert old.isdisjoint(logs)
    assert last_materialized(instance, "daily", ["a", "b"]).keys() == materialized_at.keys()
    assert prune(instance, database) == PrunedRuns(3, 0)


def test_recent_unfinished_and_other_peoples_runs_stay(
    instance: dg.DagsterInstance, database: Database
) -> None:
    elsewhere = RemoteJobOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("elsewhere"), "repository"), "retention"
    )
    failed = dg.DagsterRunStatus.FAILURE
    kept = {
        materialize(instance, foreign),
        materialize(instance, foreign),
        create_run_for_test(instance, job_name="another", status=failed).run_id,
        create_run_for_test(
            instance, job_name="retention", status=dg.DagsterRunStatus.STARTED
        ).run_id,
        create_run_for_test(
            instance, job_name="retention", status=failed, remote_job_origin=elsewhere
        ).run_id,
    }
    create_run_for_test(instance, job_name="retention", status=failed)
    recorded_earlier(instance, timedelta(days=100))
    kept.add(create_run_for_test(instance, job_name="retention", status=failed).run_id)
    assert prune(instance, database) == PrunedRuns(1, 1)
    assert runs_of(instance) == kept


def test_pruning_goes_on_where_its_time_ended(
    instance: dg.DagsterInstance, database: Database
) -> None:
    for _ in range(5):
        create_run_for_test(instance, job_name="retention", status=dg.DagsterRunStatus.FAILURE)
    recorded_earlier(instance, timedelta(days=100))
    assert prune(instance, database, seconds=0) == PrunedRuns(0, 0)
    assert prune(instance, database, runs_at_once=2) == PrunedRuns(5, 5)
    assert runs_of(instance) == set()
