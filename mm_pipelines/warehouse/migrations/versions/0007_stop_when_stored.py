"""A STOP suppresses its sender in the transaction that stores its event."""

from alembic import op

revision = "0007"
down_revision = "0006"

# The same rules as `mm_pipelines.consent.messenger_events`; a test compares the two.
CONSENT_EVENT_IS_STOP = """
create function mm.is_stop(field text, payload jsonb) returns boolean
language sql immutable parallel safe
return case
    when field = 'messaging_optouts' then true
    when field <> 'messaging_optins' then false
    else coalesce(payload -> 'optin', payload -> 'optout') ->> 'type' = 'notification_messages'
        and coalesce(payload -> 'optin', payload -> 'optout') ->> 'notification_messages_status'
            ~* '^\\s*STOP'
end
"""

# Contacts are sorted, so that concurrent receivers lock them in the same order.
STOP_CONTACTS = """
create function mm.stop_contacts_of_events(events mm.webhook_event[]) returns void
language sql set search_path = pg_catalog, pg_temp
as $$
    insert into mm.messenger_consent as known (page_id, contact_kind, contact, stopped_at)
    select event.page_id, named.contact_kind, named.contact,
           max(coalesce(event.event_time, event.received_at))
    from unnest(events) as event
    cross join lateral (
        values
            ('psid', btrim(event.payload -> 'sender' ->> 'id')),
            ('token', btrim(coalesce(event.payload -> 'optin', event.payload -> 'optout')
                            ->> 'notification_messages_token'))
    ) as named (contact_kind, contact)
    where event.page_id is not null and named.contact <> '' and length(named.contact) <= 512
      and mm.is_stop(event.field, event.payload)
    group by 1, 2, 3
    order by 1, 2, 3
    on conflict (page_id, contact_kind, contact) do update
    set stopped_at = greatest(known.stopped_at, excluded.stopped_at)
$$
"""

# Runs with the rights of its owner, so that a receiver needs none on mm.messenger_consent. An error
# must not fail the insert, because Meta would deliver all events of the POST again: the events that
# fail together are tried one by one, and messaging_optins applies the rest. The lock time-out keeps
# the receiver from waiting behind a run.
STOP_WHEN_STORED = """
create function mm.stop_when_stored() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
declare
    stops mm.webhook_event[];
    event mm.webhook_event;
begin
    select array_agg(stored::mm.webhook_event) into stops
    from stored where field in ('messaging_optins', 'messaging_optouts');
    if stops is null then
        return null;
    end if;
    begin
        perform mm.stop_contacts_of_events(stops);
        return null;
    exception when others then
        null;
    end;
    foreach event in array stops loop
        begin
            perform mm.stop_contacts_of_events(array[event]);
        exception when others then
            raise warning 'mm.webhook_event %: the STOP waits for messaging_optins (%)',
                event.id, sqlstate;
        end;
    end loop;
    return null;
end
$$
"""

STOP_WHEN_STORED_TRIGGER = """
create trigger webhook_event_stops_contacts
after insert on mm.webhook_event
referencing new table as stored
for each statement execute function mm.stop_when_stored()
"""

# Only the trigger may use the rights of its owner.
REVOKE = "revoke execute on function mm.stop_when_stored() from public"

# The function of 0004 without needless row locks: the trigger above has written most times already,
# and a run that locked the row would delay the receiver.
STOP_CONTACTS_OF_REQUEST = """
create or replace function mm.stop_contacts() returns trigger language plpgsql as $$
begin
    insert into mm.messenger_consent as known (page_id, contact_kind, contact, stopped_at)
    select new.page_id, named.contact_kind, btrim(named.contact), new.requested_at
    from (values ('psid', new.psid), ('token', new.subscriber_token)) named (contact_kind, contact)
    where btrim(named.contact) <> ''
      and not exists (
          select from mm.messenger_consent former
          where former.page_id = new.page_id and former.contact_kind = named.contact_kind
            and former.contact = btrim(named.contact) and former.stopped_at >= new.requested_at
      )
    on conflict (page_id, contact_kind, contact) do update
    set stopped_at = greatest(known.stopped_at, excluded.stopped_at);
    return null;
end
$$
"""


def upgrade() -> None:
    op.execute(CONSENT_EVENT_IS_STOP)
    op.execute(STOP_CONTACTS)
    op.execute(STOP_WHEN_STORED)
    op.execute(STOP_WHEN_STORED_TRIGGER)
    op.execute(REVOKE)
    op.execute(STOP_CONTACTS_OF_REQUEST)
