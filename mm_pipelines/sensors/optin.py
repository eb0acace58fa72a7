"""Requests the assets that handle what people do on Messenger."""

from collections.abc import Iterator, Sequence
from datetime import datetime

import dagster as dg
from sqlalchemy import Connection

from mm_pipelines.consent import optin_request_ledger
from mm_pipelines.consent.messenger_events import CONSENT_FIELDS, MESSAGE_FIELDS
from mm_pipelines.naming import prefixed, select
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.partitions import CONFIG, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.run_records import last_materialized
from mm_pipelines.sensors.run_requests import EVERY_LOOP_SECONDS, PendingWork, build_run_requests
from mm_pipelines.webhooks import page_event

_ACKNOWLEDGED_BY = {"messaging_optins": CONSENT_FIELDS, "conversations": MESSAGE_FIELDS}
_ASSETS = (*_ACKNOWLEDGED_BY, "optin_requests")
_PAGE_KEYS = {page.page_id: key for key, page in CONFIG.pages.items()}


@dg.sensor(
    name=prefixed("optin_sensor"),
    asset_selection=select(*_ASSETS),
    minimum_interval_seconds=EVERY_LOOP_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests messaging_optins and conversations for pending webhooks, and optin_requests "
        "while people may be asked to opt in."
    ),
)
@skip_on_passing_fault
def optin_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request one run per asset and Page with something to do."""
    with mm_database.get().transaction() as connection:
        due = [*_events(connection), *_people_to_ask(connection)]
    work = [work for asset in _ASSETS for work in _pending(context.instance, asset, due)]
    return build_run_requests(context.instance, mm_database.get(), work).result(context)


def _pending(
    instance: dg.DagsterInstance, asset: str, due: Sequence[tuple[str, str, datetime]]
) -> Iterator[PendingWork]:
    keys = {key: newest_at for due_asset, key, newest_at in due if due_asset == asset}
    done_at = last_materialized(instance, asset, keys) if keys else {}
    for key, newest_at in keys.items():
        yield PendingWork(asset, key, done_at.get(key), newest_at)


def _events(connection: Connection) -> Iterator[tuple[str, str, datetime]]:
    for asset, fields in _ACKNOWLEDGED_BY.items():
        for pending in page_event.pages_pending(connection, list(_PAGE_KEYS), fields):
            yield asset, _PAGE_KEYS[pending.page_id], pending.newest_at


def _people_to_ask(connection: Connection) -> Iterator[tuple[str, str, datetime]]:
    today = datetime.now(CONFIG.zone).date()
    for key, page in CONFIG.pages.items():
        if page.optin is None:
            continue
        wrote_at = optin_request_ledger.newest_candidate(connection, page.page_id, page.optin.title)
        if wrote_at is not None:
            yield "optin_requests", PageDay(key, today).key, wrote_at
