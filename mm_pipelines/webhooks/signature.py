"""Verifies signatures (docs/graph-api.md#webhook-signature) and the handshake's token."""

import hmac
from collections.abc import Sequence

HEADER = "X-Hub-Signature-256"
_PREFIX = "sha256="


def sign(body: bytes, secret: str) -> str:
    """Return the value of ``X-Hub-Signature-256`` for a raw body."""
    return _PREFIX + hmac.digest(secret.encode(), body, "sha256").hex()


def is_signed(body: bytes, header: str | None, secrets: Sequence[str]) -> bool:
    """Return whether ``header`` signs the raw ``body`` with one of the app's secrets.

    There are two secrets during a rotation. All are compared, each in constant time, so the timing
    reveals neither a digit nor the secret that matched.
    """
    if header is None or not header.isascii():
        return False
    matches = [hmac.compare_digest(sign(body, secret), header) for secret in secrets]
    return any(matches)


def is_our_token(given: str | None, expected: str) -> bool:
    """Return whether a handshake contains our verify token; an unset token never matches."""
    if not given or not expected:
        return False
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())
