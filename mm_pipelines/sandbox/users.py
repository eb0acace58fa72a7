"""People into and out of Custom Audiences, batch by batch within sessions (facts 2.4 to 2.6)."""

import sqlite3
from dataclasses import replace as replaced
from typing import Any

from mm_pipelines.sandbox import errors, members
from mm_pipelines.sandbox.audiences import check_account, existing
from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.encoding import from_json, keyed_fraction, keyed_number, to_json
from mm_pipelines.sandbox.payload import Rows, SessionPart, read_rows, read_session
from mm_pipelines.sandbox.world import World

# Subcodes of 2650 (facts 2.6).
TIMED_OUT, FIRST_BATCH_MISSING, ALREADY_FINISHED, IN_PROGRESS = 1870158, 1870147, 1870159, 1870145


def add(world: World, call: Call, audience_id: str) -> dict[str, Any]:
    """POST /<CUSTOM_AUDIENCE_ID>/users."""
    return _receive(world, call, _changeable(world, audience_id), "add")


def remove(world: World, call: Call, audience_id: str) -> dict[str, Any]:
    """DELETE /<CUSTOM_AUDIENCE_ID>/users: membership ends, the opt-in and its token stay."""
    return _receive(world, call, _changeable(world, audience_id), "remove")


def replace(world: World, call: Call, audience_id: str) -> dict[str, Any]:
    """POST /<CUSTOM_AUDIENCE_ID>/usersreplace: the session becomes the whole membership."""
    audience = _changeable(world, audience_id)
    if read_session(call) is None:
        raise errors.missing_parameter("session")
    return _receive(world, call, audience, "replace")


def remove_from_all(world: World, call: Call, account_id: str) -> dict[str, Any]:
    """DELETE /act_<ID>/usersofanyaudience."""
    check_account(world, account_id)
    rows = read_rows(call)
    part = read_session(call) or _unnamed_session(world)
    with world.transaction() as db:
        audiences = db.execute(
            "SELECT * FROM audience WHERE account_id = ? AND deleted_at IS NULL", (account_id,)
        ).fetchall()
        for audience in audiences:
            members.remove(db, audience, rows.contacts)
    return {
        "audience_id": account_id,
        "session_id": str(part.session_id),
        **_counts(call, rows, rows.num_rows),
    }


def _changeable(world: World, audience_id: str) -> sqlite3.Row:
    audience = existing(world, audience_id, "post")
    if audience["operation_status"] == 471:
        raise errors.audience_restricted()
    return audience


def _receive(world: World, call: Call, audience: sqlite3.Row, kind: str) -> dict[str, Any]:
    rows = read_rows(call)
    if call.variants.messenger_error:
        return _refused_inside_a_200(call, audience, rows)
    with world.transaction() as db:
        part = read_session(call) or _unnamed_session(world)
        session = _find_session(db, audience, part)
        if session is not None:
            seen = _seen_before(db, audience, part, rows, kind)
            if seen is not None:
                return seen
            _check_session(world, session, audience, part, rows, kind)
        else:
            _check_first(db, audience, part, kind)
            _open_session(world, audience, part, rows, kind)
        batch = _record(world, audience, part, rows, kind)
        _apply(world, audience, part, rows, kind, batch)
        _count_in_session(world, audience, part, rows)
        (received,) = db.execute(
            "SELECT num_received FROM session WHERE account_id = ? AND session_id = ?",
            (audience["account_id"], str(part.session_id)),
        ).fetchone()
        receipt = {
            "audience_id": audience["audience_id"],
            "session_id": str(part.session_id),
            **_counts(call, rows, received),
        }
        db.execute("UPDATE batch SET receipt = ? WHERE number = ?", (to_json(receipt), batch))
    return receipt


def _unnamed_session(world: World) -> SessionPart:
    number = int(world.recall("unnamed_sessions", 0)) + 1
    world.remember("unnamed_sessions", number)
    session_id = keyed_number(world.settings.seed, "session", number, digits=18)
    return SessionPart(session_id, batch_seq=1, last=True, estimated_total=None)


def _find_session(
    db: sqlite3.Connection, audience: sqlite3.Row, part: SessionPart
) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM session WHERE account_id = ? AND session_id = ?",
        (audience["account_id"], str(part.session_id)),
    ).fetchone()
    return row


def _seen_before(
    db: sqlite3.Connection, audience: sqlite3.Row, part: SessionPart, rows: Rows, kind: str
) -> dict[str, Any] | None:
    """The first answer again, for a batch sent again: a lost answer must not count it twice."""
    row = db.execute(
        "SELECT * FROM batch WHERE account_id = ? AND session_id = ? AND batch_seq = ?",
        (audience["account_id"], str(part.session_id), part.batch_seq),
    ).fetchone()
    if row is None:
        return None
    same = (rows.digest, audience["audience_id"], kind)
    if (row["digest"], row["audience_id"], row["kind"]) != same:
        raise errors.invalid_parameter(
            f"batch_seq {part.batch_seq} was already received in this session with other data"
        )
    db.execute(
        "UPDATE batch SET times_received = times_received + 1 WHERE number = ?", (row["number"],)
    )
    receipt: dict[str, Any] = from_json(row["receipt"])
    return receipt


def _check_session(
    world: World,
    session: sqlite3.Row,
    audience: sqlite3.Row,
    part: SessionPart,
    rows: Rows,
    kind: str,
) -> None:
    if (session["audience_id"], session["kind"]) != (audience["audience_id"], kind):
        raise errors.invalid_parameter("session_id is in use for another operation")
    if session["ended_at"] is not None:
        raise errors.session_error("The session was already finished", ALREADY_FINISHED)
    if world.now() > session["started_at"] + world.settings.session_window_minutes * 60:
        raise errors.session_error("The session timed out", TIMED_OUT)
    if session["schema"] != ",".join(rows.schema):
        raise errors.invalid_parameter("The schema must not change within a session")
    # Batches of a replacement may come in any order after the first (facts 2.6).
    if kind != "replace" and part.batch_seq != session["last_seq"] + 1:
        raise errors.invalid_parameter(
            f"batch_seq must be sequential: {session['last_seq'] + 1} expected"
        )


def _check_first(
    db: sqlite3.Connection, audience: sqlite3.Row, part: SessionPart, kind: str
) -> None:
    if part.batch_seq != 1:
        raise errors.session_error("The first batch of the session is missing", FIRST_BATCH_MISSING)
    replacing = audience["operation_status"] == 414
    pending = db.execute(
        "SELECT 1 FROM batch WHERE audience_id = ? AND due_at IS NOT NULL AND processed_at IS NULL",
        (audience["audience_id"],),
    ).fetchone()
    if replacing or (kind == "replace" and pending is not None):
        raise errors.session_error("An update of this audience is in progress", IN_PROGRESS)


def _open_session(
    world: World, audience: sqlite3.Row, part: SessionPart, rows: Rows, kind: str
) -> None:
    world.db.execute(
        "INSERT INTO session (account_id, session_id, audience_id, kind, schema, started_at,"
        " last_seq, estimated_total) VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
        (
            audience["account_id"],
            str(part.session_id),
            audience["audience_id"],
            kind,
            ",".join(rows.schema),
            world.now(),
            part.estimated_total,
        ),
    )


def _record(world: World, audience: sqlite3.Row, part: SessionPart, rows: Rows, kind: str) -> int:
    """Write the batch down; one to be matched gets the time at which that happens."""
    due_at = None
    if kind == "add" or (kind == "replace" and part.last):
        settings = world.settings
        share = keyed_fraction(settings.seed, "delay", part.session_id, part.batch_seq)
        due_at = world.now() + settings.match_delay_seconds + settings.match_jitter_seconds * share
    return world.insert(
        "INSERT INTO batch (account_id, session_id, batch_seq, audience_id, kind, digest,"
        " num_rows, num_invalid, received_at, due_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            audience["account_id"],
            str(part.session_id),
            part.batch_seq,
            audience["audience_id"],
            kind,
            rows.digest,
            rows.num_rows,
            len(rows.invalid),
            world.now(),
            due_at,
        ),
    )


def _apply(
    world: World, audience: sqlite3.Row, part: SessionPart, rows: Rows, kind: str, batch: int
) -> None:
    db = world.db
    if kind == "remove":
        members.remove(db, audience, rows.contacts)
    elif kind == "add":
        members.add(db, audience["number"], rows.contacts, batch)
    else:
        members.add(db, members.staging(audience), rows.contacts, batch)
        if part.last:
            members.swap(db, audience, batch)
    status = {"add": 441, "remove": audience["operation_status"], "replace": 414}[kind]
    db.execute(
        "UPDATE audience SET operation_status = ?, time_content_updated = ? WHERE audience_id = ?",
        (status, int(world.now()), audience["audience_id"]),
    )


def _count_in_session(world: World, audience: sqlite3.Row, part: SessionPart, rows: Rows) -> None:
    world.db.execute(
        "UPDATE session SET num_received = num_received + ?, num_invalid = num_invalid + ?,"
        " last_seq = max(last_seq, ?), ended_at = ? WHERE account_id = ? AND session_id = ?",
        (
            rows.num_rows,
            len(rows.invalid),
            part.batch_seq,
            world.now() if part.last else None,
            audience["account_id"],
            str(part.session_id),
        ),
    )


def _counts(call: Call, rows: Rows, received: int) -> dict[str, Any]:
    samples = rows.samples(call.variants.invalid_samples)
    return {
        "num_received": received,
        "num_invalid_entries": len(rows.invalid),
        "invalid_entry_samples": samples,
        "subscription_info": {
            "messenger": {
                "num_subscribers_received": received,
                "num_subscribers_invalid_entries": len(rows.invalid),
                "invalid_subscribers_entry_samples": samples,
            }
        },
    }


def _refused_inside_a_200(call: Call, audience: sqlite3.Row, rows: Rows) -> dict[str, Any]:
    """HTTP 200 with the failure inside (facts 1.5). Nothing was applied: sending again is right."""
    part = read_session(call)
    answer = {
        "audience_id": audience["audience_id"],
        "session_id": "0" if part is None else str(part.session_id),
        **_counts(call, replaced(rows, invalid={}), rows.num_rows),
    }
    answer["subscription_info"] = {
        "messenger": {
            "error": {"message": "Subscribers could not be created", "code": 2},
            "num_subscribers_received": 0,
            "num_subscribers_invalid_entries": 0,
            "invalid_subscribers_entry_samples": {},
        }
    }
    return answer
