"""Requests the assets that handle what people do on Messenger."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from sqlalchemy import Connection

from mm_pipelines.consent import optin_request_ledger
from mm_pipelines.consent.messenger_events import CONSENT_FIELDS, MESSAGE_FIELDS
from mm_pipelines.naming import prefixed, select
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.partitions import CONFIG, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.rotation import in_turn
from mm_pipelines.sensors.run_records import last_materialized
from mm_pipelines.sensors.run_requests import EVERY_LOOP_SECONDS, PendingWork, build_run_requests
from mm_pipelines.webhooks import page_event

AT_MOST_EVERY = timedelta(minutes=5)
"""The shortest time between two runs of optin_requests of a Page: a busy Page gets messages all the
time, and each opens a window of 24 hours."""

_ASSETS = ("messaging_optins", "optin_requests")
_PAGE_KEYS = {page.page_id: key for key, page in CONFIG.pages.items()}


@dg.sensor(
    name=prefixed("optin_sensor"),
    asset_selection=select(*_ASSETS),
    minimum_interval_seconds=EVERY_LOOP_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests messaging_optins for pending webhooks, and optin_requests for messages and while "
        "people may be asked to opt in, at most every five minutes."
    ),
)
@skip_on_passing_fault
def optin_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request one run per asset and Page with something to do."""
    with mm_database.get().transaction() as connection:
        asked, last_examined = _people_to_ask(connection, context.cursor)
        due = [*_consent_events(connection), *asked]
    work = [work for asset in _ASSETS for work in _pending(context.instance, asset, due)]
    outcome = build_run_requests(context.instance, mm_database.get(), work)
    return outcome.result(context, cursor=last_examined)


def _pending(
    instance: dg.DagsterInstance, asset: str, due: Sequence[tuple[str, str, datetime]]
) -> Iterator[PendingWork]:
    keys = {key: newest_at for due_asset, key, newest_at in due if due_asset == asset}
    done_at = last_materialized(instance, asset, keys) if keys else {}
    recently = datetime.now(UTC) - AT_MOST_EVERY
    for key, newest_at in keys.items():
        last = done_at.get(key)
        if asset == "messaging_optins" or last is None or last < recently:
            yield PendingWork(asset, key, last, newest_at)


def _consent_events(connection: Connection) -> Iterator[tuple[str, str, datetime]]:
    for pending in page_event.pages_pending(connection, list(_PAGE_KEYS), CONSENT_FIELDS):
        yield "messaging_optins", _PAGE_KEYS[pending.page_id], pending.newest_at


def _people_to_ask(
    connection: Connection, last_examined: str | None
) -> tuple[list[tuple[str, str, datetime]], str | None]:
    """The Pages with messages or people to ask, and the Page that was examined last."""
    today = datetime.now(CONFIG.zone).date()
    titles = {page.page_id: page.optin.title for page in CONFIG.pages.values() if page.optin}
    newest_at = {
        pending.page_id: pending.newest_at
        for pending in page_event.pages_pending(connection, list(titles), MESSAGE_FIELDS)
    }
    for page_id in in_turn(list(titles), last_examined):
        last_examined = page_id
        wrote_at = optin_request_ledger.newest_candidate(connection, page_id, titles[page_id])
        if wrote_at is not None:
            newest_at[page_id] = max(wrote_at, newest_at.get(page_id, wrote_at))
    due = [
        ("optin_requests", str(PageDay(_PAGE_KEYS[page_id], today).key), at)
        for page_id, at in newest_at.items()
    ]
    return due, last_examined
