"""A frozen delta sent batch by batch, each recorded before it is sent and acknowledged after.

Sessions (graph-api-facts 2.4): their batches are sequential, and Meta closes one 90 minutes after
its first batch. So a session is closed by us well before, and several can go side by side.
"""

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

import polars as pl
from sqlalchemy import Connection

from mm_pipelines.concurrent import prefetch
from mm_pipelines.delivery import deltas, ledger
from mm_pipelines.delivery.anti_join import slices
from mm_pipelines.delivery.deltas import Delta
from mm_pipelines.delivery.errors import PayloadUnreadableError, RowsNotReceivedError
from mm_pipelines.delivery.ledger import Batch, Received, Session
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import PermanentError
from mm_pipelines.graph_api.users import (
    UploadReceipt,
    UploadSession,
    add_users,
    in_session,
    remove_users,
    users_payload,
)
from mm_pipelines.payload import quarantine
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database, HeldLock

CLOSE_AFTER = timedelta(minutes=75)
"""Age at which a session gets its last batch."""
EXPIRED_AFTER = timedelta(minutes=88)
"""Age at which nothing more is sent in a session: Meta would drop it."""

REJECTED_BY_META = "invalid_at_meta"
"""The reason in ``mm.rejected_row`` of a row that Meta's samples name."""

# 2650 of a session that is over at Meta: timed out, first batch missing, finished.
_SESSION_OVER = {(2650, 1870158), (2650, 1870147), (2650, 1870159)}


@dataclass(frozen=True)
class Sending:
    """How deltas are sent.

    Attributes:
        batch_size: Rows of a batch, at most 10,000.
        sessions_side_by_side: How many sessions at once.
        delete_via_post: Remove by POST with ``method=DELETE``, where a proxy drops DELETE bodies.
    """

    batch_size: int = 10_000
    sessions_side_by_side: int = 1
    delete_via_post: bool = False


class Sender:
    """Sends deltas of one Custom Audience under its lock.

    Args:
        lock: The audience's: batches are recorded by its session, for a lost one keeps nobody out.
        database: The ledger.
        storage: Where the deltas' files are.
        client: With the token of the audience's ad account.
        sending: How.
        progress: What is told on the way.
        now: The time.
    """

    def __init__(
        self,
        lock: HeldLock,
        database: Database,
        storage: Storage,
        client: GraphApiClient,
        sending: Sending,
        progress: ProgressLog,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._lock = lock
        self._database = database
        self._storage = storage
        self._client = client
        self._sending = sending
        self._progress = progress
        self._now = now
        self._stop = threading.Event()

    def finish_open(self, custom_audience_id: str) -> None:
        """Finish the delta that a dead or failed run left, whichever partition it was of.

        Raises as `finish`.
        """
        with self._database.transaction() as connection:
            unfinished = deltas.find_open(connection, custom_audience_id)
        if unfinished is not None:
            self.finish(unfinished)

    def finish(self, delta: Delta) -> None:
        """Send all of a delta that is not acknowledged yet, and note that it is complete.

        Batches that a dead run left without an answer go first, in the same session and sequence
        and with the same bytes while Meta still holds that session open.

        Raises:
            RowsNotReceivedError: Meta says that it did not take the batch.
            PayloadUnreadableError: The delta's file is gone.
            LockLostError: The audience's lock is not held any more.
            GraphApiError: What is acknowledged until then stays so; call again for the rest.
        """
        if delta.completed_at is not None:
            return
        if not self._storage.exists(delta.path):
            raise PayloadUnreadableError(
                f"{delta.audience}, {delta.day}: the file of the delta that is being delivered is "
                "gone from the storage; restore the storage, then run this again"
            )
        with self._database.transaction() as connection:
            left_behind = ledger.unacknowledged(connection, delta)
            self._progress.begin(delta, ledger.progress(connection, delta))
        for batch in left_behind:
            self._send_again(delta, batch)
        with self._database.transaction() as connection:
            gaps = ledger.unrecorded_ranges(connection, delta)
            sessions = [
                (session, last_seq)
                for session, last_seq in ledger.unclosed_sessions(connection, delta)
                if self._age(session) < CLOSE_AFTER
            ]
        shares = _shares(gaps, self._sending.sessions_side_by_side, self._sending.batch_size)
        lanes = [
            _Lane(share, *(sessions[number] if number < len(sessions) else (None, 0)))
            for number, share in enumerate(shares)
        ]
        self._send_side_by_side(delta, lanes)
        with self._database.transaction() as connection:
            deltas.complete(connection, delta)

    def _send_side_by_side(self, delta: Delta, lanes: Sequence["_Lane"]) -> None:
        self._stop.clear()
        if len(lanes) == 1:
            self._send_lane(delta, lanes[0])
            return
        with ThreadPoolExecutor(max_workers=max(1, len(lanes))) as threads:
            results = [threads.submit(self._send_lane, delta, lane) for lane in lanes]
        for result in results:
            result.result()

    def _send_lane(self, delta: Delta, lane: "_Lane") -> None:
        try:
            parts = lane.slices(self._rows(delta), self._sending.batch_size)
            # Several, since making one takes as long as sending it and neither always as long.
            for part in prefetch(parts, count=5):
                if self._stop.is_set():
                    return
                self._send_slice(delta, lane, part)
        except BaseException:
            self._stop.set()
            raise
        finally:
            if lane.answered is not None:
                self._acknowledge(delta, lane.answered)

    def _send_slice(self, delta: Delta, lane: "_Lane", part: "_Slice") -> None:
        session = lane.session
        if session is not None and self._age(session) >= EXPIRED_AFTER:
            session = None
        # One transaction, for a commit waits for the disk: the batch before is acknowledged in it.
        # It is of the lock's own session, so that what it records may be sent.
        with self._lock.transaction() as connection:
            if lane.answered is not None:
                lane.answered.acknowledge(connection, delta)
            if session is None:
                lane.batch_seq = 0
                session = Session(_new_session_id(), lane.rows_left, opened_at=self._now())
                ledger.open_session(connection, delta, session)
            lane.session = session
            lane.batch_seq += 1
            batch = Batch(
                session=session,
                batch_seq=lane.batch_seq,
                first_row=part.first_row,
                row_count=part.rows.height,
                content_sha256=part.content_sha256,
                last_batch=part.is_last or self._age(session) >= CLOSE_AFTER,
            )
            ledger.record_sent(connection, delta, batch)
        if lane.answered is not None:
            self._tell(lane.answered)
            lane.answered = None
        try:
            lane.answered = self._send(delta, batch, part)
        except PermanentError as error:
            if (error.code, error.subcode) not in _SESSION_OVER or lane.batch_seq == 1:
                raise
            self._supersede(delta, batch)
            lane.session = None
            self._send_slice(delta, lane, part)
            return
        lane.rows_left -= part.rows.height
        if batch.last_batch:
            lane.session = None

    def _send_again(self, delta: Delta, batch: Batch) -> None:
        """Repeat a batch whose outcome nobody knows; give it up if its session is over."""
        if self._age(batch.session) >= EXPIRED_AFTER:
            self._supersede(delta, batch)
            return
        rows = self._rows(delta).slice(batch.first_row, batch.row_count).collect()
        part = _Slice.of(batch.first_row, rows, is_last=batch.last_batch)
        if part.content_sha256 != batch.content_sha256:
            # Another version of this software wrote it in other bytes: the session must not see it.
            self._supersede(delta, batch)
            return
        self._lock.confirm()
        try:
            answered = self._send(delta, batch, part)
        except PermanentError as error:
            if (error.code, error.subcode) not in _SESSION_OVER:
                raise
            self._supersede(delta, batch)
            return
        self._acknowledge(delta, answered)

    def _send(self, delta: Delta, batch: Batch, part: "_Slice") -> "_Answered":
        place = UploadSession(
            session_id=batch.session.session_id,
            batch_seq=batch.batch_seq,
            last_batch_flag=batch.last_batch,
            estimated_num_total=batch.session.estimated_num_total,
        )
        body = in_session(part.payload, place)
        target = delta.custom_audience_id
        if delta.operation == "add":
            receipt = add_users(self._client, target, part.rows, place, body=body)
        else:
            via_post = self._sending.delete_via_post
            receipt = remove_users(
                self._client, target, part.rows, place, via_post=via_post, body=body
            )
        if receipt.num_received + receipt.num_invalid_entries < batch.row_count:
            # Less than this batch alone, though it counts the whole session.
            self._supersede(delta, batch)
            raise RowsNotReceivedError(
                f"{delta.audience}, {delta.day}: Meta took {receipt.num_received} rows where a "
                f"batch of {batch.row_count} was sent; run this again to send it in a new session"
            )
        return _Answered(batch, part.rows, receipt)

    def _acknowledge(self, delta: Delta, answered: "_Answered") -> None:
        # By any session: what is known is noted, even if the lock was lost meanwhile.
        with self._database.transaction() as connection:
            answered.acknowledge(connection, delta)
        self._tell(answered)

    def _tell(self, answered: "_Answered") -> None:
        invalid = answered.receipt.num_invalid_entries
        self._progress.acknowledged(answered.batch.row_count, invalid)

    def _supersede(self, delta: Delta, batch: Batch) -> None:
        with self._database.transaction() as connection:
            ledger.supersede(connection, delta, batch)

    def _rows(self, delta: Delta) -> pl.LazyFrame:
        return pl.scan_parquet(self._storage.url(delta.path)).select(*delta.keys, "row_number")

    def _age(self, session: Session) -> timedelta:
        return self._now() - session.opened_at


@dataclass(frozen=True)
class _Slice:
    """The rows of one batch, and what is sent of them.

    Attributes:
        first_row: Position in the delta's file, from 0.
        rows: The schema keys and ``row_number``.
        payload: The part of the body that is the same in every session.
        content_sha256: Its digest: what a batch is, in whichever session it is sent.
        is_last: Whether it ends the lane's share.
    """

    first_row: int
    rows: pl.DataFrame = field(repr=False)
    payload: Sequence[bytes] = field(repr=False)
    content_sha256: str
    is_last: bool

    @classmethod
    def of(cls, first_row: int, rows: pl.DataFrame, *, is_last: bool) -> Self:
        payload = users_payload(rows)
        digest = hashlib.sha256()
        for piece in payload:
            digest.update(piece)
        return cls(first_row, rows, payload, digest.hexdigest(), is_last)


@dataclass(frozen=True)
class _Answered:
    """A batch that Meta took: to be acknowledged."""

    batch: Batch
    rows: pl.DataFrame = field(repr=False)
    receipt: UploadReceipt

    def acknowledge(self, connection: Connection, delta: Delta) -> None:
        """Note it in the ledger, and which rows Meta calls invalid."""
        received = Received(self.receipt.num_received, self.receipt.num_invalid_entries)
        ledger.acknowledge(connection, delta, self.batch, received)
        if self.receipt.invalid_rows and delta.origin == "payload":
            numbers = self.rows["row_number"].gather(list(self.receipt.invalid_rows)).to_list()
            quarantine.add(
                connection, delta.audience, delta.day, "audience_upload", numbers, REJECTED_BY_META
            )


class _Lane:
    """A share of a delta's rows, sent one batch after the other in one session at a time.

    ``answered`` is the batch sent last, until it is acknowledged.
    """

    def __init__(self, shares: Sequence[range], session: Session | None, batch_seq: int) -> None:
        self.session = session
        self.batch_seq = batch_seq
        self.answered: _Answered | None = None
        self.rows_left = sum(map(len, shares))
        self._shares = shares

    def slices(self, frame: pl.LazyFrame, size: int) -> Iterator[_Slice]:
        """Each batch of the share in order."""
        left = self.rows_left
        for share in self._shares:
            for first_row, rows in slices(frame, share, size):
                left -= rows.height
                yield _Slice.of(first_row, rows, is_last=left == 0)


def _new_session_id() -> int:
    # Unique in the ad account without asking anybody: 63 random bits.
    return secrets.randbelow(2**63 - 1) + 1


def _shares(gaps: Sequence[range], count: int, size: int) -> list[list[range]]:
    """Ranges of rows shared out evenly, in whole batches, over at most ``count`` lanes."""
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
