"""What was delivered to Meta, batch by batch, and what was rejected on the way."""

from alembic import op

revision = "0002"
down_revision = "0001"

CUSTOM_AUDIENCE = """
create table mm.custom_audience (
    audience           text primary key,
    custom_audience_id text not null unique,
    page_id            text not null,
    ad_account_id      text not null,
    name               text not null,
    created_at         timestamptz not null default now()
)
"""

# The partition's current payload: an immutable file, replaced by another when the list changes.
HASHED_PAYLOAD = """
create table mm.hashed_payload (
    audience   text not null,
    day        date not null,
    sha256     text not null,
    path       text not null,
    rows       bigint not null,
    created_at timestamptz not null default now(),
    primary key (audience, day)
)
"""

# Who is to be added or removed, frozen as an immutable file; batches are slices of it.
UPLOAD_DELTA = """
create table mm.upload_delta (
    id                 bigint generated always as identity primary key,
    audience           text not null,
    day                date not null,
    custom_audience_id text not null,
    operation          text not null check (operation in ('add', 'remove')),
    origin             text not null check (origin in ('payload', 'mirror', 'removals', 'leavers')),
    source_sha256      text not null,
    path               text not null,
    row_count          bigint not null,
    keys               text[] not null,
    created_at         timestamptz not null default now(),
    completed_at       timestamptz
)
"""

# A rerun finishes the open delta before it looks for another, so there is at most one.
UPLOAD_DELTA_OPEN = """
create unique index upload_delta_open on mm.upload_delta (custom_audience_id)
where completed_at is null
"""

UPLOAD_DELTA_PARTITION = "create index upload_delta_partition on mm.upload_delta (audience, day)"

UPLOAD_SESSION = """
create table mm.upload_session (
    session_id          bigint primary key check (session_id > 0),
    delta_id            bigint not null references mm.upload_delta (id),
    estimated_num_total bigint not null,
    opened_at           timestamptz not null
)
"""

UPLOAD_BATCH = """
create table mm.upload_batch (
    audience            text not null,
    day                 date not null,
    session_id          bigint not null,
    batch_seq           integer not null,
    row_count           integer not null,
    content_sha256      text not null,
    status              text not null,
    num_received        bigint,
    num_invalid_entries bigint,
    acknowledged_at     timestamptz,
    reported_event_id   bigint unique references mm.webhook_event (id),
    delta_id            bigint references mm.upload_delta (id),
    first_row           bigint,
    last_batch          boolean not null default false,
    sent_at             timestamptz not null default now(),
    primary key (session_id, batch_seq)
)
"""

# A slice of a delta counts once, in whichever session it was delivered.
UPLOAD_BATCH_SLICE = """
create unique index upload_batch_slice on mm.upload_batch (delta_id, first_row)
where status <> 'superseded'
"""

# What a webhook may be about, oldest first.
UPLOAD_BATCH_UNREPORTED = """
create index upload_batch_unreported on mm.upload_batch (audience, acknowledged_at)
where status = 'acknowledged' and reported_event_id is null
"""

UPLOAD_BATCH_PARTITION = "create index upload_batch_partition on mm.upload_batch (audience, day)"

# Removals have a ledger of their own: Meta reports only uploads, and only they count as delivered.
REMOVAL_BATCH = """
create table mm.removal_batch (
    audience            text not null,
    day                 date not null,
    session_id          bigint not null,
    batch_seq           integer not null,
    row_count           integer not null,
    content_sha256      text not null,
    status              text not null,
    num_received        bigint,
    num_invalid_entries bigint,
    acknowledged_at     timestamptz,
    delta_id            bigint not null references mm.upload_delta (id),
    first_row           bigint not null,
    last_batch          boolean not null default false,
    sent_at             timestamptz not null default now(),
    primary key (session_id, batch_seq)
)
"""

REMOVAL_BATCH_SLICE = """
create unique index removal_batch_slice on mm.removal_batch (delta_id, first_row)
where status <> 'superseded'
"""

# The members of a Custom Audience: this file, and the deltas completed after `through_delta_id`.
MEMBERSHIP = """
create table mm.membership (
    custom_audience_id text primary key,
    path               text not null,
    people             bigint not null,
    through_delta_id   bigint not null references mm.upload_delta (id),
    written_at         timestamptz not null default now()
)
"""

AUDIENCE_AT_META = """
create table mm.audience_at_meta (
    ad_account_id      text not null,
    custom_audience_id text not null,
    audience           text,
    name               text,
    page_id            text,
    operation_status   integer,
    delivery_status    integer,
    lower_bound        bigint,
    upper_bound        bigint,
    differences        text[] not null,
    listed_at          timestamptz not null default now(),
    primary key (ad_account_id, custom_audience_id)
)
"""

REJECTED_ROW = """
create table mm.rejected_row (
    audience   text not null,
    day        date not null,
    stage      text not null check (stage in ('hashed_payload', 'audience_upload')),
    row_number bigint not null,
    reasons    text[] not null,
    primary key (audience, day, stage, row_number)
)
"""

# What an ad account's (or a Page's) last answers said, for all runs together: how much of the quota
# is used, and which token Meta refused.
THROTTLE = """
create table mm.throttle (
    account         text primary key,
    next_call_at    timestamptz not null default '-infinity',
    spacing_seconds double precision not null default 0,
    usage_percent   double precision not null default 0,
    observed_at     timestamptz not null default now(),
    refused_token   text,
    refused_reason  text,
    refused_at      timestamptz
)
"""


def upgrade() -> None:
    op.execute(CUSTOM_AUDIENCE)
    op.execute(HASHED_PAYLOAD)
    op.execute(UPLOAD_DELTA)
    op.execute(UPLOAD_DELTA_OPEN)
    op.execute(UPLOAD_DELTA_PARTITION)
    op.execute(UPLOAD_SESSION)
    op.execute(UPLOAD_BATCH)
    op.execute(UPLOAD_BATCH_SLICE)
    op.execute(UPLOAD_BATCH_UNREPORTED)
    op.execute(UPLOAD_BATCH_PARTITION)
    op.execute(REMOVAL_BATCH)
    op.execute(REMOVAL_BATCH_SLICE)
    op.execute(MEMBERSHIP)
    op.execute(AUDIENCE_AT_META)
    op.execute(REJECTED_ROW)
    op.execute(THROTTLE)
