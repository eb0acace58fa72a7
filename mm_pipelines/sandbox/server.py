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
    """HTTP whose connection the app may cut: ASGI itself has no word for that."""

    def on_message_begin(self) -> None:
        """Lend every request the means to cut its connection."""
        super().on_message_begin()
        # The scope's own type knows only values here; the app needs the door itself.
        extensions: dict[str, Any] = {RESET: {"cut": self._cut}}
        self.scope["extensions"] = extensions

    def _cut(self) -> None:
        # Lingering for zero seconds makes the close a TCP reset instead of an orderly end.
        self.transport.get_extra_info("socket").setsockopt(
            SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.transport.abort()


def server(host: str, port: int, settings: Settings) -> uvicorn.Server:
    """A server not yet started; port 0 takes a free one."""
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
            # A hanging call, ordered as a fault, must not hold up the end.
            timeout_graceful_shutdown=2,
        )
    )


async def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8090) -> None:
    """Serve until cancelled or told to stop by a signal."""
    await server(host, port, settings).serve()


def run(host: str, port: int, settings: Settings) -> None:
    """Serve in the foreground: what `mm sandbox` does."""
    asyncio.run(serve(settings, host, port))
