"""Authentication: the token decides whether the caller is a system user, a Page or the app."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

from mm_pipelines.sandbox import errors
from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.settings import Settings


@dataclass(frozen=True)
class Principal:
    """The identity behind a token. `anyone` exists only if no token is configured."""

    kind: Literal["system_user", "page", "app", "anyone"]
    page_id: str | None = None

    def __str__(self) -> str:
        return self.kind if self.page_id is None else f"{self.kind}:{self.page_id}"


def recognize(settings: Settings, token: str) -> Principal | None:
    """The principal of a token; None for an unknown token."""
    if _same(token, app_token(settings)):
        return Principal("app")
    if any(_same(token, known.get_secret_value()) for known in settings.system_user_tokens):
        return Principal("system_user")
    for page_id, known in settings.page_tokens.items():
        if _same(token, known.get_secret_value()):
            return Principal("page", page_id)
    return Principal("anyone") if settings.accepts_any_token else None


def authenticate(settings: Settings, call: Call) -> Principal:
    """Check the token and the appsecret_proof; these checks come before all others."""
    if not call.token:
        raise errors.missing_token()
    principal = recognize(settings, call.token)
    if principal is None:
        raise errors.invalid_token()
    _check_proof(settings, call, call.token)
    return principal


def require_system_user(principal: Principal) -> None:
    """Raise GraphError unless a system user calls: Marketing API edges need ads_management."""
    if principal.kind not in {"system_user", "anyone"}:
        raise errors.permission_denied("the token does not carry ads_management")


def require_page(settings: Settings, principal: Principal, page_id: str) -> None:
    """Raise GraphError unless the Page's own token is used."""
    if principal.kind == "anyone":
        return
    if principal.kind != "page":
        raise errors.page_token_required()
    if page_id not in settings.page_tokens:
        raise errors.unknown_object(page_id)
    if principal.page_id != page_id:
        raise errors.permission_denied("the Page access token belongs to another Page")


def require_app(principal: Principal) -> None:
    """Raise GraphError unless the app's token, APP_ID|APP_SECRET, is used."""
    if principal.kind not in {"app", "anyone"}:
        raise errors.GraphError(
            "(#15) This method must be called with an app access_token.", code=15
        )


def app_token(settings: Settings) -> str:
    """The app access token, APP_ID|APP_SECRET."""
    return f"{settings.app_id}|{settings.app_secret.get_secret_value()}"


def _check_proof(settings: Settings, call: Call, token: str) -> None:
    given = call.params.get("appsecret_proof")
    if given is None:
        if settings.enforce_appsecret_proof and token != app_token(settings):
            raise errors.GraphError(
                "API calls from the server require an appsecret_proof argument",
                code=100,
                type="GraphMethodException",
            )
        return
    secret = settings.app_secret.get_secret_value()
    proof = hmac.new(secret.encode(), token.encode(), hashlib.sha256).hexdigest()
    if not _same(str(given), proof):
        raise errors.GraphError(
            "Invalid appsecret_proof provided in the API argument",
            code=100,
            type="GraphMethodException",
        )


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
