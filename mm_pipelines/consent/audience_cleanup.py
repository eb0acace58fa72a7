"""Removes opted-out people from the Custom Audiences in which `audience_search` found them.

It compares the audience's members with the whole suppression list instead of following single
requests. An interrupted run therefore loses nothing, and a person whose payload was hashed before
the opt-out and uploaded after it is removed too.
"""

from dataclasses import dataclass
from datetime import date, datetime

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.consent import member_digests
from mm_pipelines.delivery import custom_audience
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.removals import RemovalRequest, remove_members
from mm_pipelines.delivery.sender import Sender
from mm_pipelines.suppression.suppression_list import SuppressionList

# Returns the audiences in which opted-out people were found.
_DUE = text("""
select known.audience, known.custom_audience_id, known.page_id, sweep.found_at
from mm.custom_audience as known
join mm.suppression_sweep as sweep using (custom_audience_id)
where sweep.found_at is not null
order by known.audience
""")

# Records a cleanup. A search that found more people meanwhile keeps the audience due.
_RECORD = text("""
update mm.suppression_sweep
set removed = removed + :removed, swept_at = now(),
    found_at = nullif(found_at, :found_at)
where custom_audience_id = :custom_audience_id
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


def remove_opted_out_members(
    context: DeliveryContext, due: DueCleanup, suppression_key: bytes, day: date
) -> int:
    """Remove opted-out people from one audience.

    Args:
        context: The resources of the delivery.
        due: The audience, from `due`.
        suppression_key: ``MM_SUPPRESSION_KEY``.
        day: The day that the ledger records the removals under.

    Returns:
        The number of people removed.

    Raises:
        LockTakenError: Another run works on the audience; `LockLostError` when it may.
        SuppressionKeyError: Another key is in use.
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; what was acknowledged until then stays so.
    """
    database, storage = context.database, context.storage
    suppression = SuppressionList.load(database, suppression_key)

    def opted_out(members: pl.LazyFrame) -> RemovalRequest:
        # The kept digests narrow the members down to a few, whose digests are then computed.
        with database.transaction() as connection:
            file = member_digests.find(connection, due.custom_audience_id)
        matches = member_digests.matches(storage, [file] if file else [], suppression.digests)
        candidates = member_digests.keep_hashes(members, matches["hash"])
        return RemovalRequest(suppression.match(candidates).lazy(), day, "leavers")

    with database.lock(f"audience:{due.audience}") as lock:
        with database.transaction() as connection:
            target = custom_audience.find_by_id(connection, due.custom_audience_id)
        if target is None:
            return 0
        sender = Sender(lock, context, ProgressLog(context.say))
        removed = remove_members(context, sender, target, opted_out)
        with database.transaction() as connection:
            record(connection, due, removed)
    return removed
