"""Meta: the sandbox in this process, without sockets, threads or time of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mm_pipelines.sandbox import (
    Settings,
    faults,
    graph,
    matching,
    people,
    quotas,
    refusals,
    webhooks,
)
from mm_pipelines.sandbox.tokens import populate
from mm_pipelines.sandbox.world import World
from tests.simulation.company import PAGE_IDS, Customer
from tests.simulation.story import Quota

RECEIVER = "http://receiver.invalid/webhooks"


class Meta:
    """The sandbox, driven step by step.

    Args:
        seed: Decides who is on Facebook and when batches are matched.
        now: The virtual time.
        receive: Stores the body of a webhook; returns the HTTP status of the answer.
    """

    def __init__(
        self, seed: int, now: Callable[[], float], receive: Callable[[bytes], int]
    ) -> None:
        settings = Settings(
            webhook_url=RECEIVER,
            seed=seed,
            match_rate=0.7,
            match_delay_seconds=120,
            match_jitter_seconds=20,
            audience_floor=0,
            optin_people_per_page=3,
            webhook_backoff_seconds=30,
        )
        self.world = World(settings, now, _Receiver(receive))
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_InThisThread())
        self._app = Starlette(
            routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "DELETE"])]
        )
        with self.world.transaction():
            for page_id in PAGE_IDS:
                populate(self.world, page_id)

    def close(self) -> None:
        """Free the state."""
        self.world.close()
        self._loop.close()

    def call(self, request: httpx.Request) -> tuple[int, dict[str, str], bytes]:
        """Answer one Graph API call: status, headers, body."""
        transport = httpx.ASGITransport(self._app)
        received = httpx.Request(
            request.method, request.url, headers=request.headers, content=request.content
        )
        return self._loop.run_until_complete(_exchange(transport, received))

    def work(self) -> None:
        """Match the batches and deliver the webhooks that are due."""
        while matching.process_next(self.world):
            pass
        self._loop.run_until_complete(self._deliver())

    def next_due(self) -> float | None:
        """When the next batch or webhook is due, in unix seconds."""
        (batch,) = self._row("SELECT min(due_at) FROM batch WHERE processed_at IS NULL")
        (webhook,) = self._row("SELECT min(due_at) FROM webhook WHERE delivered_at IS NULL")
        return min((due for due in (batch, webhook) if due is not None), default=None)

    def refuse(self, customers: tuple[int, ...]) -> None:
        """Refuse every request that contains one of these customers."""
        hashes = frozenset(Customer(number).row.partition("|")[0] for number in customers)
        refusals.configure(self.world, refusals.Refusals(hashes=hashes))

    def throttle(self, quota: Quota, subject: str, seconds: float) -> None:
        """Refuse every call under a quota for some time."""
        rule = quotas.Quota(
            subject=subject, kind=quota, blocked_for_seconds=seconds, block_seconds=0
        )
        quotas.enforce(self.world, rule)

    def fail_webhook(self, **effect: Any) -> None:
        """Lose, double or delay the next upload-status webhook."""
        faults.configure(self.world, faults.WebhookFault(field=webhooks.UPLOAD_STATUS, **effect))

    def reverse_webhooks(self) -> None:
        """Deliver the pending webhooks in reverse order."""
        webhooks.reverse_pending(self.world)

    def report_of_other_app(self, audience: str, rows: int) -> None:
        """Report an upload of another app to one of our audiences, if it exists."""
        for audience_id in self._audience_ids(audience):
            report = webhooks.UploadReport(audience_id=audience_id, num_rows=rows)
            webhooks.report_upload(self.world, report)

    def stop(self, page_id: str, person: int) -> None:
        """One of the people who opted in stops the messages, if they still have a token."""
        with suppress(people.PersonStateError):
            people.stop(self.world, page_id, self.psids(page_id)[person])

    def resume(self, page_id: str, person: int) -> None:
        """One of the people who opted in resumes them, if they still have a token."""
        with suppress(people.PersonStateError):
            people.resume(self.world, page_id, self.psids(page_id)[person])

    def psids(self, page_id: str) -> list[str]:
        """The people who opted in before the story."""
        rows = self.world.db.execute(
            "SELECT DISTINCT psid FROM token WHERE page_id = ? AND psid IS NOT NULL ORDER BY psid",
            (page_id,),
        )
        return [row["psid"] for row in rows]

    def members(self, audience: str) -> set[str]:
        """The members of an audience: e-mail hash, `|`, phone hash."""
        from mm_pipelines.sandbox.inspection import membership

        return {
            key
            for audience_id in self._audience_ids(audience)
            for key in membership(self.world, audience_id)["keys"]
        }

    def batches(self) -> list[dict[str, Any]]:
        """Every batch that was applied, with the times that it was received."""
        rows = self.world.db.execute("SELECT * FROM batch ORDER BY number").fetchall()
        return [dict(row) for row in rows]

    def _audience_ids(self, audience: str) -> list[str]:
        rows = self.world.db.execute(
            "SELECT audience_id FROM audience WHERE name = ? AND deleted_at IS NULL", (audience,)
        )
        return [row["audience_id"] for row in rows]

    def _row(self, statement: str) -> Any:
        return self.world.db.execute(statement).fetchone()

    async def _answer(self, request: Request) -> Response:
        return await graph.answer(self.world, request)

    async def _deliver(self) -> None:
        async with webhooks.sender(self.world) as client:
            while await webhooks.deliver_due(self.world, client):
                pass


async def _exchange(
    transport: httpx.ASGITransport, request: httpx.Request
) -> tuple[int, dict[str, str], bytes]:
    response = await transport.handle_async_request(request)
    return response.status_code, dict(response.headers), await response.aread()


class _Receiver(httpx.AsyncBaseTransport):
    """Hands the webhooks to our receiver."""

    def __init__(self, receive: Callable[[bytes], int]) -> None:
        self._receive = receive

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(self._receive(await request.aread()))


class _InThisThread(ThreadPoolExecutor):
    """Runs every call at once in the calling thread: a process with threads must not fork."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            future.set_exception(error)
        return future
