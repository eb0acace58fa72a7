"""The errors of the Graph API as one tree.

    GraphApiError
    ├── TokenError                   the access token is expired, revoked or invalid
    ├── PermissionDeniedError        the token may not do this
    │   └── TermsNotAcceptedError    terms must be accepted by a person first
    ├── PolicyError                  blocked for policy or integrity reasons
    ├── ThrottledError               too many calls; knows how long to wait
    ├── TransientError               may succeed if repeated
    │   └── AmbiguousOutcomeError    … and may have been carried out all the same
    │       └── UnreadableAnswerError    an answer that is no JSON (HTML, cut short)
    ├── TooMuchDataError             the page asked for is too large: ask for fewer
    └── PermanentError               repeating it cannot help
        ├── NotFoundError            the object does not exist, or this token cannot see it
        ├── VersionDeadError         this version of the API is gone
        ├── SessionEndedError        an upload session takes no further batch: begin another
        ├── CursorExpiredError       a paging cursor died: read again from the top
        └── SubscriptionFailedError  the rows were taken, but not for Messenger

`classification` says which answer becomes which of them. What a caller does follows from the
branch: stop and alert (token, permission, policy, permanent), come back after `wait_seconds`
(throttled), repeat (transient), look first and then repeat (ambiguous).

Texts are redacted and never hold what was sent.
"""

from typing import Any, ClassVar

from mm_pipelines.graph_api.redaction import redact


class GraphApiError(Exception):
    """A call of the Graph API failed.

    Attributes:
        code: Meta's error code, None if the answer carried none.
        subcode: Meta's error subcode.
        status: HTTP status, None if there was no answer.
        fbtrace_id: what Meta's support asks for.
        next_step: one sentence: what to do now.
    """

    advice: ClassVar[str] = "Look the code up in Meta's error reference."

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        subcode: int | None = None,
        status: int | None = None,
        fbtrace_id: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.message = redact(message)
        self.code = code
        self.subcode = subcode
        self.status = status
        self.fbtrace_id = fbtrace_id
        self.next_step = next_step or self.advice
        super().__init__(self.message)

    def __str__(self) -> str:
        facts = {
            "code": self.code,
            "subcode": self.subcode,
            "HTTP": self.status,
            "fbtrace_id": self.fbtrace_id,
        }
        known = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
        return f"{self.message}{f' ({known})' if known else ''}. {self.next_step}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default way of pickling an exception.
        return (_rebuild, (type(self), self.message, self.__dict__))


def _rebuild(kind: type[GraphApiError], message: str, state: dict[str, Any]) -> GraphApiError:
    error = kind(message)
    error.__dict__.update(state)
    return error


class TokenError(GraphApiError):
    """The access token is expired, revoked or invalid: every call with it will fail."""

    advice = "Make a new access token, put it where the old one was set, and run again."


class PermissionDeniedError(GraphApiError):
    """The token lacks a permission, a task on the Page, or access to the ad account."""

    advice = (
        "Give the token's owner the missing permission (ads_management, pages_messaging, "
        "paid_marketing_messages) and access to the Page or ad account."
    )


class TermsNotAcceptedError(PermissionDeniedError):
    """Terms must be accepted by a person with the right role."""

    advice = (
        "Let an admin of the business accept the Custom Audience and Marketing Messages terms "
        "in Meta's Business settings, then run again."
    )


class PolicyError(GraphApiError):
    """Blocked for policy or integrity reasons."""

    advice = (
        "Do not repeat the call; look into the Page's and the ad account's quality pages at Meta "
        "and settle what is flagged there."
    )


class ThrottledError(GraphApiError):
    """Too many calls; further calls before the wait is over prolong it.

    Attributes:
        wait_seconds: how long to make no call, as far as Meta told, otherwise an assumption.
    """

    advice = "Run it again after the wait."

    def __init__(self, message: str, *, wait_seconds: float = 60.0, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.wait_seconds = wait_seconds


class TransientError(GraphApiError):
    """The call failed in a way that may pass."""

    advice = "Run it again; if it goes on, look at Meta's status page."


class AmbiguousOutcomeError(TransientError):
    """Nobody knows whether the call was carried out: no answer, or one that does not tell.

    Repeat it only if doing it twice is the same as doing it once.
    """

    advice = "It may have been carried out: look before doing it again, or repeat it unchanged."


class UnreadableAnswerError(AmbiguousOutcomeError):
    """The answer is no JSON (an HTML page, a body cut short) or not of the documented shape."""


class TooMuchDataError(GraphApiError):
    """The answer would be too large (code 1, "Please reduce the amount of data")."""

    advice = "Ask for fewer rows or fields at a time."


class PermanentError(GraphApiError):
    """The call is wrong as it is: repeating it cannot help."""

    advice = "Correct what the message names; repeating the call unchanged cannot help."


class NotFoundError(PermanentError):
    """The object does not exist, or this token cannot see it (code 100, subcode 33)."""

    advice = "Check the id, and that the token belongs to the same Page or business."


class VersionDeadError(PermanentError):
    """This version of the API is no longer served (code 2635)."""

    advice = "Set a newer Graph API version (MM_GRAPH_API_VERSION)."


class SessionEndedError(PermanentError):
    """The upload session timed out, was finished, or never began (docs/graph-api.md#sessions)."""

    advice = "Send what was not acknowledged in a new session."


class CursorExpiredError(PermanentError):
    """A paging cursor no longer works: its item was removed (docs/graph-api.md#paging)."""

    advice = "Read the listing again from the top."


class SubscriptionFailedError(PermanentError):
    """HTTP 200, but `subscription_info.messenger.error`: no one was subscribed."""

    advice = "The rows are in the audience without a subscription; settle the cause, send again."
