"""Whether a body comes from Meta, and whether a handshake is for us (graph-api-facts 3)."""

import hmac
from collections.abc import Sequence

HEADER = "X-Hub-Signature-256"
_PREFIX = "sha256="


def sign(body: bytes, secret: str) -> str:
    """The value of ``X-Hub-Signature-256`` for a body as it goes over the wire."""
    return _PREFIX + hmac.digest(secret.encode(), body, "sha256").hex()


def is_signed(body: bytes, header: str | None, secrets: Sequence[str]) -> bool:
    """Whether ``header`` is the signature of the raw ``body`` under one of the app's secrets.

    Two secrets are in force while one takes the other's place. All are compared, each in constant
    time, so that the time tells neither a digit nor which secret matched.
    """
    if header is None or not header.isascii():
        return False
    matches = [hmac.compare_digest(sign(body, secret), header) for secret in secrets]
    return any(matches)


def is_our_token(given: str | None, expected: str) -> bool:
    """Whether a handshake carries our verify token; an unset one matches nothing."""
    if not given or not expected:
        return False
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())
