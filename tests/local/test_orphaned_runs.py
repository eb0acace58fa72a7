import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from mm_pipelines.local.environment import dagster_database_url
from mm_pipelines.local.stack import find_orphaned_runs
from mm_pipelines.warehouse.database import Database

OURS = Path("/home/.mm/dagster/code-server-ours.sock")


@pytest.fixture
def instance(tmp_path: Path, database_url: str) -> Iterator[dg.DagsterInstance]:
    """Dagster's storage in the database of the test."""
    url = dagster_database_url(database_url)
    settings = {"storage": {"postgres": {"postgres_url": url}}, "telemetry": {"enabled": False}}
    (tmp_path / "dagster.yaml").write_text(json.dumps(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def started(instance: dg.DagsterInstance, socket: Path | None) -> str:
    tags = {} if socket is None else {".dagster/grpc_info": json.dumps({"socket": str(socket)})}
    run = create_run_for_test(
        instance, job_name="any", status=dg.DagsterRunStatus.STARTED, tags=tags
    )
    return str(run.run_id)


def test_a_database_without_dagsters_tables_has_no_orphaned_run(database: Database) -> None:
    assert find_orphaned_runs(database, OURS) == []


def test_only_runs_of_this_stacks_code_server_are_orphaned(
    instance: dg.DagsterInstance, database: Database
) -> None:
    orphaned = started(instance, OURS)
    started(instance, OURS.with_name("code-server-of-another-host.sock"))
    started(instance, None)
    assert find_orphaned_runs(database, OURS) == [orphaned]
