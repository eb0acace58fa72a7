"""Webhook subscriptions of an app and a Page (docs/graph-api.md#webhook-subscriptions).

A field is delivered only if both the app and the Page subscribe to it. The Page has all fields that
this project needs; a subscription of the ad account would only repeat them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mm_pipelines.graph_api.answer import as_success, text
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.paging import iter_rows

PAGE_FIELDS = (
    "messages",
    "messaging_postbacks",
    "messaging_referrals",
    "messaging_optins",
    "messaging_optouts",
    "marketing_messages_subscriber_upload_status",
)
"""The fields of the Page that this project needs."""

_LISTING_LIMIT = 100


@dataclass(frozen=True, slots=True)
class AppSubscription:
    """The fields of one kind of object (`page`, `ad_account`) that an app receives, and where."""

    object: str
    callback_url: str | None
    active: bool
    fields: frozenset[str]


@dataclass(frozen=True, slots=True)
class SubscribedApp:
    """An app that receives webhooks of a Page."""

    app_id: str
    fields: frozenset[str]


def subscribe_app(
    client: GraphApiClient,
    app_id: str,
    *,
    object_type: str,
    callback_url: str,
    fields: Sequence[str],
    verify_token: str,
) -> bool:
    """Subscribe the app to fields of a kind of object; Meta calls the receiver before it answers.

    Args:
        client: With the app's token (`APP_ID|APP_SECRET`).
        app_id: Of the app.
        object_type: `page` or `ad_account`.
        callback_url: The https address of the receiver.
        fields: The fields to subscribe to; all others end.
        verify_token: The token that the receiver expects in the handshake.

    Raises:
        PermanentError: The handshake failed (code 2200).
        GraphApiError: As `GraphApiClient.request`.
    """
    body = {
        "object": object_type,
        "callback_url": callback_url,
        "fields": ",".join(fields),
        "verify_token": verify_token,
        "include_values": True,
    }
    return client.request(
        "POST", f"{app_id}/subscriptions", as_success, body=json.dumps(body).encode()
    )


def app_subscriptions(client: GraphApiClient, app_id: str) -> list[AppSubscription]:
    """The subscriptions of the app; the client has the app's token.

    Raises:
        GraphApiError: As `paging.iter_pages`.
    """
    return [
        AppSubscription(
            object=text(row.get("object")) or "",
            callback_url=text(row.get("callback_url")),
            active=row.get("active") in (True, "true"),
            fields=_names(row.get("fields")),
        )
        for row in iter_rows(client, f"{app_id}/subscriptions", {}, limit=_LISTING_LIMIT)
    ]


def subscribe_page(
    client: GraphApiClient, page_id: str, fields: Iterable[str] = PAGE_FIELDS
) -> bool:
    """Subscribe the token's app to fields of the Page; the client has the Page's token.

    Raises:
        GraphApiError: As `GraphApiClient.request`.
    """
    return client.request(
        "POST",
        f"{page_id}/subscribed_apps",
        as_success,
        params={"subscribed_fields": ",".join(fields)},
    )


def page_subscriptions(client: GraphApiClient, page_id: str) -> list[SubscribedApp]:
    """The apps subscribed to the Page; the client has the Page's token.

    Raises:
        GraphApiError: As `paging.iter_pages`.
    """
    return [
        SubscribedApp(
            app_id=text(row.get("id")) or text(row.get("app_id")) or "",
            fields=_names(row.get("subscribed_fields")),
        )
        for row in iter_rows(client, f"{page_id}/subscribed_apps", {}, limit=_LISTING_LIMIT)
    ]


def _names(value: Any) -> frozenset[str]:
    """Fields come as names, or as `{"name": …, "version": …}`."""
    entries = value if isinstance(value, list) else []
    names = (text(entry.get("name") if isinstance(entry, dict) else entry) for entry in entries)
    return frozenset(filter(None, names))
