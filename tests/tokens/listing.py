"""A Page's listing that answers from memory, with the cursors and filters of Meta's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.retry import RetryPolicy

PAGE_LIMIT = 1_000


def audience_made(number: int, *audiences: str) -> dict[str, Any]:
    return {
        "notification_messages_token": f"a{number}",
        "topic_title": "Updates and promotions",
        "notification_messages_reoptin": "ENABLED",
        **({"custom_audience_ids": list(audiences)} if audiences else {}),
    }


def opted_in(number: int, recipient: int) -> dict[str, Any]:
    return {
        "notification_messages_token": f"o{number}",
        "recipient_id": f"p{recipient}",
        "topic_title": "Updates and promotions",
        "notification_messages_reoptin": "ENABLED",
        "creation_timestamp": 1_790_000_000 + number,
        "user_token_status": "REFRESHED",
    }


@dataclass
class TokenListing:
    """What Meta lists, changed by a test as Meta's changes.

    Attributes:
        tokens: The whole listing.
        by_audience: The answer to `custom_audience_ids`, by id.
        by_source: The answer to `opt_in_source`; None where the filter is ignored.
        dead_cursors: How many cursors are still to be refused.
        calls: The parameters of every call.
    """

    tokens: list[dict[str, Any]] = field(default_factory=list)
    by_audience: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    by_source: dict[str, list[dict[str, Any]]] | None = field(default_factory=dict)
    dead_cursors: int = 0
    calls: list[dict[str, str]] = field(default_factory=list)
    before_answer: Callable[[], None] = lambda: None

    def client(self) -> GraphApiClient:
        return GraphApiClient(
            "page-token",
            transport=httpx.MockTransport(self._answer),
            retries=RetryPolicy(attempts=1),
        )

    def asked(self, parameter: str) -> list[str]:
        return [call[parameter] for call in self.calls if parameter in call]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.before_answer()
        call = dict(request.url.params)
        self.calls.append(call)
        after = int(call.get("after", 0))
        if after and self.dead_cursors:
            self.dead_cursors -= 1
            error = {"message": "Invalid cursor", "type": "OAuthException", "code": 100}
            return httpx.Response(400, json={"error": error})
        tokens = self._chosen(call)
        end = after + PAGE_LIMIT
        paging: dict[str, Any] = {"cursors": {"after": str(end)}}
        if end < len(tokens):
            paging["next"] = "https://graph.example/next"
        return httpx.Response(200, json={"data": tokens[after:end], "paging": paging})

    def _chosen(self, call: dict[str, str]) -> list[dict[str, Any]]:
        if "custom_audience_ids" in call:
            return self.by_audience.get(call["custom_audience_ids"], [])
        if "opt_in_source" in call and self.by_source is not None:
            return self.by_source.get(call["opt_in_source"], [])
        if call.get("do_not_return_duplicates"):
            people = {token.get("recipient_id", index): token for index, token in self._numbered()}
            return list(people.values())[:10_000]
        return self.tokens

    def _numbered(self) -> list[tuple[str, dict[str, Any]]]:
        return [(f"#{index}", token) for index, token in enumerate(self.tokens)]
