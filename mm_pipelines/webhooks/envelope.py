"""Parses a webhook's body into events (docs/graph-api.md#webhook-envelopes).

The changes form is ``{"object", "entry": [{"id", "time", "changes": [{"field", "value"}]}]}``, with
``changed_fields`` instead of ``changes`` when values are not included. The messaging form has
``entry[].messaging[]``. Meta's page on growing an audience shows events without an envelope; these
bare objects are accepted too.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from mm_pipelines.webhooks.privacy import redact_message_text
from mm_pipelines.webhooks.webhook_event import MESSAGES, OPTINS, WebhookEvent

MAX_DEPTH = 64
"""Deepest nesting of a body; Meta's own events have about ten levels."""

_SECONDS_BELOW = 10**11  # larger values are milliseconds (docs/graph-api.md#q3-timestamp-unit)
_IDS_BELOW = 10**20
_MESSAGING_LISTS = ("messaging", "standby")
_ADDRESS = frozenset({"sender", "recipient", "timestamp"})
# The subscribed field for each key of a messaging item.
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
# Meta's page omits the s of the field's real name (docs/graph-api.md#webhook-messaging_optins).
_OTHER_SPELLINGS = {"messaging_optin": OPTINS}


class NotAnEventError(ValueError):
    """The body contains no webhook event; nothing is stored."""


def parse(body: bytes) -> list[WebhookEvent]:
    """The events of one POST, in their order.

    Whole numbers of any size are kept exactly: Meta's ids are beyond 2^53.

    Raises:
        NotAnEventError: The body is not JSON, not an envelope, or contains no event.
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
        # The decoder's message quotes the body.
        raise NotAnEventError("the body is not JSON") from None
    if not isinstance(document, dict):
        raise NotAnEventError("the body is not a JSON object")
    return document


def _events(document: Mapping[str, Any]) -> Iterator[WebhookEvent]:
    if "entry" not in document:
        yield _bare_event(document)
        return
    object_ = document.get("object")
    if object_ is not None and not isinstance(object_, str):
        raise NotAnEventError("object is not text")
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
        # A change without its envelope, or a value that contains its field, as Meta's page shows
        # the upload status.
        return _event(None, _field(document["field"]), document.get("value", document), None, None)
    if "sender" in document and "recipient" in document:
        return _event(None, _kind(document), document, None, None)
    raise NotAnEventError("the body is neither an envelope nor an event")


def _event(
    object_: str | None, name: str, value: Any, entry_page_id: str | None, entry_time: Any
) -> WebhookEvent:
    content = value if isinstance(value, dict) else {}
    recipient = content.get("recipient")
    receiver_id = _id(recipient.get("id")) if isinstance(recipient, dict) else None
    own_time = _time(content.get("timestamp"))
    value_key = _digest(name, _canonical(value))
    return WebhookEvent(
        dedupe_key=_digest(value_key, _milliseconds(entry_time)),
        value_key=value_key,
        object=_storable(object_),
        field=name,
        page_id=entry_page_id or _id(content.get("page_id")) or receiver_id,
        custom_audience_id=_id(content.get("custom_audience_id")),
        event_time=own_time or _time(entry_time),
        payload=_json(_storable(redact_message_text(name, value))),
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
    """Return the value as text that depends neither on the order of keys nor on the object.

    The ad account's id differs between the objects, and `field` may be repeated inside the value
    (docs/graph-api.md#webhook-envelopes).
    """
    if isinstance(value, dict) and "custom_audience_id" in value:
        value = {k: v for k, v in value.items() if k not in ("field", "ad_account_id")}
    return _json(value)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _number(value: Any) -> int | None:
    """Return a whole number given as a number or as digits."""
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
            raise NotAnEventError("an entry or event is not a JSON object")
        yield item


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise NotAnEventError("a list of entries or events is none")
    return value


def _storable(value: Any) -> Any:
    """Return the value with NUL and lone surrogates replaced, which PostgreSQL refuses."""
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
    raise ValueError(f"{name} is not JSON")
