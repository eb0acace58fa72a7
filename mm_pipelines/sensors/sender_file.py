"""Requests the sender's file of a Page after every change of its sendable tokens."""

from datetime import timedelta

import dagster as dg

from mm_pipelines.assets.sendable_tokens import opt_outs_are_published
from mm_pipelines.naming import prefixed, select
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.orchestration.priorities import OPT_OUTS
from mm_pipelines.partitions import CONFIG
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.run_requests import EVERY_LOOP_SECONDS, PendingWork, build_run_requests
from mm_pipelines.tokens import sender_file

_PAGE_KEYS = {page.page_id: key for key, page in CONFIG.pages.items()}


@dg.sensor(
    name=prefixed("sender_file_sensor"),
    asset_selection=select("sendable_tokens"),
    minimum_interval_seconds=EVERY_LOOP_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests sendable_tokens of a Page after every pull, opt-in and opt-out, and before its "
        f"file expires. A file is valid for {sender_file.VALID_FOR / timedelta(hours=1):g} hours."
    ),
)
@skip_on_passing_fault
def sender_file_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request every Page's file that lacks changes, and report files that lack opt-outs."""
    with mm_database.get().transaction() as connection:
        due = sender_file.due(connection, list(_PAGE_KEYS))
    work = [
        PendingWork(
            "sendable_tokens",
            _PAGE_KEYS[file.page_id],
            done_at=file.as_of,
            newest_at=file.newest_at,
            # An opt-out is complete only when the sender has a file without the person.
            priority=OPT_OUTS if file.lacks_consent else None,
        )
        for file in due
    ]
    check = opt_outs_are_published(mm_database.get())
    # An evaluation is stored only when the outcome changes.
    outcome = "passed" if check.passed else "failed"
    return build_run_requests(context.instance, mm_database.get(), work).result(
        context,
        cursor=outcome,
        evaluations=[] if outcome == (context.cursor or "passed") else [check],
    )
