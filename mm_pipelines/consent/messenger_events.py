"""What people said by webhook: that they grant, stop or resume, and that they wrote to the Page.

The events of one person take effect by their own times, in whatever order they come: redelivery may
be out of order (graph-api-facts 3). Stopping becomes a request to leave, which suppresses in the
same transaction and is then carried out at Meta like any other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection

from mm_pipelines.consent import (
    conversations,
    messenger_consent,
    opt_out_requests,
    optin_request_ledger,
)
from mm_pipelines.consent.conversations import Message
from mm_pipelines.consent.messenger_consent import Grant
from mm_pipelines.consent.opt_out_requests import NewRequest
from mm_pipelines.tokens import webhook_tokens
from mm_pipelines.tokens.webhook_tokens import GrantedToken
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import page_event, webhook_event
from mm_pipelines.webhooks.page_event import PageEvent

OPTIN_FIELDS = ("messaging_optins", "messaging_optouts")
"""Acknowledged by `messaging_optins`; the receiver folds the seed's spelling into the first."""

MESSAGE_FIELDS = ("messages", "messaging_postbacks", "messaging_referrals")
"""Acknowledged by `conversations`: what a person does that opens the 24-hour window."""

_EVENTS_AT_ONCE = 5_000
_MILLISECONDS_FROM = 10**11  # graph-api-facts 7.3
_MOST_DIGITS = 18

Act = Literal["granted", "stopped", "resumed", "other"]


@dataclass(frozen=True, slots=True)
class Said:
    """What one `messaging_optins` event says.

    Attributes:
        act: ``other`` is an event about something else than marketing messages.
    """

    act: Act
    happened_at: datetime
    psid: str | None = field(repr=False)
    token: str | None = field(repr=False)
    title: str | None = None
    user_token_status: str | None = None
    timezone: str | None = None
    expires_at: datetime | None = None


@dataclass
class OptinSummary:
    """How many events said what, and how many people came back by them."""

    granted: int = 0
    stopped: int = 0
    resumed: int = 0
    other: int = 0
    suppressions_lifted: int = 0

    @property
    def events(self) -> int:
        """All that were acknowledged."""
        return self.granted + self.stopped + self.resumed + self.other


def read_optin(event: PageEvent) -> Said:
    """What an event says; an event that cannot be understood says nothing (``other``)."""
    optin = event.payload.get("optin", event.payload.get("optout"))
    optin = optin if isinstance(optin, dict) else {}
    psid = _party(event.payload, "sender")
    token = _text(optin.get("notification_messages_token"))
    return Said(
        act=_act(event, optin) if psid or token else "other",
        happened_at=event.happened_at,
        psid=psid,
        token=token,
        title=_text(optin.get("title")),
        user_token_status=_text(optin.get("user_token_status")),
        timezone=_text(optin.get("notification_messages_timezone")),
        expires_at=_time(optin.get("token_expiry_timestamp")),
    )


def take_in_optins(database: Database, page_id: str, run_id: str) -> OptinSummary:
    """Let a Page's pending events take effect, each with its acknowledgement in one transaction."""
    summary = OptinSummary()
    while True:
        with database.transaction() as connection:
            events = page_event.pending(connection, page_id, OPTIN_FIELDS, _EVENTS_AT_ONCE)
            if not events:
                return summary
            said = [read_optin(event) for event in events]
            _stop(connection, page_id, said)
            summary.suppressions_lifted += _grant(connection, page_id, said)
            messenger_consent.mark_tokens(connection, page_id)
            webhook_event.acknowledge(connection, [event.id for event in events], run_id)
        for each in said:
            setattr(summary, each.act, getattr(summary, each.act) + 1)


def take_in_messages(database: Database, page_id: str, run_id: str) -> int:
    """Let a Page's pending messages open their senders' windows.

    Returns:
        How many events were acknowledged.
    """
    taken = 0
    while True:
        with database.transaction() as connection:
            events = page_event.pending(connection, page_id, MESSAGE_FIELDS, _EVENTS_AT_ONCE)
            if not events:
                return taken
            conversations.record(connection, list(_messages(events)))
            webhook_event.acknowledge(connection, [event.id for event in events], run_id)
        taken += len(events)


def _stop(connection: Connection, page_id: str, said: list[Said]) -> None:
    requests = [
        NewRequest(psid=each.psid, subscriber_token=each.token, requested_at=each.happened_at)
        for each in said
        if each.act == "stopped"
    ]
    opt_out_requests.receive(connection, page_id, requests, "stop")


def _grant(connection: Connection, page_id: str, said: list[Said]) -> int:
    agreed = [each for each in said if each.act in ("granted", "resumed")]
    tokens = [
        GrantedToken(
            token=each.token,
            recipient_id=each.psid,
            topic_title=each.title,
            user_token_status=each.user_token_status,
            timezone=each.timezone,
            expires_at=each.expires_at,
            granted_at=each.happened_at,
        )
        for each in agreed
        if each.token
    ]
    webhook_tokens.merge(connection, page_id, tokens)
    people = [(each.psid, each.happened_at) for each in agreed if each.psid]
    optin_request_ledger.note_grants(connection, page_id, people)
    contacts = [Grant(page_id, "token", each.token, each.granted_at) for each in tokens]
    contacts += [Grant(page_id, "psid", psid, happened_at) for psid, happened_at in people]
    return messenger_consent.grant(connection, contacts)


def _messages(events: list[PageEvent]) -> Iterator[Message]:
    for event in events:
        psid = _party(event.payload, "sender")
        if psid and psid != event.page_id:
            sender = event.payload.get("sender")
            told = sender.get("timezone") if isinstance(sender, dict) else None
            timezone = _text(told) or _text(event.payload.get("timezone"))
            yield Message(event.page_id, psid, event.happened_at, timezone)


def _act(event: PageEvent, optin: Mapping[str, Any]) -> Act:
    if event.field == "messaging_optouts":
        return "stopped"
    if optin.get("type") != "notification_messages":
        return "other"
    # "STOP NOTIFICATIONS" in Meta's page, STOP_NOTIFICATIONS in practice (graph-api-facts 3).
    status = str(optin.get("notification_messages_status") or "").strip().upper().replace(" ", "_")
    if status.startswith("STOP"):
        return "stopped"
    if status.startswith("RESUME"):
        return "resumed"
    # Any other word is none of the two: neither a consent nor a refusal may be read into it.
    return "other" if status else "granted"


def _party(payload: Mapping[str, Any], name: str) -> str | None:
    person = payload.get(name)
    return _text(person.get("id")) if isinstance(person, dict) else None


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None


def _time(value: Any) -> datetime | None:
    text = _text(value)
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        return None
    if int(text) == 0:
        return None  # zero means never (graph-api-facts, question 7)
    seconds = int(text) / 1000 if int(text) >= _MILLISECONDS_FROM else int(text)
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None
