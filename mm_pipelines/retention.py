"""Removes data of people that nothing needs any more; docs/operations.md#retention lists the rules.

Files of hashed people and rows have limits of their own. A file that a delivery, a membership or an
undelivered payload needs stays; so does an event that a match status was computed from.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from sqlalchemy import Connection

from mm_pipelines.consent import conversations, member_digests, optin_request_ledger
from mm_pipelines.consent.erasure.hashed_files import HASHED_FOLDERS
from mm_pipelines.delivery import deltas
from mm_pipelines.delivery.membership import fold_older_than
from mm_pipelines.payload import quarantine, registry
from mm_pipelines.storage import Storage
from mm_pipelines.tokens import history, sender_file
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import webhook_event

_ROWS_PER_TRANSACTION = 10_000

# Removes rows that are older than the time, at most so many, and returns how many it removed.
_Forget = Callable[[Connection, datetime, int], int]


@dataclass(frozen=True)
class RetentionRules:
    """What is old enough to be removed.

    Attributes:
        rows_before: Rows of an earlier time may go, and undelivered payloads.
        files_before: Files of hashed people of an earlier time may go.
        acknowledged_fields: The webhook fields that an asset acknowledges; their pending events
            stay.
        page_ids: The Pages of mm.yaml; pending events of other Pages do not stay.
        files_not_kept: Undelivered payloads that are not kept beyond ``files_before``, because
            they contain an erased person.
    """

    rows_before: datetime
    files_before: datetime
    acknowledged_fields: Collection[str]
    page_ids: Collection[str]
    files_not_kept: Collection[str] = field(default=(), repr=False)


@dataclass(frozen=True)
class Removed:
    """What a run removed.

    Attributes:
        files: The number of files.
        rows: The number of rows by table.
    """

    files: int
    rows: dict[str, int]


def remove_expired(database: Database, storage: Storage, rules: RetentionRules) -> Removed:
    """Remove files and rows that are old enough and no longer needed; a rerun goes on.

    Raises:
        OSError: The storage does not answer.
    """
    storage.clear_scratch()
    # Members are computed from old deltas until those are folded into one file.
    fold_older_than(database, storage, rules.files_before)
    return Removed(
        files=_files(database, storage, rules),
        rows={
            table: _rows(database, rules.rows_before, forget)
            for table, forget in _forgetting(rules).items()
        },
    )


def _forgetting(rules: RetentionRules) -> dict[str, _Forget]:
    return {
        "webhook_event": partial(
            webhook_event.forget,
            acknowledged_fields=rules.acknowledged_fields,
            page_ids=rules.page_ids,
        ),
        "conversation": conversations.forget,
        "optin_request": optin_request_ledger.forget,
        "rejected_row": quarantine.forget,
        "subscription_token": history.forget_gone_tokens,
        "token_change": history.forget_changes,
        "token_pull": history.forget_pulls,
    }


def _rows(database: Database, before: datetime, forget: _Forget) -> int:
    removed = 0
    while True:
        with database.transaction() as connection:
            found = forget(connection, before, _ROWS_PER_TRANSACTION)
        removed += found
        if found < _ROWS_PER_TRANSACTION:
            return removed


def _files(database: Database, storage: Storage, rules: RetentionRules) -> int:
    # List first, so that the queries see files that come into use after the listing.
    old = [
        path
        for folder in (*HASHED_FOLDERS, member_digests.FOLDER, sender_file.FOLDER)
        for path, modified_at in storage.files(folder)
        if modified_at < rules.files_before
    ]
    with database.transaction() as connection:
        deltas.release_memberships(connection, rules.rows_before)
        undelivered = registry.undelivered_paths(connection, since=rules.rows_before)
        delivering = deltas.paths_in_use(connection, forgotten_since=rules.rows_before)
        searched = member_digests.paths_in_use(connection)
        published = sender_file.paths_in_use(connection, rules.files_before)
    kept = undelivered.difference(rules.files_not_kept)
    needed = delivering | searched | published | kept
    removed = 0
    for path in old:
        # Publishing the same content again renews its time, because it is about to be used.
        if path not in needed and storage.modified_at(path) < rules.files_before:
            storage.delete(path)
            removed += 1
    return removed
