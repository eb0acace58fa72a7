"""Who left is taken out of every Custom Audience in which they stand.

Not request by request: whoever stands in an audience and is suppressed is removed, however they got
there. So nothing is lost when a run dies between two steps, and a payload that was hashed before
somebody left and uploaded after is made good too. It takes no identifiers, only what is suppressed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, text

from mm_pipelines.delivery import membership
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.removals import RemovalRequest, remove_members
from mm_pipelines.delivery.sender import Sender, Sending
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.suppression_list import match_suppressed
from mm_pipelines.warehouse.database import Database

_DUE = text("""
select known.audience, known.custom_audience_id, known.page_id,
       delta.newest as newest_delta_id, total.suppressed
from mm.custom_audience known
cross join (select count(*) as suppressed from mm.suppression) total
cross join lateral (
    select max(id) as newest from mm.upload_delta
    where custom_audience_id = known.custom_audience_id
      and operation = 'add' and completed_at is not null
) delta
left join mm.suppression_sweep swept using (custom_audience_id)
where total.suppressed > 0 and delta.newest is not null
  and (swept.custom_audience_id is null
       or swept.suppressed < total.suppressed or swept.through_delta_id < delta.newest)
order by known.audience
""")

_RECORD = text("""
insert into mm.suppression_sweep as former
    (custom_audience_id, suppressed, through_delta_id, removed)
values (:custom_audience_id, :suppressed, :through_delta_id, :removed)
on conflict (custom_audience_id) do update
set suppressed = excluded.suppressed, through_delta_id = excluded.through_delta_id,
    removed = former.removed + excluded.removed, swept_at = now()
""")


@dataclass(frozen=True)
class DueSweep:
    """An audience in which somebody who left may still stand.

    Attributes:
        newest_delta_id: The newest delta that added people to it.
        suppressed: How many values are suppressed now.
    """

    audience: str
    custom_audience_id: str
    page_id: str
    newest_delta_id: int
    suppressed: int


def due(connection: Connection) -> list[DueSweep]:
    """The audiences to look through, by their keys."""
    return [DueSweep(**row._asdict()) for row in connection.execute(_DUE)]


def record(connection: Connection, sweep: DueSweep, removed: int) -> None:
    """Note that an audience was clean of everybody who had left when the sweep was found due."""
    connection.execute(
        _RECORD,
        {
            "custom_audience_id": sweep.custom_audience_id,
            "suppressed": sweep.suppressed,
            "through_delta_id": sweep.newest_delta_id,
            "removed": removed,
        },
    )


def sweep(
    database: Database,
    storage: Storage,
    client: GraphApiClient,
    due: DueSweep,
    suppression_key: bytes,
    day: date,
    *,
    sending: Sending,
    say: Callable[[str], None],
) -> int:
    """Remove everybody who left from one audience.

    Args:
        database: The ledger, and who left.
        storage: Where the members are.
        client: With the token of the audience's ad account.
        due: The audience, from `suppression_sweep.due`.
        suppression_key: ``MM_SUPPRESSION_KEY``.
        day: Under which the removals stand in the ledger.
        sending: How removals are sent.
        say: Takes lines about the progress.

    Returns:
        How many people were removed.

    Raises:
        LockTakenError: Another run is at work on the audience, or may be: ``LockLostError``.
        SuppressionKeyError: Another key is in use.
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; what was acknowledged until then stays so.
    """
    with database.lock(f"audience:{due.audience}") as lock:
        sender = Sender(lock, database, storage, client, sending, ProgressLog(say))
        sender.finish_open(due.custom_audience_id)
        standing = membership.current(database, storage, due.custom_audience_id)
        leaving = match_suppressed(database, suppression_key, standing.frame(storage))
        removed = 0
        if leaving.height:
            request = RemovalRequest(leaving.lazy(), day, "leavers")
            removed = remove_members(database, storage, sender, due.audience, standing, request)
        with database.transaction() as connection:
            record(connection, due, removed)
    return removed
