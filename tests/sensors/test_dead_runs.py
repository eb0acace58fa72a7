"""Runs whose process died are reported as failed, and their work is requested again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import text

from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors import dead_run_sensor
from mm_pipelines.sensors.dead_runs import ATTEMPT_TAG, DEAD_AFTER, NOT_STARTED_AFTER, Cursor
from mm_pipelines.sensors.run_records import REQUESTED_FOR_TAG
from mm_pipelines.sensors.run_requests import MAX_ATTEMPTS
from mm_pipelines.warehouse.advisory_locks import held_locks, run_lock
from mm_pipelines.warehouse.database import Database

KEY = "acme_newsletter|2026-11-20"


class Ticks:
    """The ticks of the sensor, one after another."""

    def __init__(self, instance: dg.DagsterInstance, database: Database) -> None:
        self.instance = instance
        self.cursor = Cursor()
        self._resources = {"mm_database": DatabaseResource(url=database.url)}

    def tick(self, later: timedelta = timedelta(0)) -> list[dg.RunRequest]:
        """The requests of the next tick, which is so much later than the one before."""
        self.cursor.since = {run: at - later for run, at in self.cursor.since.items()}
        with dg.build_sensor_context(
            self.instance, cursor=self.cursor.model_dump_json(), resources=self._resources
        ) as context:
            result = dead_run_sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = Cursor.of(result.cursor)
        return list(result.run_requests or [])

    def status(self, run: dg.DagsterRun) -> dg.DagsterRunStatus:
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.status

    def run(
        self,
        status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
        tags: Mapping[str, str] | None = None,
    ) -> dg.DagsterRun:
        run: dg.DagsterRun = create_run_for_test(
            self.instance,
            job_name="daily_upload",
            status=status,
            tags={"dagster/partition": KEY, **(tags or {})},
        )
        return run


@pytest.fixture
def ticks(database: Database) -> Iterator[Ticks]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Ticks(instance, database)


def test_runs_of_another_teams_job_are_not_touched(ticks: Ticks) -> None:
    theirs = create_run_for_test(
        ticks.instance,
        job_name="their_report",
        status=dg.DagsterRunStatus.STARTED,
        asset_selection={dg.AssetKey("their_table")},
    )
    for _ in range(3):
        assert ticks.tick(DEAD_AFTER) == []
    assert ticks.status(theirs) is dg.DagsterRunStatus.STARTED


def test_a_dead_run_is_requested_again_and_reported_as_failed(ticks: Ticks) -> None:
    run = ticks.run(tags={"dagster/priority": "10"})
    assert ticks.tick() == []
    assert ticks.tick(DEAD_AFTER / 2) == []
    (request,) = ticks.tick(DEAD_AFTER / 2)
    assert request.partition_key == KEY
    assert {key.to_user_string() for key in request.asset_selection or []} == {
        *("customer_list", "hashed_payload", "audience_upload", "match_status")
    }
    assert request.tags == {"dagster/priority": "10", ATTEMPT_TAG: "2"}
    assert ticks.status(run) is dg.DagsterRunStatus.STARTED
    assert ticks.tick() == []
    assert ticks.status(run) is dg.DagsterRunStatus.FAILURE


def test_a_tick_that_died_before_its_requests_were_stored_requests_them_again(
    ticks: Ticks,
) -> None:
    ticks.run()
    ticks.tick()
    stored = ticks.cursor
    (first,) = ticks.tick(DEAD_AFTER)
    ticks.cursor = stored
    (second,) = ticks.tick(DEAD_AFTER)
    assert first.run_key == second.run_key


def test_a_living_run_is_left_unchanged(ticks: Ticks, database: Database) -> None:
    run = ticks.run()
    with database.shared_lock(run_lock(run.run_id)):
        ticks.tick()
        assert ticks.tick(DEAD_AFTER) == []
    assert ticks.status(run) is dg.DagsterRunStatus.STARTED


def test_a_run_that_takes_its_lock_again_in_time_lives(ticks: Ticks, database: Database) -> None:
    run = ticks.run()
    ticks.tick()
    with database.shared_lock(run_lock(run.run_id)):
        ticks.tick(DEAD_AFTER / 2)
    assert ticks.tick(DEAD_AFTER / 2) == []


def test_a_run_has_time_to_start(ticks: Ticks) -> None:
    run = ticks.run(dg.DagsterRunStatus.STARTING)
    ticks.tick()
    assert ticks.tick(DEAD_AFTER) == []
    assert len(ticks.tick(NOT_STARTED_AFTER)) == 1
    ticks.tick()
    assert ticks.status(run) is dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(
    "tags", [{REQUESTED_FOR_TAG: "match_status"}, {ATTEMPT_TAG: str(MAX_ATTEMPTS)}]
)
def test_runs_of_other_sensors_and_runs_that_died_often_are_only_reported(
    ticks: Ticks, tags: dict[str, str]
) -> None:
    run = ticks.run(tags=tags)
    ticks.tick()
    assert ticks.tick(DEAD_AFTER) == []
    ticks.tick()
    assert ticks.status(run) is dg.DagsterRunStatus.FAILURE


def test_a_dead_run_that_a_person_canceled_ends_as_canceled(ticks: Ticks) -> None:
    run = ticks.run(dg.DagsterRunStatus.CANCELING)
    ticks.tick()
    assert ticks.tick(DEAD_AFTER) == []
    ticks.tick()
    assert ticks.status(run) is dg.DagsterRunStatus.CANCELED


END_OTHER_SESSIONS = text("""
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
""")

HOLDER = """
import sys, time
from mm_pipelines.warehouse.advisory_locks import run_lock
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.lock_keeper import LockKeeper
LockKeeper(Database(sys.argv[1]), run_lock("r")).start()
time.sleep(60)
"""


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def _is_held(database: Database) -> bool:
    with database.transaction() as connection:
        return bool(held_locks(connection, [run_lock("r")]))


@pytest.mark.slow
def test_the_lock_of_a_run_ends_with_its_process_and_survives_its_session(
    database: Database,
) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, database.url])
    try:
        wait_until(lambda: _is_held(database))
        with database.transaction() as connection:
            connection.execute(END_OTHER_SESSIONS)
        wait_until(lambda: not _is_held(database))
        wait_until(lambda: _is_held(database))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_until(lambda: not _is_held(database))
