"""A successful answer of the Graph API, and the ways to read it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mm_pipelines.graph_api.classification import unreadable


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer, unread.

    Attributes:
        status: HTTP status, 2xx.
        raw: The body; never shown.
        headers: Names ignore case.
    """

    status: int
    raw: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """The body as a JSON object.

        The content type is ignored, because Meta sends `text/javascript` on some reads
        (docs/graph-api.md#requests-in-general).

        Raises:
            UnreadableAnswerError: It is not one.
        """
        try:
            document = json.loads(self.raw)
        except (ValueError, RecursionError):
            raise unreadable("it is not JSON", self.status) from None
        if not isinstance(document, dict):
            raise unreadable("it is not a JSON object", self.status)
        return document


def as_document(answer: Answer) -> dict[str, Any]:
    """Read an answer as a JSON object."""
    return answer.document()


def as_success(answer: Answer) -> bool:
    """Read `{"success": true}`, as a boolean or as text.

    Source: docs/graph-api.md#webhook-subscriptions.

    Raises:
        UnreadableAnswerError: The answer has no readable `success`.
    """
    success = answer.document().get("success")
    if success not in (True, False, "true", "false"):
        raise unreadable("it has no readable success", answer.status)
    return success in (True, "true")


def text(value: Any) -> str | None:
    """An id or text as text: Meta sends ids as strings or as numbers beyond 2**53."""
    if value is None or value == "" or isinstance(value, bool | dict | list):
        return None
    return str(value)


def integer(value: Any) -> int | None:
    """An integer, which Meta sends as a number or as text."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None
