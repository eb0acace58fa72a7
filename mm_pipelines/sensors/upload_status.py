"""From what Meta reports to the match status, and from there to the tokens."""

from datetime import timedelta

import dagster as dg

from mm_pipelines.match_status.due import Due, match_status_due, token_pulls_due
from mm_pipelines.partitions import AUDIENCE_BY_DAY, CONFIG, AudienceDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.asking import EVERY_TURN_SECONDS, Work, ask, does, partition_of

_DUE_AT_ONCE = 200
# Jobs that hold these assets and are launched whole; Dagster names the schedule's after it.
_WHOLE_JOBS = ("daily_upload", "token_refresh")
_PAGE_KEYS = {page.page_id: key for key, page in CONFIG.pages.items()}


@dg.sensor(
    asset_selection=dg.AssetSelection.assets("match_status", "subscription_tokens"),
    minimum_interval_seconds=EVERY_TURN_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Webhooks that wait or deadlines that passed ask for match_status, one run a partition; "
        "a Page with a newer status than its last pull asks for subscription_tokens."
    ),
)
def upload_status_sensor(
    context: dg.SensorEvaluationContext, database: DatabaseResource
) -> dg.SensorResult:
    """Ask for every match status and every Page's tokens that are out of date."""
    with database.get().transaction() as connection:
        due = match_status_due(
            connection,
            list(CONFIG.audiences),
            first_day=CONFIG.start_date,
            overdue_after=timedelta(hours=CONFIG.settings.overdue_hours),
            limit=_DUE_AT_ONCE,
        )
        pulls = token_pulls_due(
            connection,
            list(_PAGE_KEYS),
            at_most_every=timedelta(minutes=CONFIG.settings.token_pull_minutes),
        )
    statuses = [
        Work(
            "match_status",
            AudienceDay(status.audience, status.day).key,
            done_at=status.as_of,
            asked_at=status.newest_at,
        )
        for status in due.statuses
    ]
    tokens = [
        Work(
            "subscription_tokens",
            _PAGE_KEYS[pull.page_id],
            done_at=pull.finished_at,
            asked_at=pull.newest_at,
        )
        for pull in pulls
    ]
    known = [work for work in statuses if AUDIENCE_BY_DAY.has_partition_key(work.partition_key)]
    asked = ask(context.instance, [*known, *tokens], is_served_by=_is_served_by)
    asked.notes += _notes(due)
    asked.notes += [
        f"{work.partition_key} is no partition any more: set start_date in mm.yaml back to see it"
        for work in statuses
        if work not in known
    ]
    return asked.result(context)


def _is_served_by(run: dg.DagsterRun, work: Work) -> bool:
    return partition_of(run) == work.partition_key and does(run, work.asset, _WHOLE_JOBS)


def _notes(due: Due) -> list[str]:
    notes = [
        f"reports about {audience} wait: nothing was uploaded to it from here"
        for audience in due.without_upload
    ]
    if due.unconfigured_events:
        notes.append(
            f"{due.unconfigured_events} reports are kept of Custom Audiences that mm.yaml does "
            "not have: add the audience, or unsubscribe its Page"
        )
    return notes
