"""From a request to leave to the audiences and tokens without the person."""

import logging
from collections.abc import Iterator
from datetime import date, datetime, timedelta

import dagster as dg
from sqlalchemy import Connection

from mm_pipelines.consent import opt_out_requests, sweeps, unsubscribe_list
from mm_pipelines.lists.location import list_url, stat_list
from mm_pipelines.partitions import CONFIG, PAGE_BY_DAY, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.run_requests import PendingWork, build_run_requests, last_materialized
from mm_pipelines.storage import without_credentials

DAYS_WATCHED = 7
"""Lists that are put down or changed later are read when their partition is materialised."""

_PAGE_KEYS = {page.page_id: key for key, page in CONFIG.pages.items()}


@dg.sensor(
    asset_selection=dg.AssetSelection.assets("unsubscribes", "subscription_tokens"),
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests to leave, their lists, and audiences that people who left may stand in ask for "
        "unsubscribes; a Page that people have left asks for subscription_tokens."
    ),
)
def unsubscribe_sensor(
    context: dg.SensorEvaluationContext, database: DatabaseResource
) -> dg.SensorResult:
    """Ask for everything that somebody's leaving is still to be followed by."""
    today = datetime.now(CONFIG.zone).date()
    notes: list[str] = []
    due: dict[PageDay, list[datetime]] = {}
    with database.get().transaction() as connection:
        for partition, changed_at in _due(connection, today, notes, context.log):
            due.setdefault(partition, []).extend([changed_at] if changed_at else [])
        stale = opt_out_requests.pages_with_stale_tokens(
            connection,
            list(_PAGE_KEYS),
            at_most_every=timedelta(minutes=CONFIG.settings.token_pull_minutes),
        )
    leaving = [
        PendingWork(
            "unsubscribes", partition.key, _tried_since(context.instance, partition, changes)
        )
        for partition, changes in due.items()
        if PAGE_BY_DAY.has_partition_key(partition.key)
    ]
    pulls = [
        PendingWork(
            "subscription_tokens",
            _PAGE_KEYS[tokens.page_id],
            done_at=tokens.finished_at,
            newest_at=tokens.settled_at,
        )
        for tokens in stale
    ]
    outcome = build_run_requests(context.instance, [*leaving, *pulls])
    outcome.notes += notes
    return outcome.result(context)


def _tried_since(
    instance: dg.DagsterInstance, partition: PageDay, changes: list[datetime]
) -> datetime | None:
    """From when on failures count: nothing that failed before keeps waiting who asks to leave."""
    now = datetime.now(CONFIG.zone)
    done_at = last_materialized(instance, "unsubscribes", partition.key)
    # A file's time may lie ahead of every failure to come.
    known = [changed_at for changed_at in changes if changed_at <= now]
    return max([*known, *([done_at] if done_at else [])], default=None)


def _due(
    connection: Connection, today: date, notes: list[str], log: logging.Logger
) -> Iterator[tuple[PageDay, datetime | None]]:
    """The partitions to run, each as often as it is due, and when the reason came up or changed."""
    for waiting in opt_out_requests.open_by_page(connection):
        if waiting.page_id in _PAGE_KEYS:
            yield PageDay(_PAGE_KEYS[waiting.page_id], today), waiting.newest_at
        else:
            notes.append(
                f"{waiting.requests} requests to leave name page_id {waiting.page_id}, which "
                "mm.yaml does not have: add the Page, or correct the rows"
            )
    for sweep in sweeps.due(connection):
        if sweep.audience in CONFIG.audiences:
            yield PageDay(CONFIG.audiences[sweep.audience].page, today), None
        else:
            notes.append(
                f"people who left may stand in {sweep.audience}, which mm.yaml no longer has: "
                "delete its Custom Audience at Meta, or put the audience back"
            )
    for page in CONFIG.pages:
        yield from _changed_lists(connection, page, today, log)


def _changed_lists(
    connection: Connection, page: str, today: date, log: logging.Logger
) -> Iterator[tuple[PageDay, datetime | None]]:
    configured = CONFIG.pages[page]
    first = max(today - timedelta(days=DAYS_WATCHED - 1), CONFIG.start_date)
    known = unsubscribe_list.marks(connection, configured.page_id, first)
    for number in range((today - first).days + 1):
        day = first + timedelta(days=number)
        url = list_url(configured.unsubscribes.path, CONFIG.directory, page=page, day=day)
        try:
            stat = stat_list(url)
        except OSError as error:
            shown = without_credentials(url)
            log.warning(f"the unsubscribe list {shown} cannot be looked at: {type(error).__name__}")
            continue
        if stat is not None and stat.mark != known.get(day):
            yield PageDay(page, day), stat.modified_at
