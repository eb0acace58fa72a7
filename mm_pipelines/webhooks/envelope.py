"""Parses a webhook's body into events (docs/graph-api.md#webhook-envelopes).

The changes form is ``{"object", "entry": [{"id", "time", "changes": [{"field", "value"}]}]}``, with
``changed_fields`` instead of ``changes`` when values are not included. The messaging form has
``entry[].messaging[]``. Meta's page on growing an audience shows events without an envelope; these
bare objects are accepted too.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from mm_pipelines.graph_api.epoch import epoch_milliseconds, epoch_time, whole_number
from mm_pipelines.webhooks.privacy import redact_message_text, without_texts
from mm_pipelines.webhooks.webhook_event import MESSAGES, OPTINS, UNREADABLE, WebhookEvent

MAX_DEPTH = 64
"""Deepest nesting of a body; Meta's own events have about ten levels."""

_IDS_BELOW = 10**20
_MOST_UNREADABLE = 1_000
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
    """Parse the events of one POST, in their order.

    Whole numbers of any size are kept exactly, because Meta's ids exceed 2^53. An item that cannot
    be read becomes an event of the field `UNREADABLE`, so that it does not reject the other ones;
    its payload has the item's structure without its texts.

    Raises:
        NotAnEventError: The body is not JSON, not an envelope, or contains no event.
    """
    events = list(_events(_decode(body)))
    unreadable = sum(event.field == UNREADABLE for event in events)
    if unreadable == len(events):
        raise NotAnEventError("the envelope contains no readable event")
    if unreadable > _MOST_UNREADABLE:
        raise NotAnEventError(f"more than {_MOST_UNREADABLE:,} events are unreadable")
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
    if not isinstance(document["entry"], list):
        raise NotAnEventError("entry is not a list")
    for entry in document["entry"]:
        yield from _entry_events(object_, entry)


def _entry_events(object_: str | None, entry: Any) -> Iterator[WebhookEvent]:
    if not isinstance(entry, dict):
        yield _unreadable_event(object_, entry, None, None)
        return
    time = entry.get("time")
    page_id = _id(entry.get("id")) if object_ == "page" else None
    for key, read in _READERS.items():
        items = entry.get(key, [])
        if not isinstance(items, list):
            yield _unreadable_event(object_, {key: items}, page_id, time)
            continue
        for item in items:
            try:
                name, value = read(item)
            except NotAnEventError:
                yield _unreadable_event(object_, item, page_id, time)
            else:
                yield _event(object_, name, value, page_id, time)


def _change(item: Any) -> tuple[str, Any]:
    change = _object(item)
    return _field(change.get("field")), change.get("value")


def _changed_field(item: Any) -> tuple[str, Any]:
    return _field(item), {}


def _messaging(item: Any) -> tuple[str, Any]:
    return _kind(_object(item)), item


_READERS: Mapping[str, Callable[[Any], tuple[str, Any]]] = {
    "changes": _change,
    "changed_fields": _changed_field,
    "messaging": _messaging,
    "standby": _messaging,
}


def _unreadable_event(
    object_: str | None, item: Any, page_id: str | None, time: Any
) -> WebhookEvent:
    event = _event(object_, UNREADABLE, item, page_id, time)
    return dataclasses.replace(event, payload=_json(without_texts(item)))


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
    own_time = epoch_time(content.get("timestamp"))
    value_key = _digest(name, _canonical(value))
    return WebhookEvent(
        dedupe_key=_digest(value_key, _time_key(entry_time)),
        value_key=value_key,
        object=_storable(object_),
        field=name,
        page_id=entry_page_id or _id(content.get("page_id")) or receiver_id,
        custom_audience_id=_id(content.get("custom_audience_id")),
        event_time=own_time or epoch_time(entry_time),
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
        raise NotAnEventError("a messaging item has no content")
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


def _id(value: Any) -> str | None:
    number = whole_number(value)
    return str(value) if number is not None and 0 <= number < _IDS_BELOW else None


def _time_key(value: Any) -> str:
    """The same text for a time in either unit."""
    milliseconds = epoch_milliseconds(value)
    return _json(value) if milliseconds is None else str(milliseconds)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotAnEventError("an event is not a JSON object")
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
