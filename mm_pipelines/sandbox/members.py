"""Who stands in an audience.

A member is a row's (e-mail hash, phone hash); the same row again changes nothing. The person behind
it is the e-mail, or the phone where there is none: two rows mean the same person when their e-mails
are equal, or, where either lacks one, their phones.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

Contact = tuple[bytes, bytes]

_LEAVING = "CREATE TEMP TABLE IF NOT EXISTS leaving (email BLOB, phone BLOB)"

_REMOVE = """
DELETE FROM member WHERE (audience_id, email, phone) IN (
    SELECT m.audience_id, m.email, m.phone FROM leaving l
        JOIN member m ON m.audience_id = :audience AND m.email = l.email WHERE l.email <> x''
    UNION
    SELECT m.audience_id, m.email, m.phone FROM leaving l
        JOIN member m ON m.audience_id = :audience AND m.phone = l.phone
        WHERE l.phone <> x'' AND (l.email = x'' OR m.email = x'')
) RETURNING email, phone
"""

# A person leaves the audience's tokens when no row of theirs is left in it.
_UNLINK = """
DELETE FROM token_audience WHERE audience_id = :audience
    AND token = (SELECT number FROM token WHERE page_id = :page AND person = :person)
    AND NOT EXISTS (SELECT 1 FROM member WHERE audience_id = :audience AND email = :person)
    AND NOT EXISTS (
        SELECT 1 FROM member WHERE audience_id = :audience AND email = x'' AND phone = :person
    )
"""


def person_of(email: bytes, phone: bytes) -> bytes:
    """By what a person is known across rows, audiences and Pages."""
    return email or phone


def add(
    db: sqlite3.Connection,
    audience: sqlite3.Row | dict[str, Any],
    contacts: Iterable[Contact],
    batch: int,
) -> None:
    """Put rows into an audience; rows that stand in it already keep their first batch."""
    # Sorted, so that neighbours in the index are written together.
    db.executemany(
        "INSERT OR IGNORE INTO member (audience_id, email, phone, batch) VALUES (?, ?, ?, ?)",
        [(audience["audience_id"], email, phone, batch) for email, phone in sorted(contacts)],
    )


def remove(db: sqlite3.Connection, audience: sqlite3.Row, contacts: Sequence[Contact]) -> None:
    """Take people out of an audience, and the audience from their tokens."""
    db.execute(_LEAVING)
    db.execute("DELETE FROM leaving")
    db.executemany("INSERT INTO leaving VALUES (?, ?)", contacts)
    gone = db.execute(_REMOVE, {"audience": audience["audience_id"]}).fetchall()
    _unlink(db, audience, [(row["email"], row["phone"]) for row in gone])


def staging(audience: sqlite3.Row) -> dict[str, Any]:
    """Where the batches of a replacement wait until the last one has come."""
    return {"audience_id": f"{audience['audience_id']}:replacement"}


def swap(db: sqlite3.Connection, audience: sqlite3.Row, staged: dict[str, Any], batch: int) -> None:
    """Make the staged rows the whole membership; rows in both keep their first batch."""
    new, old = staged["audience_id"], audience["audience_id"]
    gone = db.execute(
        "DELETE FROM member WHERE audience_id = ? AND (email, phone) NOT IN"
        " (SELECT email, phone FROM member WHERE audience_id = ?) RETURNING email, phone",
        (old, new),
    ).fetchall()
    db.execute(
        "INSERT OR IGNORE INTO member SELECT ?, email, phone, ? FROM member WHERE audience_id = ?",
        (old, batch, new),
    )
    db.execute("DELETE FROM member WHERE audience_id = ?", (new,))
    _unlink(db, audience, [(row["email"], row["phone"]) for row in gone])


def _unlink(db: sqlite3.Connection, audience: sqlite3.Row, gone: Sequence[Contact]) -> None:
    before = db.total_changes
    db.executemany(
        _UNLINK,
        [
            {
                "audience": audience["audience_id"],
                "page": audience["page_id"],
                "person": person_of(email, phone),
            }
            for email, phone in gone
        ],
    )
    db.execute(
        "UPDATE audience SET matched = matched - ? WHERE audience_id = ?",
        (db.total_changes - before, audience["audience_id"]),
    )
