"""Deletes old runs of ours with their events and compute logs, and old ticks.

Dagster keeps them without end, and the sensors' questions about failed runs become slower with
their number. The run that holds a partition's newest materialization stays, because Dagster and our
sensors read it. What else is needed of a run is in the schema ``mm``.
"""

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import dagster as dg
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database

_IMPLICIT_JOB: Final = "__"
"""How Dagster names the jobs of runs that materialize assets without a job."""

_ENDED: Final = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
)

# Returns up to when runs were examined; no row before the first time.
_THROUGH = text("select through from mm.run_pruning")

# Records up to when runs were examined; null begins at the oldest run again.
_RECORD = text("""
insert into mm.run_pruning (through) values (:through)
on conflict (only_one) do update set through = excluded.through, changed_at = now()
""")


@dataclass(frozen=True)
class PrunedRuns:
    """The number of examined and of deleted runs."""

    examined: int
    deleted: int


@dataclass(frozen=True)
class OurRuns:
    """Which runs of an instance are ours.

    Attributes:
        location: The name of the code location; None for runs in this process.
        jobs: The names of our jobs.
        assets: The keys of our assets.
    """

    location: str | None
    jobs: Collection[str]
    assets: Collection[dg.AssetKey]

    def contains(self, run: dg.DagsterRun) -> bool:
        """Whether a run is ours: of one of our jobs, or of nothing but our assets."""
        if location_of(run) != self.location:
            return False
        if run.job_name.startswith(_IMPLICIT_JOB):
            selected = run.asset_selection or set()
            return bool(selected) and selected <= set(self.assets)
        return run.job_name in self.jobs


def location_of(run: dg.DagsterRun) -> str | None:
    """The name of the code location that a run was launched from; None if in this process."""
    origin = run.remote_job_origin
    return origin.location_name if origin else None


def prune_runs(
    instance: dg.DagsterInstance,
    database: Database,
    ours: OurRuns,
    before: datetime,
    *,
    seconds: float,
    runs_at_once: int = 200,
) -> PrunedRuns:
    """Delete our runs that began before a time and ended.

    It examines the oldest runs first, and goes on there the next time if the time is over.

    Args:
        instance: Holds the runs.
        database: Holds how far the last call came.
        ours: Which runs are ours.
        before: Newer runs stay.
        seconds: After this time no further runs are examined.
        runs_at_once: The runs that are read at once.
    """

    def read(after: datetime | None = None, cursor: str | None = None) -> Sequence[dg.RunRecord]:
        old = dg.RunsFilter(statuses=list(_ENDED), created_after=after, created_before=before)
        return instance.get_run_records(old, limit=runs_at_once, ascending=True, cursor=cursor)

    ends_at = time.monotonic() + seconds
    with database.transaction() as connection:
        records = read(after=connection.scalar(_THROUGH))
    examined = deleted = 0
    while records and time.monotonic() < ends_at:
        # Read before the last run of these, which is the cursor, may be deleted.
        following = read(cursor=records[-1].dagster_run.run_id)
        runs = [record.dagster_run for record in records if ours.contains(record.dagster_run)]
        kept = _with_newest_materialization(instance, [run.run_id for run in runs])
        for run in runs:
            if run.run_id not in kept:
                _delete(instance, run.run_id)
                deleted += 1
        examined += len(runs)
        with database.transaction() as connection:
            through = records[-1].create_timestamp if following else None
            connection.execute(_RECORD, {"through": through})
        records = following
    return PrunedRuns(examined, deleted)


def purge_ticks(instance: dg.DagsterInstance, location: str | None, before: datetime) -> None:
    """Delete the ticks of our schedules and sensors before a time."""
    if instance.schedule_storage is None:
        return  # an instance in memory
    for state in instance.all_instigator_state():
        if state.origin.location_name == location:
            instance.purge_ticks(
                state.instigator_origin_id, state.selector_id, before=before.timestamp()
            )


def _with_newest_materialization(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> set[str]:
    """The runs that hold the newest materialization of a partition or asset."""
    materialized: defaultdict[dg.AssetKey, set[str | None]] = defaultdict(set)
    for run_id in run_ids:
        records = instance.get_records_for_run(
            run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
        for record in records:
            if record.asset_key is not None:
                materialized[record.asset_key].add(record.partition_key)
    return {
        record.run_id
        for asset, partitions in materialized.items()
        for record in _newest(instance, asset, partitions)
    }


def _newest(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partitions: set[str | None]
) -> Iterator[dg.EventLogRecord]:
    yield from instance.fetch_materializations(asset, limit=1).records
    storage_ids = instance.get_latest_storage_id_by_partition(
        asset,
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        {partition for partition in partitions if partition is not None},
    )
    if storage_ids:
        newest = dg.AssetRecordsFilter(asset, storage_ids=list(storage_ids.values()))
        yield from instance.fetch_materializations(newest, limit=len(storage_ids)).records


def _delete(instance: dg.DagsterInstance, run_id: str) -> None:
    # The run comes last: a killed call finds it again.
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)
