"""Stores the receiver's events: one writer thread commits many requests at once.

A commit waits for the disk, so requests that arrive meanwhile share the next one. That allows a
thousand durable answers a second with one connection.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

from sqlalchemy.exc import DataError

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import webhook_event
from mm_pipelines.webhooks.metrics import ReceiverMetrics
from mm_pipelines.webhooks.webhook_event import WebhookEvent

log = logging.getLogger(__name__)

_EVENTS_A_COMMIT = 5_000
_SECONDS_TO_FINISH = 20.0


class StoreError(Exception):
    """The events were not committed."""


class StoreUnavailableError(StoreError):
    """The database did not answer, or not in time; Meta delivers the events again."""


class NotStorableError(StoreError):
    """The database refuses these events permanently."""


@dataclass(frozen=True)
class _Post:
    events: Sequence[WebhookEvent]
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[None]"

    def resolve(self, error: StoreError | None) -> None:
        self.loop.call_soon_threadsafe(self._resolve, error)

    def _resolve(self, error: StoreError | None) -> None:
        if self.answer.done():  # it timed out and was answered already
            return
        if error is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(error)


class EventStore:
    """The only writer of a receiver.

    Args:
        database: Stores the events.
        metrics: Counts them.
        answer_seconds: How long a request waits for its commit.
        waiting_events: The most events that may wait at once; more are refused.
        commit_seconds: The longest wait for a commit; its connection is then replaced.
    """

    def __init__(
        self,
        database: Database,
        metrics: ReceiverMetrics,
        *,
        answer_seconds: float,
        waiting_events: int = 200_000,
        commit_seconds: float = 8.0,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._answer_seconds = answer_seconds
        self._waiting_events = waiting_events
        self._commit_seconds = commit_seconds
        self._waiting = 0
        self._posts: SimpleQueue[_Post | None] = SimpleQueue()
        self._writer = Thread(target=self._write, name="webhook-writer", daemon=True)

    def start(self) -> None:
        """Start the writer thread."""
        self._writer.start()

    def stop(self) -> None:
        """Write the waiting events, then stop; gives up on a database that hangs."""
        self._posts.put(None)
        self._writer.join(_SECONDS_TO_FINISH)

    async def save(self, events: Sequence[WebhookEvent]) -> None:
        """Return once the events are committed.

        Raises:
            StoreUnavailableError: The database is unavailable or slow, or too many events wait.
            NotStorableError: The database refuses the events.
        """
        if self._waiting + len(events) > self._waiting_events:
            raise StoreUnavailableError("too many events are waiting for the database")
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._waiting += len(events)
        self._posts.put(_Post(events, loop, answer))
        try:
            async with asyncio.timeout(self._answer_seconds):
                await answer
        except TimeoutError:
            # The commit may still succeed; the redelivery is then recognized.
            raise StoreUnavailableError("the database did not answer in time") from None
        finally:
            self._waiting -= len(events)

    def _write(self) -> None:
        stopping = False
        while not stopping:
            posts: list[_Post] = []
            stopping = self._take(posts)
            if posts:
                self._commit(posts)

    def _take(self, posts: list[_Post]) -> bool:
        """Wait for a request, take all waiting ones, and return whether to stop."""
        post = self._posts.get()
        events = 0
        while post is not None:
            posts.append(post)
            events += len(post.events)
            if events >= _EVENTS_A_COMMIT:
                return False
            try:
                post = self._posts.get_nowait()
            except Empty:
                return False
        return True

    def _commit(self, posts: Sequence[_Post]) -> None:
        """Store requests in one transaction; if the database refuses one of them, one by one."""
        error = self._insert([event for post in posts for event in post.events])
        self._metrics.commit_posts.observe(len(posts))
        if isinstance(error, NotStorableError) and len(posts) > 1:
            for post in posts:
                self._commit([post])
            return
        for post in posts:
            post.resolve(error)

    def _insert(self, events: Sequence[WebhookEvent]) -> StoreError | None:
        try:
            with self._database.transaction(answer_seconds=self._commit_seconds) as connection:
                stored = webhook_event.insert(connection, events)
        except (DataError, ValueError):  # psycopg2 refuses some texts with ValueError
            return NotStorableError("the database refuses the events")
        # Any error: if the writer thread died, the process would look healthy but store nothing.
        except Exception as error:  # noqa: BLE001 - Meta delivers the events again
            self._metrics.commit_failures.inc()
            # The error's text may contain the events: only its type is logged.
            log.warning("commit failed", extra={"fault": type(error).__name__})
            return StoreUnavailableError("the database is not available")
        self._metrics.events_stored.inc(stored)
        self._metrics.events_known.inc(len(events) - stored)
        return None
