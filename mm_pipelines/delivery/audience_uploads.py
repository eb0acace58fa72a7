"""Sends the uploads of one Custom Audience, those that earlier runs left unfinished included.

People who opted out or were removed since an upload was frozen are not sent any more: the rest of
the upload is frozen again without them.
"""

from collections.abc import Sequence

import polars as pl

from mm_pipelines.delivery import delta_file, deltas, ledger, membership, removal_lists
from mm_pipelines.delivery.anti_join import IDENTITY, identities
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.deltas import Delta, NewDelta
from mm_pipelines.delivery.due_removals import DueRemovals, RemovalsDueError
from mm_pipelines.delivery.errors import AudienceTooSmallError, UploadRefusedError
from mm_pipelines.delivery.sender import Sender
from mm_pipelines.delivery.suppressed import SuppressedAmong
from mm_pipelines.delivery.top_up import ToppedUp, TopUp


class AudienceUploads:
    """The uploads of one Custom Audience; hold the audience's lock.

    Args:
        context: The resources of the delivery.
        sender: Of the audience.
        removals: Carries out removals that fall due before a batch.
        custom_audience_id: The Custom Audience.
        suppressed_among: Returns who opted out.
        top_up: Fills small rests of uploads with members; None leaves them small.
    """

    def __init__(
        self,
        context: DeliveryContext,
        sender: Sender,
        removals: DueRemovals,
        custom_audience_id: str,
        suppressed_among: SuppressedAmong,
        top_up: TopUp | None = None,
    ) -> None:
        self._database = context.database
        self._storage = context.storage
        self._sender = sender
        self._removals = removals
        self._custom_audience_id = custom_audience_id
        self._suppressed_among = suppressed_among
        self._top_up = top_up
        self._say = context.say

    def finish(self, upload: Delta) -> int:
        """Send the rest of an upload; removals that fall due meanwhile are carried out first.

        Returns:
            How many people were excluded because they opted out or were removed meanwhile.

        Raises:
            DeliveryError: See `delivery.errors`.
            GraphApiError: See `graph_api.errors`.
        """
        left_out = 0
        while True:
            try:
                self._sender.finish(upload)
            except RemovalsDueError:
                self._removals.carry_out(self._sender)
                upload, excluded = self._without_leavers(upload)
                left_out += excluded
            else:
                return left_out

    def finish_open(self) -> int:
        """Finish the open removal and the open upload as far as Meta accepts them.

        Returns and raises as `finish`.
        """
        self.finish_removal()
        with self._database.transaction() as connection:
            upload = deltas.find_open(connection, self._custom_audience_id, "add")
        if upload is None:
            return 0
        upload, left_out = self._without_leavers(upload)
        try:
            left_out += self.finish(upload)
        except UploadRefusedError as refused:
            # It is closed: the next delivery starts at once.
            self._say(str(refused))
        return left_out

    def finish_removal(self) -> None:
        """Finish the open removal, unless Meta still refuses it.

        Raises:
            DeliveryError: See `delivery.errors`.
            GraphApiError: See `graph_api.errors`.
        """
        try:
            self._sender.finish_open(self._custom_audience_id, "remove")
        except (AudienceTooSmallError, UploadRefusedError) as refused:
            self._say(str(refused))

    def deliver_people_still_due(self, keys: Sequence[str]) -> int:
        """Deliver the people of closed uploads, with those schema keys that are in ``keys``.

        Returns:
            How many of them were excluded.

        Raises:
            DeliveryError: See `delivery.errors`; they stay due.
            GraphApiError: See `graph_api.errors`.
        """
        with self._database.transaction() as connection:
            closed_uploads = deltas.still_due(connection, self._custom_audience_id)
        left_out = 0
        for closed in closed_uploads:
            if not self._storage.exists(closed.path):
                self._say(
                    f"{closed.audience}, {closed.day}: some people of this day were not delivered "
                    "and the file that names them is missing from the storage; materialize "
                    "audience_upload of this day again"
                )
                continue
            if not set(IDENTITY) & set(keys) & set(closed.keys):
                continue
            leaving = self._leavers(closed)
            successor = self._freeze_rest(closed, leaving, keys)
            left_out += leaving.height + self.finish(successor)
        return left_out

    def _without_leavers(self, upload: Delta) -> tuple[Delta, int]:
        """An open upload without those who opted out or were removed since it was frozen."""
        if not self._storage.exists(upload.path):
            return upload, 0
        leaving = self._leavers(upload)
        if leaving.is_empty():
            return upload, 0
        return self._freeze_rest(upload, leaving, upload.keys), leaving.height

    def _leavers(self, upload: Delta) -> pl.DataFrame:
        """EMAIL and PHONE of the undelivered rows whose people opted out or were removed."""
        rest = identities(self._rest(upload, upload.keys).frame)
        suppressed = self._suppressed_among(rest, None)
        with self._database.transaction() as connection:
            removed = membership.removed_after(connection, self._storage, upload)
            listed = removal_lists.requested_since(
                connection, self._storage, upload.audience, upload.created_at
            )
        gone = [
            rest.join(removed, on=IDENTITY, how="semi"),
            *(
                rest.join(listed.filter(pl.col(name) != ""), on=name, how="semi")
                for name in IDENTITY
            ),
        ]
        return pl.concat([suppressed.select(IDENTITY), pl.concat(gone).unique().collect()])

    def _rest(self, upload: Delta, keys: Sequence[str]) -> delta_file.Candidates:
        with self._database.transaction() as connection:
            rows = ledger.undelivered_ranges(connection, upload)
        return delta_file.delta_candidates(self._storage, upload, rows, keys)

    def _freeze_rest(self, upload: Delta, leaving: pl.DataFrame, keys: Sequence[str]) -> Delta:
        """Freeze the undelivered rows of an upload as another one that takes its place."""
        candidates = self._rest(upload, keys)
        members = membership.current(self._database, self._storage, self._custom_audience_id)
        people = delta_file.new_people(self._storage, candidates, members, leaving)
        rest = delta_file.publish(self._storage, self._custom_audience_id, people, candidates.keys)
        filled = self._top_up.with_members(rest, members) if self._top_up else ToppedUp(rest)
        new = NewDelta(
            audience=upload.audience,
            day=upload.day,
            custom_audience_id=self._custom_audience_id,
            operation="add",
            origin=upload.origin,
            source_sha256=upload.source_sha256,
            path=filled.file.path,
            row_count=filled.file.row_count,
            keys=filled.file.keys,
            left_out=leaving.height,
            topped_up=filled.members,
        )
        with self._database.transaction() as connection:
            if upload.is_open:
                reason = "continued without people who opted out or were removed meanwhile"
                deltas.close(connection, upload, "continued", reason)
                ledger.abandon_sent(connection, upload)
            successor = filled.freeze(connection, new)
            deltas.continue_in(connection, upload, successor)
        return successor
