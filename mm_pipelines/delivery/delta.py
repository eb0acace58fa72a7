"""What is to be delivered, frozen as an immutable file before the first of it is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from mm_pipelines.delivery.errors import PayloadUnreadable
from mm_pipelines.delivery.members import Members
from mm_pipelines.delivery.people import IDENTITY, PeopleQuery, identities, with_identity
from mm_pipelines.graph_api.users import SCHEMA_KEYS
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse import upload_delta
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.hashed_payload import HashedPayload
from mm_pipelines.warehouse.upload_delta import Delta, Operation, Origin


@dataclass(frozen=True)
class DeltaFile:
    """A published file of people: the columns ``keys`` and, in lower case, some of our own."""

    path: str
    row_count: int
    keys: tuple[str, ...]


def payload_keys(storage: Storage, payload: HashedPayload) -> tuple[str, ...]:
    """The schema keys among a payload's columns, in their order.

    Raises:
        PayloadUnreadable: The file is gone, or has no column that people are known by.
    """
    if not storage.exists(payload.path):
        raise PayloadUnreadable(
            f"{payload.audience}, {payload.day}: the hashed payload is no longer in the storage; "
            "materialise hashed_payload of this partition again"
        )
    columns = pl.scan_parquet(storage.url(payload.path)).collect_schema().names()
    keys = tuple(name for name in columns if name in SCHEMA_KEYS)
    if not set(IDENTITY) & set(keys):
        raise PayloadUnreadable(
            f"{payload.audience}, {payload.day}: the hashed payload has neither EMAIL nor PHONE; "
            "name the list's columns in mm.yaml and materialise hashed_payload again"
        )
    return keys


def new_people(storage: Storage, payload: HashedPayload, members: Members) -> PeopleQuery:
    """The people of a payload who are no members yet: its schema keys and ``row_number``."""
    keys = payload_keys(storage, payload)
    listed = with_identity(pl.scan_parquet(storage.url(payload.path)))

    def of_bucket(where: pl.Expr) -> pl.LazyFrame:
        known = members.frame(storage, where)
        return listed.filter(where).join(known, on=IDENTITY, how="anti").select(*keys, "row_number")

    return PeopleQuery(members.rows_to_read, of_bucket)


def vanished_people(storage: Storage, payload: HashedPayload, members: Members) -> PeopleQuery:
    """The members whom a payload, being the whole membership, no longer has.

    Who shares all identifiers with people who stay is left out until one is free.
    """
    payload_keys(storage, payload)
    staying = identities(pl.scan_parquet(storage.url(payload.path)))

    def of_bucket(where: pl.Expr) -> pl.LazyFrame:
        standing = members.frame(storage, where)
        vanished = standing.join(staying.filter(where), on=IDENTITY, how="anti")
        return _to_be_sent(vanished, staying)

    return PeopleQuery(max(members.rows_to_read, payload.rows), of_bucket)


def leaving_people(storage: Storage, leaving: pl.LazyFrame, members: Members) -> PeopleQuery:
    """The members who have one of the identifiers in ``leaving``, a frame of EMAIL and PHONE."""
    by_email, by_phone = (
        leaving.select(name).filter(pl.col(name) != "").unique() for name in IDENTITY
    )

    def of_bucket(where: pl.Expr) -> pl.LazyFrame:
        standing = members.frame(storage, where)
        gone = pl.concat(
            [
                standing.join(by_email, on="EMAIL", how="semi"),
                standing.join(by_phone, on="PHONE", how="semi"),
            ]
        ).unique()
        everyone = members.frame(storage, pl.lit(value=True))
        staying = everyone.join(by_email, on="EMAIL", how="anti").join(
            by_phone, on="PHONE", how="anti"
        )
        return _to_be_sent(gone, staying)

    return PeopleQuery(members.rows_to_read, of_bucket)


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
        return upload_delta.freeze(
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


def _to_be_sent(gone: pl.LazyFrame, staying: pl.LazyFrame) -> pl.LazyFrame:
    """Removals as they are sent: ``EMAIL, PHONE``, and beside them the member's own identifiers.

    An identifier that someone who stays has too is not sent, for Meta would take them out by it.
    """
    sent = gone.with_columns(
        member_email="EMAIL", member_phone="PHONE", row_number=pl.lit(0, dtype=pl.Int64)
    )
    for name in IDENTITY:
        held = staying.select(name).filter(pl.col(name) != "")
        # The smaller side is held in memory: those who go.
        shared = held.join(gone.select(name), on=name, how="semi").unique()
        sent = sent.join(shared.with_columns(shared=pl.lit(value=True)), on=name, how="left")
        sent = sent.with_columns(
            pl.when(pl.col("shared").is_null()).then(pl.col(name)).otherwise(pl.lit("")).alias(name)
        ).drop("shared")
    return sent.filter((pl.col("EMAIL") != "") | (pl.col("PHONE") != ""))
