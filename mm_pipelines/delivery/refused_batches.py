"""Delivers a refused batch without the rows that Meta refuses."""

from mm_pipelines.delivery import ledger
from mm_pipelines.delivery.batch import Batch, InSession
from mm_pipelines.delivery.batch_sender import BatchSender, is_about_content, is_session_over
from mm_pipelines.delivery.deltas import Delta
from mm_pipelines.delivery.lanes import Slice, numbers_in_list
from mm_pipelines.delivery.refusals import CallBudget, Part, RefusalSearch
from mm_pipelines.graph_api.errors import PermanentError
from mm_pipelines.payload import quarantine

REFUSED_BY_META = "refused_by_meta"
"""The reason in ``mm.rejected_row`` of a row for which Meta refuses the whole batch."""


class RefusedBatches:
    """Isolates refused rows and records them; they are not sent again unchanged.

    Args:
        batches: Sends parts of a refused batch.
    """

    def __init__(self, batches: BatchSender) -> None:
        self._batches = batches
        self._database = batches.context.database
        self._budget = CallBudget()

    def isolate(self, delta: Delta, batch: Batch, part: Slice, error: PermanentError) -> None:
        """Deliver everyone in a refused batch but the rows that Meta refuses.

        Raises:
            RequestRefusedError: Meta refuses it whatever the rows.
            CallsExhaustedError: The run has spent its calls on refused rows.
            PermanentError: The error is not about the content of the request.
        """
        self._batches.stop_if_too_small(delta, batch, error)
        if not is_about_content(error) or is_session_over(error):
            raise error
        with self._database.transaction() as connection:
            ledger.refuse(connection, delta, batch)
        whole = Part(part.first_row, part.rows)
        if len(whole) == 1 and self._accepts_another_row(delta):
            self._reject(delta, batch, whole)
            return
        singles: dict[int, Batch] = {}

        def attempt(rows: Part) -> PermanentError | None:
            alone = Slice.of(rows.first_row, rows.rows, is_last=True)
            singles[rows.first_row], refusal = self._batches.send_alone(delta, alone)
            return refusal

        def reject(row: Part) -> None:
            self._reject(delta, singles[row.first_row], row)

        RefusalSearch(attempt, reject, self._budget).isolate(whole, error)

    def _accepts_another_row(self, delta: Delta) -> bool:
        """Whether Meta accepts a row of the delta that is delivered already."""
        with self._database.transaction() as connection:
            delivered = ledger.acknowledged_ranges(connection, delta.operation, [delta.id])
        others = delivered.get(delta.id)
        if not others:
            return False
        self._budget.spend()
        rows = self._batches.rows(delta).slice(others[0].start, 1).collect()
        part = Slice.of(others[0].start, rows, is_last=True)
        session = self._batches.new_session(1)
        try:
            # It changes nothing at Meta, so the ledger does not need it.
            self._batches.request(delta, part.batch(session, 1, InSession(), last_batch=True), part)
        except PermanentError:
            return False
        return True

    def _reject(self, delta: Delta, batch: Batch, row: Part) -> None:
        with self._database.transaction() as connection:
            ledger.reject(connection, delta, batch)
            if delta.origin == "payload":
                quarantine.add(
                    connection,
                    delta.audience,
                    delta.day,
                    "audience_upload",
                    numbers_in_list(row.rows),
                    REFUSED_BY_META,
                )
        self._batches.progress.rejected(row.rows.height)
