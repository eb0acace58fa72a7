"""Reports runs whose process died as failed, and requests their work again.

By default Dagster does not monitor runs: a run whose process was killed stays started for ever,
keeps its slot in the queue, and hides its work from the other sensors.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Self

import dagster as dg
from pydantic import BaseModel, Field

from mm_pipelines.asset_graph import ASSET_KEYS, is_ours
from mm_pipelines.jobs import ASSETS_BY_JOB
from mm_pipelines.naming import asset_key, job_name, prefixed
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.orchestration.priorities import PRIORITY_TAG
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.run_records import PARTITION_TAG, REQUESTED_FOR_TAG, assets_of
from mm_pipelines.sensors.run_requests import MAX_ATTEMPTS
from mm_pipelines.warehouse.advisory_locks import held_locks, run_lock

DEAD_AFTER: Final = timedelta(seconds=90)
"""A run that works and does not hold its lock for so long is dead. A run that lost its connection
takes the lock again in a few seconds."""

NOT_STARTED_AFTER: Final = timedelta(minutes=15)
"""A run that was launched and does not start for so long is dead; an image may take minutes."""

ATTEMPT_TAG: Final = "mm/attempt"

_WORKING: Final = (
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_MESSAGE: Final = "The process of this run died."


@dg.sensor(
    name=prefixed("dead_run_sensor"),
    asset_selection=dg.AssetSelection.assets(*ASSET_KEYS),
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Reports runs whose process died as failed, so that they free their slot, and requests "
        "their assets again. Other sensors request the work of their own runs."
    ),
)
@skip_on_passing_fault
def dead_run_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request the assets of runs that died, and report these runs as failed one tick later.

    A tick that dies after the report could not request them any more.
    """
    before = Cursor.of(context.cursor)
    silent = {run.run_id: run for run in _without_lock(context, mm_database)}
    reported = [run for run_id, run in silent.items() if run_id in before.requested]
    for run in reported:
        _report(context, run)
    after = before.updated(silent.keys() - {run.run_id for run in reported}, datetime.now(UTC))
    dead = [silent[run_id] for run_id in after.since if _is_dead(silent[run_id], after)]
    after.requested = [run.run_id for run in dead]
    requests = [request for run in dead if (request := _request(context.instance, run))]
    return dg.SensorResult(
        run_requests=requests or None,
        skip_reason=None if requests else f"{len(reported)} dead runs reported",
        cursor=after.model_dump_json(),
    )


class Cursor(BaseModel):
    """The cursor of the sensor.

    Attributes:
        since: Since when each run is without its lock.
        requested: The dead runs whose work the last tick requested.
    """

    since: dict[str, datetime] = Field(default_factory=dict)
    requested: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, cursor: str | None) -> Self:
        """The stored cursor; the first one is empty."""
        return cls.model_validate_json(cursor or "{}")

    def updated(self, silent: Iterable[str], now: datetime) -> Self:
        """The cursor for the runs that are without their lock now."""
        return type(self)(since={run_id: self.since.get(run_id, now) for run_id in silent})


def _is_dead(run: dg.DagsterRun, cursor: Cursor) -> bool:
    starts = run.status is dg.DagsterRunStatus.STARTING
    patience = NOT_STARTED_AFTER if starts else DEAD_AFTER
    return datetime.now(UTC) - cursor.since[run.run_id] >= patience


def _report(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> None:
    context.log.warning(f"run {run.run_id} of {', '.join(sorted(assets_of(run)))} is dead")
    if run.status is dg.DagsterRunStatus.CANCELING:
        context.instance.report_run_canceled(run, _MESSAGE)
    else:
        context.instance.report_run_failed(run, _MESSAGE)


def _without_lock(
    context: dg.SensorEvaluationContext, database: DatabaseResource
) -> Iterator[dg.DagsterRun]:
    records = context.instance.get_run_records(dg.RunsFilter(statuses=list(_WORKING)))
    ours = {
        record.dagster_run.run_id: record.dagster_run
        for record in records
        if _is_of_our_location(context, record.dagster_run)
    }
    if not ours:
        return
    with database.get().transaction() as connection:
        held = held_locks(connection, [run_lock(run_id) for run_id in ours])
    yield from (run for run_id, run in ours.items() if run_lock(run_id) not in held)


def _is_of_our_location(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> bool:
    if not is_ours(run):
        return False
    here, origin = context.code_location_origin, run.remote_job_origin
    return (origin and origin.location_name) == (here and here.location_name)


def _request(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.RunRequest | None:
    """The same work again, if neither Dagster nor another sensor requests it."""
    attempt = int(run.tags.get(ATTEMPT_TAG, "1"))
    if (
        instance.run_retries_enabled
        or REQUESTED_FOR_TAG in run.tags
        or run.status is dg.DagsterRunStatus.CANCELING
        or attempt == MAX_ATTEMPTS
        or not (run.asset_selection or job_name(run.job_name) in ASSETS_BY_JOB)
    ):
        return None
    kept = {PRIORITY_TAG: run.tags[PRIORITY_TAG]} if PRIORITY_TAG in run.tags else {}
    return dg.RunRequest(
        run_key=f"after {run.run_id}",
        asset_selection=[asset_key(asset) for asset in sorted(assets_of(run))],
        partition_key=run.tags.get(PARTITION_TAG),
        run_config=run.run_config,
        tags={**kept, ATTEMPT_TAG: str(attempt + 1)},
    )
