"""POST /<PAGE_ID>/messaging_customer_base/unsubscribe: end people's subscriptions to the Page."""

import hashlib
import re
import sqlite3
from typing import Any

from mm_pipelines.sandbox import tokens
from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.errors import invalid_parameter, missing_parameter
from mm_pipelines.sandbox.members import identifier
from mm_pipelines.sandbox.world import World

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_E164 = re.compile(r"\+[1-9]\d{6,14}\Z")
_EMAIL = re.compile(r"[^@\sA-Z]+@[^@\sA-Z]+\.[^@\sA-Z]+\Z")

_COMBINATIONS = ({"phone"}, {"email"}, {"phone", "email"}, {"psid"}, {"subscriber_token"})

# Meta knows which token of an old topic belongs to the same person as a token of an audience.
_BY_CONTACT = """
UPDATE token SET gone_at = :now WHERE page_id = :page AND gone_at IS NULL AND (
    number IN (SELECT token FROM contact WHERE identifier = :key)
    OR psid IN (
        SELECT a.psid FROM contact c
        JOIN token t ON t.number = c.token
        JOIN acquaintance a ON a.person = t.person AND a.page_id = t.page_id
        WHERE c.identifier = :key AND t.page_id = :page
    )
)
"""
_BY_RECIPIENT = """
UPDATE token SET gone_at = :now WHERE page_id = :page AND gone_at IS NULL AND (
    psid = :key
    OR person = (SELECT person FROM acquaintance WHERE page_id = :page AND psid = :key)
)
"""
_BY_SUBSCRIBER = (
    "UPDATE token SET gone_at = :now WHERE page_id = :page AND token = :key AND gone_at IS NULL"
)


def unsubscribe(world: World, call: Call, page_id: str) -> dict[str, Any]:
    """Answer 200 even if every row is invalid; a valid row without a match is not invalid."""
    data = call.nested("data")
    if data is None:
        raise missing_parameter("data")
    if not isinstance(data, list) or not data:
        raise invalid_parameter("Param data must be a non-empty array")
    invalid = 0
    with world.transaction() as db:
        tokens.populate(world, page_id)
        for row in data:
            if not _is_valid(row):
                invalid += 1
            else:
                _leave(db, world, page_id, row)
    return {"invalid_rows_count": invalid}


def _is_valid(row: object) -> bool:
    if not isinstance(row, dict) or set(row) not in _COMBINATIONS:
        return False
    if not all(isinstance(value, (str, int)) and str(value) for value in row.values()):
        return False
    patterns = {"phone": _E164, "email": _EMAIL}
    return all(
        patterns[key].match(str(value)) or _HASH.match(str(value))
        for key, value in row.items()
        if key in patterns
    )


def _leave(db: sqlite3.Connection, world: World, page_id: str, row: dict[str, Any]) -> None:
    values = {"now": int(world.now()), "page": page_id}
    for key, value in row.items():
        if key == "psid":
            db.execute(_BY_RECIPIENT, {**values, "key": str(value)})
        elif key == "subscriber_token":
            db.execute(_BY_SUBSCRIBER, {**values, "key": str(value)})
        else:
            db.execute(_BY_CONTACT, {**values, "key": _uploaded_as(key, str(value))})


def _uploaded_as(key: str, value: str) -> int:
    """The hash under which a contact was uploaded: for a phone, of the digits without the plus.

    A hash of the number with its plus cannot be converted and matches no one, which is the reason
    to send phones raw.
    """
    if _HASH.match(value):
        return identifier(bytes.fromhex(value))
    return identifier(
        hashlib.sha256(value.removeprefix("+" if key == "phone" else "").encode()).digest()
    )
