"""Removes what people wrote (docs/decisions/0009-no-raw-personal-data-on-disk.md)."""

import re
from typing import Any

from mm_pipelines.webhooks.webhook_event import OPTINS, UPLOAD_STATUS

# A message opens the 24-hour window: its sender and time are enough.
_CONVERSATION = frozenset(
    {
        "messages",
        "message_echoes",
        "message_edits",
        "message_reactions",
        "messaging_postbacks",
        "messaging_referrals",
    }
)
_KEPT_OF_CONVERSATION = ("sender", "recipient", "timestamp", "timezone")
_KEPT_OF_PERSON = ("id", "timezone")
# Fields that contain only values of Meta or ours.
_FIELDS_WITHOUT_TEXT = frozenset({UPLOAD_STATUS, OPTINS})
_KEY = re.compile(r"[A-Za-z0-9_]{1,64}")
_TEXT_KEYS = frozenset({"text", "attachments", "quick_reply", "caption", "story"})


def redact_message_text(field: str, value: Any) -> Any:
    """Return the value of an event without text that a person may have written.

    Conversation fields keep only the ids of sender and recipient, the time and the time zone. Other
    fields lose texts and attachments at any depth, because unknown fields may contain them too.
    """
    if field in _FIELDS_WITHOUT_TEXT:
        return value
    if field in _CONVERSATION:
        return _participants(value)
    return _without_text(value)


def _participants(value: Any) -> Any:
    if not isinstance(value, dict):
        return {}
    kept = {key: value[key] for key in _KEPT_OF_CONVERSATION if key in value}
    for party in ("sender", "recipient"):
        person = kept.get(party)
        if isinstance(person, dict):
            kept[party] = {key: person[key] for key in _KEPT_OF_PERSON if key in person}
    return kept


def _without_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_text(item)
            for key, item in value.items()
            if key not in _TEXT_KEYS and not (key == "message" and isinstance(item, str))
        }
    if isinstance(value, list):
        return [_without_text(item) for item in value]
    return value


def without_texts(value: Any) -> Any:
    """Return the structure of a value without its texts; digits and simple keys stay."""
    if isinstance(value, dict):
        return {
            key if _KEY.fullmatch(key) else "<key>": without_texts(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_texts(item) for item in value]
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        return f"<text of {len(value):,} characters>"
    return value
