"""The ASGI app: the Graph API on every path, the sandbox's own door, and the work in between."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mm_pipelines.sandbox import control, graph, matching, webhooks
from mm_pipelines.sandbox.settings import Settings
from mm_pipelines.sandbox.world import World

GLANCE_SECONDS = 0.05


def create_app(settings: Settings) -> Starlette:
    """A sandbox as an ASGI app.

    The lifespan runs matching and webhook delivery; without it (an ASGI transport in a test)
    `POST /_sandbox/settle` does both on demand.
    """
    world = World(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        working = asyncio.create_task(_work(world))
        try:
            yield
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
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


async def _work(world: World) -> None:
    """Match what is due, deliver what is due, and look again soon."""
    await asyncio.to_thread(webhooks.hurry, world)
    async with webhooks.sender(world) as client:
        while True:
            matched = await asyncio.to_thread(matching.process_next, world)
            delivered = await webhooks.deliver_due(world, client)
            if not matched and not delivered:
                await asyncio.sleep(GLANCE_SECONDS)
