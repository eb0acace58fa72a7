"""What people write is not stored (design 7.14)."""

from typing import Any

from mm_pipelines.webhooks.webhook_event import OPTINS, UPLOAD_STATUS

# Of a message we need to know that it came, from whom and when: it opens the 24-hour window.
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
# Fields whose every value is Meta's or ours.
_WITHOUT_WORDS = frozenset({UPLOAD_STATUS, OPTINS})
_WORDS = frozenset({"text", "attachments", "quick_reply", "caption", "story"})


def without_words(field: str, value: Any) -> Any:
    """The value of an event of ``field``, less what a person may have written in it.

    Of conversations only the two parties' ids, the time and the time zone stay. Other events lose
    texts and attachments wherever they stand, since a field unknown to us may carry them too.
    """
    if field in _WITHOUT_WORDS:
        return value
    if field in _CONVERSATION:
        return _parties(value)
    return _stripped(value)


def _parties(value: Any) -> Any:
    if not isinstance(value, dict):
        return {}
    kept = {key: value[key] for key in _KEPT_OF_CONVERSATION if key in value}
    for party in ("sender", "recipient"):
        person = kept.get(party)
        if isinstance(person, dict):
            kept[party] = {key: person[key] for key in _KEPT_OF_PERSON if key in person}
    return kept


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _stripped(item)
            for key, item in value.items()
            if key not in _WORDS and not (key == "message" and isinstance(item, str))
        }
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    return value
