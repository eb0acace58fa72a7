"""Removes opted-out people from the Custom Audiences in which `audience_search` found them.

It compares the audience's members with the whole suppression list instead of following single
requests. An interrupted run therefore loses nothing, and a person whose payload was hashed before
the opt-out and uploaded after it is removed too.

An opt-out by e-mail or phone holds for every Page, and removing a person from an audience does not
end their subscription (docs/graph-api.md#removing-users). So a person who opted out of another Page
is also unsubscribed at the audience's Page.
"""

from dataclasses import dataclass, field
from datetime import date, datetime

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.consent import member_digests
from mm_pipelines.delivery import custom_audience
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.removals import RemovalRequest, remove_members
from mm_pipelines.delivery.sender import Sender
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.digests import suppression_digests
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.suppression.suppression_list import SuppressionList
from mm_pipelines.warehouse.database import Database

# Returns the audiences in which opted-out people were found.
_DUE = text("""
select known.audience, known.custom_audience_id, known.page_id, sweep.found_at
from mm.custom_audience as known
join mm.suppression_sweep as sweep using (custom_audience_id)
where sweep.found_at is not null
order by known.audience
""")

# Returns whether opted-out people were found in an audience.
_IS_DUE = text("""
select exists (
    select from mm.custom_audience as known
    join mm.suppression_sweep as sweep using (custom_audience_id)
    where known.audience = :audience and sweep.found_at is not null
)
""")

# Records a cleanup. A search that found more people meanwhile keeps the audience due.
_RECORD = text("""
update mm.suppression_sweep
set removed = removed + :removed, swept_at = now(),
    found_at = nullif(found_at, :found_at)
where custom_audience_id = :custom_audience_id
""")


# Requests that the Page unsubscribes people who opted out of another one, once per opt-out. An
# erasure asks every Page itself.
_UNSUBSCRIBE = text("""
insert into mm.unsubscribe_request (page_id, email, phone, source, row_digest)
select distinct :page_id, nullif(member.email, ''), nullif(member.phone, ''), 'audience',
       decode(known.digest, 'hex')
from unnest(cast(:email as text[]), cast(:phone as text[]), cast(:digest as text[]))
    as member (email, phone, digest)
join mm.suppression as known using (digest)
join mm.unsubscribe_request as opt_out on opt_out.id = known.request_id
where opt_out.page_id <> :page_id and opt_out.source <> 'erasure'
  and not exists (
      select from mm.unsubscribe_request as asked
      where asked.page_id = :page_id and asked.list_day is null
        and asked.row_digest = decode(known.digest, 'hex')
        and asked.received_at >= known.suppressed_at
  )
""")


@dataclass(frozen=True)
class DueCleanup:
    """An audience that contains opted-out people.

    Attributes:
        found_at: When a search last found some.
    """

    audience: str
    custom_audience_id: str
    page_id: str
    found_at: datetime


def due(connection: Connection) -> list[DueCleanup]:
    """Return the audiences to clean up, by key."""
    return [DueCleanup(**row._asdict()) for row in connection.execute(_DUE)]


def record(connection: Connection, cleanup: DueCleanup, removed: int) -> None:
    """Record that an audience contains none of the people found until it became due."""
    connection.execute(
        _RECORD,
        {
            "custom_audience_id": cleanup.custom_audience_id,
            "found_at": cleanup.found_at,
            "removed": removed,
        },
    )


@dataclass(frozen=True)
class OptedOutMembers:
    """The opted-out members of an audience: see `delivery.removals.PendingRemoval`.

    Attributes:
        suppression_keys: ``MM_SUPPRESSION_KEY``.
        day: The day that the ledger records the removals under.
        cleanup: The audience, from `due`.
    """

    database: Database
    storage: Storage
    suppression_keys: SuppressionKeys = field(repr=False)
    day: date
    cleanup: DueCleanup

    @property
    def name(self) -> str:
        """What is removed."""
        return f"people who opted out until {self.cleanup.found_at}"

    def request_for(self, members: pl.LazyFrame) -> RemovalRequest:
        """The members on the suppression list."""
        suppression = SuppressionList.load(self.database, self.suppression_keys)
        # The kept digests narrow the members down to a few, whose digests are then computed.
        with self.database.transaction() as connection:
            file = member_digests.find(connection, self.cleanup.custom_audience_id)
        files = [file] if file else []
        matches = member_digests.matches(self.storage, files, suppression.digests)
        candidates = member_digests.keep_hashes(members, matches["hash"])
        leaving = suppression.match(candidates)
        suppression.move_to_current_key(self.database)
        # Before the removal, after which the people are no longer found.
        with self.database.transaction() as connection:
            self._unsubscribe(connection, leaving)
        return RemovalRequest(leaving.lazy(), self.day, "leavers")

    def _unsubscribe(self, connection: Connection, leaving: pl.DataFrame) -> None:
        """Request that the audience's Page unsubscribes them; ``leaving`` has EMAIL and PHONE."""
        known = pl.when(pl.col("EMAIL") != "").then("EMAIL").otherwise("PHONE")
        digest = suppression_digests(known, self.suppression_keys.current)
        members = leaving.select(email="EMAIL", phone="PHONE", digest=digest)
        values = {name: members[name].to_list() for name in members.columns}
        connection.execute(_UNSUBSCRIBE, {**values, "page_id": self.cleanup.page_id})

    def done(self, connection: Connection, removed: int) -> None:
        """Record the cleanup."""
        record(connection, self.cleanup, removed)


@dataclass(frozen=True)
class OptOuts:
    """The audiences with opted-out people: see `delivery.removals.RemovalSource`.

    Attributes:
        suppression_keys: ``MM_SUPPRESSION_KEY``.
        day: The day that the ledger records the removals under.
    """

    database: Database
    storage: Storage
    suppression_keys: SuppressionKeys = field(repr=False)
    day: date

    def may_be_due(self, connection: Connection, audience: str) -> bool:
        """Whether a search found opted-out people in the audience."""
        return bool(connection.scalar(_IS_DUE, {"audience": audience}))

    def pending(self, connection: Connection, audience: str) -> list[OptedOutMembers]:
        """The cleanup of the audience, if it is due."""
        return [
            OptedOutMembers(self.database, self.storage, self.suppression_keys, self.day, cleanup)
            for cleanup in due(connection)
            if cleanup.audience == audience
        ]


def remove_opted_out_members(
    context: DeliveryContext, due: DueCleanup, suppression_keys: SuppressionKeys, day: date
) -> int:
    """Remove opted-out people from one audience.

    Args:
        context: The resources of the delivery.
        due: The audience, from `due`.
        suppression_keys: ``MM_SUPPRESSION_KEY``.
        day: The day that the ledger records the removals under.

    Returns:
        The number of people removed.

    Raises:
        LockTakenError: Another run works on the audience; `LockLostError` when it may.
        SuppressionKeyError: Another key is in use.
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; what was acknowledged until then stays so.
    """
    with context.database.lock(f"audience:{due.audience}") as lock:
        with context.database.transaction() as connection:
            target = custom_audience.find_by_id(connection, due.custom_audience_id)
        if target is None:
            return 0
        sender = Sender(lock, context, ProgressLog(context.say))
        removal = OptedOutMembers(context.database, context.storage, suppression_keys, day, due)
        return remove_members(context, sender, target, removal)
