"""Webhook subscriptions at app, Page and ad-account level."""

import asyncio
from typing import Any

import httpx

from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.errors import GraphError, invalid_parameter, missing_parameter
from mm_pipelines.sandbox.world import World

OBJECTS = ("page", "ad_account")
HANDSHAKE_SECONDS = 5.0


async def subscribe_app(world: World, call: Call) -> dict[str, Any]:
    """POST /<APP_ID>/subscriptions: the receiver must answer the handshake first."""
    object_name = call.text("object")
    if object_name not in OBJECTS:
        raise invalid_parameter(f"Param object must be one of {', '.join(OBJECTS)}")
    callback_url = call.text("callback_url")
    fields = call.items("fields")
    if not fields:
        raise missing_parameter("fields")
    await _verify_callback(world, callback_url, call.text("verify_token"))
    await asyncio.to_thread(_store, world, "app", object_name, "", fields, callback_url)
    return {"success": True}


def app_subscriptions(world: World, call: Call, app_id: str) -> dict[str, Any]:
    """GET and DELETE /<APP_ID>/subscriptions."""
    _check_app(world, app_id)
    if call.method == "DELETE":
        object_name = call.text("object", "")
        world.db.execute(
            "DELETE FROM subscription WHERE level = 'app' AND ? IN ('', object)", (object_name,)
        )
        return {"success": True}
    rows = world.db.execute("SELECT * FROM subscription WHERE level = 'app'").fetchall()
    return {
        "data": [
            {
                "object": row["object"],
                "callback_url": row["callback_url"],
                "active": True,
                "fields": [
                    {"name": name, "version": call.version} for name in row["fields"].split(",")
                ],
            }
            for row in rows
        ]
    }


def page_apps(world: World, call: Call, page_id: str) -> dict[str, Any]:
    """GET, POST and DELETE /<PAGE_ID>/subscribed_apps; success is a string, as documented."""
    if call.method == "GET":
        return _apps_of(world, "page", page_id)
    if call.method == "DELETE":
        _forget(world, "page", page_id)
        return {"success": "true"}
    fields = call.items("subscribed_fields")
    if not fields:
        raise missing_parameter("subscribed_fields")
    _store(world, "object", "page", page_id, fields, None)
    return {"success": "true"}


def account_apps(world: World, call: Call, account_id: str) -> dict[str, Any]:
    """GET, POST and DELETE /act_<ID>/subscribed_apps."""
    if call.method == "GET":
        return _apps_of(world, "ad_account", account_id)
    if call.method == "DELETE":
        _forget(world, "ad_account", account_id)
        return {"success": True}
    _check_app(world, call.text("app_id"))
    _store(world, "object", "ad_account", account_id, [], None)
    return {"success": True}


async def _verify_callback(world: World, callback_url: str, verify_token: str) -> None:
    challenge = str(world.next_number("challenge", digits=10))
    query = {
        "hub.mode": "subscribe",
        "hub.verify_token": verify_token,
        "hub.challenge": challenge,
    }
    try:
        async with httpx.AsyncClient(
            timeout=HANDSHAKE_SECONDS, trust_env=False, transport=world.webhook_transport
        ) as client:
            answer = await client.get(callback_url, params=query)
        fault = f"HTTP Status Code = {answer.status_code}" if answer.status_code != 200 else ""
        if not fault and answer.text != challenge:
            fault = "the challenge was not echoed"
    except (httpx.HTTPError, httpx.InvalidURL):
        fault = "the callback URL could not be reached"
    if fault:
        raise GraphError(
            f"(#2200) Callback verification failed with the following errors: {fault}", code=2200
        )


def _check_app(world: World, app_id: str) -> None:
    if app_id != world.settings.app_id:
        raise invalid_parameter("The app is not the one the token belongs to")


def _apps_of(world: World, object_name: str, object_id: str) -> dict[str, Any]:
    row = world.db.execute(
        "SELECT fields FROM subscription WHERE level = 'object' AND object = ? AND object_id = ?",
        (object_name, object_id),
    ).fetchone()
    if row is None:
        return {"data": []}
    app: dict[str, Any] = {"id": world.settings.app_id, "name": "sandbox app"}
    if row["fields"]:
        app["subscribed_fields"] = row["fields"].split(",")
    return {"data": [app]}


def _store(
    world: World,
    level: str,
    object_name: str,
    object_id: str,
    fields: list[str],
    callback_url: str | None,
) -> None:
    with world.transaction() as db:
        db.execute(
            "INSERT OR REPLACE INTO subscription VALUES (?, ?, ?, ?, ?)",
            (level, object_name, object_id, ",".join(fields), callback_url),
        )


def _forget(world: World, object_name: str, object_id: str) -> None:
    world.db.execute(
        "DELETE FROM subscription WHERE level = 'object' AND object = ? AND object_id = ?",
        (object_name, object_id),
    )
