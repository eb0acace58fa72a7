"""Publishes the people to deliver as an immutable file before the first batch is sent."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from polars_hash import CryptographicHashingNameSpace

from mm_pipelines.delivery.anti_join import (
    EMAIL_KEY,
    IDENTITY,
    PERSON_KEY,
    PHONE_KEY,
    PeopleQuery,
    identities,
    keyed,
)
from mm_pipelines.delivery.deltas import Delta
from mm_pipelines.delivery.errors import PayloadUnreadableError
from mm_pipelines.delivery.membership import Members
from mm_pipelines.graph_api.users import SCHEMA_KEYS
from mm_pipelines.payload.registry import HashedPayload
from mm_pipelines.storage import Storage


@dataclass(frozen=True)
class DeltaFile:
    """A published file of people: the columns ``keys`` and, in lower case, some of our own."""

    path: str
    row_count: int
    keys: tuple[str, ...]


def payload_keys(storage: Storage, payload: HashedPayload) -> tuple[str, ...]:
    """The schema keys among a payload's columns, in their order.

    Raises:
        PayloadUnreadableError: The file is gone, or has no column that people are known by.
    """
    if not storage.exists(payload.path):
        raise PayloadUnreadableError(
            f"{payload.audience}, {payload.day}: the hashed payload is no longer in the storage; "
            "materialize hashed_payload of this partition again"
        )
    columns = storage.scan(payload.path).collect_schema().names()
    keys = tuple(name for name in columns if name in SCHEMA_KEYS)
    if not set(IDENTITY) & set(keys):
        raise PayloadUnreadableError(
            f"{payload.audience}, {payload.day}: the hashed payload has neither EMAIL nor PHONE; "
            "name the list's columns in mm.yaml and materialize hashed_payload again"
        )
    return keys


def payload_people(storage: Storage, payload: HashedPayload) -> pl.LazyFrame:
    """EMAIL and PHONE of a payload's people; raises as `payload_keys`."""
    payload_keys(storage, payload)
    return identities(storage.scan(payload.path))


@dataclass(frozen=True)
class Candidates:
    """Rows that may be delivered.

    Attributes:
        frame: The schema keys, EMAIL and PHONE at the least, and ``row_number``, in a fixed order.
        keys: The schema keys to send.
        rows: How many rows there are, at most.
    """

    frame: pl.LazyFrame
    keys: tuple[str, ...]
    rows: int


def payload_candidates(
    storage: Storage, payload: HashedPayload, refused: Sequence[str] = ()
) -> Candidates:
    """A payload's rows, without those that Meta refused and that are unchanged.

    Args:
        storage: Where the payload is.
        payload: The day's payload.
        refused: Digests of refused rows, from `ledger.rejected_content`.

    Raises:
        PayloadUnreadableError: As `payload_keys`.
    """
    keys = payload_keys(storage, payload)
    frame = without_refused(storage.scan(payload.path), keys, refused)
    return Candidates(_with_identity(frame), keys, payload.rows)


def without_refused(
    rows: pl.LazyFrame, keys: Sequence[str], refused: Sequence[str]
) -> pl.LazyFrame:
    """The rows whose digests, sent alone with these schema keys, are not among ``refused``."""
    return rows.filter(~_row_digest(keys).is_in(list(refused))) if refused else rows


def delta_candidates(
    storage: Storage, delta: Delta, rows: Sequence[range], keys: Sequence[str]
) -> Candidates:
    """Some rows of an upload's delta, with those of its schema keys that are among ``keys``."""
    frame = storage.scan(delta.path)
    parts = [frame.slice(part.start, len(part)) for part in rows]
    kept = tuple(key for key in delta.keys if key in keys)
    return Candidates(
        _with_identity(pl.concat(parts) if parts else frame.head(0)), kept, sum(map(len, rows))
    )


def new_people(
    storage: Storage, candidates: Candidates, members: Members, leaving: pl.DataFrame
) -> PeopleQuery:
    """The candidates who are not members yet: their schema keys and ``row_number``.

    Everyone with one of the identifiers in ``leaving`` (EMAIL and PHONE) is excluded.
    """
    known = members.frame(storage)
    by_email, by_phone = _each_identifier(leaving.lazy())

    def chosen(listed: pl.LazyFrame, where: pl.Expr) -> pl.LazyFrame:
        strangers = listed.join(keyed(known, where), on=PERSON_KEY, how="anti")
        if leaving.is_empty():
            return strangers
        return strangers.join(by_email, on=EMAIL_KEY, how="anti").join(
            by_phone, on=PHONE_KEY, how="anti"
        )

    return PeopleQuery(
        frame=candidates.frame,
        rows=max(members.rows_to_read, candidates.rows),
        chosen=chosen,
        sent=lambda rows: rows.select(*candidates.keys, "row_number"),
    )


def _row_digest(keys: Sequence[str]) -> pl.Expr:
    """The digest of a batch that consists of the row alone, as the ledger has it."""
    values = [pl.col(key).cast(pl.String).fill_null("") for key in keys]
    schema = ",".join(f'"{key}"' for key in keys)
    head, between, tail = f'{{"schema":[{schema}],"data":[["', '","', '"]]}'
    separators = [pl.lit(head), *[pl.lit(between)] * (len(keys) - 1)]
    pairs = zip(separators, values, strict=True)
    content = pl.concat_str(*[part for pair in pairs for part in pair], pl.lit(tail))
    return CryptographicHashingNameSpace(content).sha2_256()


def vanished_people(storage: Storage, payload: HashedPayload, members: Members) -> PeopleQuery:
    """The members that a payload, being the whole membership, no longer contains.

    Members who share all identifiers with people who stay are kept until one is free.
    """
    staying = payload_people(storage, payload)
    return PeopleQuery(
        frame=members.frame(storage),
        rows=max(members.rows_to_read, payload.rows),
        chosen=lambda present, where: present.join(
            keyed(staying, where), on=PERSON_KEY, how="anti"
        ),
        sent=lambda gone: _to_be_sent(gone, keyed(staying)),
    )


def leaving_people(storage: Storage, leaving: pl.LazyFrame, members: Members) -> PeopleQuery:
    """The members who have one of the identifiers in ``leaving`` (EMAIL and PHONE)."""
    by_email, by_phone = _each_identifier(leaving)
    everyone = members.frame(storage)
    staying = (
        keyed(everyone)
        .join(by_email, on=EMAIL_KEY, how="anti")
        .join(by_phone, on=PHONE_KEY, how="anti")
    )
    return PeopleQuery(
        frame=everyone,
        rows=members.rows_to_read,
        chosen=lambda present, _: pl.concat(
            [
                present.join(by_email, on=EMAIL_KEY, how="semi"),
                present.join(by_phone, on=PHONE_KEY, how="semi"),
            ]
        ).unique("position"),
        sent=lambda gone: _to_be_sent(gone, staying),
    )


def publish(
    storage: Storage, custom_audience_id: str, people: PeopleQuery, keys: Sequence[str]
) -> DeltaFile:
    """Select the people and publish them."""
    published = storage.publish(f"deltas/{custom_audience_id}", ".parquet", people.write)
    written = storage.scan(published.path).select(pl.len()).collect().item()
    return DeltaFile(published.path, written, tuple(keys))


def _each_identifier(people: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """The keys of the e-mails and of the phones that there are."""
    by_email = keyed(people.filter(pl.col("EMAIL") != "")).select(EMAIL_KEY).unique()
    by_phone = keyed(people.filter(pl.col("PHONE") != "")).select(PHONE_KEY).unique()
    return by_email, by_phone


def _to_be_sent(gone: pl.LazyFrame, staying: pl.LazyFrame) -> pl.LazyFrame:
    """Removals as they are sent: ``EMAIL, PHONE``, and beside them the member's own identifiers.

    An identifier that a remaining member has too is not sent, since Meta would remove both.

    Args:
        gone: EMAIL and PHONE of those to remove.
        staying: The keys of the others.
    """
    sent = pl.concat([gone, keyed(gone)], how="horizontal").with_columns(
        member_email="EMAIL", member_phone="PHONE", row_number=pl.lit(0, dtype=pl.Int64)
    )
    for name, key in zip(IDENTITY, (EMAIL_KEY, PHONE_KEY), strict=True):
        # Those to remove are the smaller side, which is held in memory.
        shared = staying.select(key).join(keyed(gone).select(key), on=key, how="semi").unique()
        sent = sent.join(shared.with_columns(is_shared=True), on=key, how="left")
        alone = pl.col("is_shared").is_null()
        sent = sent.with_columns(
            pl.when(alone).then(pl.col(name)).otherwise(pl.lit("")).alias(name)
        ).drop("is_shared")
    addressable = sent.filter((pl.col("EMAIL") != "") | (pl.col("PHONE") != ""))
    return addressable.drop(PERSON_KEY)


def _with_identity(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The frame with an EMAIL and a PHONE column, whichever of the two it lacked."""
    present = frame.collect_schema().names()
    return frame.with_columns(pl.lit("").alias(name) for name in IDENTITY if name not in present)
