"""Requests work that a run deferred, and uploads that a killed run left unfinished."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg
from sqlalchemy import Connection

from mm_pipelines.delivery import interrupted_deltas
from mm_pipelines.orchestration import deferrals
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.partitions import AUDIENCE, AUDIENCE_BY_DAY, PAGE, PAGE_BY_DAY, AudienceDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.run_requests import EVERY_LOOP_SECONDS, PendingWork, build_run_requests
from mm_pipelines.warehouse.advisory_locks import held_locks

INTERRUPTED_AFTER = timedelta(minutes=15)
"""An open delta without a sent batch for so long is no longer worked on."""

_ASSETS: Final[Mapping[str, dg.PartitionsDefinition]] = {
    "audience_upload": AUDIENCE_BY_DAY,
    "audience_removals": AUDIENCE_BY_DAY,
    "custom_audience": AUDIENCE,
    "optin_requests": PAGE_BY_DAY,
    "subscription_tokens": PAGE,
    "token_details": PAGE,
    "unsubscribes": PAGE_BY_DAY,
}


@dg.sensor(
    asset_selection=dg.AssetSelection.assets(*_ASSETS),
    minimum_interval_seconds=EVERY_LOOP_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests work that a run deferred, as soon as it is due, and uploads that a killed run "
        "left unfinished."
    ),
)
@skip_on_passing_fault
def deferred_work_sensor(
    context: dg.SensorEvaluationContext, database: DatabaseResource
) -> dg.SensorResult:
    """Request deferred work that is due, and open deltas that no run works on."""
    notes: list[str] = []
    with database.get().transaction() as connection:
        due = [*_deferred(connection, notes), *_interrupted(connection)]
    current = [
        work
        for work in {(work.asset, work.partition_key): work for work in due}.values()
        if _ASSETS[work.asset].has_partition_key(work.partition_key)
    ]
    outcome = build_run_requests(context.instance, current)
    outcome.notes += notes
    return outcome.result(context)


def _deferred(connection: Connection, notes: list[str]) -> Iterator[PendingWork]:
    now = datetime.now(UTC)
    pending = [deferral for deferral in deferrals.pending(connection) if deferral.asset in _ASSETS]
    held = held_locks(connection, {lock for d in pending if (lock := d.waits_for_lock)})
    for deferral in pending:
        if deferral.waits_for_lock in held:
            notes.append(
                f"{deferral.asset} of {deferral.partition_key} waits until another run releases "
                f"the lock on {deferral.waits_for_lock}"
            )
        elif deferral.due_at <= now:
            yield PendingWork(deferral.asset, deferral.partition_key, done_at=deferral.deferred_at)
        else:
            notes.append(
                f"{deferral.asset} of {deferral.partition_key} is deferred until "
                f"{deferral.due_at:%H:%M:%S} UTC: {deferral.reason}"
            )


def _interrupted(connection: Connection) -> Iterator[PendingWork]:
    """Open deltas whose run died. The upload of any day finishes its audience's open deltas."""
    for delta in interrupted_deltas.find(connection, idle_for=INTERRUPTED_AFTER):
        yield PendingWork(
            "audience_upload",
            AudienceDay(delta.audience, delta.day).key,
            done_at=delta.last_active_at,
            ignore_runs_before=delta.last_active_at,
        )
