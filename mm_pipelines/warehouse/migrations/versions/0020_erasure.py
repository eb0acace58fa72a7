"""A person can be erased, with a receipt."""

from alembic import op

revision = "0020"
down_revision = "0019"

# A business may write here. Identifiers are deleted when the person's data is removed; `digests`
# (keyed, of e-mail and phone) when Meta accepted the last request.
ERASURE_REQUEST = """
create table mm.erasure_request (
    id           bigint generated always as identity primary key,
    page_id      text collate "C",
    email        text,
    phone        text,
    psid         text collate "C",
    token        text collate "C",
    requested_at timestamptz not null default now(),
    state        text not null default 'received'
        check (state in ('received', 'removed', 'completed', 'rejected')),
    why          text,
    digests      text[] not null default '{}',
    removed_at   timestamptz,
    completed_at timestamptz,
    constraint erasure_request_names_a_person
        check (state <> 'received' or num_nonnulls(email, phone, psid, token) > 0),
    constraint erasure_request_names_a_page
        check (page_id is not null or num_nonnulls(psid, token) = 0),
    constraint erasure_request_forgets
        check (state = 'received' or num_nonnulls(email, phone, psid, token) = 0)
)
"""

ERASURE_REQUEST_OPEN = """
create index erasure_request_open on mm.erasure_request (state, id)
where state in ('received', 'removed')
"""

# What was found of a person, and what became of it. An entry is open until one of `removed_at`,
# `accepted_at` and `outcome` is set.
ERASURE_RECEIPT = """
create table mm.erasure_receipt (
    request_id  bigint not null references mm.erasure_request (id),
    kind        text not null check (kind in ('table', 'file', 'page', 'custom_audience')),
    place       text not null,
    found       bigint,
    removed_at  timestamptz,
    accepted_at timestamptz,
    outcome     text,
    checked_at  timestamptz not null default now(),
    primary key (request_id, kind, place)
)
"""

ERASURE_RECEIPT_OPEN = """
create index erasure_receipt_open on mm.erasure_receipt (kind, place)
where removed_at is null and accepted_at is null and outcome is null
"""

ERASED_CONTACT = """
create table mm.erased_contact (
    page_id   text collate "C" not null,
    digest    text not null,
    erased_at timestamptz not null default now(),
    primary key (page_id, digest)
)
"""

# An erasure asks each Page by an opt-out request.
ERASURE_ID = """
alter table mm.unsubscribe_request
    add column erasure_id bigint references mm.erasure_request (id),
    drop constraint unsubscribe_request_source_check,
    add constraint unsubscribe_request_source_check
        check (source in ('list', 'table', 'command', 'stop', 'erasure'))
"""
ERASURE_ID_ONCE = """
create unique index unsubscribe_request_erasure on mm.unsubscribe_request (erasure_id, page_id)
where erasure_id is not null
"""

# An erased contact is suppressed by its digest, not in clear.
DROP_STOP_CONTACTS_TRIGGER = """
drop trigger unsubscribe_request_stops_contacts on mm.unsubscribe_request
"""
STOP_CONTACTS_TRIGGER = """
create trigger unsubscribe_request_stops_contacts
after insert on mm.unsubscribe_request
for each row when (new.source <> 'erasure') execute function mm.stop_contacts()
"""


def upgrade() -> None:
    op.execute(ERASURE_REQUEST)
    op.execute(ERASURE_REQUEST_OPEN)
    op.execute(ERASURE_RECEIPT)
    op.execute(ERASURE_RECEIPT_OPEN)
    op.execute(ERASED_CONTACT)
    op.execute(ERASURE_ID)
    op.execute(ERASURE_ID_ONCE)
    op.execute(DROP_STOP_CONTACTS_TRIGGER)
    op.execute(STOP_CONTACTS_TRIGGER)
