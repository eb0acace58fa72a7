"""`/_sandbox/…`: what the sandbox knows, and the levers that move it (docs/sandbox.md)."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mm_pipelines.sandbox import faults, matching, people, quotas, webhooks
from mm_pipelines.sandbox.encoding import from_json, to_json
from mm_pipelines.sandbox.settings import Variants
from mm_pipelines.sandbox.world import World

Act = Callable[[World, Any], Any]


class Person(BaseModel):
    """Who does something in Messenger, and to which Page."""

    model_config = ConfigDict(extra="forbid")

    page_id: str
    psid: str | None = None
    text: str = "Hello"
    with_token: bool = Field(default=True, description="Whether a STOP webhook names the token.")


class Redelivery(BaseModel):
    """Which delivered webhooks to send again, and in which order."""

    model_config = ConfigDict(extra="forbid")

    last: int | None = Field(default=None, ge=1, description="Only the last so many; null: all.")
    reverse: bool = False


def audiences(world: World) -> list[dict[str, Any]]:
    """Every audience with its counts and the digest of its members."""
    with world.transaction() as db:
        rows = db.execute("SELECT * FROM audience ORDER BY number").fetchall()
        return [
            {
                "audience_id": row["audience_id"],
                "ad_account_id": row["account_id"],
                "page_id": row["page_id"],
                "name": row["name"],
                "deleted": row["deleted_at"] is not None,
                "operation_status": row["operation_status"],
                "matched": row["matched"],
                **_member_digest(world, row["audience_id"]),
            }
            for row in rows
        ]


def members(world: World, audience_id: str) -> list[str]:
    """The members as sorted "<e-mail hash>|<phone hash>"."""
    with world.transaction() as db:
        rows = db.execute(
            "SELECT email, phone FROM member WHERE audience_id = ? ORDER BY email, phone",
            (audience_id,),
        )
        return [f"{row['email'].hex()}|{row['phone'].hex()}" for row in rows]


def calls(world: World) -> dict[str, Any]:
    """How many calls of each kind ended how, and every batch with how often it came."""
    with world.transaction() as db:
        counts = db.execute(
            "SELECT method, path, principal, status, code, count(*) AS calls FROM call"
            " GROUP BY method, path, principal, status, code ORDER BY min(number)"
        ).fetchall()
        batches = db.execute(
            "SELECT account_id, session_id, batch_seq, audience_id, kind, num_rows, num_invalid,"
            " times_received, processed_at IS NOT NULL AS processed FROM batch ORDER BY number"
        ).fetchall()
    return {
        "calls": [dict(row) for row in counts],
        "batches": [{**row, "processed": bool(row["processed"])} for row in map(dict, batches)],
    }


def token_counts(world: World) -> list[dict[str, Any]]:
    """Tokens by Page: alive by origin, given up, and the recipients known."""
    with world.transaction() as db:
        rows = db.execute(
            "SELECT page_id, sum(gone_at IS NULL) AS alive,"
            " sum(gone_at IS NULL AND person IS NOT NULL) AS made_by_audiences,"
            " sum(gone_at IS NULL AND person IS NULL) AS opted_in,"
            " count(DISTINCT CASE WHEN gone_at IS NULL THEN psid END) AS recipients,"
            " sum(gone_at IS NOT NULL) AS unsubscribed FROM token GROUP BY page_id"
        ).fetchall()
    return [dict(row) for row in rows]


def webhook_counts(world: World) -> dict[str, Any]:
    """Webhooks pending and delivered, by field, and the attempts they took."""
    with world.transaction() as db:
        rows = db.execute(
            "SELECT field, object, count(*) AS made, sum(delivered_at IS NULL) AS pending,"
            " sum(delivered_at IS NOT NULL) AS delivered, sum(attempts) AS attempts"
            " FROM webhook GROUP BY field, object ORDER BY field, object"
        ).fetchall()
        paused = bool(world.recall("webhooks_paused", False))
    return {
        "paused": paused,
        "pending": sum(row["pending"] for row in rows),
        "delivered": sum(row["delivered"] for row in rows),
        "by_field": [dict(row) for row in rows],
    }


def idle(world: World) -> dict[str, Any]:
    """Whether nothing is left to happen by itself."""
    with world.transaction() as db:
        (jobs,) = db.execute(
            "SELECT count(*) FROM batch WHERE due_at IS NOT NULL AND processed_at IS NULL"
        ).fetchone()
    waiting = webhooks.pending(world)
    return {
        "idle": jobs == 0 and waiting == 0,
        "pending_matching": jobs,
        "pending_webhooks": waiting,
    }


def redeliver(world: World, wanted: Redelivery) -> dict[str, Any]:
    """Send delivered webhooks again, with the same bytes."""
    with world.transaction() as db:
        numbers = [
            row["number"]
            for row in db.execute(
                "SELECT number FROM webhook WHERE delivered_at IS NOT NULL ORDER BY number"
            )
        ]
        chosen = numbers if wanted.last is None else numbers[-wanted.last :]
        now = world.now()
        for place, number in enumerate(reversed(chosen) if wanted.reverse else chosen):
            db.execute(
                "UPDATE webhook SET delivered_at = NULL, due_at = ? WHERE number = ?",
                (now + place * 1e-4, number),
            )
    return {"redelivering": len(chosen)}


def flag(world: World, audience_id: str, code: int) -> dict[str, Any]:
    """Put an audience into an operation status, such as 471 (integrity flag)."""
    with world.transaction() as db:
        changed = db.execute(
            "UPDATE audience SET operation_status = ? WHERE audience_id = ?", (code, audience_id)
        ).rowcount
    return {"changed": changed}


def _member_digest(world: World, audience_id: str) -> dict[str, Any]:
    keys = members(world, audience_id)
    return {"members": len(keys), "digest": hashlib.sha256("\n".join(keys).encode()).hexdigest()}


async def settle(world: World) -> dict[str, Any]:
    """Do now what was due later: match every pending batch, try every pending webhook once."""
    processed = 0
    while await asyncio.to_thread(matching.process_next, world, float("inf")):
        processed += 1
    await asyncio.to_thread(_hurry_webhooks, world)
    async with httpx.AsyncClient(
        timeout=world.settings.webhook_timeout_seconds, trust_env=False
    ) as client:
        while await webhooks.deliver_due(world, client):
            pass
    return {"matched_batches": processed, **await asyncio.to_thread(idle, world)}


def routes(world: World) -> list[Route]:
    """Everything under /_sandbox."""

    def reading(path: str, read: Callable[[World], Any]) -> Route:
        async def endpoint(request: Request) -> Response:  # noqa: ARG001 - Starlette's signature
            return _answer(await asyncio.to_thread(read, world))

        return Route(f"/_sandbox/{path}", endpoint, methods=["GET"])

    def acting(path: str, act: Act, model: type[BaseModel] | None = None) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                body = await request.body()
                wanted = from_json(body) if body else {}
                if model is not None:
                    wanted = model.model_validate(wanted)
                return _answer(await asyncio.to_thread(act, world, wanted))
            except ValidationError as error:
                return _answer(
                    {"errors": error.errors(include_url=False, include_input=False)}, status=422
                )
            except (ValueError, people.NoSuchAct) as error:
                return _answer({"errors": [str(error)]}, status=409)

        return Route(f"/_sandbox/{path}", endpoint, methods=["POST"])

    async def member_keys(request: Request) -> Response:
        return _answer(await asyncio.to_thread(members, world, request.path_params["audience_id"]))

    async def flagging(request: Request) -> Response:
        wanted = from_json(await request.body())
        audience_id = request.path_params["audience_id"]
        return _answer(await asyncio.to_thread(flag, world, audience_id, int(wanted["code"])))

    async def settling(request: Request) -> Response:  # noqa: ARG001 - Starlette's signature
        return _answer(await settle(world))

    async def clearing(request: Request) -> Response:
        number = request.path_params.get("number")
        await asyncio.to_thread(faults.clear, world, number)
        return _answer({"faults": await asyncio.to_thread(faults.ordered, world)})

    async def lifting(request: Request) -> Response:  # noqa: ARG001 - Starlette's signature
        await asyncio.to_thread(quotas.lift, world)
        return _answer({"quotas": []})

    return [
        reading("health", lambda _: {"ok": True}),
        reading("settings", _public_settings),
        reading("idle", idle),
        reading("audiences", audiences),
        Route("/_sandbox/audiences/{audience_id}/members", member_keys, methods=["GET"]),
        Route("/_sandbox/audiences/{audience_id}/status", flagging, methods=["POST"]),
        reading("calls", calls),
        reading("tokens", token_counts),
        reading("webhooks", webhook_counts),
        acting("webhooks/redeliver", redeliver, Redelivery),
        acting("webhooks/pause", lambda world, _: _pause(world, paused=True)),
        acting("webhooks/resume", lambda world, _: _pause(world, paused=False)),
        reading("variants", lambda world: world.variants().model_dump()),
        acting("variants", _vary),
        reading("faults", lambda world: {"faults": faults.ordered(world)}),
        acting("faults", lambda world, rule: {"id": faults.order(world, rule)}, faults.FaultRule),
        Route("/_sandbox/faults", clearing, methods=["DELETE"]),
        Route("/_sandbox/faults/{number:int}", clearing, methods=["DELETE"]),
        reading("quotas", lambda world: {"quotas": quotas.enforced(world)}),
        acting("quotas", _limit, quotas.Quota),
        Route("/_sandbox/quotas", lifting, methods=["DELETE"]),
        acting("people/message", lambda w, p: people.write(w, p.page_id, p.psid, p.text), Person),
        acting("people/accept", lambda w, p: people.accept(w, p.page_id, _psid(p)), Person),
        acting("people/ignore", lambda w, p: people.ignore(w, p.page_id, _psid(p)), Person),
        acting(
            "people/stop",
            lambda w, p: people.stop(w, p.page_id, _psid(p), with_token=p.with_token),
            Person,
        ),
        acting("people/resume", lambda w, p: people.resume(w, p.page_id, _psid(p)), Person),
        acting("clock", _advance),
        Route("/_sandbox/settle", settling, methods=["POST"]),
        acting("reset", lambda world, _: _reset(world)),
    ]


def _answer(value: object, status: int = 200) -> Response:
    return Response(to_json(value), status_code=status, media_type="application/json")


def _public_settings(world: World) -> dict[str, Any]:
    hidden = {"app_secret", "webhook_verify_token", "system_user_tokens", "page_tokens"}
    kept: dict[str, Any] = world.settings.model_dump(mode="json", exclude=hidden)
    return {**kept, "pages": list(world.settings.page_tokens)}


def _psid(person: Person) -> str:
    if person.psid is None:
        raise ValueError("psid is missing: name the person")
    return person.psid


def _vary(world: World, changes: dict[str, Any]) -> dict[str, Any]:
    with world.transaction():
        variants = Variants.model_validate({**world.variants().model_dump(), **changes})
        world.remember("variants", variants.model_dump())
    return variants.model_dump()


def _limit(world: World, quota: quotas.Quota) -> dict[str, Any]:
    quotas.enforce(world, quota)
    return {"quotas": quotas.enforced(world)}


def _pause(world: World, *, paused: bool) -> dict[str, Any]:
    world.remember("webhooks_paused", paused)
    return webhook_counts(world)


def _advance(world: World, wanted: dict[str, Any]) -> dict[str, Any]:
    world.advance_clock(float(wanted.get("advance_seconds", 0)))
    return {"now": world.now()}


def _reset(world: World) -> dict[str, Any]:
    world.reset()
    return idle(world)


def _hurry_webhooks(world: World) -> None:
    with world.transaction() as db:
        db.execute(
            "UPDATE webhook SET due_at = min(due_at, ?) WHERE delivered_at IS NULL", (world.now(),)
        )
