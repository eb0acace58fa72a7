"""Removes people from Custom Audiences.

Only members by our own record are sent to Meta, so Meta learns of no one new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import polars as pl
from sqlalchemy import Connection

from mm_pipelines.delivery import delta_file, deltas, ledger, membership
from mm_pipelines.delivery.anti_join import IDENTITY, identities
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.custom_audience import CustomAudience
from mm_pipelines.delivery.deltas import Delta, NewDelta, Origin
from mm_pipelines.delivery.errors import AudienceTooSmallError, UploadRefusedError
from mm_pipelines.delivery.membership import as_members
from mm_pipelines.delivery.sender import Sender


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


class PendingRemoval(Protocol):
    """People who are to be removed from an audience."""

    @property
    def name(self) -> str:
        """What is removed, for people."""

    def request_for(self, members: pl.LazyFrame) -> RemovalRequest:
        """Select those to remove, by EMAIL and PHONE of the members."""

    def done(self, connection: Connection, removed: int) -> None:
        """Record that the removal was carried out, or is parked."""


class RemovalSource(Protocol):
    """Where removals of an audience come from."""

    def may_be_due(self, connection: Connection, audience: str) -> bool:
        """Whether `pending` may return a removal; this is asked before every batch."""

    def pending(self, connection: Connection, audience: str) -> Sequence[PendingRemoval]:
        """The removals to carry out."""


def remove_members(
    context: DeliveryContext, sender: Sender, target: CustomAudience, removal: PendingRemoval
) -> int:
    """Remove members of a Custom Audience; hold the audience's lock.

    If Meta refuses because too few people would be left, the removal stays open: it is part of the
    next removal, and every upload tries it again.

    Args:
        context: The resources of the delivery.
        sender: Of the audience; it finishes an unfinished removal first.
        target: The Custom Audience.
        removal: Who is to be removed.

    Returns:
        How many were removed.

    Raises:
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; call again for the rest.
    """
    parked = _finish_earlier(context, sender, target)
    delta = _freeze(context, target, removal, parked)
    if delta is not None:
        try:
            sender.finish(delta)
        except AudienceTooSmallError as too_small:
            context.say(str(too_small))
    with context.database.transaction() as connection:
        removed = ledger.progress(connection, delta).rows if delta else 0
        removal.done(connection, removed)
    return removed


def _finish_earlier(
    context: DeliveryContext, sender: Sender, target: CustomAudience
) -> Delta | None:
    """Finish the open removal; return it if Meta still refuses it because the audience is small."""
    try:
        sender.finish_open(target.custom_audience_id, "remove")
    except (AudienceTooSmallError, UploadRefusedError) as refused:
        context.say(str(refused))
    with context.database.transaction() as connection:
        return deltas.find_open(connection, target.custom_audience_id, "remove")


def _freeze(
    context: DeliveryContext, target: CustomAudience, removal: PendingRemoval, parked: Delta | None
) -> Delta | None:
    """Freeze a removal together with a parked one; None if no member is to be removed."""
    database, storage = context.database, context.storage
    custom_audience_id = target.custom_audience_id
    members = membership.current(database, storage, custom_audience_id, with_uncertain=True)
    if members.rows_to_read == 0:
        return None
    request = removal.request_for(members.added(storage).select(IDENTITY))
    leaving = [identities(request.leaving)]
    if parked is not None:
        leaving.append(as_members(storage.scan(parked.path)))
    people = delta_file.leaving_people(storage, pl.concat(leaving), members)
    file = delta_file.publish(storage, custom_audience_id, people, IDENTITY)
    if file.row_count == 0:
        return None
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
        if parked is not None:
            deltas.close(connection, parked, "continued", "continued in a newer removal")
            ledger.abandon_sent(connection, parked)
        delta = deltas.freeze(connection, new)
        if parked is not None:
            deltas.continue_in(connection, parked, delta)
    return delta
