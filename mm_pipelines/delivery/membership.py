"""The members of a Custom Audience: acknowledged uploads less removals.

They are computed from a file of members (``mm.membership``) and the acknowledged slices of newer
deltas, open ones included. The newest delta that delivered a person decides.
"""

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.delivery import deltas, ledger
from mm_pipelines.delivery.anti_join import IDENTITY, PERSON_KEY, PeopleQuery, identities, keyed
from mm_pipelines.delivery.deltas import COUNTED, Delta
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


# Each file is opened for every bucket of a join: beyond a few, one file is cheaper.
_MOST_DELTAS_UNFOLDED = 8


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

    def frame(self, storage: Storage) -> pl.LazyFrame:
        """EMAIL and PHONE of every member, in a fixed order.

        Beside them ``is_counted``, where some may not be members: false if Meta never
        acknowledged them.
        """
        added, removed = self.added(storage), self.removed(storage)
        all_certain = all(change.is_certain for change in self.since)
        if removed is None and all_certain:
            return added.select(IDENTITY)
        changes = added if removed is None else pl.concat([added, removed], how="diagonal")
        certain = pl.col("change").filter(pl.col("is_certain").fill_null(value=True)).max()
        newest = changes.group_by(IDENTITY, maintain_order=True).agg(
            pl.col("change").max(), (certain % 2 == 1).fill_null(value=False).alias(COUNTED)
        )
        return newest.filter(_IS_ADDED).select(*IDENTITY, *([] if all_certain else [COUNTED]))

    def added(self, storage: Storage) -> pl.LazyFrame:
        """Everyone who was ever added: EMAIL, PHONE, ``change`` and ``is_certain``, in order."""
        frames = [storage.scan(self.file.path)] if self.file else []
        parts = [
            identities(frame).with_columns(change=pl.lit(1), is_certain=pl.lit(value=True))
            for frame in frames
        ]
        parts += [
            identities(change.scan(storage)).with_columns(
                change=pl.lit(2 * number + 1), is_certain=pl.lit(change.is_certain)
            )
            for number, change in enumerate(self.since, start=1)
            if change.delta.operation == "add" and change.is_readable(storage)
        ]
        empty = {**dict.fromkeys(IDENTITY, pl.String), "change": pl.Int32, "is_certain": pl.Boolean}
        return pl.concat(parts or [pl.LazyFrame(schema=empty)])

    def removed(self, storage: Storage) -> pl.LazyFrame | None:
        """EMAIL, PHONE and ``change`` of everyone removed since the file was written, if any."""
        parts = [
            as_members(change.scan(storage)).with_columns(change=pl.lit(2 * number))
            for number, change in enumerate(self.since, start=1)
            if change.delta.operation == "remove" and change.is_readable(storage)
        ]
        return pl.concat(parts) if parts else None


# `change` numbers the changes in their order: odd for an addition, even for a removal.
_IS_ADDED = pl.col("change") % 2 == 1


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


def removed_after(connection: Connection, storage: Storage, upload: Delta) -> pl.LazyFrame | None:
    """EMAIL and PHONE of everyone removed by a delta newer than an upload, if there is one."""
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
    removed = Members(upload.custom_audience_id, None, changes).removed(storage)
    return None if removed is None else removed.select(IDENTITY)


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
    database: Database, storage: Storage, members: Members, few: int = _MOST_DELTAS_UNFOLDED
) -> Members:
    """Write the members as one file where many files or a removal make them slow to read.

    Only final deltas are folded, up to the first that is not. The former file is deleted once the
    new one is recorded. Hold the audience's lock.

    Args:
        database: The ledger.
        storage: Where the files are.
        members: From `members_of`, with the certain changes only.
        few: So many final uploads are not folded.
    """
    final = tuple(itertools.takewhile(lambda change: change.is_final, members.since))
    removed = any(change.delta.operation == "remove" for change in final)
    if not removed and len(final) <= few:
        return members

    foldable = Members(members.custom_audience_id, members.file, final)
    query = PeopleQuery(
        frame=foldable.added(storage),
        rows=foldable.rows_to_read,
        chosen=_still_members(foldable.removed(storage)),
        sent=lambda rows: rows.select(IDENTITY),
        carried=("change",),
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


def _still_members(
    removed: pl.LazyFrame | None,
) -> Callable[[pl.LazyFrame, pl.Expr], pl.LazyFrame]:
    """Selects those added and not removed later; each once, at their newest position."""

    def chosen(added: pl.LazyFrame, where: pl.Expr) -> pl.LazyFrame:
        changes = [added]
        if removed is not None:
            gone = keyed(removed, where, pl.col("change"))
            changes.append(gone.with_columns(position=pl.lit(None, pl.UInt32)))
        people = pl.concat(changes, how="diagonal").group_by(PERSON_KEY)
        newest = people.agg(pl.col("change", "position").max())
        return newest.filter(_IS_ADDED)

    return chosen
