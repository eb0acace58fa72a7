"""Removes people from Custom Audiences.

Only members by our own record are sent to Meta, so Meta learns of no one new.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date

import polars as pl

from mm_pipelines.delivery import custom_audience, delta_file, deltas, ledger, membership
from mm_pipelines.delivery.anti_join import IDENTITY, identities
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.custom_audience import CustomAudience
from mm_pipelines.delivery.deltas import NewDelta, Origin
from mm_pipelines.delivery.errors import AudienceTooSmallError
from mm_pipelines.delivery.membership import as_members
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.sender import Sender
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database


@dataclass(frozen=True)
class RemovalRequest:
    """The people to remove, and why.

    Attributes:
        leaving: EMAIL and PHONE, hashed as payloads are, "" or absent where unknown: every member
            with one of these identifiers is removed.
        day: The day in the ledger.
        origin: ``removals`` for a list, ``leavers`` for opted-out people.
        source_sha256: Content hash of the list; None where there is none.
    """

    leaving: pl.LazyFrame
    day: date
    origin: Origin
    source_sha256: str | None = None


@dataclass(frozen=True)
class RemovalSummary:
    """What a removal did to one audience.

    Attributes:
        removed_people: Acknowledged by Meta in this run; 0 if none of them was a member.
        people_in_audience: The remaining members.
        parked_people: People whom Meta refuses to remove while the audience is small.
    """

    removed_people: int
    people_in_audience: int
    parked_people: int = 0


def audiences_with(
    database: Database, storage: Storage, leaving: pl.LazyFrame
) -> dict[CustomAudience, int]:
    """Every recorded audience with members who have these identifiers, and how many.

    People whose upload was sent and not answered count as members.
    """
    with database.transaction() as connection:
        targets = [
            (
                target,
                membership.members_of(connection, target.custom_audience_id, with_uncertain=True),
            )
            for target in custom_audience.all_recorded(connection)
        ]
    counts = {
        target: delta_file.leaving_people(storage, identities(leaving), members).count()
        for target, members in targets
        if members.rows_to_read
    }
    return {target: count for target, count in counts.items() if count}


def remove_people(
    context: DeliveryContext, audience: str, request: RemovalRequest
) -> RemovalSummary:
    """Remove people from one audience; run again, it removes no one.

    An unfinished upload of the audience does not delay it: what was sent of it counts as members.

    Args:
        context: The resources of the delivery.
        audience: The audience's key, also of one that mm.yaml no longer has.
        request: Who leaves.

    Raises:
        LockTakenError: Another run has the audience's lock, or may have: ``LockLostError``.
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; call again for the rest.
    """
    database = context.database
    with database.lock(f"audience:{audience}") as lock:
        with database.transaction() as connection:
            target = custom_audience.find(connection, audience)
        if target is None:
            return RemovalSummary(removed_people=0, people_in_audience=0)
        sender = Sender(lock, context, ProgressLog(context.say))
        removed = remove_members(context, sender, target, lambda _: request)
        with database.transaction() as connection:
            people = ledger.people_acknowledged(connection, audience)
            parked = deltas.find_open(connection, target.custom_audience_id, "remove")
            left = parked.row_count - ledger.progress(connection, parked).rows if parked else 0
    return RemovalSummary(removed, people, left)


def leaving_of(paths: Iterable[str], storage: Storage) -> pl.LazyFrame:
    """The identifiers in published payload files, as a request has them."""
    return pl.concat([identities(storage.scan(path)) for path in paths])


def remove_members(
    context: DeliveryContext,
    sender: Sender,
    target: CustomAudience,
    request_for: Callable[[pl.LazyFrame], RemovalRequest],
) -> int:
    """Remove members of a Custom Audience; hold the audience's lock.

    If Meta refuses because too few people would be left, the removal stays open: it is part of the
    next removal, and every upload tries it again.

    Args:
        context: The resources of the delivery.
        sender: Of the audience; it finishes an unfinished removal first.
        target: The Custom Audience.
        request_for: Selects those to remove among EMAIL and PHONE of the members.

    Returns:
        How many were removed.

    Raises:
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; call again for the rest.
    """
    database, storage = context.database, context.storage
    custom_audience_id = target.custom_audience_id
    try:
        sender.finish_open(custom_audience_id, "remove")
    except AudienceTooSmallError as parked:
        context.say(str(parked))
    with database.transaction() as connection:
        parked_delta = deltas.find_open(connection, custom_audience_id, "remove")
    members = membership.current(database, storage, custom_audience_id, with_uncertain=True)
    if members.rows_to_read == 0:
        return 0
    request = request_for(members.added(storage).select(IDENTITY))
    leaving = [identities(request.leaving)]
    if parked_delta is not None:
        leaving.append(as_members(storage.scan(parked_delta.path)))
    people = delta_file.leaving_people(storage, pl.concat(leaving), members)
    file = delta_file.publish(storage, custom_audience_id, people, IDENTITY)
    if file.row_count == 0:
        return 0
    new = NewDelta(
        audience=target.audience,
        day=request.day,
        custom_audience_id=custom_audience_id,
        operation="remove",
        origin=request.origin,
        source_sha256=request.source_sha256 or file.path,
        path=file.path,
        row_count=file.row_count,
        keys=file.keys,
    )
    with database.transaction() as connection:
        if parked_delta is not None:
            deltas.close(connection, parked_delta, "continued", "continued in a newer removal")
            ledger.abandon_sent(connection, parked_delta)
        delta = deltas.freeze(connection, new)
        if parked_delta is not None:
            deltas.continue_in(connection, parked_delta, delta)
    try:
        sender.finish(delta)
    except AudienceTooSmallError as parked:
        context.say(str(parked))
    with database.transaction() as connection:
        return ledger.progress(connection, delta).rows
