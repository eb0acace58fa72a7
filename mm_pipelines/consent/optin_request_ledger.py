"""The ledger of opt-in requests, in which each request is reserved before it is sent.

A reservation is one statement that moves ``asked_at`` of the person's conversation forward if it is
older than the window. PostgreSQL serializes updates of a row, so only one of two concurrent runs
gets the person. If a run dies after that, the request counts as sent: asking twice is forbidden,
and not asking is harmless.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, text

from mm_pipelines.consent.conversations import WINDOW

SAME_TITLE = timedelta(days=7)
"""Meta's limit for the same title to one person (docs/graph-api.md#opt-in-requests)."""

Outcome = Literal["sent", "unknown", "skipped", "released"]
"""``unknown``: may have been sent, so it counts as sent. ``released``: was certainly not sent."""

# The people who may be asked now. A pending consent event excludes its sender.
_ASKABLE = """
person.page_id = :page_id
  and person.last_message_at > now() - :window + :margin
  and (person.asked_at is null or person.asked_at <= now() - :window)
  and not exists (
      select from mm.optin_request former
      where former.page_id = person.page_id and former.psid = person.psid
        and former.title = :title and former.asked_at > now() - :same_title
        and former.state <> 'released'
  )
  and not exists (
      select from mm.subscription_token token
      where token.page_id = person.page_id and token.recipient_id = person.psid
        and token.gone_at is null and coalesce(token.expires_at > now(), true)
  )
  and not exists (
      select from mm.suppressed_recipient left_us
      where left_us.page_id = person.page_id and left_us.psid = person.psid
  )
  and not exists (
      select from mm.webhook_event event
      where event.processed_at is null and event.page_id = person.page_id
        and event.field in ('messaging_optins', 'messaging_optouts')
        and event.payload -> 'sender' ->> 'id' = person.psid
  )
"""

# Returns the PSIDs that may be asked, the earliest closing window first.
_CANDIDATES = text(f"""
select psid from mm.conversation person
where {_ASKABLE}
order by last_message_at, psid
limit :limit
""")

# Returns the time of the newest message of a person who may be asked.
_NEWEST_CANDIDATE = text(f"""
select last_message_at from mm.conversation person
where {_ASKABLE}
order by last_message_at desc
limit 1
""")

# Reserves a request and returns it; returns no row if the person may not be asked.
_RESERVE = text(f"""
with taken as (
    update mm.conversation person set asked_at = now()
    where psid = :psid and {_ASKABLE}
    returning person.page_id, person.psid, person.timezone
),
written as (
    insert into mm.optin_request (page_id, psid, title, payload, asked_at)
    select page_id, psid, :title, :payload, now() from taken
    returning id, psid
)
select written.id, written.psid, coalesce(taken.timezone, event.timezone) as timezone
from written join taken using (psid)
left join lateral (
    -- An earlier opt-in may have given the time zone, if no message did.
    select token.timezone from mm.subscription_token token
    where token.page_id = taken.page_id and token.recipient_id = taken.psid
      and token.timezone is not null
    order by token.last_seen_at desc limit 1
) as event on true
""")

# Records the outcome of a reserved request.
_RECORD_OUTCOME = text("""
update mm.optin_request
set state = :state, why = :why, message_id = :message_id, settled_at = now()
where id = :id and state = 'reserved'
""")

# Lets the person of a reserved request be asked again.
_RELEASE = text("""
update mm.conversation person set asked_at = null
from mm.optin_request request
where request.id = :id and request.state = 'reserved'
  and person.page_id = request.page_id and person.psid = request.psid
  and person.asked_at = request.asked_at
""")

# Marks requests of dead runs as unknown.
_ABANDONED = text("""
update mm.optin_request set state = 'unknown', settled_at = now(),
    why = 'the run ended before the answer came'
where page_id = :page_id and state = 'reserved' and asked_at < now() - :patience
""")

# Records opt-ins on the newest earlier request of each person.
_NOTE_GRANTS = text("""
with answer as (
    select (
        select id from mm.optin_request former
        where former.page_id = :page_id and former.psid = event.psid
          and former.asked_at <= event.granted_at and former.state <> 'released'
        order by former.asked_at desc limit 1
    ) as id, min(event.granted_at) as granted_at
    from unnest(cast(:psid as text[]), cast(:granted_at as timestamptz[]))
        as event (psid, granted_at)
    group by 1
)
update mm.optin_request request set granted_at = least(request.granted_at, answer.granted_at)
from answer where request.id = answer.id
""")

# Returns the requests of a span of time by state and reason.
_COUNTS = text("""
select state, coalesce(why, '') as why, count(*) as requests
from mm.optin_request
where page_id = :page_id and asked_at >= :since and asked_at < :until
group by 1, 2
order by 1, 2
""")

# Deletes requests of an earlier time.
_FORGET = text("""
delete from mm.optin_request where ctid = any (array(
    select ctid from mm.optin_request where asked_at < :before limit :limit
))
""")

# A call takes minutes at most, so the run of an older reservation is dead.
_PATIENCE = timedelta(hours=1)
# The window must still be open when Meta receives the request.
_MARGIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request that only this run may send.

    Attributes:
        timezone: The person's own, from their newest event that gave one; None if none did.
    """

    id: int
    psid: str = field(repr=False)
    timezone: str | None


@dataclass(frozen=True)
class OutcomeCount:
    """The number of requests with an outcome and a reason."""

    state: str
    why: str
    requests: int


def candidates(connection: Connection, page_id: str, title: str, limit: int) -> list[str]:
    """Return the PSIDs that may be asked now, the earliest closing window first."""
    values = {**_limits(page_id, title), "limit": limit}
    return list(connection.scalars(_CANDIDATES, values))


def newest_candidate(connection: Connection, page_id: str, title: str) -> datetime | None:
    """Return the newest message time of the people who may be asked now; None if there are none."""
    wrote_at: datetime | None = connection.scalar(_NEWEST_CANDIDATE, _limits(page_id, title))
    return wrote_at


def reserve(
    connection: Connection, page_id: str, psid: str, title: str, payload: str
) -> Reservation | None:
    """Reserve the person's one request of this window; commit before sending.

    Returns:
        The reservation; None if the person may not be asked.
    """
    values = {**_limits(page_id, title), "psid": psid, "payload": payload}
    row = connection.execute(_RESERVE, values).one_or_none()
    return Reservation(**row._asdict()) if row else None


def record_outcome(
    connection: Connection,
    reservation: Reservation,
    outcome: Outcome,
    *,
    why: str | None = None,
    message_id: str | None = None,
) -> None:
    """Record the outcome of a request; after ``released`` the person may be asked again."""
    if outcome == "released":
        connection.execute(_RELEASE, {"id": reservation.id})
    connection.execute(
        _RECORD_OUTCOME,
        {"id": reservation.id, "state": outcome, "why": why, "message_id": message_id},
    )


def note_grants(
    connection: Connection, page_id: str, people: Sequence[tuple[str, datetime]]
) -> None:
    """Record opt-ins on the requests they answer; ``people`` are PSIDs with the time of opt-in."""
    connection.execute(
        _NOTE_GRANTS,
        {
            "page_id": page_id,
            "psid": [psid for psid, _ in people],
            "granted_at": [granted_at for _, granted_at in people],
        },
    )


def resolve_abandoned(connection: Connection, page_id: str) -> int:
    """Mark the reservations of dead runs as ``unknown``.

    Returns:
        The number of requests.
    """
    values = {"page_id": page_id, "patience": _PATIENCE}
    return connection.execute(_ABANDONED, values).rowcount


def counts(
    connection: Connection, page_id: str, since: datetime, until: datetime
) -> list[OutcomeCount]:
    """Return the outcomes of the requests made in a span of time."""
    rows = connection.execute(_COUNTS, {"page_id": page_id, "since": since, "until": until})
    return [OutcomeCount(**row._asdict()) for row in rows]


def forget(connection: Connection, before: datetime, limit: int) -> int:
    """Delete up to ``limit`` requests of an earlier time, and return how many."""
    return connection.execute(_FORGET, {"before": before, "limit": limit}).rowcount


def _limits(page_id: str, title: str) -> dict[str, object]:
    return {
        "page_id": page_id,
        "title": title,
        "window": WINDOW,
        "same_title": SAME_TITLE,
        "margin": _MARGIN,
    }
