"""Webhooks of erased people that arrive later: ignored and emptied until they opt in again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

from mm_pipelines.suppression.erased_contacts import ErasedContacts, Kind
from mm_pipelines.webhooks import webhook_event

# Deletes what the trigger on webhooks stored of a STOP.
_FORGET_CONSENT = text("""
delete from mm.messenger_consent
where page_id = :page_id and (contact_kind, contact) in (
    select * from unnest(cast(:kind as text[]), cast(:contact as text[])) as named (kind, contact)
)
""")


@dataclass(frozen=True, slots=True)
class NamedEvent:
    """A webhook event, as far as it can name an erased person.

    Attributes:
        is_opt_in: Whether the person agrees to messages with it.
    """

    event_id: int
    happened_at: datetime
    is_opt_in: bool
    psid: str | None = field(repr=False)
    token: str | None = field(default=None, repr=False)


def ignore(
    connection: Connection, erased: ErasedContacts, events: Sequence[NamedEvent]
) -> set[int]:
    """Empty the events of erased people; an opt-in after the erasure ends it instead.

    Args:
        connection: In the transaction that applies the events.
        erased: Of the Page.
        events: Pending events of the Page.

    Returns:
        The ids of the events to ignore.
    """
    ignored: list[NamedEvent] = []
    for event in events:
        times = [erased.when("psid", event.psid), erased.when("token", event.token)]
        known = [erased_at for erased_at in times if erased_at]
        if known and event.is_opt_in and event.happened_at > max(known):
            erased.lift(connection, _contacts(event))
        elif known:
            ignored.append(event)
    webhook_event.empty(connection, [event.event_id for event in ignored])
    contacts = [contact for event in ignored for contact in _contacts(event)]
    connection.execute(
        _FORGET_CONSENT,
        {
            "page_id": erased.page_id,
            "kind": [kind for kind, _ in contacts],
            "contact": [contact for _, contact in contacts],
        },
    )
    return {event.event_id for event in ignored}


def _contacts(event: NamedEvent) -> list[tuple[Kind, str]]:
    named: list[tuple[Kind, str | None]] = [("psid", event.psid), ("token", event.token)]
    return [(kind, contact) for kind, contact in named if contact]
