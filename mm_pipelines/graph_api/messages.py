"""Opt-in requests: messages that ask a person on Messenger to agree to marketing messages.

docs/graph-api.md#opt-in-requests. A person may be asked once per 24-hour window, and once a week
with the same title. The caller keeps these limits, because it records who was asked.
"""

import enum
import json
from dataclasses import dataclass, field
from typing import Any

from mm_pipelines.graph_api.answer import Answer, text
from mm_pipelines.graph_api.classification import unreadable
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import (
    AmbiguousOutcomeError,
    GraphApiError,
    ThrottledError,
    TransientError,
)

MAX_TITLE = 65
"""Characters of a title (docs/graph-api.md#opt-in-requests)."""

CTA_TEXTS = frozenset({"ALLOW", "GET", "GET_UPDATES", "OPT_IN", "SIGN_UP"})
"""Texts of the button that were seen in use."""


@dataclass(frozen=True, slots=True)
class OptInRequest:
    """One opt-in request to one person.

    Attributes:
        psid: Page-scoped ID of a person who wrote within the last 24 hours.
        title: At most 65 characters.
        image_url: Https.
        payload: Comes back in the `messaging_optins` webhook.
        timezone: The person's, such as `America/New_York`; None where unknown.
        cta_text: One of `CTA_TEXTS`; None for Meta's own.

    Raises:
        ValueError: Title, image or button is not permitted.
    """

    psid: str = field(repr=False)
    title: str
    image_url: str
    payload: str
    timezone: str | None = None
    cta_text: str | None = None

    def __post_init__(self) -> None:
        if not self.psid:
            raise ValueError("an opt-in request needs a psid")
        if not 1 <= len(self.title) <= MAX_TITLE:
            raise ValueError(f"a title has 1 to {MAX_TITLE} characters, not {len(self.title)}")
        if not self.image_url.startswith("https://"):
            raise ValueError("image_url must be an https address")
        if self.cta_text is not None and self.cta_text not in CTA_TEXTS:
            raise ValueError(f"cta_text must be one of {', '.join(sorted(CTA_TEXTS))}")


@dataclass(frozen=True, slots=True)
class OptInReceipt:
    """The request was sent. A webhook reports whether the person agrees."""

    recipient_id: str | None = field(repr=False)
    message_id: str = field(repr=False)


class Verdict(enum.Enum):
    """The reaction to a failed opt-in request."""

    RETRY = "retry"
    """The request was certainly not sent: send it again later."""

    MAYBE_ASKED = "maybe_asked"
    """The outcome is unknown: count the request as sent, because a second one is not permitted."""

    SKIP_PERSON = "skip_person"
    """This person cannot receive a request now: continue with the next one."""

    STOP = "stop"
    """No request can be sent until the cause is fixed."""


# By code and subcode; a subcode of None means any other.
_PERSON: frozenset[tuple[int | None, int | None]] = frozenset(
    {
        (10, 2018278),  # outside the 24-hour window
        (10, 2018065),  # outside the window, by the older rules
        (10, 2018108),  # this person cannot receive messages
        (100, 2018001),  # no such person
        (200, 1545041),  # this person is not available
        (551, None),  # this person is not available
        (551, 1545041),
        (9, 2018352),  # too many requests
        (1893047, None),  # recipient unavailable
    }
)


def send_opt_in_request(
    client: GraphApiClient, page_id: str, request: OptInRequest
) -> OptInReceipt:
    """Send one opt-in request. It is not repeated if its outcome is unknown.

    Args:
        client: With the Page's token.
        page_id: Of the Page.
        request: The person and the content.

    Raises:
        GraphApiError: As `GraphApiClient.request`; `verdict` has the reaction.
    """
    question: dict[str, Any] = {
        "template_type": "notification_messages",
        "title": request.title,
        "image_url": request.image_url,
        "payload": request.payload,
    }
    if request.timezone is not None:
        question["notification_messages_timezone"] = request.timezone
    if request.cta_text is not None:
        question["notification_messages_cta_text"] = request.cta_text
    body = {
        "recipient": {"id": request.psid},
        "page": page_id,
        "message": {"attachment": {"type": "template", "payload": question}},
    }
    return client.request(
        "POST",
        f"{page_id}/messages",
        _receipt,
        body=json.dumps(body).encode(),
        repeatable=False,
    )


def verdict(error: GraphApiError) -> Verdict:
    """The reaction to a failed opt-in request (docs/graph-api.md#opt-in-requests)."""
    if (error.code, error.subcode) in _PERSON or (error.code, None) in _PERSON:
        return Verdict.SKIP_PERSON
    if isinstance(error, AmbiguousOutcomeError):
        return Verdict.MAYBE_ASKED
    if isinstance(error, TransientError | ThrottledError):
        return Verdict.RETRY
    return Verdict.STOP


def _receipt(answer: Answer) -> OptInReceipt:
    """Reads `message_id` inside `recipient`, as Meta's guide has it, or flat."""
    document = answer.document()
    recipient = document.get("recipient")
    nested = recipient if isinstance(recipient, dict) else {}
    message_id = text(document.get("message_id")) or text(nested.get("message_id"))
    if message_id is None:
        raise unreadable("it has no message id", answer.status)
    return OptInReceipt(
        recipient_id=text(document.get("recipient_id")) or text(nested.get("id")),
        message_id=message_id,
    )
