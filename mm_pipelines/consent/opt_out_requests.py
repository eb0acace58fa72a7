"""Opt-out requests in ``mm.unsubscribe_request``.

A row is ``received``, ``sent`` once its call to Meta has begun, then ``confirmed`` or ``rejected``
with the reason. The statement that closes a request erases its identifiers
(docs/decisions/0009-no-raw-personal-data-on-disk.md); the row itself stays. A trigger suppresses
PSIDs and tokens in the transaction that inserts the request.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from sqlalchemy import Connection, text

RequestSource = Literal["list", "table", "command", "stop", "erasure", "audience"]
"""Where a request came from. ``table`` is the default for rows that a business inserts itself;
``audience``: an audience of the Page contained a person who opted out of another Page."""

State = Literal["received", "sent", "confirmed", "rejected"]

# Adds requests; a row of a list that is already recorded stays unchanged.
_INSERT = text("""
insert into mm.unsubscribe_request
    (page_id, phone, email, psid, subscriber_token, source, requested_at, list_day, row_digest)
select :page_id, phone, email, psid, subscriber_token, :source, coalesce(requested_at, now()),
       :list_day, row_digest
from unnest(
    cast(:phone as text[]), cast(:email as text[]), cast(:psid as text[]),
    cast(:subscriber_token as text[]), cast(:requested_at as timestamptz[]),
    cast(:row_digest as bytea[])
) as request (phone, email, psid, subscriber_token, requested_at, row_digest)
on conflict (page_id, list_day, row_digest) do nothing
""")

# Adds rows of a list that contain no identifier.
_INSERT_REJECTED = text("""
insert into mm.unsubscribe_request
    (page_id, source, state, why, list_day, row_digest, settled_at)
select :page_id, :source, 'rejected', :why, :list_day, row_digest, now()
from unnest(cast(:row_digest as bytea[])) as request (row_digest)
on conflict (page_id, list_day, row_digest) do nothing
""")

# Returns the digests of the rows of a list that were recorded.
_ROW_DIGESTS = text("""
select row_digest from mm.unsubscribe_request
where page_id = :page_id and list_day = :list_day and row_digest is not null
""")

# Returns the open requests of a Page, oldest first.
_OPEN = text("""
select id, phone, email, psid, subscriber_token
from mm.unsubscribe_request
where page_id = :page_id and state in ('received', 'sent')
order by id
""")

_FORGET_IDENTIFIERS = "phone = null, email = null, psid = null, subscriber_token = null"

# Closes requests of people who opted in again later: sending them would undo the newer decision. A
# request with an e-mail or phone stays open, because no webhook reports an opt-in by those.
_OVERTAKEN = text(f"""
update mm.unsubscribe_request request
set state = 'rejected', settled_at = now(), {_FORGET_IDENTIFIERS},
    why = 'the person opted in again at a later time'
where page_id = :page_id and state in ('received', 'sent')
  and phone is null and email is null
  and exists (
      select from mm.messenger_consent consent
      where consent.page_id = request.page_id and not consent.stopped
        and (consent.contact_kind, consent.contact)
            in (('psid', btrim(request.psid)), ('token', btrim(request.subscriber_token)))
  )
""")

# Marks requests as sent.
_SENT = text("""
update mm.unsubscribe_request set state = 'sent', sent_at = now()
where id = any(:ids) and state in ('received', 'sent')
""")

# Keeps requests open with a reason.
_POSTPONED = text("""
update mm.unsubscribe_request set why = :why where id = any(:ids) and state in ('received', 'sent')
""")

# Closes requests that Meta accepted.
_CONFIRMED = text(f"""
update mm.unsubscribe_request
set state = 'confirmed', settled_at = now(), why = :why,
    named_contact = num_nonnulls(phone, email) > 0, {_FORGET_IDENTIFIERS}
where id = any(:ids) and state = 'sent'
""")

# Closes requests that cannot be carried out.
_REJECTED = text(f"""
update mm.unsubscribe_request
set state = 'rejected', settled_at = now(), why = :why, {_FORGET_IDENTIFIERS}
where id = any(:ids) and state in ('received', 'sent')
""")

# Returns the requests of a Page by state and reason.
_COUNTS = text("""
select state, why, count(*) as requests
from mm.unsubscribe_request
where page_id = :page_id
group by state, why
order by state, why nulls first
""")

# Returns one row per Page with open requests.
_COUNT_OPEN = text("""
select page_id, count(*) as requests, max(received_at) as newest_at
from mm.unsubscribe_request
where state in ('received', 'sent')
group by page_id
order by page_id
""")


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request to store.

    Attributes:
        requested_at: When the person asked; None means now.
        row_digest: Keyed digest of a list's row, which recognizes the row without revealing it.
    """

    phone: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)
    psid: str | None = field(default=None, repr=False)
    subscriber_token: str | None = field(default=None, repr=False)
    requested_at: datetime | None = None
    row_digest: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request in state ``received`` or ``sent``."""

    id: int
    phone: str | None = field(repr=False)
    email: str | None = field(repr=False)
    psid: str | None = field(repr=False)
    subscriber_token: str | None = field(repr=False)


@dataclass(frozen=True)
class PageRequests:
    """The number of open requests of a Page, and when the newest arrived."""

    page_id: str
    requests: int
    newest_at: datetime


@dataclass(frozen=True)
class StateCount:
    """The number of requests in a state for a reason."""

    state: State
    why: str | None
    requests: int


def receive(
    connection: Connection,
    page_id: str,
    requests: Sequence[NewRequest],
    source: RequestSource,
    *,
    list_day: date | None = None,
) -> int:
    """Store requests in the caller's transaction; a list's row that is already stored is skipped.

    PSIDs and tokens are suppressed from the commit on.

    Returns:
        The number of new requests.

    Raises:
        sqlalchemy.exc.IntegrityError: A request has no identifier.
    """
    names = ("phone", "email", "psid", "subscriber_token", "requested_at", "row_digest")
    columns = {name: [getattr(request, name) for request in requests] for name in names}
    known = {"page_id": page_id, "source": source, "list_day": list_day}
    return connection.execute(_INSERT, {**columns, **known}).rowcount


def record_rejected_rows(
    connection: Connection, page_id: str, row_digests: Sequence[bytes], list_day: date, why: str
) -> int:
    """Store a list's rows without identifiers as rejected requests.

    Returns:
        The number of new requests.
    """
    return connection.execute(
        _INSERT_REJECTED,
        {
            "page_id": page_id,
            "source": "list",
            "row_digest": list(row_digests),
            "list_day": list_day,
            "why": why,
        },
    ).rowcount


def row_digests(connection: Connection, page_id: str, list_day: date) -> set[bytes]:
    """Return the digests of the rows of a list that were recorded."""
    values = {"page_id": page_id, "list_day": list_day}
    return {bytes(digest) for digest in connection.scalars(_ROW_DIGESTS, values)}


def open_requests(connection: Connection, page_id: str) -> list[OpenRequest]:
    """Return the open requests of a Page, oldest first."""
    rows = connection.execute(_OPEN, {"page_id": page_id})
    return [OpenRequest(**row._asdict()) for row in rows]


def reject_overtaken(connection: Connection, page_id: str) -> int:
    """Reject the open requests of people who opted in again later.

    Returns:
        The number of requests.
    """
    return connection.execute(_OVERTAKEN, {"page_id": page_id}).rowcount


def mark_sent(connection: Connection, ids: Iterable[int]) -> None:
    """Mark requests as sent; commit this before the call to Meta."""
    connection.execute(_SENT, {"ids": list(ids)})


def postpone(connection: Connection, ids: Iterable[int], why: str) -> None:
    """Keep requests open for the next run, with the reason."""
    connection.execute(_POSTPONED, {"ids": list(ids), "why": why})


def confirm(connection: Connection, ids: Iterable[int], why: str | None) -> int:
    """Close requests that Meta accepted and erase their identifiers.

    Args:
        connection: In the caller's transaction.
        ids: The requests.
        why: The fields that were ignored; None if none were.

    Returns:
        The number of requests.
    """
    return connection.execute(_CONFIRMED, {"ids": list(ids), "why": why}).rowcount


def reject(connection: Connection, ids: Iterable[int], why: str) -> int:
    """Close requests that are unusable or that Meta refused, and erase their identifiers.

    Returns:
        The number of requests.
    """
    return connection.execute(_REJECTED, {"ids": list(ids), "why": why}).rowcount


def counts(connection: Connection, page_id: str) -> list[StateCount]:
    """Return all requests of the Page by state and reason."""
    rows = connection.execute(_COUNTS, {"page_id": page_id})
    return [StateCount(**row._asdict()) for row in rows]


def open_by_page(connection: Connection) -> list[PageRequests]:
    """Return the Pages with open requests, including Pages that mm.yaml does not name."""
    return [PageRequests(**row._asdict()) for row in connection.execute(_COUNT_OPEN)]
