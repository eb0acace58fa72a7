"""Who calls: system user, Page or app, told apart by the token."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

from mm_pipelines.sandbox import errors
from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.settings import Settings


@dataclass(frozen=True)
class Principal:
    """What a token stands for. `anyone` exists only where no token is configured."""

    kind: Literal["system_user", "page", "app", "anyone"]
    page_id: str | None = None

    def __str__(self) -> str:
        return self.kind if self.page_id is None else f"{self.kind}:{self.page_id}"


def recognise(settings: Settings, token: str) -> Principal | None:
    """The principal of a token, or None for a token nobody issued."""
    if _same(token, app_token(settings)):
        return Principal("app")
    if any(_same(token, known.get_secret_value()) for known in settings.system_user_tokens):
        return Principal("system_user")
    for page_id, known in settings.page_tokens.items():
        if _same(token, known.get_secret_value()):
            return Principal("page", page_id)
    return Principal("anyone") if settings.open_house else None


def authenticate(settings: Settings, call: Call) -> Principal:
    """The caller, after the checks that come before any other: token and appsecret_proof."""
    if not call.token:
        raise errors.missing_token()
    principal = recognise(settings, call.token)
    if principal is None:
        raise errors.invalid_token()
    _check_proof(settings, call, call.token)
    return principal


def require_system_user(principal: Principal) -> None:
    """Marketing API edges: a system user with ads_management."""
    if principal.kind not in {"system_user", "anyone"}:
        raise errors.permission_denied("the token does not carry ads_management")


def require_page(settings: Settings, principal: Principal, page_id: str) -> None:
    """Edges of a Page: that Page's own token."""
    if principal.kind == "anyone":
        return
    if principal.kind != "page":
        raise errors.page_token_required()
    if page_id not in settings.page_tokens:
        raise errors.unknown_object(page_id)
    if principal.page_id != page_id:
        raise errors.permission_denied("the Page access token belongs to another Page")


def require_app(principal: Principal) -> None:
    """Edges of the app: APP_ID|APP_SECRET."""
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
