"""Requests the assets that carry out opt-outs."""

import logging
from collections.abc import Iterator
from datetime import date, datetime, timedelta

import dagster as dg
from sqlalchemy import Connection

from mm_pipelines.consent import (
    audience_cleanup,
    follow_up_pulls,
    opt_out_requests,
    unsubscribe_list,
)
from mm_pipelines.lists.location import list_url, stat_list
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.partitions import CONFIG, FIRST_PAGE_DAY, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.run_requests import PendingWork, build_run_requests, last_materialized
from mm_pipelines.storage import without_credentials

DAYS_WATCHED = 7
"""Lists of the last days are watched; an older one is read when its partition is materialized."""

_PAGE_KEYS = {page.page_id: key for key, page in CONFIG.pages.items()}


@dg.sensor(
    asset_selection=dg.AssetSelection.assets("unsubscribes", "subscription_tokens"),
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests unsubscribes for open opt-outs, new lists, and audiences that may contain "
        "opted-out people; requests subscription_tokens several times after opt-outs by e-mail or "
        "phone."
    ),
)
@skip_on_passing_fault
def unsubscribe_sensor(
    context: dg.SensorEvaluationContext, database: DatabaseResource
) -> dg.SensorResult:
    """Request a run for every open step of an opt-out."""
    today = datetime.now(CONFIG.zone).date()
    notes: list[str] = []
    due: dict[PageDay, list[datetime]] = {}
    with database.get().transaction() as connection:
        for partition, changed_at in _due(connection, today, notes, context.log):
            due.setdefault(partition, []).extend([changed_at] if changed_at else [])
        lacking = follow_up_pulls.due(
            connection,
            list(_PAGE_KEYS),
            at_most_every=timedelta(minutes=CONFIG.settings.token_pull_minutes),
        )
    opt_outs = [
        PendingWork(
            "unsubscribes", partition.key, _tried_since(context.instance, partition, changes)
        )
        for partition, changes in due.items()
    ]
    pulls = [
        PendingWork(
            "subscription_tokens",
            _PAGE_KEYS[pull.page_id],
            done_at=pull.finished_at,
            newest_at=pull.due_since,
        )
        for pull in lacking
    ]
    outcome = build_run_requests(context.instance, [*opt_outs, *pulls])
    outcome.notes += notes
    return outcome.result(context)


def _tried_since(
    instance: dg.DagsterInstance, partition: PageDay, changes: list[datetime]
) -> datetime | None:
    """Return the time from which failures count: earlier ones never delay a new opt-out."""
    now = datetime.now(CONFIG.zone)
    done_at = last_materialized(instance, "unsubscribes", partition.key)
    # A file's time may be in the future, which would hide later failures.
    known = [changed_at for changed_at in changes if changed_at <= now]
    return max([*known, *([done_at] if done_at else [])], default=None)


def _due(
    connection: Connection, today: date, notes: list[str], log: logging.Logger
) -> Iterator[tuple[PageDay, datetime | None]]:
    """Yield each due partition with the time of the change that made it due."""
    for waiting in opt_out_requests.open_by_page(connection):
        if waiting.page_id in _PAGE_KEYS:
            yield PageDay(_PAGE_KEYS[waiting.page_id], today), waiting.newest_at
        else:
            notes.append(
                f"{waiting.requests} opt-outs have the page_id {waiting.page_id}, which mm.yaml "
                "does not contain. Add the Page or correct the rows."
            )
    for cleanup in audience_cleanup.due(connection):
        if cleanup.audience in CONFIG.audiences:
            yield PageDay(CONFIG.audiences[cleanup.audience].page, today), None
        else:
            notes.append(
                f"{cleanup.audience} may contain opted-out people, and mm.yaml no longer contains "
                "it. Delete its Custom Audience at Meta or add the audience again."
            )
    for page in CONFIG.pages:
        yield from _changed_lists(connection, page, today, log)


def _changed_lists(
    connection: Connection, page: str, today: date, log: logging.Logger
) -> Iterator[tuple[PageDay, datetime | None]]:
    configured = CONFIG.pages[page]
    first = max(today - timedelta(days=DAYS_WATCHED - 1), FIRST_PAGE_DAY)
    known = unsubscribe_list.marks(connection, configured.page_id, first)
    for number in range((today - first).days + 1):
        day = first + timedelta(days=number)
        url = list_url(configured.unsubscribes.path, CONFIG.directory, page=page, day=day)
        try:
            stat = stat_list(url)
        except OSError as error:
            shown = without_credentials(url)
            log.warning(f"the unsubscribe list {shown} cannot be read: {type(error).__name__}")
            continue
        if stat is not None and stat.mark != known.get(day):
            yield PageDay(page, day), stat.modified_at
