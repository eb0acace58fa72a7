"""Uploads to and removals from Custom Audiences, batch by batch within sessions."""

import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from mm_pipelines.sandbox import errors, members, refusals
from mm_pipelines.sandbox.audiences import check_account, existing
from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.encoding import from_json, keyed_fraction, keyed_number, to_json
from mm_pipelines.sandbox.payload import Rows, SessionPart, read_rows, read_session
from mm_pipelines.sandbox.world import World

# Subcodes of 2650.
TIMED_OUT, FIRST_BATCH_MISSING, ALREADY_FINISHED, IN_PROGRESS = 1870158, 1870147, 1870159, 1870145

Kind = Literal["add", "remove", "replace"]


def add(world: World, call: Call, audience_id: str) -> dict[str, Any]:
    """POST /<CUSTOM_AUDIENCE_ID>/users."""
    return _receive(world, call, _changeable(world, audience_id), "add")


def remove(world: World, call: Call, audience_id: str) -> dict[str, Any]:
    """DELETE /<CUSTOM_AUDIENCE_ID>/users: the membership ends, the opt-in and its token stay."""
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


@dataclass(frozen=True)
class _Batch:
    """One batch of a session, as one request delivers it."""

    call: Call
    audience: sqlite3.Row
    kind: Kind
    part: SessionPart
    rows: Rows

    @property
    def session_key(self) -> tuple[str, str]:
        return self.audience["account_id"], str(self.part.session_id)


def _changeable(world: World, audience_id: str) -> sqlite3.Row:
    audience = existing(world, audience_id, "post")
    if audience["operation_status"] == 471:
        raise errors.audience_restricted()
    return audience


def _receive(world: World, call: Call, audience: sqlite3.Row, kind: Kind) -> dict[str, Any]:
    rows = read_rows(call)
    refusals.check_request(world, rows, kind)
    if kind == "remove":
        refusals.check_removal(world, audience, rows)
    if call.variants.messenger_error:
        return _failed_subscription(call, audience, rows)
    with world.transaction() as db:
        part = read_session(call) or _unnamed_session(world)
        batch = _Batch(call, audience, kind, part, rows)
        session = _find_session(db, batch)
        if session is None:
            _check_first(db, batch)
            _open_session(world, batch)
        else:
            first_receipt = _find_receipt(db, batch)
            if first_receipt is not None:
                return first_receipt
            _check_session(world, session, batch)
        if call.variants.batch_lost:
            _count_in_session(world, batch, lost=True)
            return _receipt(db, batch)
        number = _record(world, batch)
        _apply(world, batch, number)
        _count_in_session(world, batch)
        receipt = _receipt(db, batch)
        db.execute("UPDATE batch SET receipt = ? WHERE number = ?", (to_json(receipt), number))
    return receipt


def _unnamed_session(world: World) -> SessionPart:
    number = int(world.recall("unnamed_sessions", 0)) + 1
    world.remember("unnamed_sessions", number)
    session_id = keyed_number(world.settings.seed, "session", number, digits=18)
    return SessionPart(session_id, batch_seq=1, last=True, estimated_total=None)


def _find_session(db: sqlite3.Connection, batch: _Batch) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM session WHERE account_id = ? AND session_id = ?", batch.session_key
    ).fetchone()
    return row


def _find_receipt(db: sqlite3.Connection, batch: _Batch) -> dict[str, Any] | None:
    """The first answer to a batch that is sent again: it must not count twice."""
    seq, rows = batch.part.batch_seq, batch.rows
    row = db.execute(
        "SELECT * FROM batch WHERE account_id = ? AND session_id = ? AND batch_seq = ?",
        (*batch.session_key, seq),
    ).fetchone()
    if row is None:
        return None
    same = (rows.digest, batch.audience["audience_id"], batch.kind)
    if (row["digest"], row["audience_id"], row["kind"]) != same:
        raise errors.invalid_parameter(
            f"batch_seq {seq} was already received in this session with other data"
        )
    db.execute(
        "UPDATE batch SET times_received = times_received + 1 WHERE number = ?", (row["number"],)
    )
    receipt: dict[str, Any] = from_json(row["receipt"])
    return receipt


def _check_session(world: World, session: sqlite3.Row, batch: _Batch) -> None:
    same = (batch.audience["audience_id"], batch.kind)
    if (session["audience_id"], session["kind"]) != same:
        raise errors.invalid_parameter("session_id is in use for another operation")
    if session["ended_at"] is not None:
        raise errors.session_error("The session was already finished", ALREADY_FINISHED)
    if world.now() > session["started_at"] + world.settings.session_window_minutes * 60:
        raise errors.session_error("The session timed out", TIMED_OUT)
    if session["schema"] != ",".join(batch.rows.schema):
        raise errors.invalid_parameter("The schema must not change within a session")
    # Batches of a replacement may arrive in any order after the first. A batch with an earlier
    # number that was not recorded is one that the sandbox lost: it may be sent again.
    if batch.kind != "replace" and batch.part.batch_seq > session["last_seq"] + 1:
        raise errors.invalid_parameter(
            f"batch_seq must be sequential: {session['last_seq'] + 1} expected"
        )


def _check_first(db: sqlite3.Connection, batch: _Batch) -> None:
    if batch.part.batch_seq != 1:
        raise errors.session_error("The first batch of the session is missing", FIRST_BATCH_MISSING)
    replacing = batch.audience["operation_status"] == 414
    pending = db.execute(
        "SELECT 1 FROM batch WHERE audience_id = ? AND due_at IS NOT NULL AND processed_at IS NULL",
        (batch.audience["audience_id"],),
    ).fetchone()
    if replacing or (batch.kind == "replace" and pending is not None):
        raise errors.session_error("An update of this audience is in progress", IN_PROGRESS)


def _open_session(world: World, batch: _Batch) -> None:
    world.db.execute(
        "INSERT INTO session (account_id, session_id, audience_id, kind, schema, started_at,"
        " last_seq, estimated_total) VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
        (
            *batch.session_key,
            batch.audience["audience_id"],
            batch.kind,
            ",".join(batch.rows.schema),
            world.now(),
            batch.part.estimated_total,
        ),
    )


def _record(world: World, batch: _Batch) -> int:
    """Store the batch; one that is to be matched gets the time at which that happens."""
    due_at = None
    part, rows = batch.part, batch.rows
    if batch.kind == "add" or (batch.kind == "replace" and part.last):
        settings = world.settings
        share = keyed_fraction(settings.seed, "delay", part.session_id, part.batch_seq)
        due_at = world.now() + settings.match_delay_seconds + settings.match_jitter_seconds * share
    return world.insert(
        "INSERT INTO batch (account_id, session_id, batch_seq, audience_id, kind, digest,"
        " num_rows, num_invalid, received_at, due_at, subscribers)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *batch.session_key,
            part.batch_seq,
            batch.audience["audience_id"],
            batch.kind,
            rows.digest,
            rows.num_rows,
            len(rows.invalid),
            world.now(),
            due_at,
            batch.call.variants.subscribers,
        ),
    )


def _apply(world: World, batch: _Batch, number: int) -> None:
    db, audience, contacts = world.db, batch.audience, batch.rows.contacts
    if batch.kind == "remove":
        members.remove(db, audience, contacts)
    elif batch.kind == "add":
        members.add(db, audience["number"], contacts, number)
    else:
        members.add(db, members.staging(audience), contacts, number)
        if batch.part.last:
            members.swap(db, audience, number)
    status = {"add": 441, "remove": audience["operation_status"], "replace": 414}[batch.kind]
    db.execute(
        "UPDATE audience SET operation_status = ?, time_content_updated = ? WHERE audience_id = ?",
        (status, int(world.now()), audience["audience_id"]),
    )


def _count_in_session(world: World, batch: _Batch, *, lost: bool = False) -> None:
    """Advance the session; a lost batch adds nothing to its counts and does not end it."""
    rows, part = batch.rows, batch.part
    world.db.execute(
        "UPDATE session SET num_received = num_received + ?, num_invalid = num_invalid + ?,"
        " last_seq = max(last_seq, ?), ended_at = ? WHERE account_id = ? AND session_id = ?",
        (
            0 if lost else rows.num_rows,
            0 if lost else len(rows.invalid),
            part.batch_seq,
            world.now() if part.last and not lost else None,
            *batch.session_key,
        ),
    )


def _receipt(db: sqlite3.Connection, batch: _Batch) -> dict[str, Any]:
    """The answer to a batch, with the session's cumulative num_received."""
    (received,) = db.execute(
        "SELECT num_received FROM session WHERE account_id = ? AND session_id = ?",
        batch.session_key,
    ).fetchone()
    return {
        "audience_id": batch.audience["audience_id"],
        "session_id": str(batch.part.session_id),
        **_counts(batch.call, batch.rows, received),
    }


def _counts(call: Call, rows: Rows, received: int) -> dict[str, Any]:
    variants = call.variants
    samples = rows.samples(variants.invalid_samples)
    messenger = {
        "num_subscribers_received": received,
        "num_subscribers_invalid_entries": len(rows.invalid),
        "invalid_subscribers_entry_samples": samples,
    }
    if variants.subscribers == "none":
        messenger = {
            "num_subscribers_received": 0,
            "num_subscribers_invalid_entries": 0,
            "invalid_subscribers_entry_samples": {},
        }
    elif variants.subscribers == "invalid":
        messenger |= {
            "num_subscribers_invalid_entries": rows.num_rows,
            "invalid_subscribers_entry_samples": rows.first_rows(variants.invalid_samples),
        }
    return {
        "num_received": received,
        "num_invalid_entries": len(rows.invalid),
        "invalid_entry_samples": samples,
        "subscription_info": {"messenger": messenger},
    }


def _failed_subscription(call: Call, audience: sqlite3.Row, rows: Rows) -> dict[str, Any]:
    """HTTP 200 that contains an error. Nothing is applied, so sending again is right."""
    part = read_session(call)
    messenger = {
        "error": {"message": "Subscribers could not be created", "code": 2},
        "num_subscribers_received": 0,
        "num_subscribers_invalid_entries": 0,
        "invalid_subscribers_entry_samples": {},
    }
    return {
        "audience_id": audience["audience_id"],
        "session_id": "0" if part is None else str(part.session_id),
        "num_received": rows.num_rows,
        "num_invalid_entries": 0,
        "invalid_entry_samples": {},
        "subscription_info": {"messenger": messenger},
    }
