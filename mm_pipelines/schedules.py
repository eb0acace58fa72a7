"""Schedules: what is done every day or hour, whether or not a webhook tells of it."""

from datetime import date, timedelta

import dagster as dg

from mm_pipelines.assets.audience_removals import audience_removals
from mm_pipelines.assets.audiences_at_meta import audiences_at_meta
from mm_pipelines.jobs import daily_report, daily_upload, retention, token_refresh
from mm_pipelines.lists.location import stat_list
from mm_pipelines.partitions import CONFIG, AudienceDay, PageDay
from mm_pipelines.storage import without_credentials


@dg.schedule(
    name="daily_upload",
    job=daily_upload,
    cron_schedule="0 3 * * *",
    execution_timezone=CONFIG.timezone,
    description="At three in the morning, yesterday's list of every audience that has one.",
)
def daily_upload_schedule(
    context: dg.ScheduleEvaluationContext,
) -> list[dg.RunRequest] | dg.SkipReason:
    """A run for each audience whose list of yesterday is there; the others are named."""
    day = _yesterday(context)
    if day < CONFIG.start_date:
        return dg.SkipReason(f"{day} is before start_date in mm.yaml")
    requests, missing = [], []
    for audience in CONFIG.audiences:
        partition = AudienceDay(audience, day)
        if _is_there(partition.list_url, context):
            requests.append(dg.RunRequest(run_key=partition.key, partition_key=partition.key))
        else:
            missing.append(audience)
    if not missing:
        return requests
    reason = f"No list of {day} is there for {', '.join(missing)}"
    context.log.info(reason)
    return requests or dg.SkipReason(reason)


@dg.schedule(
    name="daily_removals",
    target=[audience_removals],
    cron_schedule="30 2 * * *",
    execution_timezone=CONFIG.timezone,
    description="At half past two in the morning, yesterday's lists of people to take out.",
)
def daily_removals_schedule(
    context: dg.ScheduleEvaluationContext,
) -> list[dg.RunRequest] | dg.SkipReason:
    """A run for each audience that people are to be taken out of."""
    day = _yesterday(context)
    partitions = [AudienceDay(audience, day) for audience in CONFIG.audiences]
    requests = [
        dg.RunRequest(run_key=partition.key, partition_key=partition.key)
        for partition in partitions
        if day >= CONFIG.start_date
        and any(_is_there(url, context) for _, url in partition.removal_lists)
    ]
    return requests or dg.SkipReason(f"No removal list of {day} is there")


@dg.schedule(
    name="token_refresh",
    job=token_refresh,
    cron_schedule="0 * * * *",
    description="Every hour, every Page's tokens: what no webhook tells arrives by this.",
)
def token_refresh_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
    """A pull for each Page."""
    hour = context.scheduled_execution_time.isoformat()
    return [dg.RunRequest(run_key=f"{page}@{hour}", partition_key=page) for page in CONFIG.pages]


@dg.schedule(
    name="daily_report",
    job=daily_report,
    cron_schedule="15 0 * * *",
    execution_timezone=CONFIG.timezone,
    description="After midnight, every Page's day before in numbers.",
)
def daily_report_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
    """A report for each Page; none before the first day is over."""
    day = _yesterday(context)
    if day < CONFIG.start_date:
        return []
    keys = [PageDay(page, day).key for page in CONFIG.pages]
    return [dg.RunRequest(run_key=key, partition_key=key) for key in keys]


audience_audit_schedule = dg.ScheduleDefinition(
    name="audience_audit",
    target=[audiences_at_meta],
    cron_schedule="0 6 * * *",
    execution_timezone=CONFIG.timezone,
    description="Every morning, the audiences as Meta lists them held against ours.",
)

retention_schedule = dg.ScheduleDefinition(
    name="retention",
    job=retention,
    cron_schedule="30 4 * * *",
    execution_timezone=CONFIG.timezone,
    description="Every night, what is older than settings.retention_days and no longer needed.",
)


def _yesterday(context: dg.ScheduleEvaluationContext) -> date:
    return (context.scheduled_execution_time.astimezone(CONFIG.zone) - timedelta(days=1)).date()


def _is_there(url: str, context: dg.ScheduleEvaluationContext) -> bool:
    try:
        return stat_list(url) is not None
    except OSError as error:
        # One place out of reach does not keep the other audiences waiting.
        context.log.warning(
            f"{without_credentials(url)} cannot be looked at: {type(error).__name__}"
        )
        return False
