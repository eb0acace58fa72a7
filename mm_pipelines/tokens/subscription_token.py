"""Compares a pull's listing with the stored tokens and merges the differences.

A pull's frames go into temporary tables of one session, so a killed pull leaves nothing behind.
`Staging.compare` finds the differences and `Staging.merge` writes them, in one transaction.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import polars as pl
from sqlalchemy import text

from mm_pipelines.suppression import erased_contacts
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.tokens.differences import DIFFERENCES, TABLES
from mm_pipelines.tokens.pull_record import Pull
from mm_pipelines.warehouse.database import Database

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection as BulkConnection

Source = Literal["custom_audience", "opt_in", "click_to_messenger", "automation"]
"""How a person subscribed."""

_TIME = pl.Datetime("us", "UTC")

LISTED_TOKEN: Final = pl.Schema(
    {
        "token": pl.String(),
        "recipient_id": pl.String(),
        "topic_title": pl.String(),
        "reoptin": pl.String(),
        "user_token_status": pl.String(),
        "timezone": pl.String(),
        "created_at": _TIME,
        "expires_at": _TIME,
        "next_eligible_at": _TIME,
        "custom_audience_ids": pl.List(pl.String()),
    }
)
"""A token as Meta lists it. A token made from a Custom Audience has no recipient and no times: null
(docs/graph-api.md#listing-tokens)."""

# Serializes the merges of one Page, of pulls and of webhooks.
_LOCK = "select pg_advisory_xact_lock(hashtextextended('subscription_token:' || $1, 0))::text"

# Sorting and joining 10 million tokens spills to disk in runs of this size.
_SORT_MEMORY = "set local work_mem = '256MB'"

_IS_KNOWN = "select exists (select from mm.subscription_token where page_id = $1) as known"

_LISTED_CONTACTS = "select distinct token, recipient_id from listed_token"

_EXCLUDE = "delete from listed_token where token in (select token from excluded_token)"

_COMPARE = f"insert into token_difference {DIFFERENCES}"

_NOW = "select clock_timestamp() as now"

_COUNT_DIFFERENCES = """
select
    count(*) filter (where fate = 'changed') as changed,
    count(*) filter (where fate = 'returned') as returned,
    count(*) filter (where fate = 'vanished') as vanished
from token_difference
"""

_COUNT_LIVE = """
select count(*) as live from mm.subscription_token where page_id = $1 and gone_at is null
"""

# $1 page_id. A Page's first tokens, which may be millions, are inserted without a comparison.
_INSERT_APPEARED = """
with appeared as (
    insert into mm.subscription_token (
        page_id, token, recipient_id, topic_title, reoptin, user_token_status, timezone, created_at,
        expires_at, next_eligible_at, custom_audience_ids, source, first_seen_at, last_seen_at
    )
    select $1, token, recipient_id, topic_title, reoptin, user_token_status, timezone, created_at,
        expires_at, next_eligible_at, custom_audience_ids, source, {now}, {now}
    from {differences}
    where fate = 'appeared'
    returning source
)
select count(*) as appeared, count(*) filter (where source = 'opt_in') as opted_in from appeared
"""
_INSERT_COMPARED = _INSERT_APPEARED.format(differences="token_difference", now="$2")
_INSERT_FIRST = _INSERT_APPEARED.format(differences=f"({DIFFERENCES}) as first", now="$4")

# For the first tokens of all: building an index of a million rows at once takes half the time of
# inserting them one by one. The table is empty and locked, so no query needs the indexes meanwhile,
# and a killed merge leaves them unchanged. Only one session may request the lock on the table:
# two that have read it would wait for each other.
_IS_ALONE = """
select pg_has_role(relowner, 'usage')
       and pg_try_advisory_xact_lock(hashtextextended('subscription_token', 0)) as alone
from pg_class where oid = 'mm.subscription_token'::regclass
"""
_LOCK_TABLE = "lock table mm.subscription_token in access exclusive mode"
_IS_EMPTY = "select not exists (select from mm.subscription_token) as empty"
_INDEXES = """
select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as definition
from pg_index
where indrelid = 'mm.subscription_token'::regclass and not indisprimary
"""
_INDEX_MEMORY = "set local maintenance_work_mem = '256MB'"

# $1 page_id, $2 the time of the merge, the same in every statement.
_UPDATE_CHANGED = """
update mm.subscription_token as known
set recipient_id = new.recipient_id,
    topic_title = new.topic_title,
    reoptin = new.reoptin,
    user_token_status = new.user_token_status,
    timezone = new.timezone,
    created_at = new.created_at,
    expires_at = new.expires_at,
    next_eligible_at = new.next_eligible_at,
    custom_audience_ids = new.custom_audience_ids,
    source = new.source,
    last_seen_at = $2,
    gone_at = null
from token_difference as new
where known.page_id = $1 and known.token = new.token and new.fate in ('changed', 'returned')
"""

_UPDATE_VANISHED = """
update mm.subscription_token as known
set gone_at = $2
from token_difference as new
where known.page_id = $1 and known.token = new.token and new.fate = 'vanished'
"""

# After a complete pull every live token was listed, except those stored since it began.
_RENEW_ALL = """
with renewed as (
    update mm.subscription_token
    set last_seen_at = $2
    where page_id = $1 and gone_at is null
        and last_seen_at < (select started_at from mm.token_pull where pull_id = $3)
    returning 1
)
select count(*) from renewed
"""

_RENEW_LISTED = """
with renewed as (
    update mm.subscription_token
    set last_seen_at = $2
    where page_id = $1 and token in (select token from listed_token) and last_seen_at < $2
    returning 1
)
select count(*) from renewed
"""

_RECORD_CHANGES = """
insert into mm.token_change (page_id, token, event, happened_at, pull_id, old_value, new_value)
select $1, token, fate, $2::timestamptz, nullif($3::bigint, 0), null, null
from token_difference
where fate in ('returned', 'vanished')
union all
select $1, token, 'status_changed', $2, nullif($3, 0), old_status, user_token_status
from token_difference
where fate in ('changed', 'returned') and user_token_status is distinct from old_status
union all
select $1, token, 'reoptin_changed', $2, nullif($3, 0), old_reoptin, reoptin
from token_difference
where fate in ('changed', 'returned') and reoptin is distinct from old_reoptin
union all
select $1, token, 'expiry_changed', $2, nullif($3, 0), old_expires_at::text, expires_at::text
from token_difference
where fate in ('changed', 'returned') and expires_at is distinct from old_expires_at
"""

# The sender's file lacks these differences until it is published again.
_NOTE_CHANGE = "insert into mm.sendable_change (page_id, reason) values ($1, 'pull')"

_TIDY = text("vacuum (analyze, skip_locked) mm.subscription_token")

_FINISH_PULL = """
update mm.token_pull
set finished_at = clock_timestamp(), complete = $2, method = $3, tokens_listed = $4,
    appeared = $5, changed = $6, returned = $7, vanished = $8
where pull_id = $1
"""


@dataclass(frozen=True)
class Differences:
    """The differences between a listing and the stored tokens of its Page, as numbers of tokens.

    Attributes:
        first: Whether the Page had no tokens, so that all are new.
        changed: Listed with other values.
        returned: Listed again after they were gone.
        vanished: Live and no longer listed by a complete pull.
        live_before: Live before this listing; counted only if tokens vanished.
    """

    first: bool
    changed: int
    returned: int
    vanished: int
    live_before: int


@dataclass(frozen=True)
class Merged:
    """The result of a merge, as numbers of tokens.

    Attributes:
        listed: Distinct tokens that were listed.
        appeared: Those of them that are new.
        opted_in: Those of them whose person subscribed without an audience, as far as is known.
        changed: Listed with other values.
        returned: Listed again after they were gone.
        vanished: Live and no longer listed by a complete pull.
    """

    listed: int
    appeared: int
    opted_in: int
    changed: int
    returned: int
    vanished: int


class Staging:
    """The frames of one pull on one session, until they are merged or the session ends."""

    def __init__(
        self,
        connection: "BulkConnection",
        database: Database,
        suppression_keys: SuppressionKeys | None,
    ) -> None:
        self._connection = connection
        self._database = database
        self._suppression_key = suppression_keys

    def append(self, frame: pl.DataFrame) -> None:
        """Add listed tokens, a frame of `LISTED_TOKEN`; the same token may come again."""
        self._ingest("listed_token", frame)

    def append_filtered(
        self,
        frame: pl.DataFrame,
        *,
        custom_audience_id: str | None = None,
        source: Source | None = None,
    ) -> None:
        """Add the answer to a filter of the listing: the people matched there, or their source.

        Args:
            frame: A frame of `LISTED_TOKEN`, the answer to the filter.
            custom_audience_id: The audience of the filter, if it filters by audience.
            source: The source of the filter, if it filters by source.
        """
        self.append(frame)
        filtered = frame.select(
            "token",
            pl.lit(custom_audience_id, pl.String).alias("custom_audience_id"),
            pl.lit(source, pl.String).alias("source"),
        )
        self._ingest("filtered_token", filtered)

    def compare(self, page_id: str, pull: Pull | None = None) -> Differences:
        """Find the differences of the staged tokens; begins the transaction that `merge` ends.

        Args:
            page_id: The Page of the tokens.
            pull: The pull that listed them; None for tokens that were read one by one. Only tokens
                that a complete pull lacks have vanished.
        """
        with self._connection.cursor() as cursor:
            cursor.execute("analyze filtered_token (token)")
            cursor.execute(_SORT_MEMORY)
            cursor.execute(_LOCK, (page_id,))
        self._exclude_erased_people(page_id)
        if not self._row(_IS_KNOWN, page_id)["known"]:
            return Differences(first=True, changed=0, returned=0, vanished=0, live_before=0)
        with self._connection.cursor() as cursor:
            # A few answers are looked up among the known; a whole listing is joined with them.
            cursor.execute("analyze listed_token (token)")
            cursor.execute(_COMPARE, (page_id, _id(pull), _complete(pull)))
        counts = self._row(_COUNT_DIFFERENCES)
        live = self._row(_COUNT_LIVE, page_id)["live"] if counts["vanished"] else 0
        return Differences(first=False, **counts, live_before=live)

    def merge(self, page_id: str, differences: Differences, pull: Pull | None = None) -> Merged:
        """Write the differences, their events and the pull's end, and commit: all or nothing."""
        now = self._row(_NOW)["now"]
        d = differences
        with self._connection.cursor() as cursor:
            if d.changed or d.returned or d.vanished:
                # The statistics decide between an index lookup per token and one pass.
                cursor.execute("analyze token_difference")
                cursor.execute(_UPDATE_CHANGED, (page_id, now))
                cursor.execute(_UPDATE_VANISHED, (page_id, now))
                cursor.execute(_RECORD_CHANGES, (page_id, now, _id(pull)))
        # Before the new tokens are inserted, which need no renewal.
        if _complete(pull):
            renewed = self._row(_RENEW_ALL, page_id, now, _id(pull))["count"]
        else:
            renewed = self._row(_RENEW_LISTED, page_id, now)["count"]
        if d.first:
            with self._indexed_afterwards() if pull else nullcontext():
                new = self._row(_INSERT_FIRST, page_id, _id(pull), _complete(pull), now)
        else:
            new = self._row(_INSERT_COMPARED, page_id, now)
        merged = Merged(
            listed=renewed + new["appeared"] + d.changed + d.returned,
            **new,
            changed=d.changed,
            returned=d.returned,
            vanished=d.vanished,
        )
        if pull is not None:
            self._finish(pull, merged)
        if merged.appeared or d.changed or d.returned or d.vanished:
            with self._connection.cursor() as cursor:
                cursor.execute(_NOTE_CHANGE, (page_id,))
        self._connection.commit()
        return merged

    @contextmanager
    def _indexed_afterwards(self) -> Iterator[None]:
        """Build the table's indexes after the insert, if the table is empty now."""
        indexes: list[tuple[str, str]] = []
        with self._connection.cursor() as cursor:
            if self._row(_IS_EMPTY)["empty"] and self._row(_IS_ALONE)["alone"]:
                cursor.execute(_LOCK_TABLE)
                # Again, because waiting for the lock takes time.
                if self._row(_IS_EMPTY)["empty"]:
                    cursor.execute(_INDEX_MEMORY)
                    cursor.execute(_INDEXES)
                    indexes = cursor.fetch_polars().rows()
            for name, _ in indexes:
                cursor.execute(f"drop index {name}")
            yield
            for _, definition in indexes:
                cursor.execute(definition)

    def _exclude_erased_people(self, page_id: str) -> None:
        """Drop the listed tokens of erased people; under the lock, which an erasure takes too."""
        with self._database.transaction() as connection:
            erased = erased_contacts.load(connection, page_id, self._suppression_key)
        if not erased:
            return
        with self._connection.cursor() as cursor:
            cursor.execute(_LISTED_CONTACTS)
            tokens = erased.tokens_of_erased_people(cursor.fetch_polars())
            if not tokens.is_empty():
                cursor.adbc_ingest(
                    "excluded_token", tokens.to_frame(), mode="append", temporary=True
                )
                cursor.execute(_EXCLUDE)

    def _finish(self, pull: Pull, m: Merged) -> None:
        end = (pull.pull_id, pull.complete, pull.method, m.listed)
        with self._connection.cursor() as cursor:
            cursor.execute(_FINISH_PULL, (*end, m.appeared, m.changed, m.returned, m.vanished))

    def _ingest(self, table: str, frame: pl.DataFrame) -> None:
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest(table, frame, mode="append", temporary=True)
        # A pull can take an hour; an open transaction would block vacuum for so long.
        self._connection.commit()

    def _row(self, statement: str, *parameters: object) -> dict[str, Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            row: dict[str, Any] = cursor.fetch_polars().row(0, named=True)
        return row


def tidy(database: Database) -> None:
    """Vacuum the table, so that the views can use index-only scans again after a pull.

    The server's autovacuum would do it minutes later; if it is running, this does nothing.
    """
    with database.engine.connect() as connection:
        # VACUUM cannot run in a transaction.
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(_TIDY)


def _complete(pull: Pull | None) -> bool:
    return pull is not None and pull.complete


def _id(pull: Pull | None) -> int:
    return pull.pull_id if pull else 0  # ADBC binds no null; ids begin at 1


@contextmanager
def staging(
    database: Database, suppression_keys: SuppressionKeys | None = None
) -> Iterator[Staging]:
    """Open a session with empty staging tables, which end with it.

    Args:
        database: With the schema `mm`.
        suppression_keys: ``MM_SUPPRESSION_KEY``; needed for Pages with erased people, whose tokens
            are excluded.
    """
    with database.bulk() as connection:
        with connection.cursor() as cursor:
            for statement in TABLES:
                cursor.execute(statement)
        connection.commit()
        yield Staging(connection, database, suppression_keys)
