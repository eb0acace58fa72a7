"""Answer Graph API calls: apply faults and quotas, check the token, call the edge."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from mm_pipelines.sandbox import (
    accounts,
    audiences,
    auth,
    errors,
    faults,
    people,
    quotas,
    subscriptions,
    tokens,
    unsubscribes,
    users,
)
from mm_pipelines.sandbox.auth import Principal
from mm_pipelines.sandbox.calls import DEFAULT_VERSION, Call, read_call
from mm_pipelines.sandbox.encoding import to_json
from mm_pipelines.sandbox.errors import GraphError
from mm_pipelines.sandbox.settings import Variants
from mm_pipelines.sandbox.world import World

# The ASGI extension with which server.py lets a reset fault cut the connection.
RESET = "mm.sandbox.reset"

HTML_PAGE = b"<!DOCTYPE html><html><body><h1>Sorry, something went wrong.</h1></body></html>"


@dataclass(frozen=True)
class Route:
    """An edge: the calls it answers, the token it needs, and the function that answers."""

    methods: str
    path: re.Pattern[str]
    caller: Literal["system_user", "page", "app"]
    answer: Callable[..., dict[str, Any]]


def _route(
    methods: str,
    path: str,
    caller: Literal["system_user", "page", "app"],
    answer: Callable[..., dict[str, Any]],
) -> Route:
    return Route(methods, re.compile(path.replace("<id>", r"([0-9]+)")), caller, answer)


ROUTES = (
    _route("POST", "act_<id>/customaudiences", "system_user", audiences.create),
    _route("GET", "act_<id>/customaudiences", "system_user", audiences.listing),
    _route("DELETE", "act_<id>/usersofanyaudience", "system_user", users.remove_from_all),
    _route(
        "GET POST DELETE", "act_<id>/subscribed_apps", "system_user", subscriptions.account_apps
    ),
    _route("POST", "<id>/users", "system_user", users.add),
    _route("DELETE", "<id>/users", "system_user", users.remove),
    _route("POST", "<id>/usersreplace", "system_user", users.replace),
    _route("GET", "<id>/sessions", "system_user", audiences.sessions),
    _route("GET", "<id>/notification_message_tokens", "page", tokens.listing),
    _route("POST", "<id>/messaging_customer_base/unsubscribe", "page", unsubscribes.unsubscribe),
    _route("POST", "<id>/messages", "page", people.request_optin),
    _route("GET POST DELETE", "<id>/subscribed_apps", "page", subscriptions.page_apps),
    _route("GET DELETE", "<id>/subscriptions", "app", subscriptions.app_subscriptions),
    _route("POST", "<id>", "system_user", audiences.update),
    _route("DELETE", "<id>", "system_user", audiences.delete),
)

_SUBSCRIBE_APP = re.compile(r"([0-9]+)/subscriptions")
_SINGLE_TOKEN = re.compile(r"notification_messages_(.+)")
_NODE = re.compile(r"(act_)?([0-9]+)")


async def answer(world: World, request: Request) -> Response:
    """Answer one Graph API call, with the faults configured for it."""
    trace_id = f"A{world.next_number('trace', digits=20)}"
    try:
        call = await read_call(request, await asyncio.to_thread(world.variants))
    except GraphError as error:
        return error.response(trace_id)
    caller = str(auth.recognize(world.settings, call.token) if call.token else None)
    rules = await asyncio.to_thread(_faults_of, world, call, caller)
    for rule in rules:
        call = replace(call, variants=_varied(call.variants, rule))
        await asyncio.sleep(rule.latency_seconds)
    if any(rule.hang for rule in rules):
        await _until_disconnected(request)
        return Response(status_code=499)
    if any(rule.reset == "before" for rule in rules):
        return await _reset(request)
    configured_error = next((rule.error for rule in rules if rule.error is not None), None)
    response = await _applied(world, call, caller, configured_error, trace_id)
    if any(rule.reset == "after" for rule in rules):
        return await _reset(request)
    for rule in rules:
        response = _with_faults(response, rule)
    return response


async def _applied(
    world: World,
    call: Call,
    caller: str,
    configured_error: faults.ErrorEffect | None,
    trace_id: str,
) -> Response:
    number, headers, throttled = await asyncio.to_thread(_admit, world, call, caller)
    error: GraphError | None = None
    try:
        if configured_error is not None:
            raise configured_error.exception()
        if throttled is not None:
            raise throttled
        if call.method == "POST" and _SUBSCRIBE_APP.fullmatch(call.path):
            # The handshake calls the receiver, so this edge must not hold the lock of the state.
            auth.require_app(auth.authenticate(world.settings, call))
            result = to_json(await subscriptions.subscribe_app(world, call))
        else:
            result = await asyncio.to_thread(_answer_in_transaction, world, call)
        response = Response(result)
    except GraphError as raised:
        error = raised
        response = raised.response(trace_id)
    response.headers["content-type"] = "application/json; charset=UTF-8"
    response.headers["facebook-api-version"] = call.version
    response.headers["x-fb-trace-id"] = trace_id
    response.headers["x-fb-rev"] = "1000000000"
    for name, value in headers.items():
        response.headers.setdefault(name, value)
    await asyncio.to_thread(_note_outcome, world, number, response.status_code, error)
    return response


def _answer_in_transaction(world: World, call: Call) -> bytes:
    """One call, one transaction; the answer is encoded outside the event loop."""
    with world.transaction():
        result = _dispatch(world, call)
    return to_json(result)


def _dispatch(world: World, call: Call) -> dict[str, Any]:
    principal = auth.authenticate(world.settings, call)
    for route in ROUTES:
        match = route.path.fullmatch(call.path)
        if match is not None and call.method in route.methods.split():
            object_id = match.group(1)
            if route.caller == "system_user":
                auth.require_system_user(principal)
            elif route.caller == "page":
                auth.require_page(world.settings, principal, object_id)
            else:
                auth.require_app(principal)
            return route.answer(world, call, object_id)
    if call.method == "GET":
        return _read_node(world, call, principal)
    raise errors.unsupported_call(call.method, call.path)


def _read_node(world: World, call: Call, principal: Principal) -> dict[str, Any]:
    if call.path == "debug_token":
        return accounts.debug_token(world, call)
    if call.path == "me":
        return accounts.me(principal)
    if call.path == "me/accounts":
        return accounts.pages(world, principal)
    single = _SINGLE_TOKEN.fullmatch(call.path)
    if single is not None:
        page_id = principal.page_id or tokens.page_of(world, single.group(1)) or ""
        auth.require_page(world.settings, principal, page_id)
        return tokens.read(world, call, page_id, single.group(1))
    node = _NODE.fullmatch(call.path)
    if node is None:
        raise errors.unsupported_call(call.method, call.path)
    prefix, object_id = node.groups()
    if prefix:
        auth.require_system_user(principal)
        return accounts.read_account(world, object_id)
    if object_id in world.settings.page_tokens:
        return accounts.page(object_id)
    auth.require_system_user(principal)
    return audiences.read(world, call, object_id)


def _admit(world: World, call: Call, caller: str) -> tuple[int, dict[str, str], GraphError | None]:
    """Log the call and charge it to its ad account or Page."""
    with world.transaction():
        subject = _subject(world, call)
        number = world.insert(
            "INSERT INTO call (at, method, path, subject, principal) VALUES (?, ?, ?, ?, ?)",
            (world.now(), call.method, call.path, subject, caller),
        )
        headers, error = quotas.charge(world, call, subject)
    return number, headers, error


def _note_outcome(world: World, number: int, status: int, error: GraphError | None) -> None:
    with world.transaction() as db:
        db.execute(
            "UPDATE call SET status = ?, code = ? WHERE number = ?",
            (status, None if error is None else error.code, number),
        )


def _subject(world: World, call: Call) -> str | None:
    """The ad account (act_<ID>) or the Page whose quota a call uses."""
    first = call.path.partition("/")[0]
    if first.startswith("act_"):
        return first
    row = world.db.execute(
        "SELECT account_id FROM audience WHERE audience_id = ?", (first,)
    ).fetchone()
    if row is not None:
        return f"act_{row['account_id']}"
    single = _SINGLE_TOKEN.fullmatch(first)
    if single is not None:
        return tokens.page_of(world, single.group(1))
    return first if first.isdigit() else None


def _faults_of(world: World, call: Call, caller: str) -> list[faults.FaultRule]:
    return faults.hitting(world, faults.FaultRule, lambda rule: rule.matches(call, caller))


def _varied(variants: Variants, rule: faults.FaultRule) -> Variants:
    return Variants.model_validate({**variants.model_dump(), **rule.variants})


def _with_faults(response: Response, rule: faults.FaultRule) -> Response:
    """The answer with the body and the headers of a rule."""
    if rule.body is not None:
        whole = bytes(response.body)
        body = {"html": HTML_PAGE, "truncated": whole[: len(whole) // 2], "empty": b""}[rule.body]
        kind = "text/html" if rule.body == "html" else "application/json"
        status = rule.status or (500 if rule.body == "html" else response.status_code)
        response = Response(
            body,
            status_code=status,
            media_type=kind,
            headers={"facebook-api-version": DEFAULT_VERSION},
        )
    for name, value in rule.headers.items():
        response.headers[name] = value
    return response


async def _until_disconnected(request: Request) -> None:
    """The body has been read, so the only message still to come is the disconnection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _reset(request: Request) -> Response:
    """Cut the connection, so that the caller cannot know whether the call was applied."""
    reset = request.scope.get("extensions", {}).get(RESET)
    if reset is None:
        raise ConnectionResetError("a fault of the sandbox cuts this connection")
    reset["cut"]()
    await _until_disconnected(request)
    return Response(status_code=499)
