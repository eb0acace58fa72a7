"""Requests uploads when the asset that an audience's list is made from was materialized.

The asset belongs to another team and may be in another code location. Its materializations are
read, and the work is done when ``audience_upload`` was materialized after the newest of a day.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from mm_pipelines.naming import prefixed
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.partitions import AUDIENCE_BY_DAY, CONFIG, AudienceDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.customer_list import DAYS_WATCHED
from mm_pipelines.sensors.run_records import last_materialized
from mm_pipelines.sensors.run_requests import PendingWork, build_run_requests

_RECORDS_READ = 200


@dg.sensor(
    name=prefixed("upstream_sensor"),
    job_name=prefixed("daily_upload"),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests daily_upload of an audience when its upstream asset in mm.yaml was materialized "
        f"in the last {DAYS_WATCHED} days, unless a check of that asset failed."
    ),
)
@skip_on_passing_fault
def upstream_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request the audiences of each upstream asset that was materialized since their upload."""
    changed: dict[str, datetime] = {}
    notes = []
    for key, audiences in CONFIG.upstream_assets().items():
        asset = dg.AssetKey(list(key))
        newest = _newest_by_day(context.instance, asset)
        reason = _held_back(context.instance, asset, newest)
        if reason:
            notes.append(f"{', '.join(audiences)}: {reason}")
            continue
        for day, record in newest.items():
            for audience in audiences:
                partition = str(AudienceDay(audience, day).key)
                changed[partition] = datetime.fromtimestamp(record.timestamp, UTC)
    known = [key for key in changed if AUDIENCE_BY_DAY.has_partition_key(key)]
    uploaded_at = last_materialized(context.instance, "audience_upload", known) if known else {}
    due = [
        PendingWork(
            "audience_upload",
            key,
            done_at=changed[key],
            newest_at=changed[key],
            job="daily_upload",
            urgent_since=changed[key],
        )
        for key in known
        if key not in uploaded_at or uploaded_at[key] < changed[key]
    ]
    outcome = build_run_requests(context.instance, mm_database.get(), due)
    outcome.notes += notes
    return outcome.result(context)


def _newest_by_day(
    instance: dg.DagsterInstance, asset: dg.AssetKey
) -> Mapping[date, dg.EventLogRecord]:
    """The newest materialization for each day of the last days.

    The day is the partition, where the asset has partitions of days. Otherwise it is the day of the
    materialization in the time zone of mm.yaml.
    """
    since = datetime.now(UTC) - timedelta(days=DAYS_WATCHED)
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset, after_timestamp=since.timestamp()), limit=_RECORDS_READ
    ).records
    newest: dict[date, dg.EventLogRecord] = {}
    for record in records:
        newest.setdefault(_day_of(record), record)
    return newest


def _day_of(record: dg.EventLogRecord) -> date:
    try:
        return date.fromisoformat(record.partition_key or "")
    except ValueError:
        return datetime.fromtimestamp(record.timestamp, CONFIG.zone).date()


def _held_back(
    instance: dg.DagsterInstance, asset: dg.AssetKey, newest: Mapping[date, dg.EventLogRecord]
) -> str | None:
    """Why the asset's audiences have to wait; None if they do not."""
    name = asset.to_user_string()
    for run_id in {record.run_id for record in newest.values() if record.run_id}:
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            return f"the run that materializes {name} has not ended"
        for check in _checks_of(instance, run_id, asset):
            latest = instance.get_latest_asset_check_evaluation_record(check)
            evaluation = latest.evaluation if latest else None
            if (
                evaluation is not None
                and not evaluation.passed
                and evaluation.severity is dg.AssetCheckSeverity.ERROR
            ):
                return f"the check {check.name} of {name} failed"
    return None


def _checks_of(
    instance: dg.DagsterInstance, run_id: str, asset: dg.AssetKey
) -> set[dg.AssetCheckKey]:
    """The checks of the asset that a run evaluated."""
    records = instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    events = [record.event_log_entry.dagster_event for record in records]
    keys = {event.asset_check_evaluation_data.asset_check_key for event in events if event}
    return {key for key in keys if key.asset_key == asset}
