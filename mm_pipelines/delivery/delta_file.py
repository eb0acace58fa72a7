"""Publishes the people to deliver as an immutable file before the first batch is sent."""

from collections.abc import Mapping, Sequence
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
from mm_pipelines.delivery.deltas import COUNTED, Delta
from mm_pipelines.delivery.errors import PayloadUnreadableError
from mm_pipelines.delivery.membership import MEMBERS, Members
from mm_pipelines.graph_api.users import SCHEMA_KEYS
from mm_pipelines.payload.registry import FORMER_PHONE, HashedPayload
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


# The candidates that are not members and did not opt out.
_NEW = f"""
select position from candidates
anti join ({MEMBERS}) using ({PERSON_KEY})
anti join leaving_emails using ({EMAIL_KEY})
anti join leaving_phones using ({PHONE_KEY})
"""

# The members who do not leave, each once.
_KEPT = f"""
select max(position) as position from ({MEMBERS})
anti join leaving_emails using ({EMAIL_KEY})
anti join leaving_phones using ({PHONE_KEY})
group by {PERSON_KEY}
"""

# The members that the list does not contain.
_VANISHED = f"""
select position, is_certain, {PERSON_KEY} from ({MEMBERS}) anti join listed using ({PERSON_KEY})
"""

# The members that the list contains under another hash of the phone.
_REPLACED = f"""
select position, is_certain, {PERSON_KEY} from ({MEMBERS})
semi join former using ({PERSON_KEY}) anti join listed using ({PERSON_KEY})
"""

# The people of the list and the members who are not replaced.
_REMAINING = f"""
select {PERSON_KEY} from listed
union all
select {PERSON_KEY} from ({MEMBERS}) anti join gone using ({PERSON_KEY})
"""

# The members with one of the identifiers; each once, at the newest position.
_LEAVING = f"""
select max(position) as position, bool_or(is_certain) as is_certain, {PERSON_KEY} from (
    select * from ({MEMBERS}) semi join leaving_emails using ({EMAIL_KEY})
    union all
    select * from ({MEMBERS}) semi join leaving_phones using ({PHONE_KEY})
)
group by {PERSON_KEY}
"""

# The members who have none of the identifiers.
_STAYING = f"""
select * from ({MEMBERS})
anti join leaving_emails using ({EMAIL_KEY}) anti join leaving_phones using ({PHONE_KEY})
"""

# The people to remove, and which of their identifiers a remaining member has too.
_REMOVALS = """
with gone as materialized ({gone}),
staying as ({staying}),
shared_emails as (
    select distinct {email} from staying semi join gone using ({email})
),
shared_phones as (
    select distinct {phone} from staying semi join gone using ({phone})
)
select position, is_certain as is_counted,
       shared_emails.email_1 is not null as email_is_shared,
       shared_phones.phone_1 is not null as phone_is_shared
from gone
left join shared_emails using ({email}) left join shared_phones using ({phone})
"""


def new_people(
    storage: Storage, candidates: Candidates, members: Members, leaving: pl.DataFrame
) -> PeopleQuery:
    """The candidates who are not members yet: their schema keys and ``row_number``.

    Everyone with one of the identifiers in ``leaving`` (EMAIL and PHONE) is excluded.
    """
    listed = keyed(candidates.frame.with_row_index("position"), "position")
    return PeopleQuery(
        frame=candidates.frame,
        tables={"candidates": listed, **members.tables(storage), **_identifiers(leaving.lazy())},
        chosen=_NEW,
        sent=lambda rows: rows.select(*candidates.keys, "row_number"),
    )


def former_people(storage: Storage, former: Members, leaving: pl.DataFrame) -> PeopleQuery:
    """The members of a former Custom Audience, as rows to upload to its successor.

    Everyone with one of the identifiers in ``leaving`` (EMAIL and PHONE) is excluded.
    """
    return PeopleQuery(
        frame=former.added(storage).select(IDENTITY),
        tables={**former.tables(storage), **_identifiers(leaving.lazy())},
        chosen=_KEPT,
        sent=lambda rows: rows.select(*IDENTITY, row_number=pl.lit(0, dtype=pl.Int64)),
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
    listed = {"listed": keyed(payload_people(storage, payload))}
    return _removals(storage, members, listed, _VANISHED, "from listed")


def replaced_people(
    storage: Storage, payload: HashedPayload, members: Members
) -> PeopleQuery | None:
    """The members whose phone has another hash in the payload; None if there are none.

    Earlier rules read some phone numbers differently (docs/lists.md#phone-numbers).
    """
    frame = storage.scan(payload.path)
    if FORMER_PHONE not in frame.collect_schema().names():
        return None
    former = _with_identity(frame).filter(pl.col(FORMER_PHONE) != "")
    tables = {
        "listed": keyed(payload_people(storage, payload)),
        "former": keyed(former.select("EMAIL", PHONE=FORMER_PHONE)),
    }
    return _removals(storage, members, tables, _REPLACED, _REMAINING)


def leaving_people(storage: Storage, leaving: pl.LazyFrame, members: Members) -> PeopleQuery:
    """The members who have one of the identifiers in ``leaving`` (EMAIL and PHONE)."""
    return _removals(storage, members, _identifiers(leaving), _LEAVING, _STAYING)


def publish(
    storage: Storage, custom_audience_id: str, people: PeopleQuery, keys: Sequence[str]
) -> DeltaFile:
    """Select the people and publish them."""
    published = storage.publish(f"deltas/{custom_audience_id}", ".parquet", people.write)
    written = storage.scan(published.path).select(pl.len()).collect().item()
    return DeltaFile(published.path, written, tuple(keys))


def _identifiers(people: pl.LazyFrame) -> dict[str, pl.LazyFrame]:
    """The keys of the e-mails and of the phones that there are, as tables."""
    return {
        "leaving_emails": keyed(people.filter(pl.col("EMAIL") != "")),
        "leaving_phones": keyed(people.filter(pl.col("PHONE") != "")),
    }


def _removals(
    storage: Storage, members: Members, tables: Mapping[str, pl.LazyFrame], gone: str, staying: str
) -> PeopleQuery:
    """Removals as they are sent: ``EMAIL, PHONE``, and beside them the member's own identifiers.

    An identifier that a remaining member has too is not sent, since Meta would remove both.
    """
    counted = [] if members.all_certain else [COUNTED]

    def sent(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.select(
            pl.when("email_is_shared").then(pl.lit("")).otherwise("EMAIL").alias("EMAIL"),
            pl.when("phone_is_shared").then(pl.lit("")).otherwise("PHONE").alias("PHONE"),
            *counted,
            member_email="EMAIL",
            member_phone="PHONE",
            row_number=pl.lit(0, dtype=pl.Int64),
        ).filter((pl.col("EMAIL") != "") | (pl.col("PHONE") != ""))

    return PeopleQuery(
        frame=members.added(storage).select(IDENTITY),
        tables={**members.tables(storage), **tables},
        chosen=_REMOVALS.format(gone=gone, staying=staying, email=EMAIL_KEY, phone=PHONE_KEY),
        sent=sent,
    )


def _with_identity(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The frame with an EMAIL and a PHONE column, whichever of the two it lacked."""
    present = frame.collect_schema().names()
    return frame.with_columns(pl.lit("").alias(name) for name in IDENTITY if name not in present)
