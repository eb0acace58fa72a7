"""Requests match statuses when Meta reports on uploads, and token pulls when a status changes."""

from datetime import timedelta

import dagster as dg

from mm_pipelines.match_status.due import Due, match_status_due, token_pulls_due
from mm_pipelines.naming import prefixed, select
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.partitions import AUDIENCE_BY_DAY, CONFIG, AudienceDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.run_requests import EVERY_LOOP_SECONDS, PendingWork, build_run_requests

_PARTITIONS_READ = 200
_PAGE_KEYS = {page.page_id: key for key, page in CONFIG.pages.items()}


@dg.sensor(
    name=prefixed("upload_status_sensor"),
    asset_selection=select("match_status", "subscription_tokens"),
    minimum_interval_seconds=EVERY_LOOP_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests match_status when an upload-status webhook arrives or a report is overdue: one "
        "run per audience and day. Requests subscription_tokens of a Page whose newest status is "
        "later than its last pull."
    ),
)
@skip_on_passing_fault
def upload_status_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request every match status and every Page's tokens that are out of date."""
    with mm_database.get().transaction() as connection:
        due = match_status_due(
            connection,
            list(CONFIG.audiences),
            first_day=CONFIG.start_date,
            overdue_after=timedelta(hours=CONFIG.settings.overdue_hours),
            limit=_PARTITIONS_READ,
        )
        pulls = token_pulls_due(
            connection,
            list(_PAGE_KEYS),
            at_most_every=timedelta(minutes=CONFIG.settings.token_pull_minutes),
        )
    statuses = [
        PendingWork(
            "match_status",
            AudienceDay(status.audience, status.day).key,
            done_at=status.as_of,
            newest_at=status.newest_at,
        )
        for status in due.statuses
    ]
    tokens = [
        PendingWork(
            "subscription_tokens",
            _PAGE_KEYS[pull.page_id],
            done_at=pull.finished_at,
            newest_at=pull.newest_at,
        )
        for pull in pulls
    ]
    current = [work for work in statuses if AUDIENCE_BY_DAY.has_partition_key(work.partition_key)]
    outcome = build_run_requests(context.instance, mm_database.get(), [*current, *tokens])
    outcome.notes += _notes(due)
    outcome.notes += [
        f"{work.partition_key} has no partition: it is before start_date in mm.yaml"
        for work in statuses
        if work not in current
    ]
    return outcome.result(context)


def _notes(due: Due) -> list[str]:
    notes = [
        f"reports about {audience} cannot be assigned: this installation uploaded nothing to it"
        for audience in due.without_upload
    ]
    if due.unconfigured_events:
        notes.append(
            f"{due.unconfigured_events} reports concern Custom Audiences that mm.yaml does not "
            "name; they are kept. Add the audience to mm.yaml, or unsubscribe its Page"
        )
    return notes
