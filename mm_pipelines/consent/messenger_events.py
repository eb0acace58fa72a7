"""Applies webhooks of people on Messenger: opt-ins, opt-outs, RESUME, and messages.

The time inside an event decides, not the order of arrival, because Meta may redeliver out of order
(docs/graph-api.md#webhook-delivery). A STOP suppresses the person in the transaction that stores
its event (a trigger does that); here it also becomes an opt-out request, so that Meta and the
growth report learn of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection

from mm_pipelines.consent import (
    conversations,
    messenger_consent,
    opt_out_requests,
    optin_request_ledger,
)
from mm_pipelines.consent.conversations import Message
from mm_pipelines.consent.erasure import later_events
from mm_pipelines.consent.erasure.later_events import NamedEvent
from mm_pipelines.consent.messenger_consent import Grant
from mm_pipelines.consent.opt_out_requests import NewRequest
from mm_pipelines.graph_api.epoch import epoch_time
from mm_pipelines.suppression import erased_contacts
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.tokens import webhook_tokens
from mm_pipelines.tokens.webhook_tokens import GrantedToken
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import page_event, webhook_event
from mm_pipelines.webhooks.page_event import PageEvent

CONSENT_FIELDS = ("messaging_optins", "messaging_optouts")
"""The fields that `messaging_optins` acknowledges."""

MESSAGE_FIELDS = ("messages", "messaging_postbacks", "messaging_referrals")
"""The fields that `optin_requests` acknowledges: each opens the 24-hour window."""

_EVENTS_AT_ONCE = 5_000
_LONGEST_IDENTIFIER = 512

Action = Literal["granted", "stopped", "resumed", "other"]


@dataclass(frozen=True, slots=True)
class ConsentEvent:
    """One parsed `messaging_optins` event.

    Attributes:
        action: ``other`` when the event is not about marketing messages.
    """

    action: Action
    happened_at: datetime
    psid: str | None = field(repr=False)
    token: str | None = field(repr=False)
    title: str | None = None
    payload: str | None = None
    user_token_status: str | None = None
    timezone: str | None = None
    expires_at: datetime | None = None


@dataclass
class ConsentSummary:
    """The number of events by action, and the number of suppressions they lifted.

    Attributes:
        erased: Events of erased people, which were ignored and emptied.
    """

    granted: int = 0
    stopped: int = 0
    resumed: int = 0
    other: int = 0
    erased: int = 0
    suppressions_lifted: int = 0

    @property
    def events(self) -> int:
        """The number of acknowledged events."""
        return self.granted + self.stopped + self.resumed + self.other + self.erased


def parse_consent_event(event: PageEvent) -> ConsentEvent:
    """Parse an event; one that is not recognized has the action ``other``."""
    optin = event.payload.get("optin", event.payload.get("optout"))
    optin = optin if isinstance(optin, dict) else {}
    psid = _participant_id(event.payload, "sender")
    token = _identifier(optin.get("notification_messages_token"))
    return ConsentEvent(
        action=_action(event, optin) if psid or token else "other",
        happened_at=event.happened_at,
        psid=psid,
        token=token,
        title=_text(optin.get("title")),
        payload=_text(optin.get("payload")),
        user_token_status=_text(optin.get("user_token_status")),
        timezone=_text(optin.get("notification_messages_timezone")),
        expires_at=epoch_time(optin.get("token_expiry_timestamp")),
    )


def apply_consent_events(
    database: Database, page_id: str, run_id: str, suppression_keys: SuppressionKeys | None = None
) -> ConsentSummary:
    """Apply a Page's pending consent events, each acknowledged with its effect.

    Args:
        database: With the schema ``mm``.
        page_id: The Page.
        run_id: Recorded with the events.
        suppression_keys: ``MM_SUPPRESSION_KEY``; needed for Pages with erased people.

    Raises:
        SuppressionKeyError: The Page has erased people and another key is in use.
    """
    summary = ConsentSummary()
    while True:
        with database.transaction() as connection:
            webhook_tokens.lock_page(connection, page_id)
            events = page_event.pending(connection, page_id, CONSENT_FIELDS, _EVENTS_AT_ONCE)
            if not events:
                return summary
            erased = erased_contacts.load(connection, page_id, suppression_keys)
            named = {event.id: parse_consent_event(event) for event in events}
            ignored = later_events.ignore(connection, erased, _named(named)) if erased else set()
            parsed = [each for event_id, each in named.items() if event_id not in ignored]
            _stop(connection, page_id, parsed)
            summary.suppressions_lifted += _grant(connection, page_id, parsed)
            messenger_consent.mark_tokens(connection, page_id)
            webhook_event.acknowledge(connection, [event.id for event in events], run_id)
        summary.erased += len(ignored)
        for each in parsed:
            setattr(summary, each.action, getattr(summary, each.action) + 1)


def apply_messages(
    database: Database, page_id: str, run_id: str, suppression_keys: SuppressionKeys | None = None
) -> int:
    """Record a Page's pending messages, which open their senders' windows.

    Args:
        database: With the schema ``mm``.
        page_id: The Page.
        run_id: Recorded with the events.
        suppression_keys: ``MM_SUPPRESSION_KEY``; needed for Pages with erased people.

    Returns:
        The number of acknowledged events.

    Raises:
        SuppressionKeyError: The Page has erased people and another key is in use.
    """
    acknowledged = 0
    while True:
        with database.transaction() as connection:
            events = page_event.pending(connection, page_id, MESSAGE_FIELDS, _EVENTS_AT_ONCE)
            if not events:
                return acknowledged
            messages = dict(_messages(events))
            erased = erased_contacts.load(connection, page_id, suppression_keys)
            if erased:
                senders = [
                    NamedEvent(event_id, message.sent_at, is_opt_in=False, psid=message.psid)
                    for event_id, message in messages.items()
                ]
                for event_id in later_events.ignore(connection, erased, senders):
                    del messages[event_id]
            conversations.record(connection, list(messages.values()))
            webhook_event.acknowledge(connection, [event.id for event in events], run_id)
        acknowledged += len(events)


def _stop(connection: Connection, page_id: str, events: list[ConsentEvent]) -> None:
    requests = [
        NewRequest(psid=each.psid, subscriber_token=each.token, requested_at=each.happened_at)
        for each in events
        if each.action == "stopped"
    ]
    opt_out_requests.receive(connection, page_id, requests, "stop")


def _grant(connection: Connection, page_id: str, events: list[ConsentEvent]) -> int:
    opt_ins = [each for each in events if each.action in ("granted", "resumed")]
    tokens = [
        GrantedToken(
            token=each.token,
            recipient_id=each.psid,
            topic_title=each.title,
            payload=each.payload,
            user_token_status=each.user_token_status,
            timezone=each.timezone,
            expires_at=each.expires_at,
            granted_at=each.happened_at,
        )
        for each in opt_ins
        if each.token
    ]
    webhook_tokens.merge(connection, page_id, tokens)
    people = [(each.psid, each.happened_at) for each in opt_ins if each.psid]
    optin_request_ledger.note_grants(connection, page_id, people)
    contacts = [Grant(page_id, "token", each.token, each.granted_at) for each in tokens]
    contacts += [Grant(page_id, "psid", psid, happened_at) for psid, happened_at in people]
    return messenger_consent.grant(connection, contacts)


def _named(events: Mapping[int, ConsentEvent]) -> list[NamedEvent]:
    return [
        NamedEvent(
            event_id,
            event.happened_at,
            is_opt_in=event.action == "granted",
            psid=event.psid,
            token=event.token,
        )
        for event_id, event in events.items()
    ]


def _messages(events: list[PageEvent]) -> Iterator[tuple[int, Message]]:
    for event in events:
        psid = _participant_id(event.payload, "sender")
        if psid and psid != event.page_id:
            sender = event.payload.get("sender")
            own = sender.get("timezone") if isinstance(sender, dict) else None
            timezone = _text(own) or _text(event.payload.get("timezone"))
            yield event.id, Message(event.page_id, psid, event.happened_at, timezone)


def _action(event: PageEvent, optin: Mapping[str, Any]) -> Action:
    if event.field == "messaging_optouts":
        return "stopped"
    if optin.get("type") != "notification_messages":
        return "other"
    # Meta documents both spellings (docs/graph-api.md#webhook-messaging_optins). The SQL function
    # mm.is_stop applies the same rules.
    status = str(optin.get("notification_messages_status") or "").strip().upper().replace(" ", "_")
    if status.startswith("STOP"):
        return "stopped"
    if status.startswith("RESUME"):
        return "resumed"
    # Any other status means neither consent nor opt-out.
    return "other" if status else "granted"


def _participant_id(payload: Mapping[str, Any], name: str) -> str | None:
    person = payload.get(name)
    return _identifier(person.get("id")) if isinstance(person, dict) else None


def _identifier(value: Any) -> str | None:
    text = _text(value)
    # An index of PostgreSQL refuses longer values, which would fail every run.
    return text if text and len(text) <= _LONGEST_IDENTIFIER else None


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None
