"""People join and leave: requests to leave, suppression, conversations, opt-in requests."""

from alembic import op

revision = "0004"
down_revision = "0003"

# A business may write here; only page_id and one identifier are needed. Identifiers are kept until
# the request is resolved: docs/decisions/0009-no-raw-personal-data-on-disk.md.
UNSUBSCRIBE_REQUEST = """
create table mm.unsubscribe_request (
    id               bigint generated always as identity primary key,
    page_id          text collate "C" not null,
    phone            text,
    email            text,
    psid             text collate "C",
    subscriber_token text collate "C",
    source           text not null default 'table'
        check (source in ('list', 'table', 'command', 'stop')),
    requested_at     timestamptz not null default now(),
    received_at      timestamptz not null default now(),
    state            text not null default 'received'
        check (state in ('received', 'sent', 'confirmed', 'rejected')),
    why              text,
    list_day         date,
    row_digest       bytea,
    sent_at          timestamptz,
    settled_at       timestamptz,
    constraint unsubscribe_request_names_someone
        check (state in ('confirmed', 'rejected')
               or num_nonnulls(phone, email, psid, subscriber_token) > 0),
    constraint unsubscribe_request_forgets
        check (state in ('received', 'sent')
               or num_nonnulls(phone, email, psid, subscriber_token) = 0)
)
"""

UNSUBSCRIBE_REQUEST_OPEN = """
create index unsubscribe_request_open on mm.unsubscribe_request (page_id, id)
where state in ('received', 'sent')
"""

# A list that is read again adds only the rows that it did not have before.
UNSUBSCRIBE_REQUEST_LIST_ROW = """
create unique index unsubscribe_request_list_row
on mm.unsubscribe_request (page_id, list_day, row_digest)
"""

UNSUBSCRIBE_REQUEST_SETTLED = """
create index unsubscribe_request_settled on mm.unsubscribe_request (page_id, settled_at)
where settled_at is not null
"""

# What a list was when it was read: as long as its mark is the same, it need not be read again.
UNSUBSCRIBE_LIST = """
create table mm.unsubscribe_list (
    page_id     text collate "C" not null,
    list_day    date not null,
    mark        text not null,
    fingerprint text not null,
    row_count   bigint not null,
    read_at     timestamptz not null default now(),
    primary key (page_id, list_day)
)
"""

# The fingerprint of the key that every digest below was made with; there is one.
SUPPRESSION_KEY = """
create table mm.suppression_key (
    only_one      boolean primary key default true check (only_one),
    fingerprint   text not null,
    first_used_at timestamptz not null default now()
)
"""

# Who left by e-mail or phone, for every Page and audience. HMAC-SHA256 under MM_SUPPRESSION_KEY
# over the value's SHA-256 in lower-case hex, so that lists hashed beforehand match.
SUPPRESSION = """
create table mm.suppression (
    key           text not null check (key in ('EMAIL', 'PHONE')),
    digest        text not null check (digest ~ '^[0-9a-f]{64}$'),
    request_id    bigint not null references mm.unsubscribe_request (id),
    suppressed_at timestamptz not null default now(),
    primary key (key, digest)
)
"""

# Who left or came back by PSID or token: the latest time of each, so that the order in which
# webhooks arrive cannot matter. In clear, since `sendable_token` must exclude them without a key,
# and since both stand in clear in mm.subscription_token anyway: they are pseudonyms that mean
# something only to the Page's own access token.
MESSENGER_CONSENT = """
create table mm.messenger_consent (
    page_id      text collate "C" not null,
    contact_kind text not null check (contact_kind in ('psid', 'token')),
    contact      text collate "C" not null,
    stopped_at   timestamptz,
    granted_at   timestamptz,
    lifted_at    timestamptz,
    stopped      boolean generated always as (
        stopped_at is not null and (granted_at is null or stopped_at >= granted_at)
    ) stored,
    primary key (page_id, contact_kind, contact)
)
"""

MESSENGER_CONSENT_STOPPED = """
create index messenger_consent_stopped on mm.messenger_consent (page_id, contact_kind, contact)
where stopped
"""

# A request by PSID or token suppresses in the transaction that writes it, from any client:
# no run is needed first. (E-mail and phone need the key: the `unsubscribes` asset does those.)
STOP_CONTACTS = """
create function mm.stop_contacts() returns trigger language plpgsql as $$
begin
    insert into mm.messenger_consent as known (page_id, contact_kind, contact, stopped_at)
    select new.page_id, named.contact_kind, btrim(named.contact), new.requested_at
    from (values ('psid', new.psid), ('token', new.subscriber_token)) named (contact_kind, contact)
    where btrim(named.contact) <> ''
    on conflict (page_id, contact_kind, contact) do update
    set stopped_at = greatest(known.stopped_at, excluded.stopped_at);
    return null;
end
$$
"""

STOP_CONTACTS_TRIGGER = """
create trigger unsubscribe_request_stops_contacts
after insert on mm.unsubscribe_request
for each row execute function mm.stop_contacts()
"""

# A stopped token stops its recipient's other tokens too, until the recipient grants again.
RECIPIENT_OF_STOPPED_TOKEN = """
create view mm.recipient_of_stopped_token as
select known.page_id, known.recipient_id as psid
from mm.messenger_consent consent
join mm.subscription_token known
  on known.page_id = consent.page_id and known.token = consent.contact
left join mm.messenger_consent person
  on person.page_id = known.page_id and person.contact_kind = 'psid'
  and person.contact = known.recipient_id
where consent.contact_kind = 'token' and consent.stopped and known.recipient_id is not null
  and (person.granted_at is null or consent.stopped_at >= person.granted_at)
"""

# Everybody who must get no message by the Page, some of them twice.
SUPPRESSED_RECIPIENT = """
create view mm.suppressed_recipient as
select page_id, contact as psid from mm.messenger_consent where contact_kind = 'psid' and stopped
union all
select page_id, psid from mm.recipient_of_stopped_token
"""

# Few tokens are stopped among many, and they are looked up at every event.
SUBSCRIPTION_TOKEN_STOPPED = """
create index subscription_token_stopped on mm.subscription_token (page_id, token)
where stopped_at is not null
"""

# An opted-out person is not sendable from the commit of the request. Meta may still list a stopped
# token, which is then merged again, so the view looks it up instead of a mark. Three separate
# conditions, because each is a hash of few rows against the scan of many.
SENDABLE_TOKEN = """
create view mm.sendable_token as
select * from mm.usable_token as token
where (next_eligible_at is null or next_eligible_at <= now())
    and not exists (
        select from mm.messenger_consent consent
        where consent.page_id = token.page_id and consent.contact_kind = 'token'
            and consent.contact = token.token and consent.stopped
    )
    and not exists (
        select from mm.messenger_consent person
        where person.page_id = token.page_id and person.contact_kind = 'psid'
            and person.contact = token.recipient_id and person.stopped
    )
    and not exists (
        select from mm.recipient_of_stopped_token left_by_another
        where left_by_another.page_id = token.page_id
            and left_by_another.psid = token.recipient_id
    )
"""

# Who wrote to the Page and when last; never what.
CONVERSATION = """
create table mm.conversation (
    page_id         text collate "C" not null,
    psid            text collate "C" not null,
    last_message_at timestamptz not null,
    timezone        text,
    asked_at        timestamptz,
    primary key (page_id, psid)
)
"""

CONVERSATION_RECENT = """
create index conversation_recent on mm.conversation (page_id, last_message_at)
"""

# Which members of a Custom Audience were looked through for how many suppressed values.
SUPPRESSION_SWEEP = """
create table mm.suppression_sweep (
    custom_audience_id text primary key,
    suppressed         bigint not null,
    through_delta_id   bigint not null,
    removed            bigint not null,
    swept_at           timestamptz not null default now()
)
"""

# Opt-in requests sent. A row is written before its request is sent and counts from then on:
# `unknown` is one whose answer never came.
OPTIN_REQUEST = """
create table mm.optin_request (
    id         bigint generated always as identity primary key,
    page_id    text collate "C" not null,
    psid       text collate "C" not null,
    title      text not null,
    asked_at   timestamptz not null,
    state      text not null default 'reserved'
        check (state in ('reserved', 'sent', 'unknown', 'skipped', 'released')),
    why        text,
    message_id text,
    settled_at timestamptz,
    granted_at timestamptz
)
"""

OPTIN_REQUEST_RECENT = """
create index optin_request_recent on mm.optin_request (page_id, psid, asked_at)
"""

# A Page's day in numbers: kept, since what it was counted from is not kept for ever.
GROWTH_REPORT = """
create table mm.growth_report (
    page_id     text collate "C" not null,
    day         date not null,
    as_of       timestamptz not null default now(),
    list_rows   bigint,
    valid       bigint not null,
    delivered   bigint not null,
    processed   bigint not null,
    matched     bigint,
    tokens      bigint,
    sendable    bigint,
    asked       bigint not null,
    opted_in    bigint not null,
    left_page   bigint not null,
    primary key (page_id, day)
)
"""


def upgrade() -> None:
    op.execute(UNSUBSCRIBE_REQUEST)
    op.execute(UNSUBSCRIBE_REQUEST_OPEN)
    op.execute(UNSUBSCRIBE_REQUEST_LIST_ROW)
    op.execute(UNSUBSCRIBE_REQUEST_SETTLED)
    op.execute(UNSUBSCRIBE_LIST)
    op.execute(SUPPRESSION_KEY)
    op.execute(SUPPRESSION)
    op.execute(MESSENGER_CONSENT)
    op.execute(MESSENGER_CONSENT_STOPPED)
    op.execute(SUPPRESSION_SWEEP)
    op.execute(STOP_CONTACTS)
    op.execute(STOP_CONTACTS_TRIGGER)
    op.execute(RECIPIENT_OF_STOPPED_TOKEN)
    op.execute(SUPPRESSED_RECIPIENT)
    op.execute(SUBSCRIPTION_TOKEN_STOPPED)
    op.execute(SENDABLE_TOKEN)
    op.execute(CONVERSATION)
    op.execute(CONVERSATION_RECENT)
    op.execute(OPTIN_REQUEST)
    op.execute(OPTIN_REQUEST_RECENT)
    op.execute(GROWTH_REPORT)
