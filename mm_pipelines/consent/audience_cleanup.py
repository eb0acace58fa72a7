"""Removes opted-out people from every Custom Audience that contains them.

It compares an audience's whole membership with the suppression list instead of following single
requests. An interrupted run therefore loses nothing, and a person whose payload was hashed before
the opt-out and uploaded after it is removed too.
"""

from dataclasses import dataclass
from datetime import date

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.delivery import custom_audience
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.removals import RemovalRequest, remove_members
from mm_pipelines.delivery.sender import Sender
from mm_pipelines.suppression.suppression_list import match_suppressed

# Returns the audiences that changed, or the suppression list did, since their last cleanup.
_DUE = text("""
select known.audience, known.custom_audience_id, known.page_id,
       delta.newest as newest_delta_id, total.suppressed
from mm.custom_audience known
cross join (
    -- Lifted values count too: the total must never shrink, or a later opt-out would go unnoticed.
    select count(*) + (
        select coalesce(sum(lifted), 0)::bigint from mm.consent_grant
        where named_by in ('email', 'phone')
    ) as suppressed
    from mm.suppression
) total
cross join lateral (
    select coalesce(max(id) filter (
               where completed_at is not null or closed_at is not null), 0) as newest,
           count(*) as uploads
    from mm.upload_delta
    where custom_audience_id = known.custom_audience_id and operation = 'add'
) delta
left join mm.suppression_sweep swept using (custom_audience_id)
where total.suppressed > 0 and delta.uploads > 0
  and (swept.custom_audience_id is null
       or swept.suppressed < total.suppressed or swept.through_delta_id < delta.newest)
order by known.audience
""")

# Records the state that an audience was cleaned up for.
_RECORD = text("""
insert into mm.suppression_sweep as former
    (custom_audience_id, suppressed, through_delta_id, removed)
values (:custom_audience_id, :suppressed, :through_delta_id, :removed)
on conflict (custom_audience_id) do update
set suppressed = excluded.suppressed, through_delta_id = excluded.through_delta_id,
    removed = former.removed + excluded.removed, swept_at = now()
""")


@dataclass(frozen=True)
class DueCleanup:
    """An audience that may contain opted-out people.

    Attributes:
        newest_delta_id: The newest upload that ended; 0 if none did.
        suppressed: The number of values on the suppression list.
    """

    audience: str
    custom_audience_id: str
    page_id: str
    newest_delta_id: int
    suppressed: int


def due(connection: Connection) -> list[DueCleanup]:
    """Return the audiences to clean up, by key."""
    return [DueCleanup(**row._asdict()) for row in connection.execute(_DUE)]


def record(connection: Connection, cleanup: DueCleanup, removed: int) -> None:
    """Record that an audience contains none of the values suppressed when it became due."""
    connection.execute(
        _RECORD,
        {
            "custom_audience_id": cleanup.custom_audience_id,
            "suppressed": cleanup.suppressed,
            "through_delta_id": cleanup.newest_delta_id,
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
    database = context.database

    def opted_out(members: pl.LazyFrame) -> RemovalRequest:
        leaving = match_suppressed(database, suppression_key, members)
        return RemovalRequest(leaving.lazy(), day, "leavers")

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
