"""Sends a frozen delta batch by batch; each is recorded before it is sent and acknowledged after.

The batches of a session are sequential, and Meta closes a session 90 minutes after its first batch
(docs/graph-api.md). So we close a session well before, and several can run side by side.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy import Connection

from mm_pipelines.concurrent import prefetch
from mm_pipelines.delivery import deltas, ledger
from mm_pipelines.delivery.batch import Batch
from mm_pipelines.delivery.batch_sender import BatchSender, is_session_over
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.deltas import Delta, Operation
from mm_pipelines.delivery.errors import (
    AudienceDeletedError,
    AudienceTooSmallError,
    DeltaFileMissingError,
    RowsNotReceivedError,
    UploadRefusedError,
)
from mm_pipelines.delivery.lanes import Lane, Slice, shares_of
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.refusals import MOST_CALLS, CallsExhaustedError, RequestRefusedError
from mm_pipelines.delivery.refused_batches import RefusedBatches
from mm_pipelines.graph_api.errors import GraphApiError, NotFoundError, PermanentError
from mm_pipelines.warehouse.database import HeldLock

CLOSE_AFTER = timedelta(minutes=75)
"""Age at which a session gets its last batch."""
EXPIRED_AFTER = timedelta(minutes=88)
"""Age at which nothing more is sent in a session: Meta would drop it."""


class Sender:
    """Sends deltas of one Custom Audience under its lock.

    Args:
        lock: The audience's.
        context: The resources of the delivery.
        progress: Receives what is acknowledged.
        before_batch: Is called in the transaction that records a batch of an upload; an error of it
            interrupts the upload, which stays open.
    """

    def __init__(
        self,
        lock: HeldLock,
        context: DeliveryContext,
        progress: ProgressLog,
        before_batch: Callable[[Connection], None] = lambda connection: None,  # noqa: ARG005
    ) -> None:
        self._context = context
        self._database = context.database
        self._progress = progress
        self._batches = BatchSender(lock, context, progress)
        self._refused = RefusedBatches(self._batches)
        self._lock = lock
        self._before_batch = before_batch
        self._stop = threading.Event()

    def finish_open(self, custom_audience_id: str, operation: Operation) -> None:
        """Finish the delta that a dead or failed run left, whichever partition it is of.

        Raises as `finish`.
        """
        with self._database.transaction() as connection:
            unfinished = deltas.find_open(connection, custom_audience_id, operation)
        if unfinished is not None:
            self.finish(unfinished)

    def finish(self, delta: Delta) -> None:
        """Send every row of a delta that is not acknowledged yet, and record that it is complete.

        Batches that a dead run left without an answer go first, in the same session and sequence
        and with the same bytes while Meta still holds that session open. Rows that Meta refuses for
        good are isolated and put into ``mm.rejected_row``.

        Raises:
            UploadRefusedError: Meta refuses the request whatever the rows; the delta is closed.
            AudienceTooSmallError: Meta refuses a removal that leaves too few people; it stays open.
            AudienceDeletedError: The Custom Audience does not exist at Meta; the delta is closed.
            RowsNotReceivedError: Meta answers that it did not receive the whole batch.
            DeltaFileMissingError: The delta's file is missing from the storage.
            LockLostError: The audience's lock is not held any more.
            GraphApiError: What is acknowledged until then stays so; call again for the rest.
        """
        if not delta.is_open:
            return
        if not self._context.storage.exists(delta.path):
            raise DeltaFileMissingError(
                f"{delta.audience}, {delta.day}: the file of the unfinished delivery is missing "
                f"from the storage. Restore it, or run `mm uploads abandon {delta.audience}` and "
                "materialize audience_upload of that day again"
            )
        try:
            self._send_all(delta)
        except RequestRefusedError as refused:
            raise self._close(delta, _request_refused(refused)) from None
        except CallsExhaustedError:
            raise self._close(
                delta, f"Meta refuses more rows than {MOST_CALLS} calls of one run can isolate"
            ) from None
        except NotFoundError as error:
            with self._database.transaction() as connection:
                deltas.close(connection, delta, "refused", str(error))
                ledger.abandon_sent(connection, delta)
            raise AudienceDeletedError(
                f"{delta.audience}: the Custom Audience {delta.custom_audience_id} does not exist "
                "at Meta, or the access token cannot see it. If it was deleted, run "
                f"`mm audiences forget {delta.audience}` and materialize audience_upload again; a "
                "new Custom Audience is then created"
            ) from None
        except (GraphApiError, RowsNotReceivedError, AudienceTooSmallError) as error:
            with self._database.transaction() as connection:
                is_parked = isinstance(error, AudienceTooSmallError)
                deltas.note_failure(connection, delta, str(error), is_parked=is_parked)
            raise
        with self._database.transaction() as connection:
            deltas.complete(connection, delta)

    def _send_all(self, delta: Delta) -> None:
        with self._database.transaction() as connection:
            left_behind = ledger.unacknowledged(connection, delta)
            self._progress.begin(delta, ledger.progress(connection, delta))
        for batch in left_behind:
            self._send_again(delta, batch)
        with self._database.transaction() as connection:
            gaps = ledger.unrecorded_ranges(connection, delta)
            sessions = [
                open_session
                for open_session in ledger.unclosed_sessions(connection, delta)
                if self._batches.age(open_session.session) < CLOSE_AFTER
            ]
        lanes_at_most = self._sessions_at_once(delta, sum(map(len, gaps)))
        shares = shares_of(gaps, lanes_at_most, self._context.sending.batch_size)
        lanes = [
            Lane(share, sessions[number] if number < len(sessions) else None)
            for number, share in enumerate(shares)
        ]
        self._send_side_by_side(delta, lanes)

    def _sessions_at_once(self, delta: Delta, rows: int) -> int:
        """So many that no session of an upload has fewer rows than it should."""
        sending = self._context.sending
        if delta.operation == "remove" or not sending.minimum_upload:
            return sending.sessions_side_by_side
        return max(1, min(sending.sessions_side_by_side, rows // sending.minimum_upload))

    def _close(self, delta: Delta, reason: str) -> UploadRefusedError:
        """Close a delta that Meta refuses; the error for it."""
        with self._database.transaction() as connection:
            deltas.close(connection, delta, "refused", reason)
            ledger.abandon_sent(connection, delta)
            done = ledger.progress(connection, delta).rows
        return UploadRefusedError(
            f"{delta.audience}, {delta.day}: {reason}. {done:,} of {delta.row_count:,} people were "
            "acknowledged and stay so; the others stay due and are part of the next delivery. "
            "Correct what the reason names, then materialize again"
        )

    def _send_side_by_side(self, delta: Delta, lanes: Sequence[Lane]) -> None:
        self._stop.clear()
        if len(lanes) == 1:
            self._send_lane(delta, lanes[0])
            return
        with ThreadPoolExecutor(max_workers=max(1, len(lanes))) as threads:
            results = [threads.submit(self._send_lane, delta, lane) for lane in lanes]
        for result in results:
            result.result()

    def _send_lane(self, delta: Delta, lane: Lane) -> None:
        try:
            parts = lane.slices(self._batches.rows(delta), self._context.sending.batch_size)
            # Several, since building one takes as long as sending it and neither always as long.
            for part in prefetch(parts, count=5):
                if self._stop.is_set():
                    return
                self._send_slice(delta, lane, part)
        except BaseException:
            self._stop.set()
            raise
        finally:
            if lane.answered is not None:
                self._batches.acknowledge(delta, lane.answered)

    def _send_slice(self, delta: Delta, lane: Lane, part: Slice) -> None:
        batch = self._record_in_lane(delta, lane, part)
        try:
            lane.answered = self._batches.send(delta, batch, part)
            lane.before = lane.answered.in_session
        except PermanentError as error:
            lane.session = None
            if is_session_over(error) and batch.batch_seq > 1:
                self._batches.supersede(delta, batch)
                self._send_slice(delta, lane, part)
                return
            self._refused.isolate(delta, batch, part, error)
        lane.rows_left -= part.rows.height
        if batch.last_batch:
            lane.session = None

    def _record_in_lane(self, delta: Delta, lane: Lane, part: Slice) -> Batch:
        """Record the lane's next batch, and acknowledge its previous one."""
        session = lane.session
        # One transaction, since a commit waits for the disk. It is on the lock's own connection, so
        # that what it records may be sent.
        with self._lock.transaction() as connection:
            self._check(connection, delta)
            if lane.answered is not None:
                lane.answered.acknowledge(connection, delta)
            if session is None or self._batches.age(session) >= EXPIRED_AFTER:
                session = self._batches.new_session(lane.rows_left)
                ledger.open_session(connection, delta, session)
                lane.open_session(session)
            lane.batch_seq += 1
            batch = part.batch(
                session,
                lane.batch_seq,
                lane.before,
                last_batch=part.is_last or self._batches.age(session) >= CLOSE_AFTER,
            )
            ledger.record_sent(connection, delta, batch)
        if lane.answered is not None:
            self._batches.report(delta, lane.answered)
            lane.answered = None
        return batch

    def _check(self, connection: Connection, delta: Delta) -> None:
        if delta.operation == "add":
            self._before_batch(connection)

    def _send_again(self, delta: Delta, batch: Batch) -> None:
        """Repeat a batch whose outcome is unknown; give it up if its session is over."""
        if self._batches.age(batch.session) >= EXPIRED_AFTER:
            self._batches.supersede(delta, batch)
            return
        rows = self._batches.rows(delta).slice(batch.first_row, batch.row_count).collect()
        part = Slice.of(batch.first_row, rows, is_last=batch.last_batch)
        if part.content_sha256 != batch.content_sha256:
            # Another version of this software, or a probe with fewer schema keys, sent other bytes.
            self._batches.supersede(delta, batch)
            return
        with self._lock.transaction() as connection:
            self._check(connection, delta)
        try:
            answered = self._batches.send(delta, batch, part)
        except PermanentError as error:
            if is_session_over(error):
                self._batches.supersede(delta, batch)
                return
            self._refused.isolate(delta, batch, part, error)
            return
        self._batches.acknowledge(delta, answered)


def _request_refused(refused: RequestRefusedError) -> str:
    """The reason why a delta is closed, for people."""
    facts = {"code": refused.refusal.code, "subcode": refused.refusal.subcode}
    known = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    answer = f'"{refused.refusal.message}" ({known})'
    match refused.suspects:
        case ():
            return f"Meta refuses the request whatever the rows: {answer}"
        case (key,):
            return f"Meta refuses the schema key {key}: {answer}"
        case keys:
            return f"Meta refuses one of the schema keys {', '.join(keys)}: {answer}"
