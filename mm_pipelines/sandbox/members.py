"""The members of audiences.

A member is the (e-mail hash, phone hash) of a row; the same row again changes nothing. A person is
identified by the e-mail, or by the phone if there is no e-mail: two rows mean the same person if
their e-mails are equal or, if either has none, their phones.
"""

import sqlite3
from collections.abc import Iterable, Sequence

Contact = tuple[bytes, bytes]

_ABSENT = bytes(32)

# Cross joins over named indexes: SQLite would otherwise scan the whole audience.
_REMOVE = """
DELETE FROM member WHERE number IN (
    SELECT m.number FROM leaving l CROSS JOIN member m INDEXED BY member_once
        WHERE l.email <> 0 AND m.audience = :audience AND m.email = l.email
    UNION
    SELECT m.number FROM leaving l CROSS JOIN member m INDEXED BY member_by_phone
        WHERE l.phone <> 0 AND m.audience = :audience AND m.phone = l.phone
            AND (l.email = 0 OR m.email = 0)
) RETURNING email, phone
"""

_RESENT = """
INSERT OR IGNORE INTO resent_row
    SELECT ?1, email, phone FROM member
    WHERE audience = ?2 AND email = ?3 AND phone = ?4 AND batch <> ?1
"""

_KEEP_RESENT = """
UPDATE member SET batch = resent.batch
FROM (
    SELECT r.email, r.phone, min(r.batch) AS batch FROM resent_row r
    JOIN batch b ON b.number = r.batch
    WHERE b.processed_at IS NULL GROUP BY r.email, r.phone
) AS resent
WHERE member.audience = ? AND member.batch IN ({marks})
    AND member.email = resent.email AND member.phone = resent.phone
"""

_SENT = """
SELECT email, phone FROM member WHERE batch = :batch AND audience = :audience
UNION ALL
SELECT m.email, m.phone FROM resent_row r CROSS JOIN member m INDEXED BY member_once
    ON m.audience = :audience AND m.email = r.email AND m.phone = r.phone
    WHERE r.batch = :batch
"""

_SWAP_OUT = """
DELETE FROM member AS old WHERE audience = :audience AND NOT EXISTS (
    SELECT 1 FROM member new WHERE new.audience = :staged
        AND new.email = old.email AND new.phone = old.phone
) RETURNING email, phone
"""
_SWAP_IN = """
INSERT OR IGNORE INTO member (audience, email, phone, hashes, batch)
    SELECT :audience, email, phone, hashes, :batch FROM member WHERE audience = :staged
"""

# A person leaves the audience's tokens when no row of theirs is left in it.
_UNLINK = """
DELETE FROM token_audience WHERE audience = :audience
    AND token = (SELECT number FROM token WHERE page_id = :page AND person = :person)
    AND NOT EXISTS (SELECT 1 FROM member WHERE audience = :audience AND email = :person)
    AND NOT EXISTS (
        SELECT 1 FROM member WHERE audience = :audience AND email = 0 AND phone = :person
    )
"""


def identifier(sha256: bytes) -> int:
    """The number by which a hash is looked up; 0 if there is none."""
    return int.from_bytes(sha256[:8], "big", signed=True)


def person_of(email: int, phone: int) -> int:
    """The identity of a person across rows, audiences and Pages."""
    return email or phone


def add(db: sqlite3.Connection, audience: int, contacts: Iterable[Contact], batch: int) -> None:
    """Add rows to an audience; rows that are members already keep their first batch."""
    # Sorted, because neighbors in the index are then written together.
    rows = sorted(
        (
            audience,
            identifier(email),
            identifier(phone),
            (email or _ABSENT) + (phone or _ABSENT),
            batch,
        )
        for email, phone in contacts
    )
    before = db.total_changes
    db.executemany(
        "INSERT OR IGNORE INTO member (audience, email, phone, hashes, batch)"
        " VALUES (?, ?, ?, ?, ?)",
        rows,
    )
    if db.total_changes - before < len(rows):
        db.executemany(_RESENT, [(batch, *row[:3]) for row in rows])


def sent_people(db: sqlite3.Connection, audience: int, batch: int) -> list[tuple[int, int]]:
    """The (e-mail, phone) of the members that a batch added or sent again."""
    rows = db.execute(_SENT, {"audience": audience, "batch": batch}).fetchall()
    return [(row["email"], row["phone"]) for row in rows]


def discard(db: sqlite3.Connection, audience: sqlite3.Row, batches: Sequence[int]) -> None:
    """Take out the members that these batches added and no batch still to be matched has again."""
    marks = ", ".join("?" * len(batches))
    db.execute(_KEEP_RESENT.format(marks=marks), (audience["number"], *batches))
    gone = db.execute(
        f"DELETE FROM member WHERE audience = ? AND batch IN ({marks}) RETURNING email, phone",
        (audience["number"], *batches),
    ).fetchall()
    _unlink(db, audience, gone)


def remove(db: sqlite3.Connection, audience: sqlite3.Row, contacts: Sequence[Contact]) -> None:
    """Remove people from an audience, and the audience from their tokens."""
    db.execute("CREATE TEMP TABLE IF NOT EXISTS leaving (email INTEGER, phone INTEGER)")
    db.execute("DELETE FROM leaving")
    db.executemany(
        "INSERT INTO leaving VALUES (?, ?)",
        [(identifier(email), identifier(phone)) for email, phone in contacts],
    )
    gone = db.execute(_REMOVE, {"audience": audience["number"]}).fetchall()
    _unlink(db, audience, gone)


def staging(audience: sqlite3.Row) -> int:
    """The audience number under which the batches of a replacement wait for the last one."""
    return -int(audience["number"])


def swap(db: sqlite3.Connection, audience: sqlite3.Row, batch: int) -> None:
    """Make the staged rows the whole membership; rows in both keep their first batch."""
    values = {"audience": audience["number"], "staged": staging(audience), "batch": batch}
    gone = db.execute(_SWAP_OUT, values).fetchall()
    db.execute(_SWAP_IN, values)
    db.execute("DELETE FROM member WHERE audience = :staged", values)
    _unlink(db, audience, gone)


def keys(db: sqlite3.Connection, audience: int) -> list[str]:
    """The members as sorted "<e-mail hash>|<phone hash>" in hex, empty where absent."""
    rows = db.execute("SELECT hashes FROM member WHERE audience = ? ORDER BY hashes", (audience,))
    return ["|".join(_hex(half) for half in (row[0][:32], row[0][32:])) for row in rows]


def _hex(sha256: bytes) -> str:
    return "" if sha256 == _ABSENT else sha256.hex()


def _unlink(db: sqlite3.Connection, audience: sqlite3.Row, gone: Sequence[sqlite3.Row]) -> None:
    before = db.total_changes
    db.executemany(
        _UNLINK,
        [
            {
                "audience": audience["number"],
                "page": audience["page_id"],
                "person": person_of(row["email"], row["phone"]),
            }
            for row in gone
        ],
    )
    db.execute(
        "UPDATE audience SET matched = matched - ? WHERE number = ?",
        (db.total_changes - before, audience["number"]),
    )
