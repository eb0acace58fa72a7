"""Closes connections whose headers do not arrive in time, and those beyond a limit.

uvicorn limits the size of headers (in its h11 protocol, which is why that one is used) and the time
between requests, but not the time for the headers: a thousand incomplete requests would hold a
thousand connections. A proxy in front limits it too, but the receiver must not depend on one.
``tests/webhooks/test_limits.py::test_incomplete_headers_close_the_connection`` needs this class.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a time limit for headers and a number of connections."""

    header_seconds: float
    most_connections: int
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.close()
            return
        self._start_limit()

    def data_received(self, data: bytes) -> None:
        """Restart or end the time limit, depending on whether the headers are complete."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._start_limit()
        else:
            self._end_limit()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time limit."""
        self._end_limit()
        super().connection_lost(exc)

    def _start_limit(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self.transport.close)

    def _end_limit(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def connections(*, header_seconds: float, most_connections: int) -> type[BoundedConnection]:
    """Return the protocol class with these limits."""
    limits = {"header_seconds": header_seconds, "most_connections": most_connections}
    return type("BoundedConnection", (BoundedConnection,), limits)
