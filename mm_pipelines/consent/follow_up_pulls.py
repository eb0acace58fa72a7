"""Pulls that follow an opt-out by e-mail or phone, until its audience token can be gone.

Meta makes an audience token from an uploaded e-mail or phone and does not say from which. The token
of a person who opts out that way stays sendable until a complete pull no longer lists it, and Meta
does not say how soon after its answer that is. So each accepted opt-out is followed by several
pulls of its Page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

FOLLOW_UPS: Final = (
    timedelta(0),
    timedelta(hours=1),
    timedelta(hours=4),
    timedelta(hours=12),
    timedelta(days=1),
    timedelta(days=3),
    timedelta(days=7),
)
"""After each of these times since Meta accepted an opt-out, a complete pull must begin."""

OVERDUE_AFTER: Final = timedelta(hours=1)
"""An opt-out that was accepted so long ago and is followed by no pull fails a check."""

# Returns the Pages that lack a follow-up, the longest due first. The newest accepted opt-out that a
# follow-up time has passed for decides, because its pull follows the earlier ones too.
_DUE = text("""
select page.page_id, step.due_since, pull.finished_at
from unnest(cast(:page_ids as text[])) as page (page_id)
left join lateral (
    select started_at, finished_at from mm.token_pull
    where page_id = page.page_id and complete order by started_at desc limit 1
) as pull on true
cross join lateral (
    select max(accepted.newest_at + follow_up) as due_since
    from unnest(cast(:follow_ups as interval[])) as follow_up
    cross join lateral (
        select max(settled_at) as newest_at from mm.unsubscribe_request
        where page_id = page.page_id and named_contact and settled_at <= now() - follow_up
    ) as accepted
) as step
where step.due_since > coalesce(pull.started_at, '-infinity')
  and coalesce(pull.started_at, '-infinity') <= now() - cast(:at_most_every as interval)
order by step.due_since
""")

# Returns the accepted opt-outs of a Page that no complete pull follows yet, and those of the days
# in which pulls go on.
_COUNT = text("""
select count(*) filter (where settled_at > pull.newest_at) as without_pull,
       min(settled_at) filter (where settled_at > pull.newest_at) as oldest_without_pull_at,
       count(*) filter (where settled_at > now() - cast(:followed_for as interval)) as followed
from mm.unsubscribe_request
cross join (
    select coalesce(max(started_at), '-infinity') as newest_at from mm.token_pull
    where page_id = :page_id and complete
) as pull
where page_id = :page_id and named_contact
  and settled_at > least(pull.newest_at, now() - cast(:followed_for as interval))
""")


@dataclass(frozen=True)
class DuePull:
    """A Page that lacks a pull after an accepted opt-out.

    Attributes:
        due_since: When the pull should have begun.
        finished_at: When the last complete pull ended; None before the first.
    """

    page_id: str
    due_since: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class FollowedOptOuts:
    """The opt-outs by e-mail or phone of a Page whose audience token may still be sendable.

    Attributes:
        without_pull: Meta accepted them, and no complete pull has begun since.
        oldest_without_pull_at: When Meta accepted the oldest of these; None if there are none.
        followed: Meta accepted them within the last follow-up time, so pulls go on.
    """

    without_pull: int
    oldest_without_pull_at: datetime | None
    followed: int


def due(
    connection: Connection, page_ids: Sequence[str], *, at_most_every: timedelta
) -> list[DuePull]:
    """Return the Pages that lack a follow-up, at most one pull per interval."""
    values = {
        "page_ids": list(page_ids),
        "follow_ups": list(FOLLOW_UPS),
        "at_most_every": at_most_every,
    }
    return [DuePull(**row._asdict()) for row in connection.execute(_DUE, values)]


def count(connection: Connection, page_id: str) -> FollowedOptOuts:
    """Count the opt-outs of a Page whose audience token may still be sendable."""
    values = {"page_id": page_id, "followed_for": FOLLOW_UPS[-1]}
    return FollowedOptOuts(**connection.execute(_COUNT, values).one()._asdict())
