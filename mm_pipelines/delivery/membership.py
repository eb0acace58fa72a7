"""The members of a Custom Audience: acknowledged uploads less removals.

They are computed from a file of members (``mm.membership``) and the acknowledged slices of newer
deltas, open ones included. The newest delta that delivered a person decides.
"""

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.delivery import deltas, ledger
from mm_pipelines.delivery.anti_join import IDENTITY, PERSON_KEY, PeopleQuery, identities, keyed
from mm_pipelines.delivery.deltas import COUNTED, Delta, Operation
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database, LockTakenError

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
    """Record a newer file in place of the former."""
    connection.execute(_RECORD, {"custom_audience_id": custom_audience_id, **vars(file)})


# Each change is a file to open for a query: beyond some, writing the members anew is cheaper.
_MOST_CHANGES_UNFOLDED = 16


@dataclass(frozen=True)
class Change:
    """The delivered rows of one delta.

    Attributes:
        rows: Positions in the delta's file, ascending.
        people: How many of them change who is a member; while outcomes are unknown, all rows.
        is_certain: Whether Meta acknowledged them; otherwise it may have accepted them.
        is_final: Whether the delta cannot deliver more rows.
    """

    delta: Delta
    rows: tuple[range, ...]
    people: int
    is_certain: bool
    is_final: bool

    @property
    def count(self) -> int:
        """How many rows they are."""
        return sum(map(len, self.rows))

    def is_readable(self, storage: Storage) -> bool:
        """Whether the file exists; people of a lost file are unknown and may be sent again."""
        return storage.exists(self.delta.path)

    def scan(self, storage: Storage) -> pl.LazyFrame:
        """The rows in a fixed order, without members that an upload was topped up with."""
        frame = storage.scan(self.delta.path)
        if self.count < self.delta.row_count:
            frame = pl.concat([frame.slice(part.start, len(part)) for part in self.rows])
        return frame.filter(COUNTED) if self.delta.topped_up else frame


@dataclass(frozen=True)
class Members:
    """The members of a Custom Audience at one moment.

    A person is a member if the newest delta that delivered them is an upload.

    Attributes:
        file: The members of a while ago, None if no file was written yet.
        since: What newer deltas delivered, oldest first.
    """

    custom_audience_id: str
    file: MembershipFile | None
    since: tuple[Change, ...]

    @property
    def count(self) -> int:
        """How many people they are; an upper bound while outcomes are unknown."""
        signs = {"add": 1, "remove": -1}
        changed = sum(signs[change.delta.operation] * change.people for change in self.since)
        return changed + (self.file.people if self.file else 0)

    @property
    def rows_to_read(self) -> int:
        """The rows of all the files that the members are computed from."""
        return sum(change.count for change in self.since) + (self.file.people if self.file else 0)

    @property
    def all_certain(self) -> bool:
        """Whether Meta acknowledged all that they are computed from."""
        return all(change.is_certain for change in self.since)

    def frame(self, storage: Storage) -> pl.LazyFrame:
        """EMAIL and PHONE of every member, in a fixed order; all outcomes must be known."""
        removed = self.removed(storage).group_by(IDENTITY).agg(removed_by=pl.col("change").max())
        added = self.added(storage).join(removed, on=IDENTITY, how="left", maintain_order="left")
        is_member = pl.col("change") > pl.col("removed_by").fill_null(0)
        return added.filter(is_member).select(IDENTITY)

    def tables(self, storage: Storage) -> dict[str, pl.LazyFrame]:
        """What `MEMBERS` reads, keyed: those added, with ``position`` in `added`, and removed."""
        added = self.added(storage).with_row_index("position")
        return {
            "added": keyed(added, "position", "change", "is_certain"),
            "removed": keyed(self.removed(storage), "change"),
        }

    def added(self, storage: Storage) -> pl.LazyFrame:
        """Everyone who was ever added: EMAIL, PHONE, ``change`` and ``is_certain``, in order."""
        parts = [
            identities(change.scan(storage)).with_columns(
                change=pl.lit(number), is_certain=pl.lit(change.is_certain)
            )
            for number, change in self._readable(storage, "add")
        ]
        if self.file:
            recorded = identities(storage.scan(self.file.path))
            parts.insert(0, recorded.with_columns(change=pl.lit(1), is_certain=pl.lit(value=True)))
        empty = {**dict.fromkeys(IDENTITY, pl.String), "change": pl.Int32, "is_certain": pl.Boolean}
        return pl.concat(parts or [pl.LazyFrame(schema=empty)])

    def removed(self, storage: Storage) -> pl.LazyFrame:
        """EMAIL, PHONE and ``change`` of everyone removed since the file was written."""
        parts = [
            as_members(change.scan(storage)).with_columns(change=pl.lit(number))
            for number, change in self._readable(storage, "remove")
        ]
        empty = {**dict.fromkeys(IDENTITY, pl.String), "change": pl.Int32}
        return pl.concat(parts or [pl.LazyFrame(schema=empty)])

    def _readable(self, storage: Storage, operation: Operation) -> Iterator[tuple[int, Change]]:
        """The changes of an operation, numbered in the order of all; the file is number 1."""
        for number, change in enumerate(self.since, start=2):
            if change.delta.operation == operation and change.is_readable(storage):
                yield number, change


MEMBERS = f"""
select position, is_certain, {PERSON_KEY} from added
left join (
    select max(change) as removed_by, {PERSON_KEY} from removed group by {PERSON_KEY}
) using ({PERSON_KEY})
where change > coalesce(removed_by, 0)
"""
"""The members, from `Members.tables`: those added and not removed later. A person can occur twice
while outcomes are unknown."""


def as_members(delta: pl.LazyFrame) -> pl.LazyFrame:
    """EMAIL and PHONE of a removal's rows as the members have them.

    A removal may be sent with fewer identifiers than the member has; the member's own are in
    separate columns.
    """
    if "member_email" not in delta.collect_schema().names():
        return identities(delta)
    return delta.select(EMAIL="member_email", PHONE="member_phone")


def members_of(
    connection: Connection, custom_audience_id: str, *, with_uncertain: bool = False
) -> Members:
    """The members by the ledger.

    Args:
        connection: To the database.
        custom_audience_id: The Custom Audience.
        with_uncertain: Include people whose upload was sent and not answered, as removals need.
    """
    file = find(connection, custom_audience_id)
    found = deltas.after(connection, custom_audience_id, file.through_delta_id if file else 0)
    delivered: dict[int, list[range]] = {}
    people: dict[int, int] = {}
    for operation in ("add", "remove"):
        ids = [delta.id for delta, _ in found if delta.operation == operation]
        delivered |= ledger.acknowledged_ranges(connection, operation, ids)
        people |= ledger.people_of_deltas(connection, operation, ids)
    uncertain: dict[int, list[range]] = {}
    if with_uncertain:
        uncertain = ledger.uncertain_ranges(connection, [delta.id for delta, _ in found])
    since = []
    for delta, is_final in found:
        rows = tuple(delivered.get(delta.id, ()))
        if rows:
            since.append(Change(delta, rows, people[delta.id], is_certain=True, is_final=is_final))
        if delta.id in uncertain:
            rows = tuple(uncertain[delta.id])
            count = sum(map(len, rows))
            since.append(Change(delta, rows, count, is_certain=False, is_final=is_final))
    return Members(custom_audience_id, file, tuple(since))


def intended_members(connection: Connection, custom_audience_id: str) -> Members:
    """Everyone who is in a Custom Audience or was to be: unfinished deltas count as delivered."""
    members = members_of(connection, custom_audience_id)
    through = members.file.through_delta_id if members.file else 0
    acknowledged = {change.delta.id: change for change in members.since}
    since = [
        acknowledged.get(delta.id)
        if is_final
        else Change(
            delta, (range(delta.row_count),), delta.row_count, is_certain=True, is_final=False
        )
        for delta, is_final in deltas.after(connection, custom_audience_id, through)
    ]
    return replace(members, since=tuple(change for change in since if change is not None))


def removed_after(connection: Connection, storage: Storage, upload: Delta) -> pl.LazyFrame:
    """EMAIL and PHONE of everyone removed by a delta newer than an upload."""
    newer = [
        delta
        for delta, _ in deltas.after(connection, upload.custom_audience_id, upload.id)
        if delta.operation == "remove"
    ]
    ranges = ledger.acknowledged_ranges(connection, "remove", [delta.id for delta in newer])
    changes = tuple(
        Change(delta, tuple(ranges[delta.id]), people=0, is_certain=True, is_final=True)
        for delta in newer
        if delta.id in ranges
    )
    return Members(upload.custom_audience_id, None, changes).removed(storage).select(IDENTITY)


def current(
    database: Database,
    storage: Storage,
    custom_audience_id: str,
    *,
    with_uncertain: bool = False,
) -> Members:
    """The members now, folded into few files; hold the audience's lock."""
    with database.transaction() as connection:
        members = members_of(connection, custom_audience_id)
    members = fold(database, storage, members)
    if not with_uncertain:
        return members
    with database.transaction() as connection:
        return members_of(connection, custom_audience_id, with_uncertain=True)


def fold_older_than(database: Database, storage: Storage, before: datetime) -> int:
    """Fold every audience with a final delta of an earlier time, so that its file can be removed.

    An audience that a run works on is left for the next time.

    Returns:
        The number of audiences.
    """
    with database.transaction() as connection:
        targets = deltas.unfolded(connection, before)
    folded = 0
    for audience, custom_audience_id in targets.items():
        with suppress(LockTakenError), database.lock(f"audience:{audience}"):
            with database.transaction() as connection:
                members = members_of(connection, custom_audience_id)
            fold(database, storage, members, few=0)
            folded += 1
    return folded


def fold(
    database: Database, storage: Storage, members: Members, few: int = _MOST_CHANGES_UNFOLDED
) -> Members:
    """Write the members as one file where many changes make them slow to read.

    Only final deltas are folded, up to the first that is not. The former file is deleted once the
    new one is recorded. Hold the audience's lock.

    Args:
        database: The ledger.
        storage: Where the files are.
        members: From `members_of`, with the certain changes only.
        few: So many final changes are not folded.
    """
    final = tuple(itertools.takewhile(lambda change: change.is_final, members.since))
    if len(final) <= few:
        return members

    foldable = Members(members.custom_audience_id, members.file, final)
    query = PeopleQuery(
        frame=foldable.added(storage).select(IDENTITY),
        tables=foldable.tables(storage),
        chosen=f"select position from ({MEMBERS})",
        sent=lambda rows: rows,
    )
    folder = f"members/{members.custom_audience_id}"
    published = storage.publish(folder, ".parquet", query.write)
    people = storage.scan(published.path).select(pl.len()).collect().item()
    file = MembershipFile(published.path, people, final[-1].delta.id)
    with database.transaction() as connection:
        record(connection, members.custom_audience_id, file)
    if members.file and members.file.path != file.path:
        storage.delete(members.file.path)
    return Members(members.custom_audience_id, file, members.since[len(final) :])
