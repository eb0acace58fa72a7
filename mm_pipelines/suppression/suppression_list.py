"""The suppression list in ``mm.suppression``, and how people are matched against it."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Self

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.identity import IDENTIFIERS
from mm_pipelines.suppression.digests import key_fingerprint, suppression_digests
from mm_pipelines.warehouse.database import Database

SchemaKey = Literal["EMAIL", "PHONE"]

# Stores the fingerprint of the first key that is ever used.
_INTRODUCE_KEY = text("""
insert into mm.suppression_key (fingerprint) values (:fingerprint) on conflict do nothing
""")

# Returns the fingerprint of the key in use.
_FINGERPRINT = text("select fingerprint from mm.suppression_key")

# Serializes additions until the transaction ends, so that ids become visible in their order.
_SERIALIZE = text("select pg_advisory_xact_lock(hashtextextended('suppression list', 0))")

# Adds values that are not on the list yet.
_ADD = text("""
insert into mm.suppression (key, digest, request_id)
select key, digest, request_id
from unnest(cast(:key as text[]), cast(:digest as text[]), cast(:request_id as bigint[]))
    as value (key, digest, request_id)
on conflict (key, digest) do nothing
""")

# Returns the distinct digests added at a time or later.
_DIGESTS = text("""
select distinct digest from mm.suppression
where suppressed_at >= coalesce(cast(:since as timestamptz), '-infinity')
""")

# Returns the number of values on the list.
_COUNT = text("select count(*) from mm.suppression")


class SuppressionKeyError(Exception):
    """MM_SUPPRESSION_KEY is not the key that the suppression list was made with."""

    def __init__(self) -> None:
        super().__init__(
            "MM_SUPPRESSION_KEY is not the key that the suppression list was made with, so "
            "opted-out people cannot be recognized. Set the previous key again (if it was never "
            "set, it is the one in MM_HOME), then run this again."
        )


@dataclass(frozen=True, slots=True)
class SuppressedValue:
    """One identifier of an opted-out person; the digest is 64 lower-case hex digits."""

    key: SchemaKey
    digest: str = field(repr=False)
    request_id: int


class SuppressionList:
    """The digests of suppressed identifiers, with the key that they are made under.

    Args:
        key: ``MM_SUPPRESSION_KEY`` as bytes.
        digests: Lower-case hex digests of EMAIL and PHONE values, from
            `suppression.digests.suppression_digest`.
    """

    def __init__(self, key: bytes, digests: pl.Series | Iterable[str]) -> None:
        self._key = key
        self._digests = pl.Series("digest", digests, dtype=pl.String).unique()

    def __repr__(self) -> str:
        return f"<SuppressionList: {len(self._digests):,} digests>"

    def __bool__(self) -> bool:
        return not self._digests.is_empty()

    @property
    def digests(self) -> pl.Series:
        """The digests as lower-case hex."""
        return self._digests

    @classmethod
    def load(cls, database: Database, key: bytes, since: datetime | None = None) -> Self:
        """Read the list.

        Args:
            database: Holds ``mm.suppression``.
            key: ``MM_SUPPRESSION_KEY`` as bytes.
            since: Read only values that were added at this time or later.

        Raises:
            SuppressionKeyError: The list was made with another key.
        """
        with database.transaction() as connection:
            check_key(connection, key)
            return cls(key, list(connection.scalars(_DIGESTS, {"since": since})))

    def exclude(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows without suppressed identifiers; EMAIL and PHONE hold hashes or ``""``."""
        present = [key for key in IDENTIFIERS if key in rows.columns]
        if not self or not present:
            return rows
        return rows.filter(~pl.any_horizontal(self._is_suppressed(key) for key in present))

    def keep_suppressed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with a suppressed identifier; EMAIL and PHONE hold hashes or ``""``."""
        present = [key for key in IDENTIFIERS if key in rows.columns]
        if not self or not present:
            return rows.clear()
        return rows.filter(pl.any_horizontal(self._is_suppressed(key) for key in present))

    def match(self, people: pl.LazyFrame) -> pl.DataFrame:
        """Return the suppressed identifiers among EMAIL and PHONE hashes, with ``""`` elsewhere."""
        if not self:
            return pl.DataFrame(schema=dict.fromkeys(IDENTIFIERS, pl.String))
        kept = (
            pl.when(self._is_suppressed(key)).then(pl.col(key)).otherwise(pl.lit("")).alias(key)
            for key in IDENTIFIERS
        )
        matched = people.select(kept).filter(
            pl.any_horizontal(pl.col(key) != "" for key in IDENTIFIERS)
        )
        return matched.collect(engine="streaming")

    def _is_suppressed(self, key: str) -> pl.Expr:
        digest = suppression_digests(pl.col(key), self._key)
        return (pl.col(key) != "") & digest.is_in(self._digests.implode())


def match_suppressed(
    database: Database, key: bytes, people: pl.LazyFrame, since: datetime | None = None
) -> pl.DataFrame:
    """Return the identifiers in ``people`` that are on the list now.

    Raises:
        SuppressionKeyError: The list was made with another key.
    """
    return SuppressionList.load(database, key, since).match(people)


def check_key(connection: Connection, suppression_key: bytes) -> None:
    """Check that the key is the one in use; the first key that is ever checked becomes it.

    Raises:
        SuppressionKeyError: Another key is in use.
    """
    fingerprint = key_fingerprint(suppression_key)
    connection.execute(_INTRODUCE_KEY, {"fingerprint": fingerprint})
    known: str = connection.execute(_FINGERPRINT).scalar_one()
    if not hmac.compare_digest(known, fingerprint):
        raise SuppressionKeyError


def add(connection: Connection, values: Iterable[SuppressedValue]) -> int:
    """Add values to the list in the caller's transaction; values already on it stay unchanged.

    Returns:
        How many values were not on the list before.
    """
    added = list(values)
    columns = {
        "key": [value.key for value in added],
        "digest": [value.digest for value in added],
        "request_id": [value.request_id for value in added],
    }
    connection.execute(_SERIALIZE)
    return connection.execute(_ADD, columns).rowcount


def count(connection: Connection) -> int:
    """Return the number of values on the list."""
    return int(connection.scalar(_COUNT) or 0)
