"""Sends single batches to Meta and records the answers in the ledger."""

from datetime import timedelta

import polars as pl

from mm_pipelines.delivery import ledger
from mm_pipelines.delivery.batch import Batch, InSession, Session
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.deltas import COUNTED, Delta
from mm_pipelines.delivery.errors import AudienceTooSmallError, RowsNotReceivedError
from mm_pipelines.delivery.lanes import Answered, Slice
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.graph_api.errors import ContentRefusedError, PermanentError, SmallAudienceError
from mm_pipelines.graph_api.users import UploadSession, add_users, in_session, remove_users
from mm_pipelines.warehouse.database import HeldLock

# Subcodes of 2650: the session timed out, lacks its first batch, or is finished.
_SESSION_OVER = {(2650, 1870158), (2650, 1870147), (2650, 1870159)}


def is_session_over(error: PermanentError) -> bool:
    """Whether Meta takes no more batches in the session."""
    return (error.code, error.subcode) in _SESSION_OVER


def is_about_content(error: PermanentError) -> bool:
    """Whether the rows or keys may be the cause; an unknown code may mean them too."""
    return isinstance(error, ContentRefusedError) or type(error) is PermanentError


class BatchSender:
    """Sends batches of one Custom Audience under its lock.

    Args:
        lock: The audience's; batches are recorded on its connection, since a lost lock excludes
            no other run.
        context: The resources of the delivery.
        progress: Receives what is acknowledged.
    """

    def __init__(self, lock: HeldLock, context: DeliveryContext, progress: ProgressLog) -> None:
        self.lock = lock
        self.context = context
        self.progress = progress

    def send(self, delta: Delta, batch: Batch, part: Slice) -> Answered:
        """Send a recorded batch.

        Raises:
            RowsNotReceivedError: Meta answers that it did not receive the whole batch.
            GraphApiError: See `graph_api.errors`.
        """
        answered = self.request(delta, batch, part)
        # Meta counts the rows of the whole session.
        session, received = answered.in_session, answered.receipt.num_received
        if received + session.invalid_entries < session.rows:
            self.supersede(delta, batch)
            raise RowsNotReceivedError(
                f"{delta.audience}, {delta.day}: Meta received {received:,} of the "
                f"{session.rows:,} rows sent in the session; run this again to send the last batch "
                "in a new session"
            )
        return answered

    def request(self, delta: Delta, batch: Batch, part: Slice) -> Answered:
        """Send a batch without a look at Meta's counts."""
        client, target = self.context.client, delta.custom_audience_id
        place = UploadSession(
            session_id=batch.session.session_id,
            batch_seq=batch.batch_seq,
            last_batch_flag=batch.last_batch,
            estimated_num_total=batch.session.estimated_num_total,
        )
        body = in_session(part.payload, place)
        if delta.operation == "add":
            receipt = add_users(client, target, part.rows, place, body=body)
        else:
            via_post = self.context.sending.delete_via_post
            receipt = remove_users(client, target, part.rows, place, via_post=via_post, body=body)
        return Answered(batch, part.rows, receipt)

    def send_alone(self, delta: Delta, part: Slice) -> tuple[Batch, PermanentError | None]:
        """Send some rows in a session of their own.

        Returns:
            The batch, and Meta's refusal; None if Meta accepts the rows.
        """
        session = self.new_session(part.rows.height)
        batch = part.batch(session, 1, InSession(), last_batch=True)
        with self.lock.transaction() as connection:
            ledger.open_session(connection, delta, session)
            ledger.record_sent(connection, delta, batch)
        try:
            answered = self.send(delta, batch, part)
        except PermanentError as error:
            self.stop_if_too_small(delta, batch, error)
            if not is_about_content(error):
                raise
            with self.context.database.transaction() as connection:
                ledger.refuse(connection, delta, batch)
            return batch, error
        self.acknowledge(delta, answered)
        return batch, None

    def acknowledge(self, delta: Delta, answered: Answered) -> None:
        """Record Meta's answer, on any connection: it counts even if the lock was lost."""
        with self.context.database.transaction() as connection:
            answered.acknowledge(connection, delta)
        self.report(delta, answered)

    def report(self, delta: Delta, answered: Answered) -> None:
        """Count an acknowledged batch."""
        self.progress.acknowledged(
            answered.batch.row_count,
            answered.receipt.num_invalid_entries,
            answered.uncounted_rows if delta.operation == "add" else 0,
        )

    def supersede(self, delta: Delta, batch: Batch) -> None:
        """Give up a batch whose outcome is unknown."""
        with self.context.database.transaction() as connection:
            ledger.supersede(connection, delta, batch)

    def stop_if_too_small(self, delta: Delta, batch: Batch, error: PermanentError) -> None:
        """Raise AudienceTooSmallError if that is why Meta refuses a removal."""
        if delta.operation == "add" or not isinstance(error, SmallAudienceError):
            return
        self.supersede(delta, batch)
        raise AudienceTooSmallError(
            f"{delta.audience}, {delta.day}: Meta refuses to remove people because too few would "
            "be left in the Custom Audience. The removal is tried again whenever people were "
            "added; suppression and unsubscribing do not depend on it"
        )

    def new_session(self, rows: int) -> Session:
        """A session that begins now."""
        return Session(self.context.new_session_id(), rows, opened_at=self.context.now())

    def age(self, session: Session) -> timedelta:
        """How long ago a session was opened."""
        return self.context.now() - session.opened_at

    def rows(self, delta: Delta) -> pl.LazyFrame:
        """The rows of a delta: its schema keys, then columns of our own."""
        frame = self.context.storage.scan(delta.path)
        names = frame.collect_schema().names()
        return frame.select(*delta.keys, "row_number", *({COUNTED} & set(names)))
