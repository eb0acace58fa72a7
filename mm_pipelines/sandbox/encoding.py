"""JSON and opaque values in the form in which Meta sends them."""

import base64
import binascii
import hashlib
import json
import re
from typing import Any

import orjson


def to_json(value: object) -> bytes:
    """A response body, compact, in UTF-8."""
    return orjson.dumps(value)


def from_json(text: bytes | str) -> Any:
    """Parse a body or a nested JSON string; raises ValueError."""
    return orjson.loads(text)


def to_escaped_json(value: object) -> bytes:
    r"""A webhook body: ASCII only, the rest as \uXXXX in lower case, as Meta signs it."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def to_cursor(position: int) -> str:
    """An opaque paging cursor for a position."""
    return base64.urlsafe_b64encode(f"QVFIU{position}".encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> int:
    """The position of a cursor; raises ValueError for any other text."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("not a cursor") from error
    prefix, _, digits = text.partition("QVFIU")
    if prefix or not re.fullmatch("[0-9]{1,18}", digits):
        raise ValueError("not a cursor")
    return int(digits)


def keyed_number(*parts: object, digits: int) -> int:
    """A number of that many digits that follows from the parts alone, spread like a hash."""
    digest = hashlib.blake2b(
        "\x1f".join(str(part) for part in parts).encode(), digest_size=16
    ).digest()
    lowest: int = 10 ** (digits - 1)
    return lowest + int.from_bytes(digest, "big") % (9 * lowest)


def keyed_fraction(*parts: object) -> float:
    """A number in [0, 1) that follows from the parts alone."""
    digest = hashlib.blake2b(
        "\x1f".join(str(part) for part in parts).encode(), digest_size=8
    ).digest()
    return int.from_bytes(digest, "big") / 2**64


def spread(seed: int, purpose: bytes, person: int) -> int:
    """A number of 64 bits that follows from seed, purpose and person alone."""
    key = seed.to_bytes(16, "big", signed=True)
    text = person.to_bytes(8, "big", signed=True)
    return int.from_bytes(hashlib.blake2b(text + purpose, digest_size=8, key=key).digest(), "big")
