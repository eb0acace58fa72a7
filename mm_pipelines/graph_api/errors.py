"""The errors of the Graph API as one tree.

    GraphApiError
    ├── TokenError                   the access token is expired, revoked or invalid
    ├── PermissionDeniedError        the token lacks a permission
    │   └── TermsNotAcceptedError    a person must accept terms first
    ├── PolicyError                  blocked for policy or integrity reasons
    ├── ThrottledError               too many calls; has the quota and the wait
    ├── TransientError               may succeed if repeated
    │   └── AmbiguousOutcomeError    the same, and the call may have been carried out
    │       └── UnreadableAnswerError    the answer is not JSON (HTML, cut short)
    ├── TooMuchDataError             the requested page is too large
    └── PermanentError               repeating the call cannot help
        ├── ContentRefusedError      Meta refuses the content: a row, a key, a parameter
        ├── SmallAudienceError       the removal would leave the audience too small
        ├── NotFoundError            the object does not exist, or the token has no access to it
        ├── VersionDeadError         this version of the API is no longer served
        ├── SessionEndedError        an upload session accepts no further batch
        ├── CursorExpiredError       a paging cursor is no longer valid
        └── SubscriptionFailedError  the rows were received, but not for Messenger

`classification` decides which answer becomes which error. The branch decides what a caller does:
stop and alert (token, permission, policy, permanent), come back after `wait_seconds` (throttled),
repeat (transient), check and then repeat (ambiguous). Only `ContentRefusedError` concerns the
content of the request: a batch that it refuses can be divided to find the refused rows.

Texts are redacted and never contain what was sent.
"""

from typing import Any, ClassVar

from mm_pipelines.graph_api.redaction import redact
from mm_pipelines.graph_api.throttle import SHORTEST_PAUSE, Quota


class GraphApiError(Exception):
    """A call of the Graph API failed.

    Attributes:
        code: Meta's error code; None if the answer has none.
        subcode: Meta's error subcode.
        status: HTTP status; None if there was no answer.
        fbtrace_id: The id that Meta's support asks for.
        next_step: One sentence that says what to do.
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
    """The access token is expired, revoked or invalid: every call with it fails."""

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
        "Do not repeat the call. Open the quality pages of the Page and the ad account at Meta and "
        "resolve what is flagged there."
    )


class ThrottledError(GraphApiError):
    """Too many calls. Calls before the end of the wait prolong it.

    Attributes:
        wait_seconds: How long no call is made: at least what Meta asks for, longer for each refusal
            in a row.
        quota: The kind of quota; None if the code names none, or if no call was made because
            quotas are nearly used up.
    """

    advice = "Run it again after the wait."

    def __init__(
        self,
        message: str,
        *,
        wait_seconds: float = SHORTEST_PAUSE,
        quota: Quota | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.wait_seconds = wait_seconds
        self.quota = quota


class TransientError(GraphApiError):
    """The call failed, but may succeed if repeated."""

    advice = "Run it again. If it keeps failing, look at Meta's status page."


class AmbiguousOutcomeError(TransientError):
    """It is unknown whether the call was carried out: no answer, or an unclear one.

    Repeat it only if doing it twice is the same as doing it once.
    """

    advice = "The call may have been carried out. Check before you repeat it, or repeat it as is."


class UnreadableAnswerError(AmbiguousOutcomeError):
    """The answer is not JSON (HTML, cut short) or does not have the documented shape."""


class TooMuchDataError(GraphApiError):
    """The answer would be too large (code 1, "Please reduce the amount of data")."""

    advice = "Ask for fewer rows or fields at a time."


class PermanentError(GraphApiError):
    """Repeating the call unchanged cannot help."""

    advice = "Correct what the message names. Repeating the call unchanged cannot help."


class ContentRefusedError(PermanentError):
    """Meta refuses the content of the request: a row, a schema key or a parameter (code 100, …)."""


class SmallAudienceError(PermanentError):
    """Meta refuses a removal because it would leave the audience too small."""

    advice = "Remove the people again when the audience has grown. Suppress them until then."


class NotFoundError(PermanentError):
    """The object does not exist, or the token has no access to it (code 100, subcode 33)."""

    advice = "Check the id, and that the token belongs to the same Page or business."


class VersionDeadError(PermanentError):
    """This version of the API is no longer served (code 2635)."""

    advice = "Set a newer Graph API version (MM_GRAPH_API_VERSION)."


class SessionEndedError(PermanentError):
    """The upload session timed out, was finished, or never started (docs/graph-api.md#sessions)."""

    advice = "Send what was not acknowledged in a new session."


class CursorExpiredError(PermanentError):
    """A paging cursor is no longer valid: its item was removed (docs/graph-api.md#paging)."""

    advice = "Read the listing again from the start."


class SubscriptionFailedError(PermanentError):
    """HTTP 200 with `subscription_info.messenger.error`: Messenger subscribed none of the rows."""

    advice = "The rows are in the audience without a subscription. Fix the cause and send again."
