"""People taken out of Custom Audiences: out of one, or out of every one they stand in.

Which ones that is our own record tells, so Meta hears only of people whom we gave to it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date

import polars as pl

from mm_pipelines.delivery import custom_audience, delta_file, ledger, membership
from mm_pipelines.delivery.anti_join import IDENTITY, identities
from mm_pipelines.delivery.custom_audience import CustomAudience
from mm_pipelines.delivery.deltas import Origin
from mm_pipelines.delivery.membership import Members
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.sender import Sender, Sending
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database


@dataclass(frozen=True)
class RemovalRequest:
    """Who leaves, and on whose word.

    Attributes:
        leaving: A frame of EMAIL and PHONE, hashed as payloads are, "" or absent where unknown:
            whoever has one of these identifiers leaves.
        day: The day in the ledger.
        origin: ``removals`` for a list, ``leavers`` for people who asked to leave.
        source_sha256: Of the list; None where there is none.
    """

    leaving: pl.LazyFrame
    day: date
    origin: Origin
    source_sha256: str | None = None


@dataclass(frozen=True)
class RemovalSummary:
    """What became of one audience.

    Attributes:
        removed_people: Acknowledged by Meta in this run; 0 if none of them stood in it.
        people_in_audience: Who are left.
    """

    removed_people: int
    people_in_audience: int


def audiences_with(
    database: Database, storage: Storage, leaving: pl.LazyFrame
) -> dict[CustomAudience, int]:
    """Every recorded audience in which someone with these identifiers stands, and how many.

    What is being delivered at the moment is not looked into.
    """
    with database.transaction() as connection:
        targets = [
            (target, membership.members_of(connection, target.custom_audience_id))
            for target in custom_audience.all_recorded(connection)
        ]
    counts = {
        target: delta_file.leaving_people(storage, identities(leaving), standing).count()
        for target, standing in targets
        if standing.count
    }
    return {target: count for target, count in counts.items() if count}


def remove_people(
    database: Database,
    storage: Storage,
    client: GraphApiClient,
    audience: str,
    request: RemovalRequest,
    *,
    sending: Sending,
    say: Callable[[str], None],
) -> RemovalSummary:
    """Remove everyone who leaves from one audience; again, it removes nobody.

    Args:
        database: The ledger.
        storage: Where the members are, and the frozen removal will be.
        client: With the token of the audience's ad account.
        audience: The audience's key, also of one that mm.yaml no longer has.
        request: Who leaves.
        sending: How removals are sent.
        say: Takes lines about the progress.

    Raises:
        LockTakenError: Another run is at work on the audience, or may be: ``LockLostError``.
        GraphApiError: See `graph_api.errors`; call again for the rest.
    """
    with database.lock(f"audience:{audience}") as lock:
        with database.transaction() as connection:
            target = custom_audience.find(connection, audience)
        if target is None:
            return RemovalSummary(removed_people=0, people_in_audience=0)
        progress = ProgressLog(say)
        sender = Sender(lock, database, storage, client, sending, progress)
        # People who are just being added must be members before they can be removed.
        sender.finish_open(target.custom_audience_id)
        standing = membership.current(database, storage, target.custom_audience_id)
        removed = remove_members(database, storage, sender, audience, standing, request)
        with database.transaction() as connection:
            people = ledger.people_acknowledged(connection, audience)
    return RemovalSummary(removed, people)


def leaving_of(paths: Iterable[str], storage: Storage) -> pl.LazyFrame:
    """The identifiers in published payload files, as a request has them."""
    return pl.concat([identities(pl.scan_parquet(storage.url(path))) for path in paths])


def remove_members(
    database: Database,
    storage: Storage,
    sender: Sender,
    audience: str,
    standing: Members,
    request: RemovalRequest,
) -> int:
    """Remove the members who leave; hold the audience's lock.

    Args:
        database: The ledger.
        storage: Where the members are, and the frozen removal will be.
        sender: Of the audience, whose open delta is finished.
        audience: The audience's key.
        standing: Its members now.
        request: Who leaves.

    Returns:
        How many they were.

    Raises:
        GraphApiError: See `graph_api.errors`; call again for the rest.
    """
    if standing.count == 0:
        return 0
    people = delta_file.leaving_people(storage, identities(request.leaving), standing)
    file = delta_file.publish(storage, standing.custom_audience_id, people, IDENTITY)
    if file.row_count == 0:
        return 0
    delta = delta_file.freeze(
        database,
        file,
        audience=audience,
        day=request.day,
        custom_audience_id=standing.custom_audience_id,
        operation="remove",
        origin=request.origin,
        source_sha256=request.source_sha256 or file.path,
    )
    sender.finish(delta)
    return file.row_count
