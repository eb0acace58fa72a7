"""From a webhook's body to events: both envelopes, and the bare objects of Meta's page.

The changes form is ``{"object", "entry": [{"id", "time", "changes": [{"field", "value"}]}]}``,
with ``changed_fields`` in its place where values are not included; the messaging form has
``entry[].messaging[]`` (graph-api-facts 3). Meta's page on growing an audience prints its events
bare, without any envelope; those are understood as well.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from mm_pipelines.webhooks.privacy import without_words
from mm_pipelines.webhooks.webhook_event import MESSAGES, OPTINS, WebhookEvent

MAX_DEPTH = 64
"""Deepest nesting of a body; Meta's own events have about ten levels."""

_SECONDS_BELOW = 10**11  # graph-api-facts 7.3: what is larger counts milliseconds
_IDS_BELOW = 10**20
_MESSAGING_LISTS = ("messaging", "standby")
_ADDRESS = frozenset({"sender", "recipient", "timestamp"})
# How the key of a messaging item is called as a field that an app subscribes to.
_FIELD_OF_KIND = {
    "optin": OPTINS,
    "optout": "messaging_optouts",
    "message": MESSAGES,
    "message_edit": "message_edits",
    "postback": "messaging_postbacks",
    "referral": "messaging_referrals",
    "reaction": "message_reactions",
    "read": "message_reads",
    "delivery": "message_deliveries",
}
# Meta's page spells it so; the field that can be subscribed to has an s (graph-api-facts 1.9).
_OTHER_SPELLINGS = {"messaging_optin": OPTINS}


class NotAnEventError(ValueError):
    """The body is no event of a webhook; nothing of it is stored."""


def parse(body: bytes) -> list[WebhookEvent]:
    """The events of one POST, in their order.

    Whole numbers of any size are kept exactly: Meta's ids are beyond 2^53.

    Raises:
        NotAnEventError: The body is no JSON, or no envelope, or one without events.
    """
    events = list(_events(_decode(body)))
    if not events:
        raise NotAnEventError("the envelope holds no event")
    return events


def _decode(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(
            body.decode("utf-8"), parse_float=_finite, parse_constant=_no_constant
        )
        _check_depth(document)
    except (ValueError, RecursionError):
        # The decoder's own message quotes the body.
        raise NotAnEventError("the body is no JSON") from None
    if not isinstance(document, dict):
        raise NotAnEventError("the body is no JSON object")
    return document


def _events(document: Mapping[str, Any]) -> Iterator[WebhookEvent]:
    if "entry" not in document:
        yield _bare_event(document)
        return
    object_ = document.get("object")
    if object_ is not None and not isinstance(object_, str):
        raise NotAnEventError("object is no text")
    for entry in _objects(document["entry"]):
        time = entry.get("time")
        page_id = _id(entry.get("id")) if object_ == "page" else None
        for change in _objects(entry.get("changes", [])):
            name = _field(change.get("field"))
            yield _event(object_, name, change.get("value"), page_id, time)
        for name in _list(entry.get("changed_fields", [])):
            yield _event(object_, _field(name), {}, page_id, time)
        for key in _MESSAGING_LISTS:
            for item in _objects(entry.get(key, [])):
                yield _event(object_, _kind(item), item, page_id, time)


def _bare_event(document: Mapping[str, Any]) -> WebhookEvent:
    if "field" in document:
        # A change that lost its envelope, or a value that has its field inside, as Meta's page
        # prints the upload status.
        return _event(None, _field(document["field"]), document.get("value", document), None, None)
    if "sender" in document and "recipient" in document:
        return _event(None, _kind(document), document, None, None)
    raise NotAnEventError("the body is no envelope and no event")


def _event(
    object_: str | None, name: str, value: Any, entry_page_id: str | None, entry_time: Any
) -> WebhookEvent:
    told = value if isinstance(value, dict) else {}
    recipient = told.get("recipient")
    receiver_id = _id(recipient.get("id")) if isinstance(recipient, dict) else None
    own_time = _time(told.get("timestamp"))
    value_key = _digest(name, _canonical(value))
    return WebhookEvent(
        dedupe_key=_digest(value_key, _milliseconds(entry_time)),
        value_key=value_key,
        object=_storable(object_),
        field=name,
        page_id=entry_page_id or _id(told.get("page_id")) or receiver_id,
        custom_audience_id=_id(told.get("custom_audience_id")),
        event_time=own_time or _time(entry_time),
        payload=_json(_storable(without_words(name, value))),
    )


def _kind(item: Mapping[str, Any]) -> str:
    message = item.get("message")
    if isinstance(message, dict) and message.get("is_echo"):
        return "message_echoes"
    for key in item:
        if key in _FIELD_OF_KIND:
            return _FIELD_OF_KIND[key]
    unknown = [key for key in item if key not in _ADDRESS]
    if not unknown:
        raise NotAnEventError("a messaging item says nothing")
    return _field(unknown[0])


def _field(name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise NotAnEventError("a field has no name")
    known: str = _storable(_OTHER_SPELLINGS.get(name, name))
    return known


def _canonical(value: Any) -> str:
    """The value as text that does not depend on the order of keys or on which object brought it.

    The ad account's id differs between the objects (graph-api-facts 3), and `field` is repeated
    inside the value or not.
    """
    if isinstance(value, dict) and "custom_audience_id" in value:
        value = {k: v for k, v in value.items() if k not in ("field", "ad_account_id")}
    return _json(value)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _number(value: Any) -> int | None:
    """A whole number given as one or as its digits."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    return None


def _id(value: Any) -> str | None:
    number = _number(value)
    return str(value) if number is not None and 0 <= number < _IDS_BELOW else None


def _milliseconds(value: Any) -> str:
    number = _number(value)
    if number is None:
        return _json(value)
    return str(number * 1000 if number < _SECONDS_BELOW else number)


def _time(value: Any) -> datetime | None:
    number = _number(value)
    if number is None or number <= 0:
        return None
    try:
        return datetime.fromtimestamp(int(_milliseconds(number)) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    for item in _list(value):
        if not isinstance(item, dict):
            raise NotAnEventError("an entry or event is no JSON object")
        yield item


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise NotAnEventError("a list of entries or events is none")
    return value


def _storable(value: Any) -> Any:
    """The value without what PostgreSQL's text and jsonb refuse: NUL and lone surrogates."""
    if isinstance(value, str):
        if value.isascii() and "\0" not in value:
            return value
        readable = value.replace("\0", "\ufffd")
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in readable)
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise ValueError("too deep")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError("not a finite number")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
