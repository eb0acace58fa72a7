"""The least that Dagster can be asked for: a sensor that sees a row, and a run that stamps it.

A code location of its own, which imports nothing of ours; benchmarks.event_to_effect holds our way
from an event to its effect against it.
"""

import os
from collections.abc import Iterator

import dagster as dg
import psycopg2

URL_VARIABLE = "MM_DATABASE_URL"

CREATE = """
create table floor_event (
    id bigint generated always as identity primary key,
    received_at timestamptz not null default now(),
    processed_at timestamptz
)
"""

_PENDING = "select id from floor_event where processed_at is null order by id"
_STAMP = "update floor_event set processed_at = now() where processed_at is null"


@dg.asset
def stamped() -> None:
    with psycopg2.connect(os.environ[URL_VARIABLE]) as connection, connection.cursor() as cursor:
        cursor.execute(_STAMP)


@dg.sensor(
    asset_selection=[stamped],
    minimum_interval_seconds=1,  # as our sensors: every turn of the daemon
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def floor_sensor() -> Iterator[dg.RunRequest]:
    with psycopg2.connect(os.environ[URL_VARIABLE]) as connection, connection.cursor() as cursor:
        cursor.execute(_PENDING)
        for (number,) in cursor.fetchall():
            yield dg.RunRequest(run_key=str(number))


defs = dg.Definitions(assets=[stamped], sensors=[floor_sensor], executor=dg.in_process_executor)
