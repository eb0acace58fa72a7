"""The removal lists of audiences.

A list is recorded before its run asks for the audience's lock. If an upload holds the lock, the
upload carries the list out before its next batch. People of a list who were not uploaded yet are
left out of every older upload.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import polars as pl
from sqlalchemy import Connection, Row, text

from mm_pipelines.delivery import custom_audience, ledger, open_uploads
from mm_pipelines.delivery.anti_join import IDENTITY, identities
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.removals import RemovalRequest, remove_members
from mm_pipelines.delivery.sender import Sender
from mm_pipelines.storage import Storage

_RECORD = text("""
insert into mm.removal_list (audience, day, source_sha256, paths)
values (:audience, :day, :source_sha256, :paths)
on conflict (audience, day) do update
set source_sha256 = excluded.source_sha256, paths = excluded.paths, requested_at = now(),
    done_at = null
""")

# Returns the lists of an audience that are not carried out, the oldest first.
_PENDING = text("""
select audience, day, source_sha256, paths from mm.removal_list
where audience = :audience and done_at is null order by requested_at
""")

_IS_PENDING = text("""
select exists (select from mm.removal_list where audience = :audience and done_at is null)
""")

# Returns the lists of an audience that were requested after a time, the oldest first.
_SINCE = text("""
select audience, day, source_sha256, paths from mm.removal_list
where audience = :audience and requested_at > :at order by requested_at
""")

_FINISH = text("""
update mm.removal_list set done_at = now()
where audience = :audience and day = :day and source_sha256 = :source_sha256
""")


@dataclass(frozen=True)
class RemovalList:
    """The people of a day's removal lists, hashed as payloads are.

    Attributes:
        source_sha256: Content hash of the lists.
        paths: Their payload files in the storage.
    """

    audience: str
    day: date
    source_sha256: str
    paths: tuple[str, ...]

    def people(self, storage: Storage) -> pl.LazyFrame:
        """EMAIL and PHONE, "" where unknown."""
        frames = [storage.scan(path) for path in self.paths]
        return pl.concat([identities(frame) for frame in frames])


@dataclass(frozen=True)
class RemovalSummary:
    """What a removal did to one audience.

    Attributes:
        removed_people: Acknowledged by Meta in this run; 0 if none of them was a member.
        people_in_audience: The remaining members.
        parked_people: People that Meta refuses to remove while the audience is small.
    """

    removed_people: int
    people_in_audience: int
    parked_people: int = 0


@dataclass(frozen=True)
class PendingRemovalList:
    """A removal list to carry out: see `removals.PendingRemoval`."""

    storage: Storage
    listed: RemovalList

    @property
    def name(self) -> str:
        """What is removed."""
        return f"the removal list of {self.listed.day}"

    def request_for(self, members: pl.LazyFrame) -> RemovalRequest:  # noqa: ARG002 - a protocol
        """Everyone on the list."""
        return RemovalRequest(
            leaving=self.listed.people(self.storage),
            day=self.listed.day,
            origin="removals",
            source_sha256=self.listed.source_sha256,
        )

    def done(self, connection: Connection, removed: int) -> None:  # noqa: ARG002 - a protocol
        """Record that the list is carried out."""
        finish(connection, self.listed)


@dataclass(frozen=True)
class RemovalLists:
    """The pending removal lists of audiences: see `removals.RemovalSource`."""

    storage: Storage

    def may_be_due(self, connection: Connection, audience: str) -> bool:
        """Whether the audience has a pending list."""
        return bool(connection.scalar(_IS_PENDING, {"audience": audience}))

    def pending(self, connection: Connection, audience: str) -> Sequence[PendingRemovalList]:
        """The audience's pending lists whose files exist, the oldest first."""
        lists = _lists(connection.execute(_PENDING, {"audience": audience}), self.storage)
        return [PendingRemovalList(self.storage, listed) for listed in lists]


def remove_listed(context: DeliveryContext, listed: RemovalList) -> RemovalSummary:
    """Remove the people of a list from one audience; run again, it removes no one.

    An unfinished upload of the audience does not delay it: what was sent of it counts as members.
    If a running upload has the audience's lock, the upload carries the list out.

    Args:
        context: The resources of the delivery.
        listed: The list; the audience may be one that mm.yaml no longer has.

    Raises:
        LockTakenError: Another run has the audience's lock, or may have: ``LockLostError``.
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; call again for the rest.
    """
    database, audience = context.database, listed.audience
    with database.transaction() as connection:
        record(connection, listed)
    with database.lock(f"audience:{audience}") as lock:
        with database.transaction() as connection:
            target = custom_audience.find(connection, audience)
        removal = PendingRemovalList(context.storage, listed)
        removed = 0
        if target is not None:
            sender = Sender(lock, context, ProgressLog(context.say))
            removed = remove_members(context, sender, target, removal)
        with database.transaction() as connection:
            removal.done(connection, removed)
            people = ledger.people_acknowledged(connection, audience)
            parked = open_uploads.parked_people(connection, [audience])
    return RemovalSummary(removed, people, parked)


def requested_since(
    connection: Connection, storage: Storage, audience: str, at: datetime
) -> pl.LazyFrame:
    """EMAIL and PHONE, "" where unknown, of the people on an audience's lists since a time."""
    lists = _lists(connection.execute(_SINCE, {"audience": audience, "at": at}), storage)
    nobody = pl.LazyFrame(schema=dict.fromkeys(IDENTITY, pl.String))
    return pl.concat([nobody, *[listed.people(storage) for listed in lists]])


def record(connection: Connection, listed: RemovalList) -> None:
    """Record a list that is to be carried out."""
    connection.execute(_RECORD, {**vars(listed), "paths": list(listed.paths)})


def finish(connection: Connection, listed: RemovalList) -> None:
    """Record that a list is carried out."""
    connection.execute(_FINISH, vars(listed))


def _lists(rows: Iterable[Row[Any]], storage: Storage) -> list[RemovalList]:
    """The lists whose files exist."""
    lists = [
        RemovalList(row.audience, row.day, row.source_sha256, tuple(row.paths)) for row in rows
    ]
    return [listed for listed in lists if all(map(storage.exists, listed.paths))]
