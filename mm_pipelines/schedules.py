"""Schedules: the daily and hourly work that does not depend on webhooks."""

from datetime import date, timedelta

import dagster as dg

from mm_pipelines.assets.access_tokens import access_tokens
from mm_pipelines.assets.audience_removals import audience_removals
from mm_pipelines.assets.audiences_at_meta import audiences_at_meta
from mm_pipelines.jobs import daily_report, daily_upload, retention, token_refresh
from mm_pipelines.lists import RowSource
from mm_pipelines.naming import prefixed
from mm_pipelines.orchestration.priorities import priority_tags
from mm_pipelines.partitions import CONFIG, AudienceDay, PageDay


@dg.schedule(
    name=prefixed("daily_upload"),
    job=daily_upload,
    cron_schedule="0 3 * * *",
    execution_timezone=CONFIG.timezone,
    description="Uploads yesterday's list of every audience that has one, at 03:00.",
)
def daily_upload_schedule(
    context: dg.ScheduleEvaluationContext,
) -> list[dg.RunRequest] | dg.SkipReason:
    """Request a run for each audience whose list of yesterday exists, and log the others."""
    day = _yesterday(context)
    if day < CONFIG.start_date:
        return dg.SkipReason(f"{day} is before start_date in mm.yaml")
    requests, missing = [], []
    for audience in CONFIG.audiences:
        partition = AudienceDay(audience, day)
        if _exists(partition.customer_list, context):
            requests.append(_request(partition.key, "audience_upload"))
        else:
            missing.append(audience)
    if not missing:
        return requests
    reason = f"No list of {day} exists for {', '.join(missing)}"
    context.log.info(reason)
    return requests or dg.SkipReason(reason)


@dg.schedule(
    name=prefixed("daily_removals"),
    target=[audience_removals],
    cron_schedule="30 2 * * *",
    execution_timezone=CONFIG.timezone,
    description="Removes the people on yesterday's removal lists from the audiences, at 02:30.",
)
def daily_removals_schedule(
    context: dg.ScheduleEvaluationContext,
) -> list[dg.RunRequest] | dg.SkipReason:
    """Request a run for each audience that has a removal list of yesterday."""
    day = _yesterday(context)
    partitions = [AudienceDay(audience, day) for audience in CONFIG.audiences]
    requests = [
        _request(partition.key, "audience_removals")
        for partition in partitions
        if day >= CONFIG.start_date
        and any(_exists(removals, context) for removals in partition.removal_lists)
    ]
    return requests or dg.SkipReason(f"No removal list of {day} exists")


@dg.schedule(
    name=prefixed("token_refresh"),
    job=token_refresh,
    cron_schedule="0 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description=(
        "Pulls every Page's tokens and publishes the sender's file, every hour. It finds the "
        "changes that no webhook reports."
    ),
)
def token_refresh_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
    """Request a pull for each Page."""
    hour = context.scheduled_execution_time.isoformat()
    return [_request(page, "subscription_tokens", at=f"@{hour}") for page in CONFIG.pages]


@dg.schedule(
    name=prefixed("daily_report"),
    job=daily_report,
    cron_schedule=["50 23 * * *", "15 0 * * *"],
    execution_timezone=CONFIG.timezone,
    description=(
        "Computes every Page's growth report at the end of the day, at 23:50, and again at 00:15. "
        "Which tokens are sendable is only known while the day lasts."
    ),
)
def daily_report_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
    """Request a report for each Page, from the end of the first day on."""
    local = context.scheduled_execution_time.astimezone(CONFIG.zone)
    day = (local - timedelta(hours=12)).date()
    if day < CONFIG.start_date:
        return []
    return [
        dg.RunRequest(run_key=f"{key} at {local:%H:%M}", partition_key=key)
        for key in (PageDay(page, day).key for page in CONFIG.pages)
    ]


audience_audit_schedule = dg.ScheduleDefinition(
    name=prefixed("audience_audit"),
    target=[audiences_at_meta],
    cron_schedule="0 6 * * *",
    execution_timezone=CONFIG.timezone,
    description="Compares the Custom Audiences at Meta with our records, at 06:00.",
)

access_tokens_schedule = dg.ScheduleDefinition(
    name=prefixed("access_tokens"),
    target=[access_tokens],
    cron_schedule="10 6 * * *",
    execution_timezone=CONFIG.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Asks Meta about every access token of mm.yaml, at 06:10.",
)

retention_schedule = dg.ScheduleDefinition(
    name=prefixed("retention"),
    job=retention,
    cron_schedule="30 4 * * *",
    execution_timezone=CONFIG.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description=(
        "Removes hashed files after settings.payload_days and people's history after "
        "settings.retention_days, at 04:30."
    ),
)


def _request(partition_key: str, asset: str, at: str = "") -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{partition_key}{at}", partition_key=partition_key, tags=priority_tags(asset)
    )


def _yesterday(context: dg.ScheduleEvaluationContext) -> date:
    return (context.scheduled_execution_time.astimezone(CONFIG.zone) - timedelta(days=1)).date()


def _exists(source: RowSource, context: dg.ScheduleEvaluationContext) -> bool:
    try:
        return source.exists()
    except OSError as error:
        # One unreachable store does not delay the other audiences.
        context.log.warning(f"{source.name} is unreachable: {type(error).__name__}")
        return False
