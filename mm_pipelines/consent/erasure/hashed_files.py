"""Searches the storage and the audiences for people.

The files are immutable and stay as they are; retention removes them. A receipt says which of them
contain a person, and when each is gone.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from posixpath import dirname

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.delivery import custom_audience, membership
from mm_pipelines.delivery.membership import Members
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.digests import suppression_digests
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.warehouse.database import Database

HASHED_FOLDERS = ("hashed_payload", "deltas", "members", "removals")
"""The folders of files of hashed people."""

# Every column that identifies a person, in any of our files.
_IDENTIFYING = ("EMAIL", "PHONE", "member_email", "member_phone", "token", "recipient_id")

# Returns the newest sender's file of each Page.
_SENDER_FILES = text("select path from mm.sender_file where page_id = any(:page_ids)")

Found = Counter[tuple[int, str]]
"""The number of rows by request and place."""


def search_files(
    database: Database, storage: Storage, wanted: pl.DataFrame, page_ids: Iterable[str]
) -> Found:
    """Search every file of hashed people, and the sender's files of some Pages.

    Args:
        database: Holds the records of the sender's files.
        storage: Holds the files.
        wanted: The columns ``request_id`` and ``value``: hashes, PSIDs and tokens.
        page_ids: The Pages of the PSIDs and tokens.

    Returns:
        The number of rows by request and path.
    """
    with database.transaction() as connection:
        newest = list(connection.scalars(_SENDER_FILES, {"page_ids": list(page_ids)}))
    folders = [*HASHED_FOLDERS, *{dirname(path) for path in newest}]
    found: Found = Counter()
    for folder in folders:
        for path, _ in list(storage.files(folder)):
            for request_id in _requests_in(storage, path, wanted):
                found[request_id, path] += 1
    return found


def search_audiences(database: Database, storage: Storage, wanted: pl.DataFrame) -> Found:
    """Search the members of every recorded Custom Audience; unconfirmed uploads count.

    Args:
        database: The ledger.
        storage: Holds the members.
        wanted: The columns ``request_id`` and ``value``: hashes.

    Returns:
        The number of members by request and Custom Audience id.
    """
    with database.transaction() as connection:
        targets = [
            _members(connection, known.custom_audience_id)
            for known in custom_audience.all_recorded(connection)
        ]
    found: Found = Counter()
    for members in targets:
        if members.rows_to_read:
            rows = _matches(members.frame(storage), wanted)
            found.update((request_id, members.custom_audience_id) for request_id in rows)
    return found


def requests_among_members(
    database: Database,
    storage: Storage,
    custom_audience_id: str,
    digests: pl.DataFrame,
    keys: SuppressionKeys,
) -> set[int]:
    """Return the requests whose people are members of a Custom Audience, or may be.

    Args:
        database: The ledger.
        storage: Holds the members.
        custom_audience_id: The Custom Audience.
        digests: The columns ``request_id`` and ``value``: keyed digests.
        keys: The keys of the digests.
    """
    with database.transaction() as connection:
        members = _members(connection, custom_audience_id)
    if not members.rows_to_read:
        return set()
    return {
        request
        for key in keys.all
        for request in _matches(
            members.frame(storage).select(
                suppression_digests(pl.col(name), key).alias(name) for name in ("EMAIL", "PHONE")
            ),
            digests,
        )
    }


def _members(connection: Connection, custom_audience_id: str) -> Members:
    return membership.members_of(connection, custom_audience_id, with_uncertain=True)


def _requests_in(storage: Storage, path: str, wanted: pl.DataFrame) -> Iterator[int]:
    try:
        if path.endswith(".parquet"):
            yield from _matches(storage.scan(path), wanted)
        elif path.endswith(".csv"):
            yield from _matches(pl.scan_csv(storage.local(path), infer_schema=False), wanted)
    except (OSError, pl.exceptions.PolarsError):
        if storage.exists(path):
            raise
        # A run replaced the file meanwhile.


def _matches(frame: pl.LazyFrame, wanted: pl.DataFrame) -> list[int]:
    """The request of each row that contains a wanted value, once per row and request."""
    names = [name for name in frame.collect_schema().names() if name in _IDENTIFYING]
    values = wanted["value"].implode()
    rows = (
        frame.select(names)
        .filter(pl.any_horizontal(pl.col(names).is_in(values)))
        .with_row_index()
        .collect(engine="streaming")
    )
    matched = rows.unpivot(index="index", variable_name="name").join(wanted, on="value")
    return matched.select("index", "request_id").unique()["request_id"].to_list()
