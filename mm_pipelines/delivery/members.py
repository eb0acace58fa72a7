"""Who stands in a Custom Audience: what was acknowledged, less what was removed.

That is a file of members (``mm.membership``) and the deltas completed since it was written. A delta
adds only people who are no members and removes only members, so a person stands in the audience
when they were added once more than removed.
"""

from dataclasses import dataclass

import polars as pl
from sqlalchemy import Connection

from mm_pipelines.delivery.people import IDENTITY, PeopleQuery, identities
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse import membership, upload_delta
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.membership import MembershipFile
from mm_pipelines.warehouse.upload_delta import Delta

# Each file is opened for every bucket of a join: beyond a few, one file is cheaper.
_MOST_DELTAS_UNFOLDED = 8


@dataclass(frozen=True)
class Members:
    """The members of a Custom Audience at one moment.

    Attributes:
        file: Those of a while ago, None if no file was written yet.
        since: The deltas completed after that, oldest first.
    """

    custom_audience_id: str
    file: MembershipFile | None
    since: tuple[Delta, ...]

    @property
    def count(self) -> int:
        """How many people they are."""
        signs = {"add": 1, "remove": -1}
        changed = sum(signs[delta.operation] * delta.row_count for delta in self.since)
        return changed + (self.file.people if self.file else 0)

    @property
    def rows_to_read(self) -> int:
        """The rows of all the files that tell who they are."""
        return sum(delta.row_count for delta in self.since) + (self.file.people if self.file else 0)

    def frame(self, storage: Storage, where: pl.Expr) -> pl.LazyFrame:
        """EMAIL and PHONE of every member for whom ``where`` holds, in no order."""
        added, removed = self._parts(storage, where)
        if not removed:
            return pl.concat(added)
        signed = [frame.with_columns(sign=pl.lit(1)) for frame in added]
        signed += [frame.with_columns(sign=pl.lit(-1)) for frame in removed]
        standing = pl.concat(signed).group_by(IDENTITY).agg(pl.col("sign").sum())
        return standing.filter(pl.col("sign") > 0).select(IDENTITY)

    def _parts(
        self, storage: Storage, where: pl.Expr
    ) -> tuple[list[pl.LazyFrame], list[pl.LazyFrame]]:
        added: list[pl.LazyFrame] = []
        removed: list[pl.LazyFrame] = []
        if self.file:
            added.append(pl.scan_parquet(storage.url(self.file.path)))
        for delta in self.since:
            frame = pl.scan_parquet(storage.url(delta.path))
            (added if delta.operation == "add" else removed).append(as_members(frame))
        return (
            [identities(frame).filter(where) for frame in added],
            [identities(frame).filter(where) for frame in removed],
        )


def as_members(delta: pl.LazyFrame) -> pl.LazyFrame:
    """A delta's rows by the identity under which people stand in the audience.

    A removal may be sent with fewer identifiers than the member has; it keeps theirs beside.
    """
    if "member_email" not in delta.collect_schema().names():
        return delta
    return delta.select(EMAIL="member_email", PHONE="member_phone")


def members_of(connection: Connection, custom_audience_id: str) -> Members:
    """The members as the ledger has them now."""
    file = membership.find(connection, custom_audience_id)
    since = upload_delta.completed_after(
        connection, custom_audience_id, file.through_delta_id if file else 0
    )
    return Members(custom_audience_id, file, tuple(since))


def current(database: Database, storage: Storage, custom_audience_id: str) -> Members:
    """The members now, folded into few files; hold the audience's lock."""
    with database.transaction() as connection:
        members = members_of(connection, custom_audience_id)
    return fold(database, storage, members)


def fold(database: Database, storage: Storage, members: Members) -> Members:
    """Write the members as one file where they are spread over too many, or are less for removals.

    The former file goes once the new one is recorded. Hold the audience's lock.
    """
    removed = any(delta.operation == "remove" for delta in members.since)
    if not removed and len(members.since) <= _MOST_DELTAS_UNFOLDED:
        return members

    query = PeopleQuery(members.rows_to_read, lambda where: members.frame(storage, where))
    folder = f"members/{members.custom_audience_id}"
    published = storage.publish(folder, ".parquet", query.write)
    people = pl.scan_parquet(storage.url(published.path)).select(pl.len()).collect().item()
    file = MembershipFile(published.path, people, members.since[-1].id)
    with database.transaction() as connection:
        membership.record(connection, members.custom_audience_id, file)
    if members.file and members.file.path != file.path:
        storage.delete(members.file.path)
    return Members(members.custom_audience_id, file, ())
