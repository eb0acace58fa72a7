"""Who stands in a Custom Audience: what was acknowledged, less what was removed.

That is a file of members (``mm.membership``) and the deltas completed since it was written. A delta
adds only people who are no members and removes only members, so a person stands in the audience
when they were added once more than removed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.delivery import deltas
from mm_pipelines.delivery.anti_join import IDENTITY, PERSON_KEY, PeopleQuery, identities, keyed
from mm_pipelines.delivery.deltas import Delta
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database

_FIND = text("""
select path, people, through_delta_id from mm.membership
where custom_audience_id = :custom_audience_id
""")

_RECORD = text("""
insert into mm.membership (custom_audience_id, path, people, through_delta_id)
values (:custom_audience_id, :path, :people, :through_delta_id)
on conflict (custom_audience_id) do update
set path = excluded.path, people = excluded.people,
    through_delta_id = excluded.through_delta_id, written_at = now()
""")


@dataclass(frozen=True)
class MembershipFile:
    """The members after the delta ``through_delta_id``: a Parquet file with EMAIL and PHONE."""

    path: str
    people: int
    through_delta_id: int


def find(connection: Connection, custom_audience_id: str) -> MembershipFile | None:
    """The recorded file; None before the first was written."""
    row = connection.execute(_FIND, {"custom_audience_id": custom_audience_id}).one_or_none()
    return MembershipFile(**row._asdict()) if row else None


def record(connection: Connection, custom_audience_id: str, file: MembershipFile) -> None:
    """Let a newer file take the place of the former."""
    connection.execute(_RECORD, {"custom_audience_id": custom_audience_id, **vars(file)})


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

    def frame(self, storage: Storage) -> pl.LazyFrame:
        """EMAIL and PHONE of every member; in a fixed order once they are folded."""
        added, removed = self.added(storage), self.removed(storage)
        if removed is None:
            return added
        signed = pl.concat(
            [added.with_columns(sign=pl.lit(1)), removed.with_columns(sign=pl.lit(-1))]
        )
        standing = signed.group_by(IDENTITY).agg(pl.col("sign").sum())
        return standing.filter(pl.col("sign") > 0).select(IDENTITY)

    def added(self, storage: Storage) -> pl.LazyFrame:
        """EMAIL and PHONE of everybody who was ever added, in a fixed order."""
        frames = [pl.scan_parquet(storage.url(self.file.path))] if self.file else []
        frames += [
            pl.scan_parquet(storage.url(delta.path))
            for delta in self.since
            if delta.operation == "add"
        ]
        nobody = pl.LazyFrame(schema=dict.fromkeys(IDENTITY, pl.String))
        return pl.concat([identities(frame) for frame in frames] or [nobody])

    def removed(self, storage: Storage) -> pl.LazyFrame | None:
        """EMAIL and PHONE of everybody who was removed since the file was written, if anybody."""
        frames = [
            as_members(pl.scan_parquet(storage.url(delta.path)))
            for delta in self.since
            if delta.operation == "remove"
        ]
        return pl.concat(frames) if frames else None


def as_members(delta: pl.LazyFrame) -> pl.LazyFrame:
    """A delta's rows by the identity under which people stand in the audience.

    A removal may be sent with fewer identifiers than the member has; it keeps theirs beside.
    """
    if "member_email" not in delta.collect_schema().names():
        return delta
    return delta.select(EMAIL="member_email", PHONE="member_phone")


def members_of(connection: Connection, custom_audience_id: str) -> Members:
    """The members as the ledger has them now."""
    file = find(connection, custom_audience_id)
    since = deltas.completed_after(
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

    query = PeopleQuery(
        frame=members.added(storage),
        rows=members.rows_to_read,
        chosen=_still_standing(members.removed(storage)),
        sent=lambda rows: rows,
    )
    folder = f"members/{members.custom_audience_id}"
    published = storage.publish(folder, ".parquet", query.write)
    people = pl.scan_parquet(storage.url(published.path)).select(pl.len()).collect().item()
    file = MembershipFile(published.path, people, members.since[-1].id)
    with database.transaction() as connection:
        record(connection, members.custom_audience_id, file)
    if members.file and members.file.path != file.path:
        storage.delete(members.file.path)
    return Members(members.custom_audience_id, file, ())


def _still_standing(
    removed: pl.LazyFrame | None,
) -> Callable[[pl.LazyFrame, pl.Expr], pl.LazyFrame]:
    """Of those added, who was not removed as often; each once, at their newest position."""

    def chosen(added: pl.LazyFrame, where: pl.Expr) -> pl.LazyFrame:
        signed = [added.with_columns(sign=pl.lit(1))]
        if removed is not None:
            gone = keyed(removed, where)
            signed.append(gone.with_columns(position=pl.lit(None, pl.UInt32), sign=pl.lit(-1)))
        people = pl.concat(signed, how="diagonal").group_by(PERSON_KEY)
        return people.agg(pl.col("sign").sum(), pl.col("position").max()).filter(pl.col("sign") > 0)

    return chosen
