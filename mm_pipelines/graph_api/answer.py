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
        raw: the body as it came; never shown.
        headers: whose names ignore case.
    """

    status: int
    raw: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """The body as a JSON object.

        The content type is not looked at: Meta sends `text/javascript` on some reads
        (docs/graph-api.md#requests-in-general).

        Raises:
            UnreadableAnswerError: it is not one.
        """
        try:
            document = json.loads(self.raw)
        except (ValueError, RecursionError):
            raise unreadable("it is no JSON", self.status) from None
        if not isinstance(document, dict):
            raise unreadable("it is no JSON object", self.status)
        return document


def as_document(answer: Answer) -> dict[str, Any]:
    """Read an answer as a JSON object."""
    return answer.document()


def as_success(answer: Answer) -> bool:
    """Read `{"success": true}`, as a boolean or as text.

    Source: docs/graph-api.md#webhook-subscriptions.

    Raises:
        UnreadableAnswerError: the answer does not say whether it was done.
    """
    success = answer.document().get("success")
    if success not in (True, False, "true", "false"):
        raise unreadable("it does not say success", answer.status)
    return success in (True, "true")


def text(value: Any) -> str | None:
    """An id or text of Meta's as text: ids come as strings or as numbers beyond 2**53."""
    if value is None or value == "" or isinstance(value, bool | dict | list):
        return None
    return str(value)


def integer(value: Any) -> int | None:
    """A number of Meta's, which comes as a number or as text."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None
