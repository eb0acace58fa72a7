"""Maps answers of the Graph API to errors.

By body code (with its subcode), then `is_transient`, then HTTP status, because statuses are not
documented per code. The tables follow docs/graph-api.md#errors and
docs/graph-api.md#error-codes-of-marketing-messages.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from mm_pipelines.graph_api.errors import (
    AmbiguousOutcomeError,
    GraphApiError,
    NotFoundError,
    PermanentError,
    PermissionDeniedError,
    PolicyError,
    SessionEndedError,
    TermsNotAcceptedError,
    ThrottledError,
    TokenError,
    TooMuchDataError,
    TransientError,
    UnreadableAnswerError,
    VersionDeadError,
)

Kind = type[GraphApiError]


def _codes(kind: Kind, *codes: int | range) -> dict[int, Kind]:
    numbers = (code if isinstance(code, range) else range(code, code + 1) for code in codes)
    return {number: kind for span in numbers for number in span}


# Later lines win: single codes stand after the ranges that hold them.
_BY_CODE: dict[int, Kind] = {
    # Marketing Messages' own: about a campaign, a token or a person, unless told otherwise below.
    **_codes(PermanentError, range(2300000, 2300081)),
    **_codes(PermissionDeniedError, 3, 10, range(200, 300)),
    **_codes(PermissionDeniedError, 2300030, 2300031, 2300039, 2300040),
    **_codes(TermsNotAcceptedError, 2663, 2664, 2300013, 2300019, 2300066, 2300067),
    **_codes(TokenError, 102, 190),
    # 1 and 2 say "unknown error": the call may have been carried out.
    **_codes(AmbiguousOutcomeError, 1, 2),
    **_codes(TransientError, 1200, 2300012, 2300041, 2300055),
    **_codes(TransientError, 2300057, range(2300060, 2300064), 2300068),
    **_codes(ThrottledError, 4, 17, 32, 341, 613),
    **_codes(ThrottledError, range(80000, 80007), 80008, 80009, 80014),
    **_codes(ThrottledError, 2300028, range(2300078, 2300081)),
    **_codes(PolicyError, 368),
    **_codes(VersionDeadError, 2635),
    **_codes(PermanentError, 100, 104, 105, 194, 2200, 2500, 2650, 2654),
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

# What Meta does not tell in a header: pacing is decided anew after an hour (changelog).
_WAIT_SECONDS = {2300028: 3600.0}

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
        "Meta called the webhook's address and was not answered as it expects: start the receiver, "
        "make it reachable over https, and check that the verify token is the same on both sides."
    ),
    (2654, None): "Meta refused to create the audience: check name, Page and the 500-audience cap.",
}

_NOT_GRAPH = (
    "Something other than the Graph API answered: check the base URL and any proxy on the way."
)


@dataclass(frozen=True, slots=True)
class ErrorEnvelope:
    """What an `error` object says, in types (`error_data` and user texts are left out: data)."""

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
            message=str(error.get("message") or error.get("type") or "The Graph API said no"),
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
    code = envelope.code
    if code is not None:
        if code == 1 and "reduce the amount of data" in envelope.message.lower():
            return TooMuchDataError
        by_subcode = _BY_SUBCODE.get((code, envelope.subcode or 0))
        kind = by_subcode or _BY_CODE.get(code)
        if kind is not None:
            return kind
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


def classify(
    envelope: ErrorEnvelope, status: int, *, wait_seconds: float | None = None
) -> GraphApiError:
    """The typed error for an error envelope.

    Args:
        envelope: the parsed `error` object.
        status: HTTP status of the answer.
        wait_seconds: what the usage headers say of the wait, if they say anything.
    """
    kind = _kind(envelope, status)
    step = _NEXT_STEPS.get((envelope.code or 0, envelope.subcode))
    facts: dict[str, Any] = {
        "code": envelope.code,
        "subcode": envelope.subcode,
        "status": status,
        "fbtrace_id": envelope.fbtrace_id,
        "next_step": step or _NEXT_STEPS.get((envelope.code or 0, None)),
    }
    if issubclass(kind, ThrottledError):
        wait = wait_seconds or _WAIT_SECONDS.get(envelope.code or 0)
        if wait is not None:
            facts["wait_seconds"] = wait
    return kind(envelope.message, **facts)


def without_envelope(status: int) -> GraphApiError:
    """The error for an unsuccessful answer that carries no readable `error` object."""
    kind = _by_status(status)
    if issubclass(kind, AmbiguousOutcomeError):
        kind = UnreadableAnswerError
    elif kind in (TokenError, PermissionDeniedError):
        # Whoever answered did not answer as Graph does: no verdict on the token.
        kind = PermanentError
    step = None if issubclass(kind, ThrottledError | TransientError) else _NOT_GRAPH
    return kind("The answer is not one of the Graph API's", status=status, next_step=step)


def unreadable(what: str, status: int | None = None) -> UnreadableAnswerError:
    """The error for a successful answer that cannot be read; `what` never quotes it."""
    return UnreadableAnswerError(f"The Graph API's answer cannot be read: {what}", status=status)
