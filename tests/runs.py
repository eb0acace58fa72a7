"""Runs that Dagster remembers, as the sensors find them."""

from datetime import timedelta

import dagster as dg
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.test_utils import create_run_for_test

from mm_pipelines.sensors.asking import ASKED_FOR_TAG, MAX_ATTEMPTS


def failed_until_set_aside(instance: dg.DagsterInstance, asset: str, partition: str) -> None:
    """So many runs that a sensor asked for have failed that it asks for no more."""
    for _ in range(MAX_ATTEMPTS):
        create_run_for_test(
            instance,
            job_name="any",
            status=dg.DagsterRunStatus.FAILURE,
            tags={ASKED_FOR_TAG: asset, "dagster/partition": partition},
        )


def ended_earlier(instance: dg.DagsterInstance, by: timedelta) -> None:
    """All runs ended so much earlier."""
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    for record in instance.get_run_records():
        at = (record.update_timestamp - by).replace(tzinfo=None)
        with storage.connect() as connection:
            connection.execute(RunsTable.update().values(update_timestamp=at))
