"""The paths under `/_sandbox` (docs/sandbox.md): inspection, control, faults and people."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mm_pipelines.sandbox import (
    audiences,
    faults,
    inspection,
    matching,
    people,
    quotas,
    refusals,
    webhooks,
)
from mm_pipelines.sandbox.encoding import from_json, to_json
from mm_pipelines.sandbox.errors import GraphError
from mm_pipelines.sandbox.settings import Variants
from mm_pipelines.sandbox.world import World

SECRETS = {"app_secret", "webhook_verify_token", "system_user_tokens", "page_tokens"}


class _Request(BaseModel):
    """The JSON body and the path parameters of a control call."""

    model_config = ConfigDict(extra="forbid")


class Message(_Request):
    """A message to a Page; without a psid, from a new person."""

    page_id: str
    psid: str | None = None
    text: str = "Hello"


class Person(_Request):
    """The person who answers, stops or resumes, and the Page."""

    page_id: str
    psid: str
    with_token: bool = Field(default=True, description="Whether a STOP webhook names the token.")


class AudienceId(_Request):
    """One Custom Audience."""

    audience_id: str


class AudienceStatus(AudienceId):
    """The operation status of an audience, such as 471 (integrity flag)."""

    code: int


class Clock(_Request):
    """A change of the sandbox's clock."""

    advance_seconds: float = Field(default=0, ge=0, description="Move the clock forward.")
    frozen: bool | None = Field(
        default=None, description="Freeze the clock, or let it run again; null: as it is."
    )


def routes(world: World) -> list[Route]:
    """Everything under /_sandbox."""

    async def process_now(_: Request) -> Response:
        return _answer(await process_everything(world))

    return [
        *_inspection(world),
        *_control(world),
        *_faults(world),
        *_people(world),
        Route("/_sandbox/settle", process_now, methods=["POST"]),
    ]


async def process_everything(world: World) -> dict[str, Any]:
    """Match every pending batch now, and try every pending webhook once."""
    processed = 0
    while await asyncio.to_thread(matching.process_next, world, everything=True):
        processed += 1
    await asyncio.to_thread(webhooks.hurry, world)
    async with webhooks.sender(world) as client:
        while await webhooks.deliver_due(world, client):
            pass
    return {"matched_batches": processed, **await asyncio.to_thread(inspection.idle, world)}


def change_variants(world: World, changes: dict[str, Any]) -> dict[str, Any]:
    """Change some variants for all later calls.

    Raises:
        pydantic.ValidationError: A variant or its value does not exist.
    """
    with world.transaction():
        variants = Variants.model_validate({**world.variants().model_dump(), **changes})
        world.remember("variants", variants.model_dump())
    return variants.model_dump()


def set_audience_status(world: World, wanted: AudienceStatus) -> dict[str, Any]:
    """Put an audience into an operation status."""
    with world.transaction() as db:
        changed = db.execute(
            "UPDATE audience SET operation_status = ? WHERE audience_id = ?",
            (wanted.code, wanted.audience_id),
        ).rowcount
    return {"changed": changed}


def delete_audience(world: World, wanted: AudienceId) -> dict[str, Any]:
    """Delete an audience, as a person does in Meta's Ads Manager."""
    with world.transaction():
        audiences.mark_deleted(world, wanted.audience_id)
    return {"deleted": wanted.audience_id}


def set_clock(world: World, clock: Clock) -> dict[str, Any]:
    """Let time pass: windows close, matching falls due, blocks end."""
    world.set_clock(advance_seconds=clock.advance_seconds, frozen=clock.frozen)
    return {"now": world.now()}


def reset(world: World) -> dict[str, Any]:
    """Delete all state."""
    world.reset()
    return inspection.idle(world)


def _inspection(world: World) -> list[Route]:
    return [
        _route("GET", "health", lambda _: {"ok": True}),
        _route("GET", "settings", lambda _: _settings(world)),
        _route("GET", "idle", lambda _: inspection.idle(world)),
        _route("GET", "audiences", lambda _: inspection.audiences(world)),
        _route(
            "GET",
            "audiences/{audience_id}/members",
            lambda wanted: inspection.membership(world, wanted["audience_id"]),
        ),
        _route("GET", "calls", lambda _: inspection.calls(world)),
        _route("GET", "tokens", lambda _: inspection.token_counts(world)),
        _route("GET", "webhooks", lambda _: inspection.webhook_counts(world)),
        _route("GET", "variants", lambda _: world.variants().model_dump()),
    ]


def _control(world: World) -> list[Route]:
    return [
        _route(
            "POST",
            "audiences/{audience_id}/status",
            lambda wanted: set_audience_status(world, wanted),
            AudienceStatus,
        ),
        _route(
            "POST",
            "audiences/{audience_id}/delete",
            lambda wanted: delete_audience(world, wanted),
            AudienceId,
        ),
        _route(
            "POST",
            "audiences/{audience_id}/small",
            lambda rule: refusals.configure_small_audience(world, rule).model_dump(),
            refusals.SmallAudience,
        ),
        _route("POST", "variants", lambda changes: change_variants(world, changes)),
        _route("GET", "clock", lambda _: {"now": world.now()}),
        _route("POST", "clock", lambda clock: set_clock(world, clock), Clock),
        _route("POST", "webhooks/pause", lambda _: _pause_webhooks(world, paused=True)),
        _route("POST", "webhooks/resume", lambda _: _pause_webhooks(world, paused=False)),
        _route(
            "POST",
            "webhooks/redeliver",
            lambda wanted: webhooks.redeliver(world, wanted),
            webhooks.Redelivery,
        ),
        _route("POST", "webhooks/reverse", lambda _: webhooks.reverse_pending(world)),
        _route(
            "POST",
            "webhooks/upload-status",
            lambda report: webhooks.report_upload(world, report),
            webhooks.UploadReport,
        ),
        _route("POST", "reset", lambda _: reset(world)),
    ]


def _faults(world: World) -> list[Route]:
    def configure_quota(quota: quotas.Quota) -> list[dict[str, Any]]:
        quotas.enforce(world, quota)
        return quotas.enforced(world)

    def clear_quotas(_: object) -> list[dict[str, Any]]:
        quotas.clear(world)
        return []

    return [
        *_fault_rules(world, "faults", faults.FaultRule),
        *_fault_rules(world, "webhooks/faults", faults.WebhookFault),
        _route("GET", "refusals", lambda _: _refusals(refusals.configured(world))),
        _route(
            "POST",
            "refusals",
            lambda wanted: _refusals(refusals.configure(world, wanted)),
            refusals.Refusals,
        ),
        _route("GET", "quotas", lambda _: quotas.enforced(world)),
        _route("POST", "quotas", configure_quota, quotas.Quota),
        _route("DELETE", "quotas", clear_quotas),
        _route("GET", "throttled", lambda _: quotas.refused(world)),
    ]


def _fault_rules(
    world: World, path: str, kind: type[faults.FaultRule] | type[faults.WebhookFault]
) -> list[Route]:
    def clear(wanted: dict[str, Any]) -> list[dict[str, Any]]:
        faults.clear(world, kind, wanted.get("number"))
        return faults.configured(world, kind)

    return [
        _route("GET", path, lambda _: faults.configured(world, kind)),
        _route("POST", path, lambda rule: {"id": faults.configure(world, rule)}, kind),
        _route("DELETE", path, clear),
        _route("DELETE", path + "/{number:int}", clear),
    ]


def _people(world: World) -> list[Route]:
    return [
        _route(
            "POST",
            "people/message",
            lambda sent: people.write(world, sent.page_id, sent.psid, sent.text),
            Message,
        ),
        _route("POST", "people/accept", lambda p: people.accept(world, p.page_id, p.psid), Person),
        _route("POST", "people/ignore", lambda p: people.ignore(world, p.page_id, p.psid), Person),
        _route(
            "POST",
            "people/stop",
            lambda p: people.stop(world, p.page_id, p.psid, with_token=p.with_token),
            Person,
        ),
        _route("POST", "people/resume", lambda p: people.resume(world, p.page_id, p.psid), Person),
    ]


def _route(
    method: str, path: str, act: Callable[[Any], Any], model: type[BaseModel] | None = None
) -> Route:
    """A path whose JSON body and path parameters, validated by the model, are passed to `act`."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await request.body()
            given = from_json(body) if body else {}
            if not isinstance(given, dict):
                return _answer({"errors": ["the body is not a JSON object"]}, status=400)
            wanted: Any = {**given, **request.path_params}
            if model is not None:
                wanted = model.model_validate(wanted)
            return _answer(await asyncio.to_thread(act, wanted))
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False, include_context=False)
            return _answer({"errors": details}, status=422)
        except GraphError as error:
            return _answer({"errors": [error.message]}, status=404)
        except people.PersonStateError as error:
            return _answer({"errors": [str(error)]}, status=409)
        except orjson.JSONDecodeError:
            return _answer({"errors": ["the body is not JSON"]}, status=400)

    return Route(f"/_sandbox/{path}", endpoint, methods=[method])


def _pause_webhooks(world: World, *, paused: bool) -> dict[str, Any]:
    world.remember("webhooks_paused", paused)
    return inspection.webhook_counts(world)


def _refusals(configured: refusals.Refusals) -> dict[str, Any]:
    return configured.model_dump(mode="json")


def _settings(world: World) -> dict[str, Any]:
    """The settings without secrets."""
    shown: dict[str, Any] = world.settings.model_dump(mode="json", exclude=SECRETS)
    return {**shown, "pages": list(world.settings.page_tokens)}


def _answer(value: object, status: int = 200) -> Response:
    return Response(to_json(value), status_code=status, media_type="application/json")
