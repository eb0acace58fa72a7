"""Commits shared by many requests, in the face of faults."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from sqlalchemy import Connection, text

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.metrics import ReceiverMetrics
from mm_pipelines.webhooks.store import EventStore, NotStorableError, StoreUnavailableError
from mm_pipelines.webhooks.webhook_event import WebhookEvent
from tests.silent_proxy import SilentProxy


def event(number: int, payload: str = "{}") -> WebhookEvent:
    return WebhookEvent(f"key {number}", "v", "page", "field", None, None, None, payload)


def stored(database: Database) -> int:
    with database.transaction() as connection:
        return int(connection.scalar(text("select count(*) from mm.webhook_event")) or 0)


@asynccontextmanager
async def writing(
    database: Database,
    *,
    answer_seconds: float = 30,
    waiting_events: int = 200_000,
    commit_seconds: float = 8,
) -> AsyncIterator[Callable[[list[WebhookEvent]], Awaitable[None]]]:
    store = EventStore(
        database,
        ReceiverMetrics(),
        answer_seconds=answer_seconds,
        waiting_events=waiting_events,
        commit_seconds=commit_seconds,
    )
    store.start()
    try:
        yield store.save
    finally:
        await asyncio.to_thread(store.stop)


def test_requests_that_come_together_are_all_stored(database: Database) -> None:
    async def post_all() -> None:
        async with writing(database) as save:
            await asyncio.gather(*(save([event(number)]) for number in range(500)))

    asyncio.run(post_all())
    assert stored(database) == 500


def test_an_unstorable_request_does_not_affect_the_others(database: Database) -> None:
    async def post_all() -> list[BaseException | None]:
        async with writing(database) as save:
            return await asyncio.gather(
                *(save([event(n, "no json" if n % 10 == 3 else "{}")]) for n in range(100)),
                return_exceptions=True,
            )

    outcomes = asyncio.run(post_all())
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, NotStorableError)] == [
        n for n in range(100) if n % 10 == 3
    ]
    assert stored(database) == 90


class Failing(Database):
    """A database whose first transaction ends in a fault that no driver knows."""

    faults = 1

    @contextmanager
    def transaction(self, *, answer_seconds: float | None = None) -> Iterator[Connection]:
        if self.faults:
            self.faults -= 1
            raise RuntimeError("cannot start new thread")
        with super().transaction(answer_seconds=answer_seconds) as connection:
            yield connection


def test_no_error_ends_the_writer(database: Database) -> None:
    failing = Failing(database.url)

    async def post_twice() -> None:
        async with writing(failing) as save:
            with pytest.raises(StoreUnavailableError):
                await save([event(1)])
            await save([event(1)])

    asyncio.run(post_twice())
    failing.dispose()
    assert stored(database) == 1


def test_a_request_is_stored_whole_or_not_at_all(database: Database) -> None:
    async def post() -> None:
        async with writing(database) as save:
            await save([event(1), event(2, "no json")])

    with pytest.raises(NotStorableError):
        asyncio.run(post())
    assert stored(database) == 0


def test_waiting_events_are_stored_when_the_receiver_stops(database: Database) -> None:
    async def post_and_stop() -> None:
        store = EventStore(database, ReceiverMetrics(), answer_seconds=30)
        posts = [asyncio.ensure_future(store.save([event(number)])) for number in range(50)]
        await asyncio.sleep(0)
        store.start()
        await asyncio.to_thread(store.stop)
        await asyncio.gather(*posts)

    asyncio.run(post_and_stop())
    assert stored(database) == 50


def test_the_writer_reconnects_after_a_restart(database: Database) -> None:
    async def post_around_a_restart() -> None:
        async with writing(database) as save:
            await save([event(1)])
            with database.transaction() as connection:
                connection.execute(
                    text(
                        "select pg_terminate_backend(pid) from pg_stat_activity "
                        "where datname = current_database() and pid <> pg_backend_pid()"
                    )
                )
            await save([event(2)])

    asyncio.run(post_around_a_restart())
    assert stored(database) == 2


def test_a_slow_commit_is_answered_in_time(database: Database) -> None:
    async def post_behind_a_lock() -> None:
        async with writing(database, answer_seconds=0.1) as save:
            with database.transaction() as connection:
                connection.execute(text("lock table mm.webhook_event in exclusive mode"))
                await save([event(1)])

    with pytest.raises(StoreUnavailableError, match="in time"):
        asyncio.run(post_behind_a_lock())
    # The commit succeeded after the lock was released; the redelivery will be recognized.
    assert stored(database) == 1


def test_events_beyond_the_limit_are_refused(database: Database) -> None:
    async def flood() -> list[BaseException | None]:
        async with writing(database, waiting_events=10) as save:
            return await asyncio.gather(
                *(save([event(number)]) for number in range(30)), return_exceptions=True
            )

    refused = [isinstance(outcome, StoreUnavailableError) for outcome in asyncio.run(flood())]
    assert refused == [False] * 10 + [True] * 20


def test_a_silent_connection_is_replaced(database: Database) -> None:
    async def post_around_the_silence() -> float:
        async with writing(behind, answer_seconds=0.5, commit_seconds=1) as save:
            await save([event(1)])
            proxy.silence()
            begun = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                await save([])  # what /readyz does
            while True:
                try:
                    await save([event(2)])
                except StoreUnavailableError:
                    assert time.monotonic() - begun < 15
                else:
                    return time.monotonic() - begun

    with SilentProxy.before(database) as proxy:
        behind = Database(proxy.url)
        asyncio.run(post_around_the_silence())
        behind.dispose()
    assert stored(database) == 2
