"""What is to be delivered, frozen as an immutable file before the first of it is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from mm_pipelines.delivery import deltas
from mm_pipelines.delivery.anti_join import (
    EMAIL_KEY,
    IDENTITY,
    PERSON_KEY,
    PHONE_KEY,
    PeopleQuery,
    identities,
    keyed,
)
from mm_pipelines.delivery.deltas import Delta, Operation, Origin
from mm_pipelines.delivery.errors import PayloadUnreadableError
from mm_pipelines.delivery.membership import Members
from mm_pipelines.graph_api.users import SCHEMA_KEYS
from mm_pipelines.payload.registry import HashedPayload
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database


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
            "materialise hashed_payload of this partition again"
        )
    columns = pl.scan_parquet(storage.url(payload.path)).collect_schema().names()
    keys = tuple(name for name in columns if name in SCHEMA_KEYS)
    if not set(IDENTITY) & set(keys):
        raise PayloadUnreadableError(
            f"{payload.audience}, {payload.day}: the hashed payload has neither EMAIL nor PHONE; "
            "name the list's columns in mm.yaml and materialise hashed_payload again"
        )
    return keys


def payload_people(storage: Storage, payload: HashedPayload) -> pl.LazyFrame:
    """EMAIL and PHONE of a payload's people; raises as `payload_keys`."""
    payload_keys(storage, payload)
    return identities(pl.scan_parquet(storage.url(payload.path)))


def new_people(
    storage: Storage, payload: HashedPayload, members: Members, leaving: pl.DataFrame
) -> PeopleQuery:
    """The people of a payload who are no members yet: its schema keys and ``row_number``.

    Who has one of the identifiers in ``leaving`` (EMAIL and PHONE) is left out.
    """
    keys = payload_keys(storage, payload)
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
        frame=_with_identity(pl.scan_parquet(storage.url(payload.path))),
        rows=max(members.rows_to_read, payload.rows),
        chosen=chosen,
        sent=lambda rows: rows.select(*keys, "row_number"),
    )


def vanished_people(storage: Storage, payload: HashedPayload, members: Members) -> PeopleQuery:
    """The members whom a payload, being the whole membership, no longer has.

    Who shares all identifiers with people who stay is left out until one is free.
    """
    staying = payload_people(storage, payload)
    return PeopleQuery(
        frame=members.frame(storage),
        rows=max(members.rows_to_read, payload.rows),
        chosen=lambda standing, where: standing.join(
            keyed(staying, where), on=PERSON_KEY, how="anti"
        ),
        sent=lambda gone: _to_be_sent(gone, keyed(staying)),
    )


def leaving_people(storage: Storage, leaving: pl.LazyFrame, members: Members) -> PeopleQuery:
    """The members who have one of the identifiers in ``leaving`` (EMAIL and PHONE)."""
    by_email, by_phone = _each_identifier(leaving)
    everybody = members.frame(storage)
    staying = (
        keyed(everybody)
        .join(by_email, on=EMAIL_KEY, how="anti")
        .join(by_phone, on=PHONE_KEY, how="anti")
    )
    return PeopleQuery(
        frame=everybody,
        rows=members.rows_to_read,
        chosen=lambda standing, _: pl.concat(
            [
                standing.join(by_email, on=EMAIL_KEY, how="semi"),
                standing.join(by_phone, on=PHONE_KEY, how="semi"),
            ]
        ).unique("position"),
        sent=lambda gone: _to_be_sent(gone, staying),
    )


def publish(
    storage: Storage, custom_audience_id: str, people: PeopleQuery, keys: Sequence[str]
) -> DeltaFile:
    """Find the people and publish them."""
    published = storage.publish(f"deltas/{custom_audience_id}", ".parquet", people.write)
    written = pl.scan_parquet(storage.url(published.path)).select(pl.len()).collect().item()
    return DeltaFile(published.path, written, tuple(keys))


def freeze(
    database: Database,
    file: DeltaFile,
    *,
    audience: str,
    day: date,
    custom_audience_id: str,
    operation: Operation,
    origin: Origin,
    source_sha256: str,
) -> Delta:
    """Record a published file as the work that every run does until it is done."""
    with database.transaction() as connection:
        return deltas.freeze(
            connection,
            audience=audience,
            day=day,
            custom_audience_id=custom_audience_id,
            operation=operation,
            origin=origin,
            source_sha256=source_sha256,
            path=file.path,
            row_count=file.row_count,
            keys=file.keys,
        )


def _each_identifier(people: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """The keys of the e-mails and of the phones that there are."""
    by_email = keyed(people.filter(pl.col("EMAIL") != "")).select(EMAIL_KEY).unique()
    by_phone = keyed(people.filter(pl.col("PHONE") != "")).select(PHONE_KEY).unique()
    return by_email, by_phone


def _to_be_sent(gone: pl.LazyFrame, staying: pl.LazyFrame) -> pl.LazyFrame:
    """Removals as they are sent: ``EMAIL, PHONE``, and beside them the member's own identifiers.

    An identifier that someone who stays has too is not sent, for Meta would take them out by it.

    Args:
        gone: EMAIL and PHONE of those who go.
        staying: The keys of those who stay.
    """
    sent = pl.concat([gone, keyed(gone)], how="horizontal").with_columns(
        member_email="EMAIL", member_phone="PHONE", row_number=pl.lit(0, dtype=pl.Int64)
    )
    for name, key in zip(IDENTITY, (EMAIL_KEY, PHONE_KEY), strict=True):
        # Those who go are the smaller side, and the one that is held in memory.
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
