"""Compares listed tokens with the known ones and merges the differences.

A pull's frames go into temporary tables of one session, so a pull that is killed leaves nothing
behind. `Staging.compare` finds the differences and `Staging.merge` writes them, in one transaction.
`webhook_tokens` merges tokens of webhooks in the transaction that acknowledges their events.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import polars as pl
from sqlalchemy import text

from mm_pipelines.suppression import erased_contacts
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.tokens import merge_statements as sql
from mm_pipelines.tokens.differences import TABLES
from mm_pipelines.tokens.pull_record import Pull
from mm_pipelines.warehouse.database import Database

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection as BulkConnection

Source = Literal["custom_audience", "opt_in", "click_to_messenger", "automation"]
"""How a person came to be subscribed."""

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
"""A token as Meta lists it. Null is what the listing does not contain: for a token made from a
Custom Audience, the recipient and every time (docs/graph-api.md#listing-tokens)."""

_VACUUM = text("vacuum (analyze, skip_locked) mm.subscription_token")


@dataclass(frozen=True)
class Differences:
    """The number of tokens by what a listing means for them.

    Attributes:
        first: The Page has no tokens yet, so all are new.
        changed: Listed with other values.
        returned: Listed again after they were gone.
        vanished: Live, and no longer listed by a complete pull.
        live_before: Live until this listing; counted only if tokens vanished.
    """

    first: bool
    changed: int
    returned: int
    vanished: int
    live_before: int


@dataclass(frozen=True)
class Merged:
    """The number of tokens by what a merge did.

    Attributes:
        listed: Distinct listed tokens.
        appeared: Those never seen before.
        opted_in: Those of `appeared` that no Custom Audience made, as far as the listing shows.
        changed: Listed with other values.
        returned: Listed again after they were gone.
        vanished: Live, and no longer listed by a complete pull.
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
        self._suppression_keys = suppression_keys

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
        """Add the tokens that a filter of the listing returned.

        Args:
            frame: Of `LISTED_TOKEN`.
            custom_audience_id: The audience that the filter named.
            source: How the people of the filter subscribed.
        """
        self.append(frame)
        filtered = frame.select(
            "token",
            pl.lit(custom_audience_id, pl.String).alias("custom_audience_id"),
            pl.lit(source, pl.String).alias("source"),
        )
        self._ingest("filtered_token", filtered)

    def compare(self, page_id: str, pull: Pull | None = None) -> Differences:
        """Compare the staged tokens with the known ones; begins the transaction that `merge` ends.

        Args:
            page_id: The Page.
            pull: The pull that listed them; None for tokens that were queried one by one. Only a
                complete pull finds tokens vanished.
        """
        with self._connection.cursor() as cursor:
            cursor.execute("analyze filtered_token (token)")
            cursor.execute(sql.SORT_MEMORY)
            cursor.execute(sql.LOCK, (page_id,))
        self._exclude_erased_people(page_id)
        if not self._row(sql.IS_KNOWN, page_id)["known"]:
            return Differences(first=True, changed=0, returned=0, vanished=0, live_before=0)
        with self._connection.cursor() as cursor:
            # The planner looks few tokens up one by one and joins a whole listing.
            cursor.execute("analyze listed_token (token)")
            cursor.execute(sql.COMPARE, (page_id, _id(pull), _complete(pull)))
        counts = self._row(sql.COUNT_DIFFERENCES)
        live = self._row(sql.COUNT_LIVE, page_id)["live"] if counts["vanished"] else 0
        return Differences(first=False, **counts, live_before=live)

    def merge(self, page_id: str, differences: Differences, pull: Pull | None = None) -> Merged:
        """Write the differences, their events and the pull's end, and commit: all or nothing."""
        now = self._row(sql.NOW)["now"]
        d = differences
        with self._connection.cursor() as cursor:
            if d.changed or d.returned or d.vanished:
                # The planner must find few tokens one by one, and many in one pass.
                cursor.execute("analyze token_difference")
                cursor.execute(sql.UPDATE_CHANGED, (page_id, now))
                cursor.execute(sql.UPDATE_VANISHED, (page_id, now))
                cursor.execute(sql.RECORD_CHANGES, (page_id, now, _id(pull)))
        # Before new tokens are inserted, which need no renewal.
        if _complete(pull):
            renewed = self._row(sql.RENEW_ALL, page_id, now, _id(pull))["count"]
        else:
            renewed = self._row(sql.RENEW_LISTED, page_id, now)["count"]
        if d.first:
            with self._indexed_afterwards() if pull else nullcontext():
                new = self._row(sql.INSERT_FIRST, page_id, _id(pull), _complete(pull), now)
        else:
            new = self._row(sql.INSERT_COMPARED, page_id, now)
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
                cursor.execute(sql.NOTE_CHANGE, (page_id,))
        self._connection.commit()
        return merged

    @contextmanager
    def _indexed_afterwards(self) -> Iterator[None]:
        """Create the indexes of an empty table after its first rows are inserted."""
        indexes: list[tuple[str, str]] = []
        with self._connection.cursor() as cursor:
            if self._row(sql.IS_EMPTY)["empty"] and self._row(sql.IS_ALONE)["alone"]:
                cursor.execute(sql.LOCK_TABLE)
                # Checked again, because another merge may have held the lock.
                if self._row(sql.IS_EMPTY)["empty"]:
                    cursor.execute(sql.INDEX_MEMORY)
                    cursor.execute(sql.INDEXES)
                    indexes = cursor.fetch_polars().rows()
            for name, _ in indexes:
                cursor.execute(f"drop index {name}")
            yield
            for _, definition in indexes:
                cursor.execute(definition)

    def _exclude_erased_people(self, page_id: str) -> None:
        """Drop the listed tokens of erased people; under the lock, which an erasure takes too."""
        with self._database.transaction() as connection:
            erased = erased_contacts.load(connection, page_id, self._suppression_keys)
        if not erased:
            return
        with self._connection.cursor() as cursor:
            cursor.execute(sql.LISTED_CONTACTS)
            tokens = erased.tokens_of_erased_people(cursor.fetch_polars())
            if not tokens.is_empty():
                cursor.adbc_ingest(
                    "excluded_token", tokens.to_frame(), mode="append", temporary=True
                )
                cursor.execute(sql.EXCLUDE)

    def _finish(self, pull: Pull, m: Merged) -> None:
        end = (pull.pull_id, pull.complete, pull.method, m.listed)
        with self._connection.cursor() as cursor:
            cursor.execute(sql.FINISH_PULL, (*end, m.appeared, m.changed, m.returned, m.vanished))

    def _ingest(self, table: str, frame: pl.DataFrame) -> None:
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest(table, frame, mode="append", temporary=True)
        # A pull can take an hour; an open transaction would prevent vacuum for as long.
        self._connection.commit()

    def _row(self, statement: str, *parameters: object) -> dict[str, Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            row: dict[str, Any] = cursor.fetch_polars().row(0, named=True)
        return row


def tidy(database: Database) -> None:
    """Vacuum the tokens after a pull updated every row, so that index-only scans work again.

    Autovacuum does the same minutes later; while it runs, this does nothing.
    """
    with database.engine.connect() as connection:
        # VACUUM runs in no transaction.
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(_VACUUM)


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
