"""Webhooks to the receiver: stored with the event, signed, and sent until answered by 200."""

import asyncio
import hashlib
import hmac
import sqlite3
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from mm_pipelines.sandbox.audiences import existing
from mm_pipelines.sandbox.encoding import to_escaped_json
from mm_pipelines.sandbox.faults import WebhookFault, hitting
from mm_pipelines.sandbox.world import World

UPLOAD_STATUS = "marketing_messages_subscriber_upload_status"

AT_ONCE = 8
LONGEST_PAUSE_SECONDS = 10.0


class Redelivery(BaseModel):
    """The delivered webhooks to send again, and their order."""

    model_config = ConfigDict(extra="forbid")

    last: int | None = Field(default=None, ge=1, description="Only the newest ones; null: all.")
    reverse: bool = False


class UploadReport(BaseModel):
    """An upload-status webhook without an upload, such as that of another app."""

    model_config = ConfigDict(extra="forbid")

    audience_id: str
    num_rows: int = Field(ge=0)
    app_id: str = Field(default="1999999999999999", description="Default: another app's.")
    lower_bound: int = Field(default=0, ge=0)
    upper_bound: int = Field(default=0, ge=0)
    status: str = "SUCCESS"


def report_upload(world: World, report: UploadReport) -> dict[str, Any]:
    """Send an upload-status webhook without an upload."""
    with world.transaction():
        audience = existing(world, report.audience_id)
        emit_upload_status(world, audience, report)
    return {"pending": pending(world)}


def emit_upload_status(world: World, audience: sqlite3.Row, report: UploadReport) -> None:
    """Report that one batch was processed."""
    variants = world.variants()
    # Ids are JSON numbers, as Meta sends them, although many exceed 2^53.
    value: dict[str, Any] = {
        "field": UPLOAD_STATUS,
        "app_id": _number(report.app_id),
        "page_id": _number(audience["page_id"]),
        "custom_audience_id": _number(audience["audience_id"]),
        "ad_account_id": _number(audience["account_id"]),
        "timestamp": int(world.now()),
        "num_rows": report.num_rows,
        "business_id": _number(world.settings.business_id),
        "approximate_count_lower_bound": report.lower_bound,
        "approximate_count_upper_bound": report.upper_bound,
        "batch_uploading_status": report.status,
    }
    objects = {
        "page": ["page"],
        "ad_account": ["ad_account"],
        "both": ["page", "ad_account"],
    }[variants.upload_object]
    for object_name in objects:
        object_id = audience["page_id" if object_name == "page" else "account_id"]
        if variants.envelope == "bare":
            body = value
        else:
            inner = dict(value)
            if variants.envelope == "changes_bare_value":
                del inner["field"]
            change = {"field": UPLOAD_STATUS, "value": inner}
            body = _envelope(world, object_name, object_id, {"changes": [change]})
        _emit(world, object_name, UPLOAD_STATUS, object_id, body)


def emit_messaging(world: World, page_id: str, field: str, message: dict[str, Any]) -> None:
    """Report what a person did in Messenger."""
    body = _envelope(world, "page", page_id, {"messaging": [message]})
    _emit(world, "page", field, page_id, body)


def pending(world: World) -> int:
    """Webhooks not yet delivered."""
    with world.transaction() as db:
        (count,) = db.execute("SELECT count(*) FROM webhook WHERE delivered_at IS NULL").fetchone()
    return int(count)


def hurry(world: World) -> None:
    """Make every webhook that was refused before due now, without its pause."""
    with world.transaction() as db:
        db.execute(
            "UPDATE webhook SET due_at = min(due_at, ?) WHERE delivered_at IS NULL"
            " AND attempts > 0",
            (world.now(),),
        )


def redeliver(world: World, wanted: Redelivery) -> dict[str, Any]:
    """Send delivered webhooks again, one after the other, with the same bytes."""
    with world.transaction() as db:
        rows = db.execute(
            "SELECT number FROM webhook WHERE delivered_at IS NOT NULL ORDER BY number"
        ).fetchall()
        numbers = [row["number"] for row in rows]
        chosen = numbers if wanted.last is None else numbers[-wanted.last :]
        if wanted.reverse:
            chosen.reverse()
        _schedule_in_order(world, db, chosen)
    return {"redelivering": len(chosen)}


def reverse_pending(world: World) -> dict[str, Any]:
    """Send the pending webhooks in reverse order, one after the other."""
    with world.transaction() as db:
        rows = db.execute(
            "SELECT number FROM webhook WHERE delivered_at IS NULL ORDER BY number DESC"
        ).fetchall()
        _schedule_in_order(world, db, [row["number"] for row in rows])
    return {"reversed": len(rows)}


def sender(world: World) -> httpx.AsyncClient:
    """The client that delivers webhooks: without a proxy, with Meta's time-out."""
    return httpx.AsyncClient(
        timeout=world.settings.webhook_timeout_seconds,
        trust_env=False,
        transport=world.webhook_transport,
    )


async def deliver_due(world: World, client: httpx.AsyncClient) -> bool:
    """Send the due webhooks, several at once; returns whether there were any."""
    async with world.delivering:
        due = await asyncio.to_thread(_due, world)
        await asyncio.gather(*(_deliver(world, client, *webhook) for webhook in due))
    return bool(due)


def destination(world: World) -> str | None:
    """The address for webhooks: the configured receiver, else the app's callback."""
    if world.settings.webhook_url is not None:
        return world.settings.webhook_url
    row = world.db.execute(
        "SELECT callback_url FROM subscription WHERE level = 'app' ORDER BY object DESC"
    ).fetchone()
    return None if row is None else row["callback_url"]


def sign(world: World, body: bytes) -> str:
    """The value of X-Hub-Signature-256 for a body."""
    secret = world.settings.app_secret.get_secret_value().encode()
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def _emit(world: World, object_name: str, field: str, object_id: str, body: dict[str, Any]) -> None:
    if destination(world) is None or not _subscribed(world, object_name, field, object_id):
        return
    faults = hitting(world, WebhookFault, lambda fault: fault.matches(field))
    if any(fault.lost for fault in faults):
        return
    now = world.now()
    due_at = now + sum(fault.delay_seconds for fault in faults)
    row = (object_name, field, object_id, to_escaped_json(body), now, due_at)
    with world.transaction() as db:
        db.executemany(
            "INSERT INTO webhook (object, field, object_id, body, made_at, due_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [row] * max([1, *(fault.copies for fault in faults)]),
        )


def _subscribed(world: World, object_name: str, field: str, object_id: str) -> bool:
    """A field is delivered only if app and Page (or ad account) both subscribed."""
    if not world.settings.require_subscriptions:
        return True
    app = world.db.execute(
        "SELECT fields FROM subscription WHERE level = 'app' AND object = ?", (object_name,)
    ).fetchone()
    node = world.db.execute(
        "SELECT fields FROM subscription WHERE level = 'object' AND object = ? AND object_id = ?",
        (object_name, object_id),
    ).fetchone()
    if app is None or node is None or field not in app["fields"].split(","):
        return False
    # An ad account subscribes to the app, not to single fields.
    return object_name == "ad_account" or field in node["fields"].split(",")


def _envelope(
    world: World, object_name: str, object_id: str, content: dict[str, Any]
) -> dict[str, Any]:
    # Webhooks of Pages have milliseconds, those of ad accounts seconds. No two milliseconds are
    # equal: two batches can finish at the same instant, and nothing else distinguishes their
    # webhooks.
    instant = max(int(world.now() * 1000), int(world.recall("last_entry_time", 0)) + 1)
    world.remember("last_entry_time", instant)
    milliseconds = world.variants().webhook_entry_time == "milliseconds"
    entry_time = instant if object_name == "page" and milliseconds else instant // 1000
    return {
        "object": object_name,
        "entry": [{"id": object_id, "time": entry_time, **content}],
    }


def _due(world: World) -> list[tuple[int, int, bytes, str]]:
    with world.transaction() as db:
        url = destination(world)
        if url is None or world.recall("webhooks_paused", False):
            return []
        rows = db.execute(
            "SELECT number, attempts, body, alone FROM webhook"
            " WHERE delivered_at IS NULL AND due_at <= ? ORDER BY due_at, number LIMIT ?",
            (world.now(), AT_ONCE),
        ).fetchall()
    if rows and rows[0]["alone"]:
        rows = rows[:1]
    return [(row["number"], row["attempts"], row["body"], url) for row in rows]


def _schedule_in_order(world: World, db: sqlite3.Connection, numbers: list[int]) -> None:
    """Make webhooks due now, to be sent one after the other in this order."""
    now = world.now()
    # Webhooks are sent in the order of their due times, which therefore differ a little.
    db.executemany(
        "UPDATE webhook SET delivered_at = NULL, alone = 1, due_at = ? WHERE number = ?",
        [(now - (len(numbers) - place) * 1e-4, number) for place, number in enumerate(numbers)],
    )


async def _deliver(
    world: World, client: httpx.AsyncClient, number: int, attempts: int, body: bytes, url: str
) -> None:
    headers = {"content-type": "application/json", "x-hub-signature-256": sign(world, body)}
    try:
        answer = await client.post(url, content=body, headers=headers)
        status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL):
        status = 0
    await asyncio.to_thread(_note_attempt, world, number, attempts + 1, status)


def _note_attempt(world: World, number: int, attempts: int, status: int) -> None:
    now = world.now()
    pause = world.settings.webhook_backoff_seconds * 2 ** min(attempts - 1, 16)
    with world.transaction() as db:
        db.execute(
            "UPDATE webhook SET attempts = ?, last_status = ?, delivered_at = ?, due_at = ?"
            " WHERE number = ?",
            (
                attempts,
                status,
                now if status == 200 else None,
                now + min(pause, LONGEST_PAUSE_SECONDS),
                number,
            ),
        )


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text
