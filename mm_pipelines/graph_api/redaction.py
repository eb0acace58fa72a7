"""Removes secrets and personal values from texts that people read.

Meta repeats what it receives: an error may quote a parameter, `paging.next` contains the access
token, and httpx logs whole URLs. Every text of an exception or a log line passes through `redact`
first.
"""

import logging
import re

HIDDEN = "[redacted]"

# Names of parameters whose value is a secret, in a URL, a form, JSON or prose.
_SENSITIVE_PARAMETERS = (
    "access_token|input_token|fb_exchange_token|appsecret_proof|client_secret|app_secret"
    "|verify_token|hub\\.verify_token|subscription_token|subscriber_token"
    "|notification_messages_token|after|before"
)

# Characters of the part of an e-mail address before the @, letters of any script among them.
_ATOM = r"\w!#$%&'*+/=?^`{|}~.-"

# Field names that begin like the path of a single token.
_FIELDS = "token|timezone|reoptin|frequency|status|cta_text"

_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # access_token=…, "access_token": "…", access_token%3D…
        rf"(?P<keep>\b(?:{_SENSITIVE_PARAMETERS})(?:[\"']?\s*(?:=|:|%3D|%22%3A%22)\s*[\"']?))[^\s&\"',;)}}]+",
        r"(?P<keep>\bBearer\s+)\S+",
        rf"(?P<keep>\bnotification_messages_)(?!(?:{_FIELDS})\b)[^\s/?&\"',;)]+",
        # E-mail addresses, also percent-encoded.
        rf"(?P<keep>)(?<![{_ATOM}])[{_ATOM}]+(?:@|%40)[\w.:\[\]-]+",
        # App tokens (APP_ID|APP_SECRET), and user, system-user and Page tokens.
        r"(?P<keep>)\b\d{5,}(?:\||%7C)[\w-]+",
        r"(?P<keep>)\bEAA\w{4,}",
        # Hashes and proofs.
        r"(?P<keep>)[0-9a-f]{32,}",
        # Phone numbers in E.164, with or without separators, and Page-scoped IDs.
        r"(?P<keep>)(?:\+|%2B)\d(?:[\s().-]{0,2}\d){5,}",
        r"(?P<keep>)\d{9,}",
        # Anything long and opaque: subscription tokens, cursors.
        r"(?P<keep>)(?<![\w+/=|-])(?=[\w+/=|-]*\d)[\w+/=|-]{24,}",
        r"(?P<keep>)\b[A-Za-z0-9+/=-]{40,}",
    )
)


def redact(text: str, *secrets: str) -> str:
    """The text without secrets and personal values.

    Args:
        text: The text to show.
        secrets: Secret values, removed wherever they occur.

    Returns:
        The text with every secret, e-mail address, hash, phone number, long number and long
        opaque run of characters replaced by `[redacted]`.
    """
    # The longest first, so that a secret that contains another is removed whole.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<keep>{HIDDEN}", text)
    return text


class RedactingFilter(logging.Filter):
    """Rewrites a log record so that its message is redacted: httpx logs the URL of every call."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact in place; never drops a record."""
        record.msg, record.args = redact(record.getMessage()), None
        return True


def redact_httpx_log() -> None:
    """Make httpx's own log lines (method, URL, status) safe; calling it again changes nothing."""
    logger = logging.getLogger("httpx")
    if not any(isinstance(known, RedactingFilter) for known in logger.filters):
        logger.addFilter(RedactingFilter())
