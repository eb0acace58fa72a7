"""Sends a frozen delta batch by batch; each is recorded before it is sent and acknowledged after.

The batches of a session are sequential, and Meta closes a session 90 minutes after its first batch
(docs/graph-api.md). So we close a session well before, and several can run side by side.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from mm_pipelines.concurrent import prefetch
from mm_pipelines.delivery import deltas, ledger
from mm_pipelines.delivery.deltas import Delta, Operation
from mm_pipelines.delivery.errors import (
    AudienceDeletedError,
    AudienceTooSmallError,
    DeltaFileMissingError,
    RowsNotReceivedError,
    UploadRefusedError,
)
from mm_pipelines.delivery.lanes import Answered, Lane, Slice, new_session_id, shares_of
from mm_pipelines.delivery.ledger import Batch, InSession, Session
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.refusals import (
    MOST_CALLS,
    CallBudget,
    CallsExhaustedError,
    Part,
    RefusalSearch,
    RequestRefusedError,
)
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import (
    ContentRefusedError,
    GraphApiError,
    NotFoundError,
    PermanentError,
    SmallAudienceError,
)
from mm_pipelines.graph_api.users import UploadSession, add_users, in_session, remove_users
from mm_pipelines.payload import quarantine
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database, HeldLock

CLOSE_AFTER = timedelta(minutes=75)
"""Age at which a session gets its last batch."""
EXPIRED_AFTER = timedelta(minutes=88)
"""Age at which nothing more is sent in a session: Meta would drop it."""

REFUSED_BY_META = "refused_by_meta"
"""The reason in ``mm.rejected_row`` of a row for which Meta refuses the whole batch."""

# Subcodes of 2650: the session timed out, lacks its first batch, or is finished.
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
        lock: The audience's; batches are recorded on its connection, since a lost lock excludes
            no other run.
        database: The ledger.
        storage: Where the deltas' files are.
        client: With the token of the audience's ad account.
        sending: How to send.
        progress: Receives what is acknowledged.
        now: Returns the time.
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
        self._budget = CallBudget()

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
        if not self._storage.exists(delta.path):
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
                if self._age(open_session.session) < CLOSE_AFTER
            ]
        shares = shares_of(gaps, self._sending.sessions_side_by_side, self._sending.batch_size)
        lanes = [
            Lane(share, sessions[number] if number < len(sessions) else None)
            for number, share in enumerate(shares)
        ]
        self._send_side_by_side(delta, lanes)

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
            parts = lane.slices(self._rows(delta), self._sending.batch_size)
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
                self._acknowledge(delta, lane.answered)

    def _send_slice(self, delta: Delta, lane: Lane, part: Slice) -> None:
        batch = self._record_in_lane(delta, lane, part)
        try:
            lane.answered = self._send(delta, batch, part)
            lane.before = lane.answered.in_session
        except PermanentError as error:
            lane.session = None
            if _is_session_over(error) and batch.batch_seq > 1:
                self._supersede(delta, batch)
                self._send_slice(delta, lane, part)
                return
            self._isolate(delta, batch, part, error)
        lane.rows_left -= part.rows.height
        if batch.last_batch:
            lane.session = None

    def _record_in_lane(self, delta: Delta, lane: Lane, part: Slice) -> Batch:
        """Record the lane's next batch, and acknowledge its previous one."""
        session = lane.session
        # One transaction, since a commit waits for the disk. It is on the lock's own connection, so
        # that what it records may be sent.
        with self._lock.transaction() as connection:
            if lane.answered is not None:
                lane.answered.acknowledge(connection, delta)
            if session is None or self._age(session) >= EXPIRED_AFTER:
                session = Session(new_session_id(), lane.rows_left, opened_at=self._now())
                ledger.open_session(connection, delta, session)
                lane.open_session(session)
            lane.batch_seq += 1
            batch = part.batch(
                session,
                lane.batch_seq,
                lane.before,
                last_batch=part.is_last or self._age(session) >= CLOSE_AFTER,
            )
            ledger.record_sent(connection, delta, batch)
        if lane.answered is not None:
            self._report(lane.answered)
            lane.answered = None
        return batch

    def _send_again(self, delta: Delta, batch: Batch) -> None:
        """Repeat a batch whose outcome is unknown; give it up if its session is over."""
        if self._age(batch.session) >= EXPIRED_AFTER:
            self._supersede(delta, batch)
            return
        rows = self._rows(delta).slice(batch.first_row, batch.row_count).collect()
        part = Slice.of(batch.first_row, rows, is_last=batch.last_batch)
        if part.content_sha256 != batch.content_sha256:
            # Another version of this software, or a probe with fewer schema keys, sent other bytes.
            self._supersede(delta, batch)
            return
        self._lock.confirm()
        try:
            answered = self._send(delta, batch, part)
        except PermanentError as error:
            if _is_session_over(error):
                self._supersede(delta, batch)
                return
            self._isolate(delta, batch, part, error)
            return
        self._acknowledge(delta, answered)

    def _isolate(self, delta: Delta, batch: Batch, part: Slice, error: PermanentError) -> None:
        """Deliver a refused batch without the rows that Meta refuses.

        Raises:
            RequestRefusedError: Meta refuses it whatever the rows.
            CallsExhaustedError: The run has spent its calls on refused rows.
            PermanentError: The error is not about the content of the request.
        """
        self._stop_if_too_small(delta, batch, error)
        if not _is_about_content(error) or _is_session_over(error):
            raise error
        with self._database.transaction() as connection:
            ledger.refuse(connection, delta, batch)
        whole = Part(part.first_row, part.rows)
        if len(whole) == 1 and self._accepts_another_row(delta):
            self._reject(delta, batch, whole)
            return
        singles: dict[int, Batch] = {}

        def attempt(rows: Part) -> PermanentError | None:
            sent, refusal = self._send_alone(delta, rows)
            singles[rows.first_row] = sent
            return refusal

        def reject(row: Part) -> None:
            self._reject(delta, singles[row.first_row], row)

        RefusalSearch(attempt, reject, self._budget).isolate(whole, error)

    def _send_alone(self, delta: Delta, rows: Part) -> tuple[Batch, PermanentError | None]:
        """Send some rows in a session of their own; Meta's refusal, or None if it accepts them."""
        part = Slice.of(rows.first_row, rows.rows, is_last=True)
        session = Session(new_session_id(), len(rows), opened_at=self._now())
        batch = part.batch(session, 1, InSession(), last_batch=True)
        with self._lock.transaction() as connection:
            ledger.open_session(connection, delta, session)
            ledger.record_sent(connection, delta, batch)
        try:
            answered = self._send(delta, batch, part)
        except PermanentError as error:
            self._stop_if_too_small(delta, batch, error)
            if not _is_about_content(error):
                raise
            with self._database.transaction() as connection:
                ledger.refuse(connection, delta, batch)
            return batch, error
        self._acknowledge(delta, answered)
        return batch, None

    def _stop_if_too_small(self, delta: Delta, batch: Batch, error: PermanentError) -> None:
        if delta.operation == "add" or not isinstance(error, SmallAudienceError):
            return
        self._supersede(delta, batch)
        raise AudienceTooSmallError(
            f"{delta.audience}, {delta.day}: Meta refuses to remove people because too few would "
            "be left in the Custom Audience. The removal is tried again whenever people were "
            "added; suppression and unsubscribing do not depend on it"
        )

    def _accepts_another_row(self, delta: Delta) -> bool:
        """Whether Meta accepts a row of the delta that is delivered already."""
        with self._database.transaction() as connection:
            delivered = ledger.acknowledged_ranges(connection, delta.operation, [delta.id])
        others = delivered.get(delta.id)
        if not others:
            return False
        self._budget.spend()
        rows = self._rows(delta).slice(others[0].start, 1).collect()
        part = Slice.of(others[0].start, rows, is_last=True)
        session = Session(new_session_id(), 1, opened_at=self._now())
        try:
            # It changes nothing at Meta, so the ledger does not need it.
            self._request(delta, part.batch(session, 1, InSession(), last_batch=True), part)
        except PermanentError:
            return False
        return True

    def _reject(self, delta: Delta, batch: Batch, row: Part) -> None:
        with self._database.transaction() as connection:
            ledger.reject(connection, delta, batch)
            if delta.origin == "payload":
                numbers = row.rows["row_number"].to_list()
                quarantine.add(
                    connection,
                    delta.audience,
                    delta.day,
                    "audience_upload",
                    numbers,
                    REFUSED_BY_META,
                )
        self._progress.rejected(row.rows.height)

    def _send(self, delta: Delta, batch: Batch, part: Slice) -> Answered:
        answered = self._request(delta, batch, part)
        # Meta counts the rows of the whole session.
        session, received = answered.in_session, answered.receipt.num_received
        if received + session.invalid_entries < session.rows:
            self._supersede(delta, batch)
            raise RowsNotReceivedError(
                f"{delta.audience}, {delta.day}: Meta received {received:,} of the "
                f"{session.rows:,} rows sent in the session; run this again to send the last batch "
                "in a new session"
            )
        return answered

    def _request(self, delta: Delta, batch: Batch, part: Slice) -> Answered:
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
        return Answered(batch, part.rows, receipt)

    def _acknowledge(self, delta: Delta, answered: Answered) -> None:
        # On any connection: the answer is recorded even if the lock was lost meanwhile.
        with self._database.transaction() as connection:
            answered.acknowledge(connection, delta)
        self._report(answered)

    def _report(self, answered: Answered) -> None:
        invalid = answered.receipt.num_invalid_entries
        self._progress.acknowledged(answered.batch.row_count, invalid)

    def _supersede(self, delta: Delta, batch: Batch) -> None:
        with self._database.transaction() as connection:
            ledger.supersede(connection, delta, batch)

    def _rows(self, delta: Delta) -> pl.LazyFrame:
        frame = pl.scan_parquet(self._storage.url(delta.path))
        names = frame.collect_schema().names()
        return frame.select(*delta.keys, "row_number", *({"is_member"} & set(names)))

    def _age(self, session: Session) -> timedelta:
        return self._now() - session.opened_at


def _is_about_content(error: PermanentError) -> bool:
    """Whether the rows or keys may be the cause; an unknown code may mean them too."""
    return isinstance(error, ContentRefusedError) or type(error) is PermanentError


def _is_session_over(error: PermanentError) -> bool:
    return (error.code, error.subcode) in _SESSION_OVER


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
