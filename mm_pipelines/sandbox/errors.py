"""Errors as the Graph API words them (docs/graph-api.md#errors).

GraphError
├── token: missing_token, invalid_token, expired_token
├── permission: permission_denied, page_token_required
├── request: invalid_parameter, missing_parameter, unknown_object, unsupported_call
├── session: session_error
└── throttle: see quotas.py
"""

from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from mm_pipelines.sandbox.encoding import to_json


@dataclass
class GraphError(Exception):
    """An answer with an error envelope instead of a result."""

    message: str
    code: int
    subcode: int | None = None
    type: str = "OAuthException"
    status: int = 400
    is_transient: bool = False
    user_title: str | None = None
    user_message: str | None = None
    error_data: dict[str, Any] | str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def envelope(self, trace_id: str) -> dict[str, Any]:
        """The body: {"error": {...}} with only those optional members that are set."""
        error: dict[str, Any] = {"message": self.message, "type": self.type, "code": self.code}
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        if self.is_transient:
            error["is_transient"] = True
        if self.user_title is not None:
            error["error_user_title"] = self.user_title
        if self.user_message is not None:
            error["error_user_msg"] = self.user_message
        if self.error_data is not None:
            error["error_data"] = self.error_data
        error["fbtrace_id"] = trace_id
        return {"error": error}

    def response(self, trace_id: str) -> Response:
        """The HTTP answer carrying the envelope."""
        return Response(
            to_json(self.envelope(trace_id)),
            status_code=self.status,
            headers=self.headers,
            media_type="application/json",
        )


def missing_token() -> GraphError:
    """No access token at all."""
    return GraphError("An access token is required to request this resource.", code=104)


def invalid_token() -> GraphError:
    """An unknown token."""
    return GraphError(
        "Invalid OAuth access token - Cannot parse access token",
        code=190,
        headers={
            "www-authenticate": 'OAuth "Facebook Platform" "invalid_token" "Invalid OAuth '
            'access token - Cannot parse access token"'
        },
    )


def expired_token() -> GraphError:
    """A token that worked until it expired (190/463)."""
    return GraphError(
        "Error validating access token: Session has expired.", code=190, subcode=463, status=401
    )


def permission_denied(what: str) -> GraphError:
    """A valid token without the permission (code 200)."""
    return GraphError(f"(#200) Permissions error: {what}", code=200, status=403)


def page_token_required() -> GraphError:
    """Another kind of token on an edge of a Page (code 210)."""
    return GraphError("(#210) A page access token is required to request this resource.", code=210)


def invalid_parameter(what: str, subcode: int | None = None) -> GraphError:
    """A wrong parameter (code 100)."""
    return GraphError(f"(#100) {what}", code=100, subcode=subcode)


def missing_parameter(name: str) -> GraphError:
    """A required parameter is missing (code 100, with the message that third parties report)."""
    return GraphError(f"(#100) Missing required parameter: {name}", code=100)


def unknown_object(object_id: str, method: str = "get") -> GraphError:
    """Code 100 subcode 33: the object does not exist, or the token has no access to it."""
    return GraphError(
        f"Unsupported {method.lower()} request. Object with ID '{object_id}' does not exist, "
        "cannot be loaded due to missing permissions, or does not support this operation",
        code=100,
        subcode=33,
        type="GraphMethodException",
    )


def unsupported_call(method: str, path: str) -> GraphError:
    """A path that the sandbox does not support (code 2500)."""
    return GraphError(f"Unknown path components: {method} /{path}", code=2500)


def session_error(what: str, subcode: int | None = None) -> GraphError:
    """An upload session is used in a way that it does not permit (code 2650)."""
    return GraphError(f"(#2650) {what}", code=2650, subcode=subcode)


def audience_restricted() -> GraphError:
    """Membership changes blocked by the integrity flag 471 (100/1713230)."""
    return GraphError(
        "Invalid parameter",
        code=100,
        subcode=1713230,
        user_title="Audience Upload Blocked",
        user_message="Before updating user memberships, you must resolve integrity restrictions on "
        "this Data File Custom Audience.",
    )
