"""What Dagster's records say about due work; each function asks the instance once."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

import dagster as dg

from mm_pipelines.jobs import ASSETS_BY_JOB
from mm_pipelines.naming import asset_key, asset_name, job_name

REQUESTED_FOR_TAG: Final = "mm/requested_for"

Work = tuple[str, str]
"""An asset and its partition key, which is empty for an asset without partitions."""

PARTITION_TAG: Final = "dagster/partition"
_FAILED: Final = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_UNFINISHED: Final = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


def in_flight(instance: dg.DagsterInstance, due: Collection[Work]) -> set[Work]:
    """The assets and partitions that unfinished runs cover, among others those that are due."""
    runs = [
        record.dagster_run
        for tags in _tags_of(due)
        for record in instance.get_run_records(dg.RunsFilter(statuses=list(_UNFINISHED), tags=tags))
    ]
    return {
        (asset, run.tags.get(PARTITION_TAG, ""))
        for run in runs
        if not _was_never_launched(run)
        for asset in assets_of(run)
    }


def failed_runs(
    instance: dg.DagsterInstance, due: Collection[Work]
) -> Mapping[Work, list[dg.RunRecord]]:
    """The failed and canceled runs that sensors requested for the due work, the newest first."""
    assets = sorted({asset for asset, _ in due})
    failed: defaultdict[Work, list[dg.RunRecord]] = defaultdict(list)
    for tags in _tags_of(due):
        records = instance.get_run_records(
            dg.RunsFilter(statuses=list(_FAILED), tags={**tags, REQUESTED_FOR_TAG: assets}),
            order_by="create_timestamp",
            ascending=False,
        )
        for record in records:
            run_tags = record.dagster_run.tags
            failed[run_tags[REQUESTED_FOR_TAG], run_tags.get(PARTITION_TAG, "")].append(record)
    return failed


def last_materialized(
    instance: dg.DagsterInstance, asset: str, partition_keys: Iterable[str]
) -> dict[str, datetime]:
    """When each partition of an asset was last materialized; those that never were are left out."""
    key = asset_key(asset)
    newest = instance.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partition_keys)
    )
    if not newest:
        return {}
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(key, storage_ids=list(newest.values())), limit=len(newest)
    ).records
    return {
        str(record.partition_key): datetime.fromtimestamp(record.timestamp, UTC)
        for record in records
    }


def _tags_of(due: Collection[Work]) -> Iterable[dict[str, str | list[str]]]:
    """The tags by which runs of the work are found, one set for each query."""
    if partition_keys := sorted({key for _, key in due if key}):
        yield {PARTITION_TAG: partition_keys}
    if assets := sorted({asset for asset, key in due if not key}):
        yield {REQUESTED_FOR_TAG: assets}


def assets_of(run: dg.DagsterRun) -> set[str]:
    """The assets that a run materializes."""
    if run.asset_selection:
        return {asset_name(key) for key in run.asset_selection}
    return set(ASSETS_BY_JOB.get(job_name(run.job_name), ()))


def _was_never_launched(run: dg.DagsterRun) -> bool:
    """Whether a tick created the run and died before the launch; the same key launches it."""
    return run.status is dg.DagsterRunStatus.NOT_STARTED and REQUESTED_FOR_TAG in run.tags
