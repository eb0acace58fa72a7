"""Matching: some time after an upload, a share of its people is found on Facebook.

Whether a person matches depends on the seed and the person alone, so it is the same in every
audience, in every order and in every run. Every matched person holds one token of the Page.
"""

import sqlite3

from mm_pipelines.sandbox import members, tokens, webhooks
from mm_pipelines.sandbox.audiences import size_bounds
from mm_pipelines.sandbox.encoding import spread
from mm_pipelines.sandbox.members import person_of
from mm_pipelines.sandbox.world import World

_LINK = """
INSERT OR IGNORE INTO token_audience (audience, token, earned)
    SELECT :audience, number, :earned FROM token WHERE page_id = :page AND person = :person
"""
_CONTACT = """
INSERT OR IGNORE INTO contact
    SELECT :contact, number FROM token WHERE page_id = :page AND person = :person
"""
_EARN = """
UPDATE token_audience SET earned = 1 WHERE audience = :audience
    AND token = (SELECT number FROM token WHERE page_id = :page AND person = :person)
"""
# Whether a token was ever listed must be known when it has left all its audiences.
_REVEAL = """
UPDATE token SET seen = 1 WHERE seen = 0 AND person IS NOT NULL AND EXISTS (
    SELECT 1 FROM token_audience a WHERE a.token = token.number AND a.audience = :audience
)
"""
_REVEAL_EARNED = """
UPDATE token SET seen = 1 WHERE seen = 0 AND person IS NOT NULL AND EXISTS (
    SELECT 1 FROM token_audience a
    WHERE a.token = token.number AND a.audience = :audience AND a.earned
)
"""


def process_next(world: World, *, everything: bool = False) -> bool:
    """Match the batch that is due first, in one transaction.

    Args:
        world: The sandbox's state.
        everything: Treat every pending batch as due now.

    Returns:
        Whether there was one.
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
                _discard_small_session(world, db, audience, batch)
            _update_status(db, audience)
            _announce(world, db, audience, batch)
    return True


def matches(seed: int, match_rate: float, person: int) -> bool:
    """Whether a person is on Facebook."""
    return spread(seed, b"match", person) < match_rate * 2**64


def _mint(world: World, db: sqlite3.Connection, audience: sqlite3.Row, batch: sqlite3.Row) -> None:
    """Make tokens for the matched people of a batch who are still members."""
    settings = world.settings
    people: dict[int, set[int]] = {}
    for email, phone in members.sent_people(db, audience["number"], batch["number"]):
        person = person_of(email, phone)
        if matches(settings.seed, settings.match_rate, person):
            people.setdefault(person, set()).update({email, phone} - {0})
    place = {"audience": audience["number"], "page": audience["page_id"]}
    in_session = _session_of(db, batch)["num_matched"] + len(people)
    earned = in_session >= settings.audience_floor
    tokens.mint(world, db, place["page"], people)
    before = db.total_changes
    db.executemany(_LINK, [{**place, "person": person, "earned": earned} for person in people])
    new = db.total_changes - before
    matched = audience["matched"] + new
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
        "UPDATE session SET num_matched = ? WHERE account_id = ? AND session_id = ?",
        (in_session, batch["account_id"], batch["session_id"]),
    )
    if earned:
        earning = set(people) if new < len(people) else set()
        if in_session - len(people) < settings.audience_floor:
            # This batch reaches the threshold: the session's earlier batches earn now, too.
            earning |= _matched_in(world, db, audience, _batches_of(db, batch))
        db.executemany(_EARN, [{**place, "person": person} for person in earning])
    if world.variants().match_threshold != "audience":
        db.execute(_REVEAL_EARNED, place)
    elif matched >= settings.audience_floor:
        db.execute(_REVEAL, place)


def _matched_in(
    world: World, db: sqlite3.Connection, audience: sqlite3.Row, batches: list[int]
) -> set[int]:
    """The matched people that some batches contained."""
    return {
        person
        for batch in batches
        for email, phone in members.sent_people(db, audience["number"], batch)
        if matches(
            world.settings.seed, world.settings.match_rate, person := person_of(email, phone)
        )
    }


def _discard_small_session(
    world: World, db: sqlite3.Connection, audience: sqlite3.Row, batch: sqlite3.Row
) -> None:
    """Discard the new rows of a finished session below the threshold, if that reading is set."""
    session = _session_of(db, batch)
    if (
        world.variants().match_threshold != "discard"
        or session["kind"] != "add"
        or session["ended_at"] is None
        or session["num_matched"] >= world.settings.audience_floor
    ):
        return
    batches = _batches_of(db, batch)
    pending = db.execute(
        "SELECT 1 FROM batch WHERE account_id = ? AND session_id = ? AND processed_at IS NULL",
        (batch["account_id"], batch["session_id"]),
    ).fetchone()
    if pending is None:
        members.discard(db, audience, batches)


def _session_of(db: sqlite3.Connection, batch: sqlite3.Row) -> sqlite3.Row:
    row: sqlite3.Row = db.execute(
        "SELECT * FROM session WHERE account_id = ? AND session_id = ?",
        (batch["account_id"], batch["session_id"]),
    ).fetchone()
    return row


def _batches_of(db: sqlite3.Connection, batch: sqlite3.Row) -> list[int]:
    """The numbers of all batches of a batch's session."""
    rows = db.execute(
        "SELECT number FROM batch WHERE account_id = ? AND session_id = ?",
        (batch["account_id"], batch["session_id"]),
    ).fetchall()
    return [row["number"] for row in rows]


def _update_status(db: sqlite3.Connection, audience: sqlite3.Row) -> None:
    """Back to normal when nothing of the audience is pending, unless it is flagged."""
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
    report = webhooks.UploadReport(
        audience_id=audience["audience_id"],
        num_rows=batch["num_rows"],
        app_id=world.settings.app_id,
        lower_bound=lower,
        upper_bound=upper,
        status=world.variants().upload_status,
    )
    webhooks.emit_upload_status(world, audience, report)
