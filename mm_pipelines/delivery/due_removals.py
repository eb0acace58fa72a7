"""Carries out removals that fall due while people are added to the same audience.

The upload holds the audience's lock, so no other run can remove people meanwhile.
"""

import time
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection

from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.custom_audience import CustomAudience
from mm_pipelines.delivery.errors import UploadRefusedError
from mm_pipelines.delivery.removals import PendingRemoval, RemovalSource, remove_members
from mm_pipelines.delivery.sender import Sender


class RemovalsDueError(Exception):
    """Removals are due before the next batch of an upload."""


class DueRemovals:
    """The removals of one Custom Audience that fall due during its upload.

    Args:
        context: The resources of the delivery.
        target: The Custom Audience.
        sources: Where removals come from.
    """

    def __init__(
        self, context: DeliveryContext, target: CustomAudience, sources: Sequence[RemovalSource]
    ) -> None:
        self._context = context
        self._target = target
        self._sources = sources
        self._refused: set[str] = set()
        self._next_check = 0.0

    def check(self, connection: Connection) -> None:
        """Interrupt the upload if a removal is due.

        Raises:
            RemovalsDueError: Call `carry_out`, then continue.
        """
        if time.monotonic() >= self._next_check and any(self._pending(connection)):
            raise RemovalsDueError

    def carry_out(self, sender: Sender) -> int:
        """Remove everyone who is due; returns how many people were removed.

        A removal that Meta refuses does not stop the upload, and is not tried again by this run.
        """
        began_at = time.monotonic()
        with self._context.database.transaction() as connection:
            pending = list(self._pending(connection))
        removed = 0
        for removal in pending:
            try:
                removed += remove_members(self._context, sender, self._target, removal)
            except UploadRefusedError as refused:
                self._refused.add(removal.name)
                self._context.say(str(refused))
        # Under a steady stream of removals, the upload still gets half of the time.
        ended_at = time.monotonic()
        self._next_check = ended_at + (ended_at - began_at)
        return removed

    def _pending(self, connection: Connection) -> Iterator[PendingRemoval]:
        audience = self._target.audience
        for source in self._sources:
            if source.may_be_due(connection, audience):
                for removal in source.pending(connection, audience):
                    if removal.name not in self._refused:
                        yield removal
