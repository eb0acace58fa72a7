"""Slices of a delta, and the lanes that send them: one session at a time each."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import polars as pl
from sqlalchemy import Connection

from mm_pipelines.delivery import ledger
from mm_pipelines.delivery.anti_join import slices
from mm_pipelines.delivery.batch import Batch, InSession, OpenSession, Received, Session
from mm_pipelines.delivery.deltas import COUNTED, Delta
from mm_pipelines.graph_api.users import UploadReceipt, users_payload
from mm_pipelines.payload import quarantine

REJECTED_BY_META = "invalid_at_meta"
"""The reason in ``mm.rejected_row`` of a row that Meta's samples name."""


@dataclass(frozen=True)
class Slice:
    """The rows of one batch, and their bytes in the request.

    Attributes:
        first_row: Position in the delta's file, from 0.
        rows: The schema keys, and columns of our own in lower case.
        payload: The part of the body that is the same in every session.
        content_sha256: Its digest, the same in whichever session it is sent.
        is_last: Whether it ends the lane's share.
    """

    first_row: int
    rows: pl.DataFrame = field(repr=False)
    payload: Sequence[bytes] = field(repr=False)
    content_sha256: str
    is_last: bool

    @classmethod
    def of(cls, first_row: int, rows: pl.DataFrame, *, is_last: bool) -> Self:
        """Build the bytes of some rows."""
        payload = users_payload(rows)
        digest = hashlib.sha256()
        for piece in payload:
            digest.update(piece)
        return cls(first_row, rows, payload, digest.hexdigest(), is_last)

    @property
    def people(self) -> int | None:
        """Rows that change who is a member; None where every row does."""
        if COUNTED not in self.rows.columns:
            return None
        return int(self.rows[COUNTED].sum())

    def batch(
        self, session: Session, batch_seq: int, before: InSession, *, last_batch: bool
    ) -> Batch:
        """The slice as a batch of a session."""
        return Batch(
            session=session,
            batch_seq=batch_seq,
            first_row=self.first_row,
            row_count=self.rows.height,
            content_sha256=self.content_sha256,
            last_batch=last_batch,
            before=before,
            people=self.people,
        )


@dataclass(frozen=True)
class Answered:
    """A batch that Meta accepted, still to be acknowledged in the ledger."""

    batch: Batch
    rows: pl.DataFrame = field(repr=False)
    receipt: UploadReceipt

    @property
    def uncounted_rows(self) -> int:
        """Rows that do not change who is a member."""
        return int((~self.rows[COUNTED]).sum()) if COUNTED in self.rows.columns else 0

    @property
    def in_session(self) -> InSession:
        """The session's batches up to this one."""
        before = self.batch.before
        return InSession(
            before.rows + self.batch.row_count,
            before.invalid_entries + self.receipt.num_invalid_entries,
        )

    def acknowledge(self, connection: Connection, delta: Delta) -> None:
        """Record the answer in the ledger, and the rows that Meta calls invalid."""
        received = Received(
            self.receipt.num_received,
            self.receipt.num_invalid_entries,
            self.receipt.num_subscribers_received,
            self.receipt.num_subscribers_invalid_entries,
        )
        ledger.acknowledge(connection, delta, self.batch, received)
        if self.receipt.invalid_rows and delta.origin == "payload":
            invalid = self.rows.select(pl.all().gather(list(self.receipt.invalid_rows)))
            quarantine.add(
                connection,
                delta.audience,
                delta.day,
                "audience_upload",
                numbers_in_list(invalid),
                REJECTED_BY_META,
            )


def numbers_in_list(rows: pl.DataFrame) -> list[int]:
    """The row numbers in the day's list; members that an upload was topped up with have none."""
    return [number for number in rows["row_number"].to_list() if number > 0]


class Lane:
    """A share of a delta's rows, sent one batch after the other in one session at a time.

    Args:
        shares: Ranges of positions, ascending.
        resumed: The session of an earlier run to continue, if there is one.

    Attributes:
        session: The session of the next batch; None to open a new one.
        batch_seq: Sequence number of the last batch in it.
        before: The session's batches so far.
        answered: The batch sent last, until it is acknowledged.
        rows_left: Rows that are not sent yet.
    """

    def __init__(self, shares: Sequence[range], resumed: OpenSession | None) -> None:
        self.session = resumed.session if resumed else None
        self.batch_seq = resumed.last_seq if resumed else 0
        self.before = resumed.before if resumed else InSession()
        self.answered: Answered | None = None
        self.rows_left = sum(map(len, shares))
        self._shares = shares

    def slices(self, frame: pl.LazyFrame, size: int) -> Iterator[Slice]:
        """Each batch of the share in order."""
        left = self.rows_left
        for share in self._shares:
            for first_row, rows in slices(frame, share, size):
                left -= rows.height
                yield Slice.of(first_row, rows, is_last=left == 0)

    def open_session(self, session: Session) -> None:
        """Continue in a new session."""
        self.session, self.batch_seq, self.before = session, 0, InSession()


def shares_of(gaps: Sequence[range], count: int, size: int) -> list[list[range]]:
    """Ranges of rows divided evenly, in whole batches, over at most ``count`` lanes."""
    batches = [
        range(start, min(start + size, gap.stop))
        for gap in gaps
        for start in range(gap.start, gap.stop, size)
    ]
    each = -(-len(batches) // count)
    return [
        _joined(batches[start : start + each]) for start in range(0, len(batches), max(1, each))
    ]


def _joined(batches: Sequence[range]) -> list[range]:
    joined: list[range] = []
    for batch in batches:
        if joined and joined[-1].stop == batch.start:
            joined[-1] = range(joined[-1].start, batch.stop)
        else:
            joined.append(batch)
    return joined
