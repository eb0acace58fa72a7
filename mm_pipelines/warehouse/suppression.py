"""Who left by e-mail or phone, as keyed hashes: enough to leave them out, too little to know them.

A digest is HMAC-SHA256 under ``MM_SUPPRESSION_KEY`` over the value's SHA-256 in lower-case hex
(design 7.14), so that a list that was hashed before it came to us matches too.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, text

SchemaKey = Literal["EMAIL", "PHONE"]

_INTRODUCE_KEY = text("""
insert into mm.suppression_key (fingerprint) values (:fingerprint) on conflict do nothing
""")

_FINGERPRINT = text("select fingerprint from mm.suppression_key")

_ADD = text("""
insert into mm.suppression (key, digest, request_id)
select key, digest, request_id
from unnest(cast(:key as text[]), cast(:digest as text[]), cast(:request_id as bigint[]))
    as leaver (key, digest, request_id)
on conflict (key, digest) do nothing
""")

_DIGESTS = text("""
select distinct digest from mm.suppression
where suppressed_at >= coalesce(cast(:since as timestamptz), '-infinity')
""")

_COUNT = text("select count(*) from mm.suppression")


class SuppressionKeyChanged(Exception):
    """MM_SUPPRESSION_KEY is not the key that the suppressed people were hashed with."""

    def __init__(self) -> None:
        super().__init__(
            "MM_SUPPRESSION_KEY is not the key that mm.suppression was made with, so nobody who "
            "left could be recognised; set the former key again (unset, it is the one kept in "
            "MM_HOME), then run this again"
        )


@dataclass(frozen=True, slots=True)
class Suppressed:
    """One value of a person who left; the digest is 64 lower-case hex digits."""

    key: SchemaKey
    digest: str = field(repr=False)
    request_id: int


def check_key(connection: Connection, suppression_key: bytes) -> None:
    """Make sure that the key is the one in use; the first that is ever checked becomes it.

    Raises:
        SuppressionKeyChanged: Another key is in use.
    """
    fingerprint = hashlib.sha256(b"mm_pipelines suppression key\0" + suppression_key).hexdigest()
    connection.execute(_INTRODUCE_KEY, {"fingerprint": fingerprint})
    known: str = connection.execute(_FINGERPRINT).scalar_one()
    if not hmac.compare_digest(known, fingerprint):
        raise SuppressionKeyChanged


def add(connection: Connection, suppressed: Iterable[Suppressed]) -> int:
    """Suppress people in the caller's transaction; who is suppressed already stays as they are.

    Returns:
        How many values were not suppressed before.
    """
    values = list(suppressed)
    columns = {
        "key": [value.key for value in values],
        "digest": [value.digest for value in values],
        "request_id": [value.request_id for value in values],
    }
    return connection.execute(_ADD, columns).rowcount


def suppressed_digests(
    connection: Connection, suppression_key: bytes, since: datetime | None = None
) -> list[str]:
    """The digests of everybody who left, as `payload.Suppression` takes them.

    Args:
        connection: To read with.
        suppression_key: ``MM_SUPPRESSION_KEY``.
        since: Only of those who were suppressed then or later.

    Raises:
        SuppressionKeyChanged: ``suppression_key`` could recognise none of them.
    """
    check_key(connection, suppression_key)
    return list(connection.scalars(_DIGESTS, {"since": since}))


def count(connection: Connection) -> int:
    """How many values are suppressed."""
    return int(connection.scalar(_COUNT) or 0)
