"""Access tokens and simple nodes: debug_token, /me, the Page and the ad account."""

from typing import Any

from mm_pipelines.sandbox.audiences import check_account
from mm_pipelines.sandbox.auth import Principal, recognize, require_system_user
from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.world import World

SCOPES = {
    "system_user": (
        "ads_management",
        "pages_messaging",
        "pages_manage_metadata",
        "paid_marketing_messages",
    ),
    "page": ("pages_messaging", "pages_manage_metadata", "paid_marketing_messages"),
    "app": (),
}


def debug_token(world: World, call: Call) -> dict[str, Any]:
    """GET /debug_token: 200 also for an unknown token, with is_valid false."""
    subject = recognize(world.settings, call.text("input_token"))
    data: dict[str, Any] = {"app_id": world.settings.app_id, "application": "sandbox app"}
    if subject is None:
        data |= {
            "is_valid": False,
            "scopes": [],
            "error": {"code": 190, "message": "Malformed access token"},
        }
        return {"data": data}
    kind = "system_user" if subject.kind == "anyone" else subject.kind
    data |= {
        "type": kind.upper(),
        "is_valid": True,
        "expires_at": 0,
        "data_access_expires_at": 0,
        "issued_at": 1_700_000_000,
        "scopes": list(SCOPES[kind]),
        "granular_scopes": [{"scope": scope} for scope in SCOPES[kind]],
        "user_id": "100000000000001",
    }
    if subject.page_id is not None:
        data["profile_id"] = subject.page_id
    return {"data": data}


def me(principal: Principal) -> dict[str, Any]:
    """GET /me."""
    if principal.page_id is not None:
        return page(principal.page_id)
    return {"id": "100000000000001", "name": "sandbox system user"}


def pages(world: World, principal: Principal) -> dict[str, Any]:
    """GET /me/accounts: the Pages with their access tokens."""
    require_system_user(principal)
    return {
        "data": [
            {**page(page_id), "access_token": token.get_secret_value(), "tasks": ["MODERATE"]}
            for page_id, token in world.settings.page_tokens.items()
        ]
    }


def page(page_id: str) -> dict[str, Any]:
    """A Page node."""
    return {"id": page_id, "name": f"Page {page_id}"}


def read_account(world: World, account_id: str) -> dict[str, Any]:
    """GET /act_<ID>."""
    check_account(world, account_id)
    return {"id": f"act_{account_id}", "account_id": account_id, "account_status": 1}
