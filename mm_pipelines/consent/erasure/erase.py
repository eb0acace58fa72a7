"""Carries out erasure requests: suppress, search, remove, then follow what Meta answers.

Suppression is committed before the search, so that a payload or an upload that begins meanwhile
leaves the person out. Rows are removed, the receipt is written and the identifiers are deleted in
one transaction: a run that dies before it begins again, and one that dies after it has nothing left
to do. Meta is asked by opt-out requests, which `opt_outs` and `audience_cleanup` carry out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.config import Config
from mm_pipelines.consent.erasure import hashed_files, person_rows, receipts, requests
from mm_pipelines.consent.erasure.hashed_files import Found
from mm_pipelines.consent.erasure.person_rows import PersonContact
from mm_pipelines.consent.erasure.receipts import AudienceToSearch, EntryKind, NewEntry
from mm_pipelines.consent.erasure.requests import ErasureRequest
from mm_pipelines.consent.identifiers import OptOut, read_requests
from mm_pipelines.consent.opt_out_requests import OpenRequest
from mm_pipelines.storage import Storage
from mm_pipelines.suppression import erased_contacts, suppression_list
from mm_pipelines.suppression.digests import suppression_digest
from mm_pipelines.suppression.keys import SuppressionKeys, check_keys
from mm_pipelines.suppression.suppression_list import SchemaKey, SuppressedValue
from mm_pipelines.warehouse.database import Database

NEVER_ADDED = "the unfinished upload did not add the person"
RELEASED = "no key of mm.yaml is bound to this Custom Audience any more"

# Asks each Page to unsubscribe a person: by e-mail and phone all Pages, by PSID and token theirs.
_ASK_PAGES = text("""
insert into mm.unsubscribe_request
    (page_id, email, phone, psid, subscriber_token, source, erasure_id)
select asked.page_id, request.email, request.phone,
       case when asked.page_id = request.page_id then request.psid end,
       case when asked.page_id = request.page_id then request.token end,
       'erasure', request.id
from mm.erasure_request as request
cross join unnest(cast(:page_ids as text[])) as asked (page_id)
where request.id = any(:ids) and request.state = 'received'
  and (num_nonnulls(request.email, request.phone) > 0 or asked.page_id = request.page_id)
on conflict (erasure_id, page_id) where erasure_id is not null do nothing
""")

# Returns the first opt-out request of each erasure.
_FIRST_OPT_OUT = text("""
select erasure_id, min(id) as id from mm.unsubscribe_request
where erasure_id = any(:ids) group by erasure_id
""")

_NOW = text("select now()")


@dataclass(frozen=True)
class ErasurePlan:
    """How to erase people.

    Attributes:
        page_ids: The Pages of mm.yaml.
        suppression_keys: ``MM_SUPPRESSION_KEY``.
        default_countries: Alpha-2 codes that phones without a country code may belong to; None
            reads them as international.
        people_at_once: The people that one search of all files is for.
    """

    page_ids: Sequence[str]
    suppression_keys: SuppressionKeys = field(repr=False)
    default_countries: Sequence[str | None] = (None,)
    people_at_once: int = 500

    @classmethod
    def of(cls, config: Config, suppression_keys: SuppressionKeys) -> Self:
        """How to erase people, by mm.yaml: a phone is read under the country of every list."""
        countries = {audience.default_country for audience in config.audiences.values()}
        countries |= {page.unsubscribes.default_country for page in config.pages.values()}
        return cls(
            page_ids=[page.page_id for page in config.pages.values()],
            suppression_keys=suppression_keys,
            default_countries=[None, *sorted(country for country in countries if country)],
        )


@dataclass
class ErasureSummary:
    """The number of requests that a run removed, rejected and completed."""

    removed: int = 0
    rejected: int = 0
    completed: int = 0


@dataclass(frozen=True)
class _Person:
    """The usable identifiers of a request."""

    request_id: int
    page_id: str | None
    hashes: frozenset[tuple[SchemaKey, str]] = field(repr=False)
    psid: str | None = field(repr=False)
    token: str | None = field(repr=False)

    def contacts(self) -> Iterator[PersonContact]:
        if self.page_id and self.psid:
            yield PersonContact(self.request_id, self.page_id, "psid", self.psid)
        if self.page_id and self.token:
            yield PersonContact(self.request_id, self.page_id, "token", self.token)


def erase(
    database: Database, storage: Storage, plan: ErasurePlan, *, only: int | None = None
) -> ErasureSummary:
    """Remove the people of received requests, and complete the receipts that Meta answered.

    Args:
        database: Holds the requests and the people's data.
        storage: Holds files of hashed people.
        plan: How to erase.
        only: The one request to carry out; None for all.

    Raises:
        SuppressionKeyError: Another key is in use.
    """
    summary = ErasureSummary()
    with database.lock("erasure", wait=True):
        while batch := _received(database, plan, only):
            _erase(database, storage, plan, batch, summary)
        follow_up(database, storage, plan, summary)
    return summary


def follow_up(
    database: Database, storage: Storage, plan: ErasurePlan, summary: ErasureSummary
) -> None:
    """Close the entries of receipts that something happened to, and complete the requests."""
    with database.transaction() as connection:
        receipts.close_pages(connection)
        changed = receipts.audiences_to_search(connection)
    for audience in changed:
        _search_again(database, storage, plan, audience)
    note_removed_files(database, storage)
    with database.transaction() as connection:
        summary.completed += requests.complete(connection)


def note_removed_files(database: Database, storage: Storage) -> None:
    """Record which of the files that contain erased people are gone."""
    with database.transaction() as connection:
        files = receipts.open_files(connection)
    gone = [path for path in files if not storage.exists(path)]
    with database.transaction() as connection:
        receipts.close_files(connection, gone)
        requests.complete(connection)


def _received(database: Database, plan: ErasurePlan, only: int | None) -> list[ErasureRequest]:
    with database.transaction() as connection:
        return requests.received(connection, plan.people_at_once, only)


def _erase(
    database: Database,
    storage: Storage,
    plan: ErasurePlan,
    batch: Sequence[ErasureRequest],
    summary: ErasureSummary,
) -> None:
    people, refused = _read(batch, plan.default_countries)
    with database.transaction() as connection:
        check_keys(connection, plan.suppression_keys)
        for why, ids in refused.items():
            requests.reject(connection, ids, why)
        _suppress(connection, people, plan)
        named = [contact for person in people for contact in person.contacts()]
        contacts = person_rows.linked_contacts(connection, named)
        searched_at: datetime = connection.execute(_NOW).scalar_one()
    entries = [*_search(database, storage, people, contacts)]
    with database.transaction() as connection:
        person_rows.lock_pages(connection, [contact.page_id for contact in contacts])
        # Again under the lock, because a webhook or a pull may have linked another contact.
        contacts = person_rows.linked_contacts(connection, named)
        erased_contacts.add(connection, person_rows.as_contacts(contacts), plan.suppression_keys)
        removed = person_rows.remove(connection, contacts)
        entries += [NewEntry(each.request_id, "table", each.table, each.found) for each in removed]
        receipts.record(connection, entries, searched_at)
        receipts.record_pages(connection, [person.request_id for person in people])
        requests.mark_removed(connection, _digests(people, plan))
    summary.removed += len(people)
    summary.rejected += sum(map(len, refused.values()))


def _read(
    batch: Sequence[ErasureRequest], default_countries: Sequence[str | None]
) -> tuple[list[_Person], dict[str, list[int]]]:
    """The people that the requests name, and the ids of unusable requests by reason."""
    named = [OpenRequest(each.id, each.phone, each.email, each.psid, each.token) for each in batch]
    readings: dict[int, list[OptOut]] = {}
    reasons: dict[int, str] = {}
    for country in default_countries:
        opt_outs, refused = read_requests(named, country)
        for opt_out in opt_outs:
            readings.setdefault(opt_out.request_id, []).append(opt_out)
        reasons |= {request_id: why for why, ids in refused.items() for request_id in ids}
    unusable: dict[str, list[int]] = {}
    for request_id, why in reasons.items():
        if request_id not in readings:
            unusable.setdefault(why, []).append(request_id)
    pages = {each.id: each.page_id for each in batch}
    return [_person(pages[request_id], of) for request_id, of in readings.items()], unusable


def _person(page_id: str | None, readings: Sequence[OptOut]) -> _Person:
    rows = readings[0].rows
    return _Person(
        request_id=readings[0].request_id,
        page_id=page_id,
        hashes=frozenset(value for reading in readings for value in reading.hashes),
        psid=next((row.psid for row in rows if row.psid), None),
        token=next((row.subscriber_token for row in rows if row.subscriber_token), None),
    )


def _suppress(connection: Connection, people: Sequence[_Person], plan: ErasurePlan) -> None:
    ids = [person.request_id for person in people]
    connection.execute(_ASK_PAGES, {"ids": ids, "page_ids": list(plan.page_ids)})
    opt_outs = {row.erasure_id: row.id for row in connection.execute(_FIRST_OPT_OUT, {"ids": ids})}
    suppression_list.add(
        connection,
        plan.suppression_keys,
        [
            SuppressedValue(key, sha256, opt_outs[person.request_id])
            for person in people
            for key, sha256 in person.hashes
        ],
    )


def _search(
    database: Database,
    storage: Storage,
    people: Sequence[_Person],
    contacts: Sequence[PersonContact],
) -> Iterator[NewEntry]:
    hashes = [(person.request_id, sha256) for person in people for _, sha256 in person.hashes]
    named = [(contact.request_id, contact.contact) for contact in contacts]
    schema = {"request_id": pl.Int64, "value": pl.String}
    if hashes:
        wanted = pl.DataFrame(hashes, schema=schema, orient="row")
        members = hashed_files.search_audiences(database, storage, wanted)
        yield from _entries("custom_audience", members)
    if hashes or named:
        wanted = pl.DataFrame([*hashes, *named], schema=schema, orient="row")
        pages = {contact.page_id for contact in contacts}
        files = hashed_files.search_files(database, storage, wanted, pages)
        yield from _entries("file", files)


def _entries(kind: EntryKind, found: Found) -> Iterator[NewEntry]:
    for (request_id, place), count in found.items():
        yield NewEntry(request_id, kind, place, count)


def _digests(people: Sequence[_Person], plan: ErasurePlan) -> Mapping[int, list[str]]:
    return {
        person.request_id: sorted(
            suppression_digest(sha256, key)
            for _, sha256 in person.hashes
            for key in plan.suppression_keys.all
        )
        for person in people
    }


def _search_again(
    database: Database, storage: Storage, plan: ErasurePlan, audience: AudienceToSearch
) -> None:
    """Close the entries of people who are no longer members."""
    waiting = set(audience.digests["request_id"])
    if audience.is_recorded:
        members = hashed_files.requests_among_members(
            database, storage, audience.custom_audience_id, audience.digests, plan.suppression_keys
        )
    else:
        members = set()
    with database.transaction() as connection:
        receipts.record_search(connection, audience, sorted(waiting & members))
        gone = sorted(waiting - members)
        if not audience.is_recorded:
            receipts.record_search(connection, audience, gone, outcome=RELEASED)
        elif audience.removed_at is None:
            receipts.record_search(connection, audience, gone, outcome=NEVER_ADDED)
        else:
            receipts.record_search(connection, audience, gone, accepted_at=audience.removed_at)
