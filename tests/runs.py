"""Run records of a Dagster instance, as the sensors read them."""

from datetime import timedelta

import dagster as dg
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.test_utils import create_run_for_test
from dagster._serdes import deserialize_value, serialize_value

from mm_pipelines.sensors.run_records import REQUESTED_FOR_TAG
from mm_pipelines.sensors.run_requests import MAX_ATTEMPTS


def failed_until_paused(instance: dg.DagsterInstance, asset: str, partition: str) -> None:
    """Record so many failed runs that a sensor pauses the partition."""
    for _ in range(MAX_ATTEMPTS):
        create_run_for_test(
            instance,
            job_name="any",
            status=dg.DagsterRunStatus.FAILURE,
            tags={REQUESTED_FOR_TAG: asset, "dagster/partition": partition},
        )


def changed_earlier(instance: dg.DagsterInstance, by: timedelta) -> None:
    """Move the last change of every run's status, such as its end, back in time."""
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    for record in instance.get_run_records():
        at = (record.update_timestamp - by).replace(tzinfo=None)
        with storage.connect() as connection:
            connection.execute(RunsTable.update().values(update_timestamp=at))


def recorded_earlier(instance: dg.DagsterInstance, by: timedelta) -> None:
    """Move every run and every event back in time."""
    changed_earlier(instance, by)
    runs = instance.run_storage
    assert isinstance(runs, SqlRunStorage)
    for record in instance.get_run_records():
        at = (record.create_timestamp - by).replace(tzinfo=None)
        with runs.connect() as connection:
            connection.execute(
                RunsTable.update()
                .where(RunsTable.c.run_id == record.dagster_run.run_id)
                .values(create_timestamp=at)
            )
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with storage.index_connection() as connection:
        for row in connection.execute(SqlEventLogStorageTable.select()).all():
            event = deserialize_value(row.event, EventLogEntry)
            earlier = event._replace(timestamp=event.timestamp - by.total_seconds())
            connection.execute(
                SqlEventLogStorageTable.update()
                .where(SqlEventLogStorageTable.c.id == row.id)
                .values(event=serialize_value(earlier))
            )
