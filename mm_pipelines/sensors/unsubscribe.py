"""Requests the assets that carry out opt-outs."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from sqlalchemy import Connection

from mm_pipelines.consent import (
    audience_cleanup,
    audience_search,
    follow_up_pulls,
    opt_out_requests,
    unsubscribe_list,
)
from mm_pipelines.lists.location import list_url, stat_list
from mm_pipelines.naming import prefixed, select
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.partitions import CONFIG, FIRST_PAGE_DAY, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.rotation import in_turn
from mm_pipelines.sensors.run_records import last_materialized
from mm_pipelines.sensors.run_requests import EVERY_LOOP_SECONDS, PendingWork, build_run_requests
from mm_pipelines.storage import without_credentials

DAYS_WATCHED = 7
"""Lists of the last days are watched; an older one is read when its partition is materialized."""

_PAGE_KEYS = {page.page_id: key for key, page in CONFIG.pages.items()}


@dg.sensor(
    name=prefixed("unsubscribe_sensor"),
    asset_selection=select("unsubscribes", "subscription_tokens"),
    minimum_interval_seconds=EVERY_LOOP_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests unsubscribes for open opt-outs, new lists, and audiences that may contain "
        "opted-out people; requests subscription_tokens several times after opt-outs by e-mail or "
        "phone."
    ),
)
@skip_on_passing_fault
def unsubscribe_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request a run for every open step of an opt-out."""
    today = datetime.now(CONFIG.zone).date()
    notes: list[str] = []
    with mm_database.get().transaction() as connection:
        steps = list(_open_steps(connection, today, notes))
        last_examined = context.cursor
        for last_examined in in_turn(list(CONFIG.pages), context.cursor):
            steps += _changed_lists(connection, last_examined, today, context.log)
        lacking = follow_up_pulls.due(
            connection,
            list(_PAGE_KEYS),
            at_most_every=timedelta(minutes=CONFIG.settings.token_pull_minutes),
        )
    opt_outs = _opt_outs(context.instance, steps)
    pulls = [
        PendingWork(
            "subscription_tokens",
            _PAGE_KEYS[pull.page_id],
            done_at=pull.finished_at,
            newest_at=pull.due_since,
        )
        for pull in lacking
    ]
    outcome = build_run_requests(context.instance, mm_database.get(), [*opt_outs, *pulls])
    outcome.notes += notes
    return outcome.result(context, cursor=last_examined)


@dataclass(frozen=True)
class _OpenStep:
    """A step of opt-outs that is not done.

    Attributes:
        changed_at: When the opt-outs or the list arrived. Earlier failures never delay them.
        urgent_since: Their people are suppressed at once, even while Meta throttles the Page.
    """

    partition: PageDay
    changed_at: datetime | None = None
    urgent_since: datetime | None = None


def _opt_outs(instance: dg.DagsterInstance, steps: Sequence[_OpenStep]) -> list[PendingWork]:
    """One piece of work for each partition with open steps."""
    by_partition: dict[PageDay, list[_OpenStep]] = {}
    for step in steps:
        by_partition.setdefault(step.partition, []).append(step)
    if not by_partition:
        return []
    keys = [partition.key for partition in by_partition]
    done_at = last_materialized(instance, "unsubscribes", keys)
    # A file's time may be in the future, which would hide later failures.
    now = datetime.now(UTC)
    return [
        PendingWork(
            "unsubscribes",
            partition.key,
            done_at=_newest(
                done_at.get(partition.key),
                *(step.changed_at for step in steps if step.changed_at and step.changed_at <= now),
            ),
            urgent_since=_newest(*(step.urgent_since for step in steps)),
        )
        for partition, steps in by_partition.items()
    ]


def _newest(*times: datetime | None) -> datetime | None:
    return max((at for at in times if at is not None), default=None)


def _open_steps(connection: Connection, today: date, notes: list[str]) -> Iterator[_OpenStep]:
    for waiting in opt_out_requests.open_by_page(connection):
        if waiting.page_id in _PAGE_KEYS:
            partition = PageDay(_PAGE_KEYS[waiting.page_id], today)
            yield _OpenStep(partition, waiting.newest_at, waiting.newest_at)
        else:
            notes.append(
                f"{waiting.requests} opt-outs have the page_id {waiting.page_id}, which mm.yaml "
                "does not contain. Add the Page or correct the rows."
            )
    for cleanup in audience_cleanup.due(connection):
        if cleanup.audience in CONFIG.audiences:
            yield _OpenStep(PageDay(CONFIG.audiences[cleanup.audience].page, today))
        else:
            notes.append(
                f"{cleanup.audience} contains opted-out people, and mm.yaml no longer contains "
                "it. Delete its Custom Audience at Meta or add the audience again."
            )
    page_id = audience_search.page_to_search_for(connection)
    if page_id is not None and CONFIG.pages:
        # The run of any Page searches the audiences of all, without a call to Meta.
        page = _PAGE_KEYS.get(page_id, next(iter(CONFIG.pages)))
        yield _OpenStep(PageDay(page, today), urgent_since=datetime.now(UTC))


def _changed_lists(
    connection: Connection, page: str, today: date, log: logging.Logger
) -> Iterator[_OpenStep]:
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
            # The file's time may be long ago; nothing of it was read yet.
            yield _OpenStep(PageDay(page, day), stat.modified_at, datetime.now(UTC))
