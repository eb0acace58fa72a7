"""Removes hashed files and processed events older than ``settings.retention_days``.

It keeps every file that a delivery or an audience's membership needs, and every event that a match
status was computed from.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mm_pipelines.delivery import deltas
from mm_pipelines.payload import registry
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import webhook_event

HASHED_FOLDERS = ("hashed_payload", "deltas", "members", "removals")
"""The folders of hashed people. The sender's files are not subject to retention."""

_EVENTS_PER_TRANSACTION = 10_000

_LONGEST_WRITE = timedelta(days=1)


@dataclass(frozen=True)
class Removed:
    """The number of removed files and events."""

    files: int
    events: int


def remove_expired(
    database: Database,
    storage: Storage,
    *,
    before: datetime,
    acknowledged_fields: Collection[str],
    page_ids: Collection[str],
) -> Removed:
    """Remove files and events that are older than ``before`` and no longer needed.

    Args:
        database: Holds the events and the records of files in use.
        storage: Holds the files.
        before: Newer files and events stay.
        acknowledged_fields: The webhook fields that an asset acknowledges; their pending events
            stay.
        page_ids: The Pages of mm.yaml; pending events of other Pages do not stay.
    """
    storage.clear_scratch(datetime.now(UTC) - _LONGEST_WRITE)
    return Removed(
        files=_files(database, storage, before),
        events=_events(database, before, acknowledged_fields, page_ids),
    )


def _files(database: Database, storage: Storage, before: datetime) -> int:
    # List first, so that the query sees files that come into use after the listing.
    old = [
        path
        for folder in HASHED_FOLDERS
        for path, modified_at in storage.files(folder)
        if modified_at < before
    ]
    with database.transaction() as connection:
        needed = deltas.paths_in_use(connection) | registry.undelivered_paths(connection)
    removed = 0
    for path in old:
        # Publishing the same content again renews its time, because it is about to be used.
        if path not in needed and storage.modified_at(path) < before:
            storage.delete(path)
            removed += 1
    return removed


def _events(
    database: Database,
    before: datetime,
    acknowledged_fields: Collection[str],
    page_ids: Collection[str],
) -> int:
    removed = 0
    while True:
        with database.transaction() as connection:
            found = webhook_event.forget(
                connection,
                before=before,
                acknowledged_fields=acknowledged_fields,
                page_ids=page_ids,
                limit=_EVENTS_PER_TRANSACTION,
            )
        removed += found
        if found < _EVENTS_PER_TRANSACTION:
            return removed
