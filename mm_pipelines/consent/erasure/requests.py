"""Erasure requests in ``mm.erasure_request``.

A row is ``received``, ``removed`` once nothing of the person is left in the database, then
``completed`` when Meta has answered every request. The statement that leaves ``received`` deletes
the identifiers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

# Returns the id of the new request.
_RECEIVE = text("""
insert into mm.erasure_request (page_id, email, phone, psid, token)
values (:page_id, :email, :phone, :psid, :token)
returning id
""")

# Returns received requests, oldest first.
_RECEIVED = text("""
select id, page_id, email, phone, psid, token from mm.erasure_request
where state = 'received' and (cast(:only as bigint) is null or id = :only)
order by id
limit :limit
""")

_FORGET_IDENTIFIERS = "email = null, phone = null, psid = null, token = null"

# Closes requests that name no person.
_REJECT = text(f"""
update mm.erasure_request set state = 'rejected', why = :why, {_FORGET_IDENTIFIERS}
where id = any(:ids) and state = 'received'
""")

# Deletes the identifiers of requests whose people's rows are removed.
_REMOVED = text(f"""
update mm.erasure_request as request
set state = 'removed', removed_at = now(), {_FORGET_IDENTIFIERS},
    digests = coalesce(
        (select array_agg(known.digest) from unnest(
            cast(:id as bigint[]), cast(:digest as text[])) as known (id, digest)
         where known.id = request.id), '{{}}')
where request.id = any(:ids) and request.state = 'received'
""")

# Completes the requests without an open entry in their receipt.
_COMPLETE = text("""
update mm.erasure_request as request
set state = 'completed', completed_at = now(), digests = '{}'
where state = 'removed' and not exists (
    select from mm.erasure_receipt
    where request_id = request.id
      and removed_at is null and accepted_at is null and outcome is null
)
""")

# Returns the number of requests in each state.
_COUNTS = text("""
select state, count(*) as requests from mm.erasure_request group by state
""")

# Returns the state of a request and why it was rejected.
_FIND = text("select state, why from mm.erasure_request where id = :id")


@dataclass(frozen=True, slots=True)
class ErasureRequest:
    """A person to erase.

    Attributes:
        page_id: The Page of the PSID or token; None for e-mail and phone, which concern all Pages.
    """

    id: int
    page_id: str | None
    email: str | None = field(repr=False)
    phone: str | None = field(repr=False)
    psid: str | None = field(repr=False)
    token: str | None = field(repr=False)


def receive(connection: Connection, *, page_id: str | None, **identifiers: str | None) -> int:
    """Store a request; ``identifiers`` are ``email``, ``phone``, ``psid`` and ``token``.

    Returns:
        Its id.

    Raises:
        sqlalchemy.exc.IntegrityError: It has no identifier, or a PSID or token without Page.
    """
    names = dict.fromkeys(("email", "phone", "psid", "token"))
    request: int = connection.scalar(_RECEIVE, {**names, **identifiers, "page_id": page_id}) or 0
    return request


def received(connection: Connection, limit: int, only: int | None = None) -> list[ErasureRequest]:
    """Return received requests, oldest first; ``only`` selects one of them."""
    rows = connection.execute(_RECEIVED, {"limit": limit, "only": only})
    return [ErasureRequest(**row._asdict()) for row in rows]


def reject(connection: Connection, ids: Sequence[int], why: str) -> None:
    """Close requests that name no person, and delete their identifiers."""
    connection.execute(_REJECT, {"ids": list(ids), "why": why})


def mark_removed(connection: Connection, digests: Mapping[int, Sequence[str]]) -> None:
    """Delete the identifiers of requests, and keep the digests that Meta's answers need."""
    pairs = [(request_id, digest) for request_id, of in digests.items() for digest in of]
    values = {
        "ids": list(digests),
        "id": [request_id for request_id, _ in pairs],
        "digest": [digest for _, digest in pairs],
    }
    connection.execute(_REMOVED, values)


def complete(connection: Connection) -> int:
    """Complete the requests that Meta has answered in full, and delete their digests.

    Returns:
        The number of requests.
    """
    return connection.execute(_COMPLETE).rowcount


def counts(connection: Connection) -> dict[str, int]:
    """Return the number of requests by state."""
    return {row.state: row.requests for row in connection.execute(_COUNTS)}


def find(connection: Connection, request_id: int) -> tuple[str, str | None] | None:
    """Return the state of a request and why it was rejected; None if there is no such request."""
    row = connection.execute(_FIND, {"id": request_id}).one_or_none()
    return (row.state, row.why) if row else None
