"""Removes the rows of people by their PSIDs and tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, TextClause, text

from mm_pipelines.suppression.erased_contacts import Contact, Kind
from mm_pipelines.tokens import sender_file, webhook_tokens

_PEOPLE = """
people as (
    select * from unnest(
        cast(:request_id as bigint[]), cast(:page_id as text[]), cast(:kind as text[]),
        cast(:contact as text[])
    ) as person (request_id, page_id, kind, contact)
)
"""

# Returns the given contacts, the PSIDs of the given tokens, and all tokens of these PSIDs, as far
# as tokens and stored opt-ins link them.
_LINKED = text(f"""
with {_PEOPLE},
link as (
    select page_id, recipient_id as psid, token from mm.subscription_token
    where page_id = any(:page_id) and recipient_id is not null
      and (recipient_id = any(:contact) or token = any(:contact))
    union
    select page_id, btrim(payload -> 'sender' ->> 'id'),
           btrim(payload -> 'optin' ->> 'notification_messages_token')
    from mm.webhook_event
    where field = 'messaging_optins' and page_id = any(:page_id)
      and (btrim(payload -> 'sender' ->> 'id') = any(:contact)
           or btrim(payload -> 'optin' ->> 'notification_messages_token') = any(:contact))
),
psids as (
    select request_id, page_id, contact as psid from people where kind = 'psid'
    union
    select person.request_id, person.page_id, link.psid
    from people as person join link
      on link.page_id = person.page_id and person.kind = 'token' and link.token = person.contact
    where link.psid is not null
)
select request_id, page_id, kind, contact from people
union
select request_id, page_id, 'psid', psid from psids
union
select psids.request_id, page_id, 'token', known.token
from psids join mm.subscription_token as known using (page_id)
where known.recipient_id = psids.psid
union
select psids.request_id, page_id, 'token', link.token
from psids join link using (page_id, psid)
where link.token is not null
order by 1, 2, 3, 4
""")

# Empties and acknowledges events that contain a contact anywhere, and returns their number by
# request. An event keeps its dedupe_key, so a redelivery is not stored again.
_EMPTY_EVENTS = text(f"""
with {_PEOPLE},
named as (
    select event.id, min(person.request_id) as request_id
    from mm.webhook_event as event
    cross join jsonb_path_query(event.payload, 'strict $.**') as value
    join people as person
      on person.page_id = event.page_id and person.contact = btrim(value #>> '{{}}')
    where event.page_id = any(:page_id)
    group by event.id
),
emptied as (
    update mm.webhook_event as event
    set payload = '{{}}', processed_at = coalesce(event.processed_at, now())
    from named where named.id = event.id
    returning named.request_id
)
select request_id, count(*) as found from emptied group by request_id
""")

# The rows of a person, by table. Webhooks come before the tables that they are applied to, which
# is the order in which a run locks them.
_ROWS_OF_A_PERSON = {
    "conversation": "person.kind = 'psid' and known.psid = person.contact",
    "optin_request": "person.kind = 'psid' and known.psid = person.contact",
    "subscription_token": "person.kind = 'token' and known.token = person.contact",
    "token_change": "person.kind = 'token' and known.token = person.contact",
    "messenger_consent": "known.contact_kind = person.kind and known.contact = person.contact",
}


def _delete(table: str, belongs_to_person: str) -> TextClause:
    return text(f"""
with {_PEOPLE},
removed as (
    delete from mm.{table} as known using people as person
    where known.page_id = person.page_id and {belongs_to_person}
    returning person.request_id
)
select request_id, count(*) as found from removed group by request_id
""")


_DELETIONS = {table: _delete(table, rows) for table, rows in _ROWS_OF_A_PERSON.items()}


class PersonContact(NamedTuple):
    """A contact of the person that a request names."""

    request_id: int
    page_id: str
    kind: Kind
    contact: str


@dataclass(frozen=True)
class RemovedRows:
    """The number of removed or emptied rows of one table that a request led to."""

    request_id: int
    table: str
    found: int


def linked_contacts(connection: Connection, named: Sequence[PersonContact]) -> list[PersonContact]:
    """Return every known contact of the people with these contacts."""
    if not named:
        return []
    rows = connection.execute(_LINKED, _columns(named))
    return [PersonContact(*row) for row in rows]


def lock_pages(connection: Connection, page_ids: Sequence[str]) -> None:
    """Hold the locks on the Pages' tokens until the transaction ends; call it first."""
    for page_id in sorted(set(page_ids)):
        webhook_tokens.lock_page(connection, page_id)


def remove(connection: Connection, contacts: Sequence[PersonContact]) -> list[RemovedRows]:
    """Empty the webhooks of people and delete their rows, and renew the senders' files.

    Hold the locks on the Pages' tokens.
    """
    if not contacts:
        return []
    columns = _columns(contacts)
    found = [
        RemovedRows(row.request_id, f"mm.{table}", row.found)
        for table, statement in {"webhook_event": _EMPTY_EVENTS, **_DELETIONS}.items()
        for row in connection.execute(statement, columns)
    ]
    for page_id in sorted({contact.page_id for contact in contacts}):
        sender_file.note_change(connection, page_id, "consent")
    return found


def as_contacts(contacts: Sequence[PersonContact]) -> list[Contact]:
    """The contacts without the requests."""
    return [Contact(each.page_id, each.kind, each.contact) for each in contacts]


def _columns(contacts: Sequence[PersonContact]) -> dict[str, list[object]]:
    return {name: [getattr(each, name) for each in contacts] for name in PersonContact._fields}
