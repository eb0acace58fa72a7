"""Who left is taken out of every Custom Audience in which they stand.

Not request by request: whoever stands in an audience and is suppressed is removed, however they got
there. So nothing is lost when a run dies between two steps, and a payload that was hashed before
somebody left and uploaded after is made good too. It takes no identifiers, only what is suppressed.
"""

from collections.abc import Callable
from datetime import date

from mm_pipelines.delivery import members
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.removals import RemovalRequest, remove_members
from mm_pipelines.delivery.sending import Sender, Sending
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.people.leavers import Leavers
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse import suppression_sweep
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.suppression_sweep import DueSweep


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
        LockTaken: Another run is at work on the audience, or may be: ``LockLost``.
        SuppressionKeyChanged: Another key is in use.
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; what was acknowledged until then stays so.
    """
    with database.lock(f"audience:{due.audience}") as lock:
        sender = Sender(lock, database, storage, client, sending, ProgressLog(say))
        sender.finish_open(due.custom_audience_id)
        standing = members.current(database, storage, due.custom_audience_id)
        leaving = Leavers(database, suppression_key).among(standing.frame(storage))
        removed = 0
        if leaving.height:
            request = RemovalRequest(leaving.lazy(), day, "leavers")
            removed = remove_members(database, storage, sender, due.audience, standing, request)
        with database.transaction() as connection:
            suppression_sweep.record(connection, due, removed)
    return removed
