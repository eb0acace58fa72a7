"""People in Messenger: they write to the Page, accept or ignore opt-in requests, stop and resume.

The Page sends opt-in requests through the Graph API's `POST /<PAGE_ID>/messages`. What people do is
simulated through `/_sandbox/people/…` and reaches the receiver as `messaging` webhooks.
"""

import sqlite3
from typing import Any

from mm_pipelines.sandbox import tokens, webhooks
from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.encoding import keyed_number
from mm_pipelines.sandbox.errors import GraphError, invalid_parameter, missing_parameter
from mm_pipelines.sandbox.world import World

WINDOW_SECONDS = 24 * 3600
SAME_TITLE_SECONDS = 7 * 24 * 3600
LONGEST_TITLE = 65
DEFAULT_TIMEZONE = "UTC"


_SET_REOPTIN_BY_PSID = """
UPDATE token SET reoptin = :reoptin WHERE page_id = :page AND gone_at IS NULL
    AND person = (SELECT person FROM acquaintance WHERE page_id = :page AND psid = :psid)
"""


class PersonStateError(Exception):
    """The person cannot do this now: there is no request to answer, or no token to stop."""


def request_optin(world: World, call: Call, page_id: str) -> dict[str, Any]:
    """POST /<PAGE_ID>/messages with the notification_messages template: send an opt-in request."""
    recipient = call.nested("recipient")
    if not isinstance(recipient, dict) or not recipient.get("id"):
        raise missing_parameter("recipient")
    psid = str(recipient["id"])
    template = _template(call)
    title = str(template.get("title") or tokens.DEFAULT_TITLE)
    now = world.now()
    with world.transaction() as db:
        _check_allowed(db, page_id, psid, title, now)
        message_id = f"m_{keyed_number(world.settings.seed, page_id, psid, now, digits=24)}"
        db.execute(
            "INSERT INTO optin_request (page_id, psid, title, payload, timezone, message_id,"
            " asked_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                page_id,
                psid,
                title,
                str(template.get("payload", "")),
                str(template.get("notification_messages_timezone", DEFAULT_TIMEZONE)),
                message_id,
                now,
            ),
        )
    if call.variants.optin_response == "flat":
        return {"recipient_id": psid, "message_id": message_id}
    return {"recipient": {"id": psid, "message_id": message_id}}


def write(world: World, page_id: str, psid: str | None, text: str) -> dict[str, Any]:
    """A person writes to the Page, which opens the 24-hour window; None makes a new person."""
    with world.transaction() as db:
        if psid is None:
            (count,) = db.execute("SELECT count(*) FROM conversation").fetchone()
            psid = str(keyed_number(world.settings.seed, page_id, "writer", count, digits=16))
        db.execute(
            "INSERT OR REPLACE INTO conversation VALUES (?, ?, ?, ?)",
            (page_id, psid, DEFAULT_TIMEZONE, world.now()),
        )
        mid = f"m_{keyed_number(world.settings.seed, psid, world.now(), digits=24)}"
        content = {"message": {"mid": mid, "text": text}}
        _emit(world, page_id, psid, "messages", content)
    return {"page_id": page_id, "psid": psid}


def accept(world: World, page_id: str, psid: str) -> dict[str, Any]:
    """The person presses the button of the newest request: a token, and `messaging_optins`."""
    with world.transaction() as db:
        request = _open_request(db, page_id, psid)
        token = _grant(world, db, request)
        db.execute(
            "UPDATE optin_request SET answer = 'accepted' WHERE number = ?", (request["number"],)
        )
        _emit(world, page_id, psid, "messaging_optins", {"optin": _optin(token, request)})
    return {"page_id": page_id, "psid": psid, "subscription_token": str(token["token"])}


def ignore(world: World, page_id: str, psid: str) -> dict[str, Any]:
    """The person dismisses the newest request; no webhook is sent."""
    with world.transaction() as db:
        request = _open_request(db, page_id, psid)
        db.execute(
            "UPDATE optin_request SET answer = 'ignored' WHERE number = ?", (request["number"],)
        )
    return {"page_id": page_id, "psid": psid}


def stop(world: World, page_id: str, psid: str, *, with_token: bool = True) -> dict[str, Any]:
    """The person stops marketing messages; the webhook may lack the token."""
    return _set_optin(world, page_id, psid, "STOP NOTIFICATIONS", "DISABLED", with_token)


def resume(world: World, page_id: str, psid: str) -> dict[str, Any]:
    """The person wants marketing messages again."""
    return _set_optin(world, page_id, psid, "RESUME NOTIFICATIONS", "ENABLED", with_token=True)


def _template(call: Call) -> dict[str, Any]:
    message = call.nested("message")
    attachment = message.get("attachment") if isinstance(message, dict) else None
    if not isinstance(attachment, dict) or attachment.get("type") != "template":
        raise missing_parameter("message.attachment")
    template = attachment.get("payload")
    if not isinstance(template, dict):
        raise missing_parameter("message.attachment.payload")
    if template.get("template_type") != "notification_messages":
        raise invalid_parameter("The sandbox supports the notification_messages template only")
    if len(str(template.get("title", ""))) > LONGEST_TITLE:
        raise invalid_parameter(f"title must have at most {LONGEST_TITLE} characters")
    if not str(template.get("image_url", "https://")).startswith("https://"):
        raise invalid_parameter("image_url must be an https address")
    return template


def _check_allowed(db: sqlite3.Connection, page_id: str, psid: str, title: str, now: float) -> None:
    conversation = db.execute(
        "SELECT last_message_at FROM conversation WHERE page_id = ? AND psid = ?", (page_id, psid)
    ).fetchone()
    if conversation is None:
        raise GraphError("(#100) No matching user found", code=100, subcode=2018001)
    opened = conversation["last_message_at"]
    if now > opened + WINDOW_SECONDS:
        raise GraphError(
            "(#10) This message is sent outside of allowed window.",
            code=10,
            subcode=2018278,
            status=403,
        )
    requests = db.execute(
        "SELECT title, asked_at FROM optin_request WHERE page_id = ? AND psid = ?", (page_id, psid)
    ).fetchall()
    if any(request["asked_at"] > now - WINDOW_SECONDS for request in requests):
        raise GraphError("(#9) Too many opt-in requests to this person", code=9, subcode=2018352)
    if any(
        request["title"] == title and request["asked_at"] > now - SAME_TITLE_SECONDS
        for request in requests
    ):
        raise GraphError(
            "(#9) The same topic was requested from this person within a week",
            code=9,
            subcode=2018352,
        )


def _open_request(db: sqlite3.Connection, page_id: str, psid: str) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM optin_request WHERE page_id = ? AND psid = ? AND answer IS NULL"
        " ORDER BY number DESC LIMIT 1",
        (page_id, psid),
    ).fetchone()
    if row is None:
        raise PersonStateError("there is no open opt-in request to answer")
    return row


def _grant(world: World, db: sqlite3.Connection, request: sqlite3.Row) -> sqlite3.Row:
    """A new token for the topic of the request."""
    seed, now = world.settings.seed, int(world.now())
    token = keyed_number(seed, request["page_id"], "granted", request["number"], digits=18)
    number = db.execute(
        "INSERT INTO token (token, page_id, psid, topic_title, reoptin, user_token_status,"
        " timezone, created_at, next_eligible_at) VALUES (?, ?, ?, ?, 'ENABLED', 'NOT_REFRESHED',"
        " ?, ?, ?)",
        (
            token,
            request["page_id"],
            request["psid"],
            request["title"],
            request["timezone"],
            now,
            now,
        ),
    ).lastrowid
    row: sqlite3.Row = db.execute("SELECT * FROM token WHERE number = ?", (number,)).fetchone()
    return row


def _optin(token: sqlite3.Row, request: sqlite3.Row | None) -> dict[str, Any]:
    return {
        "type": "notification_messages",
        "payload": "" if request is None else request["payload"],
        "notification_messages_token": str(token["token"]),
        "notification_messages_timezone": token["timezone"],
        "user_token_status": token["user_token_status"],
        "title": token["topic_title"],
    }


def _set_optin(
    world: World, page_id: str, psid: str, status: str, reoptin: str, with_token: bool
) -> dict[str, Any]:
    with world.transaction() as db:
        tokens.populate(world, page_id)
        held = db.execute(
            "SELECT * FROM token WHERE page_id = ? AND psid = ? AND gone_at IS NULL"
            " ORDER BY number",
            (page_id, psid),
        ).fetchall()
        if not held:
            raise PersonStateError("this person holds no subscription token of the Page")
        if world.variants().optin_status_spelling == "underscores":
            status = status.replace(" ", "_")
        db.execute(_SET_REOPTIN_BY_PSID, {"reoptin": reoptin, "page": page_id, "psid": psid})
        for token in held:
            db.execute("UPDATE token SET reoptin = ? WHERE number = ?", (reoptin, token["number"]))
            optin = {**_optin(token, None), "notification_messages_status": status}
            if with_token:
                _emit(world, page_id, psid, "messaging_optins", {"optin": optin})
        if not with_token:
            del optin["notification_messages_token"]
            _emit(world, page_id, psid, "messaging_optins", {"optin": optin})
    return {"page_id": page_id, "psid": psid, "tokens": [str(token["token"]) for token in held]}


def _emit(world: World, page_id: str, psid: str, field: str, content: dict[str, Any]) -> None:
    webhooks.emit_messaging(
        world,
        page_id,
        field,
        {
            "sender": {"id": psid},
            "recipient": {"id": page_id},
            "timestamp": int(world.now() * 1000),
            **content,
        },
    )
