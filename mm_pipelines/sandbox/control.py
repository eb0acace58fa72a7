"""The paths under `/_sandbox` (docs/sandbox.md): inspection, levers, faults, quotas, people."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mm_pipelines.sandbox import faults, inspection, levers, people, quotas
from mm_pipelines.sandbox.encoding import from_json, to_json
from mm_pipelines.sandbox.world import World

SECRETS = {"app_secret", "webhook_verify_token", "system_user_tokens", "page_tokens"}


class Writer(BaseModel):
    """Who writes to which Page; without a psid, somebody new."""

    model_config = ConfigDict(extra="forbid")

    page_id: str
    psid: str | None = None
    text: str = "Hello"


class Person(BaseModel):
    """Who answers, stops or resumes, at which Page."""

    model_config = ConfigDict(extra="forbid")

    page_id: str
    psid: str
    with_token: bool = Field(default=True, description="Whether a STOP webhook names the token.")


def routes(world: World) -> list[Route]:
    """Everything under /_sandbox."""

    async def settle(_: Request) -> Response:
        return _answer(await levers.settle(world))

    return [
        *_inspection(world),
        *_levers(world),
        *_faults(world),
        *_people(world),
        Route("/_sandbox/settle", settle, methods=["POST"]),
    ]


def _inspection(world: World) -> list[Route]:
    return [
        _route("GET", "health", lambda _: {"ok": True}),
        _route("GET", "settings", lambda _: _settings(world)),
        _route("GET", "idle", lambda _: inspection.idle(world)),
        _route("GET", "audiences", lambda _: inspection.audiences(world)),
        _route(
            "GET",
            "audiences/{audience_id}/members",
            lambda asked: inspection.membership(world, asked["audience_id"]),
        ),
        _route("GET", "calls", lambda _: inspection.calls(world)),
        _route("GET", "tokens", lambda _: inspection.token_counts(world)),
        _route("GET", "webhooks", lambda _: inspection.webhook_counts(world)),
        _route("GET", "variants", lambda _: world.variants().model_dump()),
    ]


def _levers(world: World) -> list[Route]:
    return [
        _route(
            "POST",
            "audiences/{audience_id}/status",
            lambda wanted: levers.set_audience_status(world, wanted),
            levers.AudienceStatus,
        ),
        _route("POST", "variants", lambda changes: levers.vary(world, changes)),
        _route("POST", "clock", lambda leap: levers.advance_clock(world, leap), levers.Leap),
        _route("POST", "webhooks/pause", lambda _: levers.pause_webhooks(world, paused=True)),
        _route("POST", "webhooks/resume", lambda _: levers.pause_webhooks(world, paused=False)),
        _route(
            "POST",
            "webhooks/redeliver",
            lambda wanted: levers.redeliver(world, wanted),
            levers.Redelivery,
        ),
        _route("POST", "reset", lambda _: levers.reset(world)),
    ]


def _faults(world: World) -> list[Route]:
    def clear(asked: dict[str, Any]) -> list[dict[str, Any]]:
        faults.clear(world, asked.get("number"))
        return faults.ordered(world)

    def enforce(quota: quotas.Quota) -> list[dict[str, Any]]:
        quotas.enforce(world, quota)
        return quotas.enforced(world)

    def lift(_: object) -> list[dict[str, Any]]:
        quotas.lift(world)
        return []

    return [
        _route("GET", "faults", lambda _: faults.ordered(world)),
        _route("POST", "faults", lambda rule: {"id": faults.order(world, rule)}, faults.FaultRule),
        _route("DELETE", "faults", clear),
        _route("DELETE", "faults/{number:int}", clear),
        _route("GET", "quotas", lambda _: quotas.enforced(world)),
        _route("POST", "quotas", enforce, quotas.Quota),
        _route("DELETE", "quotas", lift),
    ]


def _people(world: World) -> list[Route]:
    return [
        _route(
            "POST",
            "people/message",
            lambda who: people.write(world, who.page_id, who.psid, who.text),
            Writer,
        ),
        _route(
            "POST", "people/accept", lambda who: people.accept(world, who.page_id, who.psid), Person
        ),
        _route(
            "POST", "people/ignore", lambda who: people.ignore(world, who.page_id, who.psid), Person
        ),
        _route(
            "POST",
            "people/stop",
            lambda who: people.stop(world, who.page_id, who.psid, with_token=who.with_token),
            Person,
        ),
        _route(
            "POST", "people/resume", lambda who: people.resume(world, who.page_id, who.psid), Person
        ),
    ]


def _route(
    method: str, path: str, act: Callable[[Any], Any], model: type[BaseModel] | None = None
) -> Route:
    """A path whose JSON body and path parameters, checked by the model, are what `act` gets."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await request.body()
            given = from_json(body) if body else {}
            if not isinstance(given, dict):
                return _answer({"errors": ["the body is not a JSON object"]}, status=400)
            asked: Any = {**given, **request.path_params}
            if model is not None:
                asked = model.model_validate(asked)
            return _answer(await asyncio.to_thread(act, asked))
        except ValidationError as error:
            faulty = error.errors(include_url=False, include_input=False, include_context=False)
            return _answer({"errors": faulty}, status=422)
        except people.NoSuchAct as error:
            return _answer({"errors": [str(error)]}, status=409)
        except orjson.JSONDecodeError:
            return _answer({"errors": ["the body is not JSON"]}, status=400)

    return Route(f"/_sandbox/{path}", endpoint, methods=[method])


def _settings(world: World) -> dict[str, Any]:
    """The settings without anything secret."""
    shown: dict[str, Any] = world.settings.model_dump(mode="json", exclude=SECRETS)
    return {**shown, "pages": list(world.settings.page_tokens)}


def _answer(value: object, status: int = 200) -> Response:
    return Response(to_json(value), status_code=status, media_type="application/json")
