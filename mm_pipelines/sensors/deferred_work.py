"""Requests work that a run deferred, and uploads that a killed run left unfinished."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg
from sqlalchemy import Connection

from mm_pipelines.delivery import interrupted_deltas
from mm_pipelines.naming import prefixed, select
from mm_pipelines.orchestration import deferrals
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.orchestration.priorities import priority_of
from mm_pipelines.partitions import AUDIENCE, AUDIENCE_BY_DAY, PAGE, PAGE_BY_DAY, AudienceDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.run_requests import (
    EVERY_LOOP_SECONDS,
    PendingWork,
    TickOutcome,
    request_runs,
)
from mm_pipelines.warehouse.advisory_locks import held_locks

INTERRUPTED_AFTER = timedelta(minutes=2)
"""A run works on an open delta with shorter pauses, and holds the lock of its audience."""

_ASSETS: Final[Mapping[str, dg.PartitionsDefinition | None]] = {
    "audience_upload": AUDIENCE_BY_DAY,
    "audience_removals": AUDIENCE_BY_DAY,
    "audiences_at_meta": None,
    "custom_audience": AUDIENCE,
    "optin_requests": PAGE_BY_DAY,
    "subscription_tokens": PAGE,
    "token_details": PAGE,
    "unsubscribes": PAGE_BY_DAY,
}


@dg.sensor(
    name=prefixed("deferred_work_sensor"),
    asset_selection=select(*_ASSETS),
    minimum_interval_seconds=EVERY_LOOP_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests work that a run deferred, as soon as it is due, and uploads that a killed run "
        "left unfinished."
    ),
)
@skip_on_passing_fault
def deferred_work_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request deferred work that is due, and open deltas that no run works on."""
    outcome = TickOutcome()
    with mm_database.get().transaction() as connection:
        due = [*_deferred(connection, outcome), *_interrupted(connection)]
    current = [work for work in due if _has_partition(work)]
    return request_runs(context.instance, current, outcome).result(context)


def _deferred(connection: Connection, outcome: TickOutcome) -> Iterator[PendingWork]:
    """The deferrals that are due and whose lock is free, the most urgent first."""
    now = datetime.now(UTC)
    pending = [deferral for deferral in deferrals.pending(connection) if deferral.asset in _ASSETS]
    pending.sort(key=lambda deferral: -priority_of(deferral.asset))
    taken = held_locks(connection, {lock for d in pending if (lock := d.waits_for_lock)})
    for deferral in pending:
        work = PendingWork(
            deferral.asset,
            deferral.partition_key,
            done_at=deferral.deferred_at,
            lock=deferral.waits_for_lock,
        )
        if deferral.due_at <= now and deferral.waits_for_lock not in taken:
            yield work
        else:
            outcome.notes.append(f"{work.name} is {deferral}")


def _interrupted(connection: Connection) -> Iterator[PendingWork]:
    """Open deltas whose run died. The upload of any day finishes its audience's open deltas."""
    found = interrupted_deltas.find(connection, idle_for=INTERRUPTED_AFTER)
    locks = {delta.audience: f"audience:{delta.audience}" for delta in found}
    taken = held_locks(connection, locks.values())
    for delta in found:
        if locks[delta.audience] not in taken:
            yield PendingWork(
                "audience_upload",
                AudienceDay(delta.audience, delta.day).key,
                done_at=delta.last_active_at,
                lock=locks[delta.audience],
            )


def _has_partition(work: PendingWork) -> bool:
    """Whether mm.yaml still has the audience or Page."""
    partitions = _ASSETS[work.asset]
    return partitions is None or partitions.has_partition_key(work.partition_key)
