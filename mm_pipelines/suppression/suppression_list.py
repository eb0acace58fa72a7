"""The suppression list in ``mm.suppression``, and how people are matched against it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Literal, Self

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.identity import IDENTIFIERS
from mm_pipelines.suppression.digests import (
    key_fingerprint,
    suppression_digest,
    suppression_digests,
)
from mm_pipelines.suppression.keys import SuppressionKeys, check_keys
from mm_pipelines.warehouse.database import Database

SchemaKey = Literal["EMAIL", "PHONE"]

# Serializes additions until the transaction ends, so that ids become visible in their order.
_SERIALIZE = text("select pg_advisory_xact_lock(hashtextextended('suppression list', 0))")

# Adds values that are not on the list yet.
_ADD = text("""
insert into mm.suppression (key, digest, fingerprint, request_id)
select key, digest, :fingerprint, request_id
from unnest(cast(:key as text[]), cast(:digest as text[]), cast(:request_id as bigint[]))
    as value (key, digest, request_id)
on conflict (key, digest) do nothing
""")

# Moves values to the digests of another key. They keep their time, so they are not new.
_MOVE = text("""
with value as (
    select * from unnest(cast(:key as text[]), cast(:former as text[]), cast(:digest as text[]))
        as value (key, former, digest)
),
moved as (
    insert into mm.suppression (key, digest, fingerprint, request_id, suppressed_at)
    select known.key, value.digest, :fingerprint, known.request_id, known.suppressed_at
    from value join mm.suppression as known
      on known.key = value.key and known.digest = value.former
    on conflict (key, digest) do nothing
)
delete from mm.suppression as known using value
where known.key = value.key and known.digest = value.former
""")

# Returns the distinct digests of each key that were added at a time or later.
_DIGESTS = text("""
select fingerprint, array_agg(distinct digest) as digests from mm.suppression
where suppressed_at >= coalesce(cast(:since as timestamptz), '-infinity')
group by fingerprint
""")

# Removes values from the list.
_LIFT = text("""
delete from mm.suppression
where (key, digest) in (
    select * from unnest(cast(:key as text[]), cast(:digest as text[])) as value (key, digest)
)
""")

# Returns the number of values on the list.
_COUNT = text("select count(*) from mm.suppression")


@dataclass(frozen=True, slots=True)
class SuppressedValue:
    """One identifier of an opted-out person, as a SHA-256 hash."""

    key: SchemaKey
    sha256: str = field(repr=False)
    request_id: int


class SuppressionList:
    """The digests of suppressed identifiers, with the keys that they are made under.

    Args:
        keys: The keys from the environment.
        digests: Lower-case hex digests of EMAIL and PHONE values by the fingerprint of their key,
            from `suppression.digests.suppression_digest`.
    """

    def __init__(self, keys: SuppressionKeys, digests: Mapping[str, Iterable[str]]) -> None:
        self._keys = keys
        self._digests = {
            key: pl.Series("digest", digests[fingerprint], dtype=pl.String)
            for key, fingerprint in zip(keys.all, keys.fingerprints, strict=True)
            if fingerprint in digests
        }
        self._met: set[tuple[SchemaKey, str]] = set()
        self._met_lock = Lock()

    def __repr__(self) -> str:
        return f"<SuppressionList: {len(self.digests):,} digests>"

    def __bool__(self) -> bool:
        return bool(self._digests)

    @property
    def digests(self) -> pl.Series:
        """The digests of all keys as lower-case hex."""
        return pl.concat([pl.Series("digest", dtype=pl.String), *self._digests.values()])

    @classmethod
    def load(cls, database: Database, keys: SuppressionKeys, since: datetime | None = None) -> Self:
        """Read the list.

        Args:
            database: Holds ``mm.suppression``.
            keys: The keys from the environment.
            since: Read only values that were added at this time or later.

        Raises:
            SuppressionKeyError: An entry has another key.
        """
        with database.transaction() as connection:
            check_keys(connection, keys)
            rows = connection.execute(_DIGESTS, {"since": since})
            return cls(keys, {row.fingerprint: row.digests for row in rows})

    def exclude(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows without suppressed identifiers; EMAIL and PHONE hold hashes or ``""``."""
        present = [key for key in IDENTIFIERS if key in rows.columns]
        if not self or not present:
            return rows
        self._note_former(rows, present)
        return rows.filter(~pl.any_horizontal(self._is_suppressed(key) for key in present))

    def keep_suppressed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with a suppressed identifier; EMAIL and PHONE hold hashes or ``""``."""
        present = [key for key in IDENTIFIERS if key in rows.columns]
        if not self or not present:
            return rows.clear()
        self._note_former(rows, present)
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
        found = matched.collect(engine="streaming")
        self._note_former(found, IDENTIFIERS)
        return found

    def move_to_current_key(self, database: Database) -> int:
        """Move the values that were met under the previous key to the current one.

        Returns:
            The number of values met.
        """
        with self._met_lock:
            met, self._met = self._met, set()
        if met:
            with database.transaction() as connection:
                _move(connection, self._keys, met)
        return len(met)

    def _is_suppressed(self, name: str) -> pl.Expr:
        found = [self._has_entry(name, key) for key in self._digests]
        return (pl.col(name) != "") & pl.any_horizontal(found)

    def _has_entry(self, name: str, key: bytes) -> pl.Expr:
        digests = self._digests[key].implode()
        return suppression_digests(pl.col(name), key).is_in(digests)

    def _note_former(self, rows: pl.DataFrame, names: Iterable[str]) -> None:
        """Note the values that only the previous key recognizes, for `move_to_current_key`."""
        previous = self._keys.previous
        if previous is None or previous not in self._digests:
            return
        for name in names:
            met = rows.filter((pl.col(name) != "") & self._has_entry(name, previous))[name]
            with self._met_lock:
                self._met.update((_as_schema_key(name), sha256) for sha256 in met)


def match_suppressed(
    database: Database, keys: SuppressionKeys, people: pl.LazyFrame, since: datetime | None = None
) -> pl.DataFrame:
    """Return the identifiers in ``people`` that are on the list now.

    Raises:
        SuppressionKeyError: An entry has another key.
    """
    suppression = SuppressionList.load(database, keys, since)
    found = suppression.match(people)
    suppression.move_to_current_key(database)
    return found


def add(connection: Connection, keys: SuppressionKeys, values: Iterable[SuppressedValue]) -> int:
    """Add values to the list in the caller's transaction; values already on it stay unchanged.

    A value that is on it under the previous key is moved to the current one.

    Returns:
        How many values were not on the list before.
    """
    added = list(values)
    columns = {
        "key": [value.key for value in added],
        "digest": [suppression_digest(value.sha256, keys.current) for value in added],
        "request_id": [value.request_id for value in added],
    }
    _move(connection, keys, {(value.key, value.sha256) for value in added})
    connection.execute(_SERIALIZE)
    fingerprint = key_fingerprint(keys.current)
    return connection.execute(_ADD, {**columns, "fingerprint": fingerprint}).rowcount


def lift(
    connection: Connection, keys: SuppressionKeys, values: Iterable[tuple[SchemaKey, str]]
) -> int:
    """Remove values, given as SHA-256 hashes, from the list in the caller's transaction.

    Returns:
        How many entries were on it.
    """
    entries = [
        (name, suppression_digest(sha256, key)) for name, sha256 in values for key in keys.all
    ]
    columns = {"key": [name for name, _ in entries], "digest": [digest for _, digest in entries]}
    return connection.execute(_LIFT, columns).rowcount


def count(connection: Connection) -> int:
    """Return the number of values on the list."""
    return int(connection.scalar(_COUNT) or 0)


def _move(
    connection: Connection, keys: SuppressionKeys, values: set[tuple[SchemaKey, str]]
) -> None:
    previous = keys.previous
    if previous is None:
        return
    ordered = sorted(values)
    columns = {
        "key": [name for name, _ in ordered],
        "former": [suppression_digest(sha256, previous) for _, sha256 in ordered],
        "digest": [suppression_digest(sha256, keys.current) for _, sha256 in ordered],
    }
    connection.execute(_SERIALIZE)
    connection.execute(_MOVE, {**columns, "fingerprint": key_fingerprint(keys.current)})


def _as_schema_key(name: str) -> SchemaKey:
    return "EMAIL" if name == "EMAIL" else "PHONE"
