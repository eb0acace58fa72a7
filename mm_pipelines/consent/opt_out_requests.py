"""Requests to leave: kept with their identifiers until they are settled, and without them for ever.

A row is `received`, `sent` once its call to Meta has begun, then `confirmed` or `rejected`, with
the reason. Settling erases the identifiers in the same statement (design 7.14); no row is deleted.
What names a PSID or token suppresses it in the transaction that inserts it (a trigger does that).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, text

RequestSource = Literal["list", "table", "command", "stop"]
"""Where a request came from; a business that writes to the table itself need not say."""

State = Literal["received", "sent", "confirmed", "rejected"]

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

_INSERT_REJECTED = text("""
insert into mm.unsubscribe_request
    (page_id, source, state, why, list_day, row_digest, settled_at)
select :page_id, :source, 'rejected', :why, :list_day, row_digest, now()
from unnest(cast(:row_digest as bytea[])) as request (row_digest)
on conflict (page_id, list_day, row_digest) do nothing
""")

_OPEN = text("""
select id, phone, email, psid, subscriber_token
from mm.unsubscribe_request
where page_id = :page_id and state in ('received', 'sent')
order by id
""")

_FORGET_IDENTIFIERS = "phone = null, email = null, psid = null, subscriber_token = null"

# Who granted again after this request was made has come back: leaving them out once more would undo
# what they asked for last. A request by e-mail or phone stands, for no webhook tells of those.
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

_SENT = text("""
update mm.unsubscribe_request set state = 'sent', sent_at = now()
where id = any(:ids) and state in ('received', 'sent')
""")

_POSTPONED = text("""
update mm.unsubscribe_request set why = :why where id = any(:ids) and state in ('received', 'sent')
""")

_CONFIRMED = text(f"""
update mm.unsubscribe_request
set state = 'confirmed', settled_at = now(), why = :why, {_FORGET_IDENTIFIERS}
where id = any(:ids) and state = 'sent'
""")

_REJECTED = text(f"""
update mm.unsubscribe_request
set state = 'rejected', settled_at = now(), why = :why, {_FORGET_IDENTIFIERS}
where id = any(:ids) and state in ('received', 'sent')
""")

_COUNTS = text("""
select state, why, count(*) as requests
from mm.unsubscribe_request
where page_id = :page_id
group by state, why
order by state, why nulls first
""")

_COUNT_OPEN = text("""
select page_id, count(*) as requests, max(received_at) as newest_at
from mm.unsubscribe_request
where state in ('received', 'sent')
group by page_id
order by page_id
""")

_TOKENS_STALE = text("""
select request.page_id, request.settled_at, pull.finished_at
from (
    select page_id, max(settled_at) as settled_at from mm.unsubscribe_request
    where state = 'confirmed' and page_id = any(:page_ids)
    group by page_id
) request
left join lateral (
    select started_at, finished_at from mm.token_pull
    where page_id = request.page_id and finished_at is not null order by started_at desc limit 1
) pull on true
where request.settled_at > coalesce(pull.started_at, '-infinity')
  and coalesce(pull.started_at, '-infinity') <= now() - cast(:at_most_every as interval)
order by request.settled_at
""")


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request as somebody made it.

    Attributes:
        requested_at: When the person asked; None is now.
        row_digest: Of a list's row: keyed, so that the row can be told again but not read.
    """

    phone: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)
    psid: str | None = field(default=None, repr=False)
    subscriber_token: str | None = field(default=None, repr=False)
    requested_at: datetime | None = None
    row_digest: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request that is not settled."""

    id: int
    phone: str | None = field(repr=False)
    email: str | None = field(repr=False)
    psid: str | None = field(repr=False)
    subscriber_token: str | None = field(repr=False)


@dataclass(frozen=True)
class PageRequests:
    """How many requests of a Page are open, and when the newest of them came."""

    page_id: str
    requests: int
    newest_at: datetime


@dataclass(frozen=True)
class StaleTokens:
    """A Page that people have left since its last pull, which ended then; None before the first."""

    page_id: str
    settled_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class StateCount:
    """How many requests are in a state for a reason."""

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
    """Record requests in the caller's transaction; a list's row that is known stays as it is.

    From its commit on, nobody named by PSID or token is sendable.

    Returns:
        How many were new.

    Raises:
        sqlalchemy.exc.IntegrityError: A request names nobody.
    """
    names = ("phone", "email", "psid", "subscriber_token", "requested_at", "row_digest")
    columns = {name: [getattr(request, name) for request in requests] for name in names}
    known = {"page_id": page_id, "source": source, "list_day": list_day}
    return connection.execute(_INSERT, {**columns, **known}).rowcount


def record_rejected_rows(
    connection: Connection, page_id: str, row_digests: Sequence[bytes], list_day: date, why: str
) -> int:
    """Record a list's rows from which nobody can be told, so that they too never vanish.

    Returns:
        How many were new.
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


def open_requests(connection: Connection, page_id: str) -> list[OpenRequest]:
    """All that is not settled of a Page, oldest first."""
    rows = connection.execute(_OPEN, {"page_id": page_id})
    return [OpenRequest(**row._asdict()) for row in rows]


def reject_overtaken(connection: Connection, page_id: str) -> int:
    """Settle the requests of people who granted again later, before anything is sent for them.

    Returns:
        How many.
    """
    return connection.execute(_OVERTAKEN, {"page_id": page_id}).rowcount


def mark_sent(connection: Connection, ids: Iterable[int]) -> None:
    """Note, before they are sent, that Meta may have them from now on."""
    connection.execute(_SENT, {"ids": list(ids)})


def postpone(connection: Connection, ids: Iterable[int], why: str) -> None:
    """Leave them open for the next run, saying why."""
    connection.execute(_POSTPONED, {"ids": list(ids), "why": why})


def confirm(connection: Connection, ids: Iterable[int], why: str | None) -> int:
    """Settle what Meta has carried out, erasing the identifiers; ``why`` says what was left aside.

    Returns:
        How many.
    """
    return connection.execute(_CONFIRMED, {"ids": list(ids), "why": why}).rowcount


def reject(connection: Connection, ids: Iterable[int], why: str) -> int:
    """Settle what cannot be sent or Meta refused, erasing the identifiers.

    Returns:
        How many.
    """
    return connection.execute(_REJECTED, {"ids": list(ids), "why": why}).rowcount


def counts(connection: Connection, page_id: str) -> list[StateCount]:
    """The Page's requests of all time, by state and reason."""
    rows = connection.execute(_COUNTS, {"page_id": page_id})
    return [StateCount(**row._asdict()) for row in rows]


def open_by_page(connection: Connection) -> list[PageRequests]:
    """The Pages that have open requests, those that mm.yaml does not know included."""
    return [PageRequests(**row._asdict()) for row in connection.execute(_COUNT_OPEN)]


def pages_with_stale_tokens(
    connection: Connection, page_ids: Sequence[str], *, at_most_every: timedelta
) -> list[StaleTokens]:
    """The Pages that people left since their last pull began, if that is long enough ago."""
    asked = {"page_ids": list(page_ids), "at_most_every": at_most_every}
    return [StaleTokens(**row._asdict()) for row in connection.execute(_TOKENS_STALE, asked)]
