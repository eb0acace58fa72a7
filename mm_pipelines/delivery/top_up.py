"""Fills small uploads up to ``minimum_upload`` with people who are members already.

Meta gives tokens only where "100 or more users matched in the upload"
(docs/graph-api.md#q5-the-floor-of-100-matches). Adding a member again changes nothing at Meta, so
their rows only enlarge the upload; they are not counted as new people.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from sqlalchemy import Connection

from mm_pipelines.delivery import delta_file, deltas, ledger, membership, small_sessions
from mm_pipelines.delivery.anti_join import IDENTITY, ROWS_PER_GROUP, identities
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.delta_file import Candidates, DeltaFile
from mm_pipelines.delivery.deltas import COUNTED, Delta, NewDelta
from mm_pipelines.delivery.membership import Members
from mm_pipelines.delivery.small_sessions import SmallSession
from mm_pipelines.delivery.suppressed import SuppressedAmong

MOST_REPEATED = 10_000
"""Rows of small sessions that one delta sends again beyond ``minimum_upload``."""


@dataclass(frozen=True)
class ToppedUp:
    """A delta's file with the members that were added to it.

    Attributes:
        file: The new people, then the members.
        members: How many members.
        repeats: The small sessions whose rows are among them.
    """

    file: DeltaFile
    members: int = 0
    repeats: tuple[SmallSession, ...] = ()

    def freeze(self, connection: Connection, new: NewDelta) -> Delta:
        """Record the file as the work to do."""
        delta = deltas.freeze(connection, new)
        if self.repeats:
            ids = [session.session_id for session in self.repeats]
            small_sessions.mark_repeated(connection, ids, delta.id)
        return delta


class TopUp:
    """Adds members to small uploads of one Custom Audience; hold the audience's lock.

    Args:
        context: The resources of the delivery.
        custom_audience_id: The Custom Audience.
        suppressed_among: Returns who opted out: they are never added.
    """

    def __init__(
        self, context: DeliveryContext, custom_audience_id: str, suppressed_among: SuppressedAmong
    ) -> None:
        self._context = context
        self._storage = context.storage
        self._minimum = context.sending.minimum_upload
        self._custom_audience_id = custom_audience_id
        self._suppressed_among = suppressed_among

    def with_members(self, file: DeltaFile, members: Members) -> ToppedUp:
        """Fill an upload of new people with any members.

        Args:
            file: The new people.
            members: The members now; members with an identifier outside the file's schema keys are
                not used, since without it they would be other people to Meta.
        """
        return self._fill(file, _as_rows(members.frame(self._storage), file.keys))

    def from_list(self, file: DeltaFile, listed: Candidates) -> ToppedUp:
        """Fill an upload of new people with members who are in the day's own list.

        Args:
            file: The new people.
            listed: The list; all of its people who are not new are members.
        """
        pool = listed.frame
        if file.row_count:
            new = identities(self._storage.scan(file.path))
            pool = pool.join(new, on=IDENTITY, how="anti", maintain_order="left")
        return self._fill(file, pool)

    def has_split_sessions(self) -> bool:
        """Whether small sessions contained only a part of their delta: they can be enlarged."""
        return any(session.is_split for session in self._small_sessions())

    def _fill(self, file: DeltaFile, pool: pl.LazyFrame) -> ToppedUp:
        chosen = self._sessions_to_repeat(file.row_count)
        is_small = 0 < file.row_count < self._minimum
        if not is_small and not chosen:
            return ToppedUp(file)
        pool = self._without_refused(pool, file.keys)
        repeated = self._repeated(chosen, pool)
        spare = self._minimum - file.row_count - repeated.height
        added = pl.concat([repeated, *self._fillers(pool, spare, repeated)])
        if added.is_empty():
            return ToppedUp(file, repeats=chosen)
        return ToppedUp(self._publish(file, added), added.height, chosen)

    def _small_sessions(self) -> list[SmallSession]:
        if not self._minimum:
            return []
        with self._context.database.transaction() as connection:
            return small_sessions.find(connection, self._custom_audience_id, self._minimum)

    def _sessions_to_repeat(self, new: int) -> tuple[SmallSession, ...]:
        """Split sessions in any case, others only as far as they fit into the minimum."""
        sessions = sorted(self._small_sessions(), key=lambda session: not session.is_split)
        spare = self._minimum - new if new else 0
        chosen: list[SmallSession] = []
        for session in sessions:
            rows = sum(map(len, chosen)) + len(session)
            if rows <= max(spare, MOST_REPEATED if session.is_split else 0):
                chosen.append(session)
        return tuple(chosen)

    def _repeated(self, sessions: Sequence[SmallSession], pool: pl.LazyFrame) -> pl.DataFrame:
        people = [session.people(self._storage) for session in sessions]
        if not people:
            return pool.head(0).collect()
        wanted = pl.concat(people).unique()
        found = pool.join(wanted.lazy(), on=IDENTITY, how="semi").collect(engine="streaming")
        return self._eligible(found)

    def _fillers(
        self, pool: pl.LazyFrame, spare: int, taken: pl.DataFrame
    ) -> Iterator[pl.DataFrame]:
        """Members that are not taken yet, at most ``spare``."""
        offset, size = 0, max(spare, 1) * 2
        while spare > 0:
            part = pool.slice(offset, size).collect(engine="streaming")
            if part.is_empty():
                return
            free = part.join(taken, on=IDENTITY, how="anti", maintain_order="left")
            found = self._eligible(free).head(spare)
            yield found
            spare -= found.height
            offset, size = offset + size, size * 2

    def _without_refused(self, pool: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
        with self._context.database.transaction() as connection:
            refused = ledger.rejected_content(connection, self._custom_audience_id)
        return delta_file.without_refused(pool, keys, refused)

    def _eligible(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows without people who opted out or whose removal is open."""
        leaving = [self._suppressed_among(rows.lazy().select(IDENTITY), None).select(IDENTITY)]
        with self._context.database.transaction() as connection:
            removal = deltas.find_open(connection, self._custom_audience_id, "remove")
        if removal is not None and self._storage.exists(removal.path):
            frame = self._storage.scan(removal.path)
            leaving.append(membership.as_members(frame).collect())
        left = pl.concat(leaving)
        return rows.filter(
            ~pl.any_horizontal(
                (pl.col(name) != "") & pl.col(name).is_in(left[name].implode()) for name in IDENTITY
            )
        )

    def _publish(self, file: DeltaFile, added: pl.DataFrame) -> DeltaFile:
        columns = [*file.keys, pl.col("row_number").cast(pl.Int64)]
        parts = [added.lazy().select(*columns, pl.lit(value=False).alias(COUNTED))]
        if file.row_count:
            new = self._storage.scan(file.path)
            parts.insert(0, new.select(*columns, pl.lit(value=True).alias(COUNTED)))

        def write(path: Path) -> None:
            rows = pl.concat(parts)
            rows.sink_parquet(path, compression="lz4", row_group_size=ROWS_PER_GROUP)

        published = self._storage.publish(f"deltas/{self._custom_audience_id}", ".parquet", write)
        return DeltaFile(published.path, file.row_count + added.height, file.keys)


def _as_rows(members: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """Members as rows of an upload, with "" for the schema keys that are not known of them."""
    present = members.select(IDENTITY)
    for name in set(IDENTITY) - set(keys):
        present = present.filter(pl.col(name) == "")
    unknown = [pl.lit("").alias(key) for key in keys if key not in IDENTITY]
    return present.with_columns(*unknown, row_number=pl.lit(0, dtype=pl.Int64))
