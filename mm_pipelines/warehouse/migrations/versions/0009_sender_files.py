"""The sender's file follows every change of the sendable tokens."""

from alembic import op

revision = "0009"
down_revision = "0008"

# A row for each change that no published file contains yet. Rows are only added and deleted, never
# updated, so that concurrent opt-outs of a Page do not wait for each other.
SENDABLE_CHANGE = """
create table mm.sendable_change (
    id         bigint generated always as identity primary key,
    page_id    text collate "C" not null,
    reason     text not null check (reason in ('consent', 'pull', 'tokens')),
    changed_at timestamptz not null default clock_timestamp()
)
"""

# The newest file of each Page.
SENDER_FILE = """
create table mm.sender_file (
    page_id     text collate "C" primary key,
    path        text not null,
    row_count   bigint not null,
    as_of       timestamptz not null,
    valid_until timestamptz not null
)
"""

# Runs with the rights of its owner, so that a client that records an opt-out needs no others.
NOTE_CONSENT_CHANGE = """
create function mm.note_consent_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into mm.sendable_change (page_id, reason)
    select distinct page_id, 'consent' from changed;
    return null;
end
$$
"""

# Two triggers, because one with a transition table may name only one event.
CONSENT_INSERTED = """
create trigger messenger_consent_inserted
after insert on mm.messenger_consent referencing new table as changed
for each statement execute function mm.note_consent_change()
"""
CONSENT_UPDATED = """
create trigger messenger_consent_updated
after update on mm.messenger_consent referencing new table as changed
for each statement execute function mm.note_consent_change()
"""

# Tokens of the released versions have no file that is recorded.
TAKE_OVER = """
insert into mm.sendable_change (page_id, reason)
select distinct page_id, 'pull' from mm.token_pull where finished_at is not null
"""


def upgrade() -> None:
    op.execute(SENDABLE_CHANGE)
    op.execute(SENDER_FILE)
    op.execute(NOTE_CONSENT_CHANGE)
    op.execute(CONSENT_INSERTED)
    op.execute(CONSENT_UPDATED)
    op.execute(TAKE_OVER)
