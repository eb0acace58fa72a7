"""The ASGI app: the Graph API, the control paths, and the background work."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mm_pipelines.sandbox import control, graph, matching, webhooks
from mm_pipelines.sandbox.settings import Settings
from mm_pipelines.sandbox.world import World

POLL_SECONDS = 0.05


def create_app(
    settings: Settings,
    now: Callable[[], float] = time.time,
    webhook_transport: httpx.AsyncBaseTransport | None = None,
) -> Starlette:
    """A sandbox as an ASGI app.

    The lifespan runs matching and webhook delivery. Without it (an ASGI transport in a test),
    `POST /_sandbox/settle` does both on demand.

    Args:
        settings: The sandbox's settings.
        now: The real time in unix seconds, on which the sandbox's own clock is based.
        webhook_transport: Sends the webhooks; by default over the network.
    """
    world = World(settings, now, webhook_transport)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        background_work = asyncio.create_task(_run_background_work(world))
        try:
            yield
        finally:
            background_work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await background_work
            await asyncio.to_thread(world.close)

    async def graph_api(request: Request) -> Response:
        return await graph.answer(world, request)

    return Starlette(
        routes=[
            *control.routes(world),
            Route("/{path:path}", graph_api, methods=["GET", "POST", "DELETE"]),
        ],
        lifespan=lifespan,
    )


async def _run_background_work(world: World) -> None:
    """Match due batches and deliver due webhooks, without end."""
    await asyncio.to_thread(webhooks.hurry, world)
    async with webhooks.sender(world) as client:
        while True:
            matched = await asyncio.to_thread(matching.process_next, world)
            delivered = await webhooks.deliver_due(world, client)
            if not matched and not delivered:
                await asyncio.sleep(POLL_SECONDS)
