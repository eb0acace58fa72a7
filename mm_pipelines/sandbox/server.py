"""The sandbox on a socket, with a way to cut connections."""

import asyncio
import struct
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mm_pipelines.sandbox.app import create_app
from mm_pipelines.sandbox.graph import RESET
from mm_pipelines.sandbox.settings import Settings


class ResettableProtocol(HttpToolsProtocol):
    """HTTP with connections that the app can cut, which ASGI does not support."""

    def on_message_begin(self) -> None:
        """Give every request a function that cuts its connection."""
        super().on_message_begin()
        # The scope's type permits only values here; the app needs the function.
        extensions: dict[str, Any] = {RESET: {"cut": self._cut}}
        self.scope["extensions"] = extensions

    def _cut(self) -> None:
        # Lingering for zero seconds makes the close a TCP reset instead of an orderly end.
        self.transport.get_extra_info("socket").setsockopt(
            SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.transport.abort()


def server(host: str, port: int, settings: Settings) -> uvicorn.Server:
    """A server that is not started yet; port 0 picks a free one."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=host,
            port=port,
            http=ResettableProtocol,
            lifespan="on",
            # Paths may carry subscription tokens, queries access tokens: no access log.
            access_log=False,
            log_level="warning",
            # A call that hangs because of a fault must not delay the shutdown.
            timeout_graceful_shutdown=2,
        )
    )


async def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8090) -> None:
    """Serve until the task is canceled or a signal stops it."""
    await server(host, port, settings).serve()


def run(host: str, port: int, settings: Settings) -> None:
    """Serve in the foreground, as `mm sandbox` does."""
    asyncio.run(serve(settings, host, port))
