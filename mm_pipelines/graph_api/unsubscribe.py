"""Unsubscribe people at the level of a Page (docs/graph-api.md#unsubscribing)."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from mm_pipelines.graph_api.answer import Answer, integer
from mm_pipelines.graph_api.classification import unreadable
from mm_pipelines.graph_api.client import GraphApiClient

MAX_ROWS = 1000
"""Rows of one call. Meta publishes no limit (docs/graph-api.md#q15-rows-per-unsubscribe-call)."""

_E164 = re.compile(r"\+[1-9]\d{6,14}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")


@dataclass(frozen=True, slots=True)
class UnsubscribeRow:
    """One person: exactly one of phone, e-mail, phone and e-mail, PSID, subscription token.

    Attributes:
        phone: E.164 with its plus, or the SHA-256 of the normalized number.
        email: In lower case, or its SHA-256.
        psid: Page-scoped ID.
        subscriber_token: Subscription token.

    Raises:
        ValueError: The combination or a format is not permitted; the message has no values.
    """

    phone: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)
    psid: str | None = field(default=None, repr=False)
    subscriber_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        contact = bool(self.phone or self.email)
        if contact + bool(self.psid) + bool(self.subscriber_token) != 1:
            raise ValueError(
                "a row names a person by phone, email, phone and email, psid, or subscriber_token"
            )
        if self.phone and not (_E164.fullmatch(self.phone) or _SHA256.fullmatch(self.phone)):
            raise ValueError("phone is neither E.164 with its plus nor a SHA-256 in lower case")
        if self.email and not self._email_is_permitted(self.email):
            raise ValueError("email is neither an address in lower case nor its SHA-256")

    @staticmethod
    def _email_is_permitted(email: str) -> bool:
        if _SHA256.fullmatch(email):
            return True
        return email == email.lower() and _EMAIL.fullmatch(email) is not None

    def document(self) -> dict[str, str]:
        """The row as it is sent."""
        named = {
            "phone": self.phone,
            "email": self.email,
            "psid": self.psid,
            "subscriber_token": self.subscriber_token,
        }
        return {name: value for name, value in named.items() if value}


def unsubscribe(client: GraphApiClient, page_id: str, rows: Sequence[UnsubscribeRow]) -> int:
    """Unsubscribe up to 1,000 people. A row that matches no one is not counted as invalid.

    Unsubscribing twice is the same as once, so the call is repeated if its outcome is unknown.

    Args:
        client: With the Page's token.
        page_id: Of the Page.
        rows: 1 to 1000.

    Returns:
        The number of invalid rows. Meta does not say which; it answers 200 even if all are.

    Raises:
        ValueError: Too few or too many rows.
        GraphApiError: As `GraphApiClient.request`.
    """
    if not 1 <= len(rows) <= MAX_ROWS:
        raise ValueError(f"one call takes 1 to {MAX_ROWS} rows, not {len(rows)}")
    return client.request(
        "POST",
        f"{page_id}/messaging_customer_base/unsubscribe",
        _invalid_rows,
        body=json.dumps({"data": [row.document() for row in rows]}).encode(),
    )


def _invalid_rows(answer: Answer) -> int:
    count = integer(answer.document().get("invalid_rows_count"))
    if count is None:
        raise unreadable("it has no count of invalid rows", answer.status)
    return count
