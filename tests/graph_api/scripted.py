"""A Graph API that answers from a script, and a clock that moves only when code sleeps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.graph_api.throttle import MemoryThrottle

TOKEN = "EAAtestTokenOfASystemUser"

Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


@dataclass
class Time:
    """Seconds since a beginning; sleeping is what makes them pass."""

    now: float = 1_000_000.0
    sleeps: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    @property
    def slept(self) -> float:
        return sum(self.sleeps)


@dataclass
class Graph:
    """Answers every call with the next reply of the script; the last one repeats."""

    time: Time
    replies: list[Reply] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)

    def answers(self, *replies: Reply) -> "Graph":
        self.replies = list(replies)
        return self

    def client(self, token: str = TOKEN, **options: Any) -> GraphApiClient:
        options.setdefault("throttle", MemoryThrottle(lambda: self.time.now))
        options.setdefault("retries", RetryPolicy())
        options.setdefault("sleep", self.time.sleep)
        return GraphApiClient(token, transport=httpx.MockTransport(self._answer), **options)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, httpx.Response):
            # A response can be sent once only.
            return httpx.Response(reply.status_code, content=reply.content, headers=reply.headers)
        return reply(request)


def error_answer(
    code: int,
    subcode: int | None = None,
    *,
    status: int = 400,
    message: str = "Something is wrong",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> httpx.Response:
    """An error as the Graph API words it."""
    error: dict[str, Any] = {"message": message, "type": "OAuthException", "code": code, **more}
    if subcode is not None:
        error["error_subcode"] = subcode
    error.setdefault("fbtrace_id", "AbCdEfG")
    return httpx.Response(status, json={"error": error}, headers=headers)


def answer(document: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(200, json=document, headers=headers)
