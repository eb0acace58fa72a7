"""Matching: some time after an upload, a share of its people turn out to be on Facebook.

Whether a person matches follows from the seed and the person alone, so it is the same in every
audience, in every order and on every run. Every person matched holds one token of the Page.
"""

import hashlib
import sqlite3

from mm_pipelines.sandbox import tokens, webhooks
from mm_pipelines.sandbox.audiences import size_bounds
from mm_pipelines.sandbox.members import person_of
from mm_pipelines.sandbox.world import World

_LINK = (
    "INSERT OR IGNORE INTO token_audience SELECT ?, number FROM token"
    " WHERE page_id = ? AND person = ?"
)
_CONTACT = (
    "INSERT OR IGNORE INTO contact SELECT page_id, ?, number FROM token"
    " WHERE page_id = ? AND person = ?"
)


def process_next(world: World, now: float) -> bool:
    """Match the batch that is due first, if one is; everything in one transaction."""
    with world.transaction() as db:
        batch = db.execute(
            "SELECT * FROM batch WHERE due_at <= ? AND processed_at IS NULL"
            " ORDER BY due_at, number LIMIT 1",
            (now,),
        ).fetchone()
        if batch is None:
            return False
        db.execute(
            "UPDATE batch SET processed_at = ? WHERE number = ?", (world.now(), batch["number"])
        )
        audience = db.execute(
            "SELECT * FROM audience WHERE audience_id = ? AND deleted_at IS NULL",
            (batch["audience_id"],),
        ).fetchone()
        if audience is not None and audience["marketing_messages"]:
            if world.variants().upload_status == "SUCCESS":
                _mint(world, db, audience, batch)
            _settle_status(db, audience)
            _announce(world, db, audience, batch)
    return True


def matches(seed: int, match_rate: float, person: bytes) -> bool:
    """Whether a person is on Facebook."""
    digest = hashlib.blake2b(person, digest_size=8, key=seed.to_bytes(16, "big", signed=True))
    return int.from_bytes(digest.digest(), "big") < match_rate * 2**64


def token_text(seed: int, page_id: str, person: bytes) -> str:
    """The token a person holds at a Page: digits, beyond 2^53."""
    digest = hashlib.blake2b(
        page_id.encode() + person, digest_size=16, key=seed.to_bytes(16, "big", signed=True)
    )
    return str(10**18 + int.from_bytes(digest.digest(), "big") % (8 * 10**18))


def _mint(world: World, db: sqlite3.Connection, audience: sqlite3.Row, batch: sqlite3.Row) -> None:
    """Tokens for the matched people of a batch who still stand in the audience."""
    settings = world.settings
    page_id, audience_id = audience["page_id"], audience["audience_id"]
    people: dict[bytes, set[bytes]] = {}
    for email, phone in db.execute(
        "SELECT email, phone FROM member WHERE batch = ? AND audience_id = ?",
        (batch["number"], audience_id),
    ):
        person = person_of(email, phone)
        if matches(settings.seed, settings.match_rate, person):
            people.setdefault(person, set()).update({email, phone} - {b""})
    now = int(world.now())
    # Whoever has a token keeps it, also one given up: a list cannot sign up again someone who
    # unsubscribed from the Page.
    db.executemany(
        "INSERT OR IGNORE INTO token (token, page_id, person, topic_title, reoptin,"
        " user_token_status, created_at, opt_in_source)"
        " VALUES (?, ?, ?, ?, 'ENABLED', 'NOT_REFRESHED', ?, 'SUBSCRIBER_LIST')",
        [
            (token_text(settings.seed, page_id, person), page_id, person, tokens.DEFAULT_TITLE, now)
            for person in people
        ],
    )
    before = db.total_changes
    db.executemany(_LINK, [(audience_id, page_id, person) for person in people])
    matched = audience["matched"] + db.total_changes - before
    db.executemany(
        _CONTACT,
        [(contact, page_id, person) for person, contacts in people.items() for contact in contacts],
    )
    db.execute("UPDATE audience SET matched = ? WHERE audience_id = ?", (matched, audience_id))
    db.execute(
        "UPDATE session SET num_matched = num_matched + ? WHERE account_id = ? AND session_id = ?",
        (len(people), batch["account_id"], batch["session_id"]),
    )
    if matched >= settings.audience_floor:
        _reveal(world, db, audience, list(people))


def _reveal(
    world: World, db: sqlite3.Connection, audience: sqlite3.Row, people: list[bytes]
) -> None:
    """Remember which tokens were ever listed, so that they stay so without their audience."""
    if audience["matched"] < world.settings.audience_floor:
        db.execute(
            "UPDATE token SET seen = 1 WHERE number IN"
            " (SELECT token FROM token_audience WHERE audience_id = ?)",
            (audience["audience_id"],),
        )
    else:
        db.executemany(
            "UPDATE token SET seen = 1 WHERE page_id = ? AND person = ? AND seen = 0",
            [(audience["page_id"], person) for person in people],
        )


def _settle_status(db: sqlite3.Connection, audience: sqlite3.Row) -> None:
    """Back to normal once nothing of the audience is pending, unless it is flagged."""
    db.execute(
        "UPDATE audience SET operation_status = 200 WHERE audience_id = :audience"
        " AND operation_status IN (410, 414, 441) AND NOT EXISTS"
        " (SELECT 1 FROM batch WHERE audience_id = :audience AND due_at IS NOT NULL"
        "  AND processed_at IS NULL)",
        {"audience": audience["audience_id"]},
    )


def _announce(
    world: World, db: sqlite3.Connection, audience: sqlite3.Row, batch: sqlite3.Row
) -> None:
    (matched,) = db.execute(
        "SELECT matched FROM audience WHERE audience_id = ?", (audience["audience_id"],)
    ).fetchone()
    lower, upper = size_bounds(matched)
    webhooks.emit_upload_status(
        world,
        page_id=audience["page_id"],
        account_id=audience["account_id"],
        audience_id=audience["audience_id"],
        num_rows=batch["num_rows"],
        bounds=(lower, upper),
    )
