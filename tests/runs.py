"""Run records of a Dagster instance, as the sensors read them."""

from datetime import timedelta

import dagster as dg
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.test_utils import create_run_for_test

from mm_pipelines.sensors.run_requests import MAX_ATTEMPTS, REQUESTED_FOR_TAG


def failed_until_paused(instance: dg.DagsterInstance, asset: str, partition: str) -> None:
    """Record so many failed runs that a sensor pauses the partition."""
    for _ in range(MAX_ATTEMPTS):
        create_run_for_test(
            instance,
            job_name="any",
            status=dg.DagsterRunStatus.FAILURE,
            tags={REQUESTED_FOR_TAG: asset, "dagster/partition": partition},
        )


def ended_earlier(instance: dg.DagsterInstance, by: timedelta) -> None:
    """Move the end of every run back in time."""
    _move(instance, "update_timestamp", by)


def created_earlier(instance: dg.DagsterInstance, by: timedelta) -> None:
    """Move the creation of every run back in time."""
    _move(instance, "create_timestamp", by)


def _move(instance: dg.DagsterInstance, column: str, by: timedelta) -> None:
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    for record in instance.get_run_records():
        at = (getattr(record, column) - by).replace(tzinfo=None)
        with storage.connect() as connection:
            connection.execute(RunsTable.update().values({column: at}))
