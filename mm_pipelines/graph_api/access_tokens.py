"""Validity, scopes and expiry of access tokens (docs/graph-api.md#access-tokens)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from mm_pipelines.graph_api.answer import Answer, text
from mm_pipelines.graph_api.classification import unreadable
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.epoch import epoch_time
from mm_pipelines.graph_api.redaction import redact

# The permission for Marketing Messages itself differs by way of onboarding.
SYSTEM_USER_SCOPES: Final = frozenset({"ads_management", "pages_messaging"})
"""The permissions that the token of an ad account needs."""

PAGE_SCOPES: Final = frozenset({"pages_messaging", "pages_manage_metadata"})
"""The permissions that a Page's token needs."""


@dataclass(frozen=True, slots=True)
class AccessTokenInfo:
    """The state of an access token, according to Meta.

    Attributes:
        is_valid: False for a revoked token, which Meta answers with HTTP 200.
        kind: USER, PAGE, APP or SYSTEM_USER.
        expires_at: None means never.
        data_access_expires_at: None means never.
        scopes: Its permissions.
        error: Why it is not valid.
    """

    is_valid: bool
    kind: str | None
    expires_at: datetime | None
    data_access_expires_at: datetime | None
    scopes: frozenset[str]
    error: str | None

    @classmethod
    def invalid(cls, error: str) -> Self:
        """The state of a token that Meta refuses altogether."""
        return cls(
            is_valid=False,
            kind=None,
            expires_at=None,
            data_access_expires_at=None,
            scopes=frozenset(),
            error=error,
        )

    @property
    def ends_at(self) -> datetime | None:
        """The earlier of both expiries; None means never."""
        ends = [end for end in (self.expires_at, self.data_access_expires_at) if end]
        return min(ends, default=None)


def debug_token(client: GraphApiClient, input_token: str) -> AccessTokenInfo:
    """Read the state of `input_token` from Meta.

    Args:
        client: With the app's token, or any token of the same app.
        input_token: The token to look up.

    Raises:
        GraphApiError: As `GraphApiClient.request`.
    """
    return client.request(
        "GET", "debug_token", _token_info, params={"input_token": input_token.strip()}
    )


def _token_info(answer: Answer) -> AccessTokenInfo:
    data = answer.document().get("data")
    if not isinstance(data, dict) or not isinstance(data.get("is_valid"), bool):
        raise unreadable("it does not say whether the token is valid", answer.status)
    error = data.get("error")
    reason = text(error.get("message")) if isinstance(error, dict) else None
    return AccessTokenInfo(
        is_valid=data["is_valid"],
        kind=text(data.get("type")),
        expires_at=epoch_time(data.get("expires_at")),
        data_access_expires_at=epoch_time(data.get("data_access_expires_at")),
        scopes=_names(data.get("scopes")),
        error=redact(reason) if reason else None,
    )


def _names(value: Any) -> frozenset[str]:
    return frozenset(str(name) for name in value) if isinstance(value, list) else frozenset()
