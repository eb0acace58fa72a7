"""Opt-in requests: whom we asked, reserved before asking, so that nobody is asked twice.

Asking a person moves ``asked_at`` of their conversation forward by one statement that first finds
it older than the window. PostgreSQL lets one transaction at a time change a row and judges the
second by what the first left, so of two runs one gets the person. A run that dies after that leaves
the person asked: twice is forbidden, not at all is only a pity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, text

from mm_pipelines.consent.conversations import WINDOW

SAME_TITLE = timedelta(days=7)
"""The least time between two requests with the same title to one person (graph-api-facts 2.11)."""

Outcome = Literal["sent", "unknown", "skipped", "released"]
"""``unknown``: perhaps sent, and counted so. ``released``: surely not sent, may be asked again."""

# Who may be asked now. A webhook that is still to be read may say that the person left.
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

_CANDIDATES = text(f"""
select psid from mm.conversation person
where {_ASKABLE}
order by last_message_at, psid
limit :limit
""")

_NEWEST_CANDIDATE = text(f"""
select last_message_at from mm.conversation person
where {_ASKABLE}
order by last_message_at desc
limit 1
""")

_RESERVE = text(f"""
with taken as (
    update mm.conversation person set asked_at = now()
    where psid = :psid and {_ASKABLE}
    returning person.page_id, person.psid, person.timezone
),
written as (
    insert into mm.optin_request (page_id, psid, title, asked_at)
    select page_id, psid, :title, now() from taken
    returning id, psid
)
select written.id, written.psid, taken.timezone from written join taken using (psid)
""")

_SETTLE = text("""
update mm.optin_request
set state = :state, why = :why, message_id = :message_id, settled_at = now()
where id = :id and state = 'reserved'
""")

_RELEASE = text("""
update mm.conversation person set asked_at = null
from mm.optin_request request
where request.id = :id and request.state = 'reserved'
  and person.page_id = request.page_id and person.psid = request.psid
  and person.asked_at = request.asked_at
""")

_ABANDONED = text("""
update mm.optin_request set state = 'unknown', settled_at = now(),
    why = 'the run ended before the answer came'
where page_id = :page_id and state = 'reserved' and asked_at < now() - :patience
""")

# A person who agrees answers the newest request made before.
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

_COUNTS = text("""
select state, coalesce(why, '') as why, count(*) as requests
from mm.optin_request
where page_id = :page_id and asked_at >= :since and asked_at < :until
group by 1, 2
order by 1, 2
""")

# A call ends within minutes; what is reserved for longer has no run any more.
_PATIENCE = timedelta(hours=1)
# So that the window does not close between the reservation and Meta's reading of the request.
_MARGIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One person to be asked now, by this run alone."""

    id: int
    psid: str = field(repr=False)
    timezone: str | None


@dataclass(frozen=True)
class OutcomeCount:
    """How many requests ended so, for a reason."""

    state: str
    why: str
    requests: int


def candidates(connection: Connection, page_id: str, title: str, limit: int) -> list[str]:
    """PSIDs that may be asked now, the windows that close first at the front."""
    values = {**_limits(page_id, title), "limit": limit}
    return list(connection.scalars(_CANDIDATES, values))


def newest_candidate(connection: Connection, page_id: str, title: str) -> datetime | None:
    """When the latest to write wrote of those who may be asked now; None if nobody may."""
    wrote_at: datetime | None = connection.scalar(_NEWEST_CANDIDATE, _limits(page_id, title))
    return wrote_at


def reserve(connection: Connection, page_id: str, psid: str, title: str) -> Reservation | None:
    """Take the one request that this person may get in this window; commit before sending.

    Returns:
        None if the person may not be asked (any more).
    """
    row = connection.execute(_RESERVE, {**_limits(page_id, title), "psid": psid}).one_or_none()
    return Reservation(**row._asdict()) if row else None


def settle(
    connection: Connection,
    reservation: Reservation,
    outcome: Outcome,
    *,
    why: str | None = None,
    message_id: str | None = None,
) -> None:
    """Note how a request ended; one that was surely not sent gives the person free again."""
    if outcome == "released":
        connection.execute(_RELEASE, {"id": reservation.id})
    connection.execute(
        _SETTLE,
        {"id": reservation.id, "state": outcome, "why": why, "message_id": message_id},
    )


def note_grants(
    connection: Connection, page_id: str, people: Sequence[tuple[str, datetime]]
) -> None:
    """Note on the requests that they were answered; ``people`` are PSIDs and when they agreed."""
    connection.execute(
        _NOTE_GRANTS,
        {
            "page_id": page_id,
            "psid": [psid for psid, _ in people],
            "granted_at": [granted_at for _, granted_at in people],
        },
    )


def settle_abandoned(connection: Connection, page_id: str) -> int:
    """Count as perhaps sent what a run reserved and did not live to settle.

    Returns:
        How many.
    """
    values = {"page_id": page_id, "patience": _PATIENCE}
    return connection.execute(_ABANDONED, values).rowcount


def counts(
    connection: Connection, page_id: str, since: datetime, until: datetime
) -> list[OutcomeCount]:
    """How the requests made in a span of time ended."""
    rows = connection.execute(_COUNTS, {"page_id": page_id, "since": since, "until": until})
    return [OutcomeCount(**row._asdict()) for row in rows]


def _limits(page_id: str, title: str) -> dict[str, object]:
    return {
        "page_id": page_id,
        "title": title,
        "window": WINDOW,
        "same_title": SAME_TITLE,
        "margin": _MARGIN,
    }
