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

_LINK = """
INSERT OR IGNORE INTO token_audience
    SELECT :audience, number FROM token WHERE page_id = :page AND person = :person
"""
_CONTACT = """
INSERT OR IGNORE INTO contact
    SELECT :contact, number FROM token WHERE page_id = :page AND person = :person
"""
# Which tokens were ever listed must be known once they stand in no audience any more.
_REVEAL = """
UPDATE token SET seen = 1 WHERE seen = 0 AND person IS NOT NULL AND EXISTS (
    SELECT 1 FROM token_audience a WHERE a.token = token.number AND a.audience = :audience
)
"""


def process_next(world: World, *, everything: bool = False) -> bool:
    """Match the batch that is due first, if one is, or if `everything` is to be due now.

    One transaction; returns whether there was one.
    """
    until = float("inf") if everything else world.now()
    with world.transaction() as db:
        batch = db.execute(
            "SELECT * FROM batch WHERE due_at <= ? AND processed_at IS NULL"
            " ORDER BY due_at, number LIMIT 1",
            (until,),
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
            succeeds = world.variants().upload_status == "SUCCESS"
            if succeeds and batch["subscribers"] == "accepted":
                _mint(world, db, audience, batch)
            _settle_status(db, audience)
            _announce(world, db, audience, batch)
    return True


def matches(seed: int, match_rate: float, person: int) -> bool:
    """Whether a person is on Facebook."""
    return _spread(seed, b"match", person) < match_rate * 2**64


def token_number(seed: int, page_id: str, person: int) -> int:
    """The token a person holds at a Page: 19 digits, beyond what a float can hold."""
    return 10**18 + _spread(seed, page_id.encode(), person) % (8 * 10**18)


def _spread(seed: int, what: bytes, person: int) -> int:
    key = seed.to_bytes(16, "big", signed=True)
    text = person.to_bytes(8, "big", signed=True)
    return int.from_bytes(hashlib.blake2b(text + what, digest_size=8, key=key).digest(), "big")


def _mint(world: World, db: sqlite3.Connection, audience: sqlite3.Row, batch: sqlite3.Row) -> None:
    """Tokens for the matched people of a batch who still stand in the audience."""
    settings = world.settings
    place = {"audience": audience["number"], "page": audience["page_id"]}
    people: dict[int, set[int]] = {}
    for email, phone in db.execute(
        "SELECT email, phone FROM member WHERE batch = ? AND audience = ?",
        (batch["number"], audience["number"]),
    ):
        person = person_of(email, phone)
        if matches(settings.seed, settings.match_rate, person):
            people.setdefault(person, set()).update({email, phone} - {0})
    now = int(world.now())
    # Whoever has a token keeps it, also one given up: a list cannot sign up again someone who
    # unsubscribed from the Page.
    db.executemany(
        "INSERT OR IGNORE INTO token (token, page_id, person, topic_title, reoptin,"
        " user_token_status, created_at, opt_in_source)"
        " VALUES (?, ?, ?, ?, 'ENABLED', 'NOT_REFRESHED', ?, 'SUBSCRIBER_LIST')",
        [
            (
                token_number(settings.seed, place["page"], person),
                place["page"],
                person,
                tokens.DEFAULT_TITLE,
                now,
            )
            for person in people
        ],
    )
    before = db.total_changes
    db.executemany(_LINK, [{**place, "person": person} for person in people])
    matched = audience["matched"] + db.total_changes - before
    db.executemany(
        _CONTACT,
        [
            {**place, "person": person, "contact": contact}
            for person, contacts in people.items()
            for contact in contacts
        ],
    )
    db.execute("UPDATE audience SET matched = ? WHERE number = ?", (matched, audience["number"]))
    db.execute(
        "UPDATE session SET num_matched = num_matched + ? WHERE account_id = ? AND session_id = ?",
        (len(people), batch["account_id"], batch["session_id"]),
    )
    if matched >= settings.audience_floor:
        db.execute(_REVEAL, place)


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
