"""A connection to the receiver: headers of bounded size must arrive in bounded time.

uvicorn bounds the size (in its h11 protocol only, which is why that one is used) and the time
between requests, but not how long a sender may take over the headers: a thousand half-sent
requests would hold a thousand connections for ever.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedConnection(H11Protocol):
    """uvicorn's HTTP/1.1, closed when a request's headers are not there in time."""

    header_seconds: float
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited from here on."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request: either its headers are complete by now, or they are awaited."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._await_headers()
        else:
            self._stop_awaiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_awaiting()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self.transport.close)

    def _stop_awaiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def connections(header_seconds: float) -> type[BoundedConnection]:
    """The class of connections that wait so long for a request's headers."""
    return type("BoundedConnection", (BoundedConnection,), {"header_seconds": header_seconds})
