"""The receiver's endpoints: ``/webhooks``, ``/healthz``, ``/readyz`` and ``/metrics``."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import signature
from mm_pipelines.webhooks.envelope import NotAnEventError, parse
from mm_pipelines.webhooks.metrics import CONTENT_TYPE, HealthMetrics, ReceiverMetrics
from mm_pipelines.webhooks.store import (
    EventStore,
    NotStorableError,
    StoreError,
    StoreUnavailableError,
)
from mm_pipelines.webhooks.webhook_event import UNREADABLE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReceiverSettings:
    """The receiver's secrets and limits.

    Attributes:
        app_secrets: The app's secret, and during a rotation the previous one.
        verify_token: The token that Meta's handshake must contain.
        max_body_bytes: Larger bodies get 413. A thousand updates are about 0.5 MB.
        header_seconds: The most time for a request's headers; the connection is then closed.
        body_seconds: The most time for a body; it is then answered with 408.
        answer_seconds: The most time for a commit, then 503; Meta waits five seconds.
        unverified_bytes: The most memory for all bodies whose signature is not verified yet; a
            body that does not fit is answered with 503. Small bodies are not counted.
        most_connections: Further connections are closed at once.
    """

    app_secrets: tuple[str, ...] = field(repr=False)
    verify_token: str = field(repr=False)
    max_body_bytes: int = 8 * 2**20
    header_seconds: float = 10.0
    body_seconds: float = 10.0
    answer_seconds: float = 4.5
    unverified_bytes: int = 32 * 2**20
    most_connections: int = 500

    def __post_init__(self) -> None:
        if not any(self.app_secrets):
            raise ValueError("MM_APP_SECRET is not set; signatures of webhooks cannot be verified")
        if not self.verify_token:
            raise ValueError("MM_WEBHOOK_VERIFY_TOKEN is not set; Meta's handshake needs it")


class _RequestRefusedError(Exception):
    """The request is refused and nothing is stored."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


_SMALL_BODY_BYTES = 64 * 1024
"""So that Meta's usual POSTs are accepted while anonymous senders use up the memory."""


class _UnverifiedBodies:
    """The memory of all bodies that are not verified yet."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    @contextmanager
    def body(self) -> Iterator[Callable[[bytes], bytearray]]:
        """Yield a function that adds a chunk to one body; its memory is counted in the block."""
        body = bytearray()
        counted = 0

        def add(chunk: bytes) -> bytearray:
            nonlocal counted
            body.extend(chunk)
            if len(body) > _SMALL_BODY_BYTES:
                more = len(body) - counted
                if more > self._left:
                    raise _RequestRefusedError(503, "too many large bodies at once")
                self._left -= more
                counted += more
            return body

        try:
            yield add
        finally:
            self._left += counted


class Receiver:
    """The endpoints of one receiver."""

    def __init__(self, settings: ReceiverSettings, database: Database) -> None:
        self._settings = settings
        self._unverified = _UnverifiedBodies(settings.unverified_bytes)
        self._metrics = ReceiverMetrics()
        self._metrics.include(HealthMetrics(database))
        self._store = EventStore(database, self._metrics, answer_seconds=settings.answer_seconds)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:  # noqa: ARG002 - Starlette's
        """Run the writer with the server; store the waiting events at shutdown."""
        self._store.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._store.stop)

    async def handshake(self, request: Request) -> Response:
        """Answer Meta's verification with its challenge."""
        query = request.query_params
        ours = signature.is_our_token(query.get("hub.verify_token"), self._settings.verify_token)
        if query.get("hub.mode") != "subscribe" or not ours or "hub.challenge" not in query:
            return _answer(403, "the request is not a handshake with our verify token")
        return _answer(200, query["hub.challenge"])

    async def events(self, request: Request) -> Response:
        """Store the events of a POST; answer 200 only after the commit."""
        begun = perf_counter()
        count = 0
        try:
            events = parse(await self._verified_body(request))
            count = len(events)
            await self._store.save(events)
            self._metrics.events_unreadable.inc(sum(event.field == UNREADABLE for event in events))
            status, reason = 200, "stored"
        except _RequestRefusedError as refused:
            status, reason = refused.status, str(refused)
        except (NotAnEventError, NotStorableError) as error:
            status, reason = 400, str(error)
        except StoreUnavailableError as error:
            status, reason = 503, str(error)
        except ClientDisconnect:
            status, reason = 400, "the sender closed the connection"
        seconds = perf_counter() - begun
        self._metrics.answers.labels(status).inc()
        self._metrics.answer_seconds.observe(seconds)
        log.log(
            logging.INFO if status == 200 else logging.WARNING,
            "webhook",
            extra={"status": status, "reason": reason, "events": count, "seconds": seconds},
        )
        return _answer(status, reason)

    async def health(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        """Answer while the process runs."""
        return _answer(200, "ok")

    async def ready(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        """Answer 200 if the writer can commit now: it writes an empty list of events."""
        try:
            await self._store.save([])
        except StoreError:
            return _answer(503, "the database does not answer")
        return _answer(200, "ready")

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        """Return the metrics for Prometheus."""
        # In a thread: it may wait for the database while webhooks arrive.
        content = await asyncio.to_thread(self._metrics.exposition)
        return Response(content, headers={"content-type": CONTENT_TYPE})

    async def _verified_body(self, request: Request) -> bytes:
        """Read the body and verify its signature."""
        with self._unverified.body() as add:
            body = await self._body(request, add)
            given = request.headers.get(signature.HEADER)
            if not signature.is_signed(body, given, self._settings.app_secrets):
                raise _RequestRefusedError(403, "the signature does not match the app secret")
            return body

    async def _body(self, request: Request, add: Callable[[bytes], bytearray]) -> bytes:
        """Read the raw body; refuse it as soon as it is too large or too slow."""
        limit = self._settings.max_body_bytes
        too_large = _RequestRefusedError(413, f"the body is over the limit of {limit} bytes")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        body = add(b"")
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > limit:
                        raise too_large
                    add(chunk)
        except TimeoutError:
            raise _RequestRefusedError(408, "the body took too long") from None
        return bytes(body)


def create_app(settings: ReceiverSettings, database: Database) -> Starlette:
    """Return the receiver as an ASGI application; its lifespan must run."""
    receiver = Receiver(settings, database)
    return Starlette(
        routes=[
            Route("/webhooks", receiver.handshake, methods=["GET"]),
            Route("/webhooks", receiver.events, methods=["POST"]),
            Route("/healthz", receiver.health, methods=["GET"]),
            Route("/readyz", receiver.ready, methods=["GET"]),
            Route("/metrics", receiver.metrics, methods=["GET"]),
        ],
        lifespan=receiver.lifespan,
    )


def _answer(status: int, content: str) -> Response:
    # The challenge is echoed, so browsers must not interpret it as HTML.
    headers = {"x-content-type-options": "nosniff"}
    if status in (408, 413, 503):
        headers["connection"] = "close"  # the rest of the body is not read
    return PlainTextResponse(content, status_code=status, headers=headers)
