"""Maps answers of the Graph API to errors.

The code (with its subcode) decides, then `is_transient`, then the HTTP status, because Meta does
not document statuses per code. The tables follow docs/graph-api.md#errors and
docs/graph-api.md#error-codes-of-marketing-messages.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from mm_pipelines.graph_api.errors import (
    AmbiguousOutcomeError,
    ContentRefusedError,
    GraphApiError,
    NotFoundError,
    PermanentError,
    PermissionDeniedError,
    PolicyError,
    SessionEndedError,
    SmallAudienceError,
    TermsNotAcceptedError,
    ThrottledError,
    TokenError,
    TooMuchDataError,
    TransientError,
    UnreadableAnswerError,
    VersionDeadError,
)
from mm_pipelines.graph_api.throttle import SHORTEST_PAUSE, Quota

Kind = type[GraphApiError]


def _codes(kind: Kind, *codes: int | range) -> dict[int, Kind]:
    numbers = (code if isinstance(code, range) else range(code, code + 1) for code in codes)
    return {number: kind for span in numbers for number in span}


# Later lines win: single codes follow the ranges that contain them.
_BY_CODE: dict[int, Kind] = {
    # Marketing messages: about a campaign, a token or a person, unless a line below says otherwise.
    **_codes(PermanentError, range(2300000, 2300081)),
    **_codes(PermissionDeniedError, 3, 10, range(200, 300)),
    **_codes(PermissionDeniedError, 2300030, 2300031, 2300039, 2300040),
    **_codes(TermsNotAcceptedError, 2663, 2664, 2300013, 2300019, 2300066, 2300067),
    **_codes(TokenError, 102, 190),
    # 1 and 2 mean "unknown error": the call may have been carried out.
    **_codes(AmbiguousOutcomeError, 1, 2),
    **_codes(TransientError, 1200, 2300012, 2300041, 2300055),
    **_codes(TransientError, 2300057, range(2300060, 2300064), 2300068),
    **_codes(ThrottledError, 4, 17, 32, 341, 613),
    **_codes(ThrottledError, range(80000, 80007), 80008, 80009, 80014),
    **_codes(ThrottledError, 2300028, range(2300078, 2300081)),
    **_codes(PolicyError, 368),
    **_codes(VersionDeadError, 2635),
    **_codes(PermanentError, 104, 2200, 2500, 2654),
    **_codes(ContentRefusedError, 100, 105, 194, 2650),
}

_BY_SUBCODE: dict[tuple[int, int], Kind] = {
    (100, 33): NotFoundError,
    # The integrity flag of September 2025: membership, field, editing.
    (100, 1713228): PolicyError,
    (100, 1713230): PolicyError,
    (100, 1713231): PolicyError,
    (200, 1870090): TermsNotAcceptedError,
    # An audience still busy with an earlier update, or with part of one.
    (2650, 1870145): TransientError,
    (2650, 1870148): TransientError,
    # First batch missing, timed out, already finished.
    (2650, 1870147): SessionEndedError,
    (2650, 1870158): SessionEndedError,
    (2650, 1870159): SessionEndedError,
}

# The kind of quota that a refusal names; the other throttling codes name none.
_QUOTAS: dict[int, Quota] = {
    **dict.fromkeys((4, 341), Quota.APPLICATION),
    **dict.fromkeys((17, 80000, 80004, 2300078, 2300079), Quota.AD_ACCOUNT),
    **dict.fromkeys((80003,), Quota.CUSTOM_AUDIENCE),
    **dict.fromkeys((32, 80001, 80002, 80006), Quota.PAGE),
    **dict.fromkeys((2300080,), Quota.TOKEN_LISTING),
}

# A wait that is in no header: Meta decides on pacing again after an hour.
_WAIT_SECONDS = {2300028: 3600.0}

# Errors whose code is too general or unknown, by a part of their message in lower case.
_BY_MESSAGE: tuple[tuple[str, Kind], ...] = (
    ("reduce the amount of data", TooMuchDataError),
    ("audience size too low", SmallAudienceError),
    ("result in a low audience size", SmallAudienceError),
    ("appsecret_proof", PermissionDeniedError),
)

_NEXT_STEPS: dict[tuple[int, int | None], str] = {
    (190, 458): "The person removed the app: let them connect it again, then make a new token.",
    (190, 459): "The token's owner must log in at facebook.com and pass a checkpoint.",
    (190, 460): "The password was changed: make a new access token.",
    (190, 463): "The access token has expired: make a new one (a system user's never expires).",
    (190, 464): "The token's owner must confirm their account at facebook.com.",
    (190, 467): "The access token was revoked: make a new one.",
    (190, 492): "The token's owner lost their role on the Page: give it back, make a new token.",
    (200, 1870050): "Link the ad account to the business that owns the app, then run again.",
    (294, None): "The token lacks ads_management: make one that has it.",
    (270, None): "The app is in development tier: ask Meta for standard access.",
    (2200, None): (
        "Meta called the webhook's address and did not get the expected answer. Start the "
        "receiver, make it reachable over https, and check that both sides have the same verify "
        "token."
    ),
    (2654, None): "Meta refused to create the audience: check name, Page and the 500-audience cap.",
}

_NOT_GRAPH = "Check the base URL and any proxy between here and the Graph API."


@dataclass(frozen=True, slots=True)
class ErrorEnvelope:
    """The fields of an `error` object, without those that may contain data."""

    message: str
    code: int | None
    subcode: int | None
    is_transient: bool
    fbtrace_id: str | None

    @classmethod
    def of(cls, document: Any) -> "ErrorEnvelope | None":
        """The envelope of `{"error": {…}}`; None for anything else."""
        error = document.get("error") if isinstance(document, dict) else None
        if not isinstance(error, dict) or not error:
            return None
        trace = error.get("fbtrace_id")
        return cls(
            message=str(error.get("message") or error.get("type") or "The call was refused"),
            code=_integer(error.get("code")),
            subcode=_integer(error.get("error_subcode")),
            is_transient=error.get("is_transient") in (True, "true", 1),
            fbtrace_id=trace if isinstance(trace, str) else None,
        )


def _integer(value: Any) -> int | None:
    try:
        return int(value) if value is not None else None
    except (TypeError, ValueError):
        return None


def _kind(envelope: ErrorEnvelope, status: int) -> Kind:
    code, message = envelope.code, envelope.message.lower()
    for part, kind in _BY_MESSAGE:
        if part in message:
            return kind
    if code is not None:
        by_subcode = _BY_SUBCODE.get((code, envelope.subcode or 0))
        by_code = by_subcode or _BY_CODE.get(code)
        if by_code is not None:
            return by_code
    if envelope.is_transient:
        return TransientError if status < HTTPStatus.INTERNAL_SERVER_ERROR else _by_status(status)
    return _by_status(status)


def _by_status(status: int) -> Kind:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ThrottledError
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
        return AmbiguousOutcomeError
    if status == HTTPStatus.UNAUTHORIZED:
        return TokenError
    if status == HTTPStatus.FORBIDDEN:
        return PermissionDeniedError
    return PermanentError


def classify(envelope: ErrorEnvelope, status: int) -> GraphApiError:
    """The typed error for an error envelope and the HTTP status of its answer."""
    kind = _kind(envelope, status)
    step = _NEXT_STEPS.get((envelope.code or 0, envelope.subcode))
    if kind is PermissionDeniedError and "appsecret_proof" in envelope.message.lower():
        step = "Set MM_APP_SECRET to the secret of the app that the access token belongs to."
    facts: dict[str, Any] = {
        "code": envelope.code,
        "subcode": envelope.subcode,
        "status": status,
        "fbtrace_id": envelope.fbtrace_id,
        "next_step": step or _NEXT_STEPS.get((envelope.code or 0, None)),
    }
    if issubclass(kind, ThrottledError):
        code = envelope.code or 0
        facts["quota"] = _QUOTAS.get(code)
        facts["wait_seconds"] = _WAIT_SECONDS.get(code, SHORTEST_PAUSE)
    return kind(envelope.message, **facts)


def without_envelope(status: int) -> GraphApiError:
    """The error for an unsuccessful answer without a readable `error` object."""
    kind = _by_status(status)
    if issubclass(kind, AmbiguousOutcomeError):
        kind = UnreadableAnswerError
    elif kind in (TokenError, PermissionDeniedError):
        # This is not an answer of the Graph API, so it says nothing about the token.
        kind = PermanentError
    step = None if issubclass(kind, ThrottledError | TransientError) else _NOT_GRAPH
    return kind("The answer does not come from the Graph API", status=status, next_step=step)


def unreadable(what: str, status: int | None = None) -> UnreadableAnswerError:
    """The error for a successful answer that cannot be read; `what` does not quote it."""
    return UnreadableAnswerError(f"The Graph API's answer cannot be read: {what}", status=status)
