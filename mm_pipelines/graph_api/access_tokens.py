"""What an access token is worth, and the Page tokens it leads to (graph-api-facts 2.14)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mm_pipelines.graph_api.answer import Answer, integer, text
from mm_pipelines.graph_api.classification import unreadable
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.paging import iter_rows
from mm_pipelines.graph_api.redaction import redact


@dataclass(frozen=True, slots=True)
class AccessTokenInfo:
    """What Meta says of an access token.

    Attributes:
        is_valid: a revoked token is answered with HTTP 200 and False.
        kind: USER, PAGE, APP or SYSTEM_USER.
        expires_at: None means never.
        data_access_expires_at: None means never.
        scopes: permissions; of the granular ones, `granular_scopes` names the objects.
        granular_scopes: for each permission the ids it holds for; empty means all.
        profile_id: the Page's id, of a Page token.
        error: why it is not valid.
    """

    is_valid: bool
    kind: str | None
    app_id: str | None
    application: str | None
    expires_at: datetime | None
    data_access_expires_at: datetime | None
    scopes: frozenset[str]
    granular_scopes: Mapping[str, tuple[str, ...]]
    user_id: str | None
    profile_id: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class PageAccount:
    """A Page that a token gives access to, with the Page's own token."""

    page_id: str
    name: str | None
    access_token: str | None = field(repr=False)
    tasks: frozenset[str]


def debug_token(client: GraphApiClient, input_token: str) -> AccessTokenInfo:
    """What Meta says of `input_token`.

    Args:
        client: with the app's token, or any token of the same app.
        input_token: the token asked about.

    Raises:
        GraphApiError: as `GraphApiClient.request`.
    """
    return client.request(
        "GET", "debug_token", _token_info, params={"input_token": input_token.strip()}
    )


def page_accounts(client: GraphApiClient) -> list[PageAccount]:
    """The Pages that the client's token gives access to, with their tokens.

    Raises:
        GraphApiError: as `paging.iter_pages`.
    """
    rows = iter_rows(client, "me/accounts", {"fields": "id,name,access_token,tasks"}, limit=100)
    return [
        PageAccount(
            page_id=page_id,
            name=text(row.get("name")),
            access_token=text(row.get("access_token")),
            tasks=_names(row.get("tasks")),
        )
        for row in rows
        if (page_id := text(row.get("id"))) is not None
    ]


def _token_info(answer: Answer) -> AccessTokenInfo:
    data = answer.document().get("data")
    if not isinstance(data, dict) or not isinstance(data.get("is_valid"), bool):
        raise unreadable("it does not say whether the token is valid", answer.status)
    error = data.get("error")
    reason = text(error.get("message")) if isinstance(error, dict) else None
    return AccessTokenInfo(
        is_valid=data["is_valid"],
        kind=text(data.get("type")),
        app_id=text(data.get("app_id")),
        application=text(data.get("application")),
        expires_at=_expiry(data.get("expires_at")),
        data_access_expires_at=_expiry(data.get("data_access_expires_at")),
        scopes=_names(data.get("scopes")),
        granular_scopes=_granular(data.get("granular_scopes")),
        user_id=text(data.get("user_id")),
        profile_id=text(data.get("profile_id")),
        error=redact(reason) if reason else None,
    )


def _expiry(value: Any) -> datetime | None:
    """Unix seconds; 0 means never."""
    seconds = integer(value)
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _names(value: Any) -> frozenset[str]:
    return frozenset(str(name) for name in value) if isinstance(value, list) else frozenset()


def _granular(value: Any) -> dict[str, tuple[str, ...]]:
    rows = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
    return {
        str(row.get("scope")): tuple(str(target) for target in row.get("target_ids") or ())
        for row in rows
    }
