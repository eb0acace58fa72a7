"""What is kept no longer than ``settings.retention_days``: hashed files and processed events.

Nothing goes that something still stands on: a file that a delivery or an audience's membership
needs, an event that a match status was computed from.
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
"""Where files of hashed people lie; the sender's files are no business of retention."""

_EVENTS_A_TRANSACTION = 10_000

_LONGEST_WRITE = timedelta(days=1)


@dataclass(frozen=True)
class Swept:
    """How much was removed."""

    files: int
    events: int


def sweep(
    database: Database,
    storage: Storage,
    *,
    before: datetime,
    acknowledged_fields: Collection[str],
) -> Swept:
    """Remove what is older than ``before`` and no longer needed; run again, it finds nothing.

    Args:
        database: Where the events are, and what says which files are needed.
        storage: Where the files are.
        before: The youngest age that goes.
        acknowledged_fields: The webhook fields that an asset acknowledges: their pending events
            stay.
    """
    storage.clear_scratch(datetime.now(UTC) - _LONGEST_WRITE)
    return Swept(
        files=_files(database, storage, before),
        events=_events(database, before, acknowledged_fields),
    )


def _files(database: Database, storage: Storage, before: datetime) -> int:
    # Listed first, so that what is put to use after the listing is seen by the query.
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
        # Publishing the same content again renews its time: it may be about to be used.
        if path not in needed and storage.modified_at(path) < before:
            storage.delete(path)
            removed += 1
    return removed


def _events(database: Database, before: datetime, acknowledged_fields: Collection[str]) -> int:
    removed = 0
    while True:
        with database.transaction() as connection:
            found = webhook_event.forget(
                connection,
                before=before,
                acknowledged_fields=acknowledged_fields,
                limit=_EVENTS_A_TRANSACTION,
            )
        removed += found
        if found < _EVENTS_A_TRANSACTION:
            return removed
