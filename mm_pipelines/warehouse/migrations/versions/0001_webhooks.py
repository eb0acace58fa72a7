"""Webhook events, and the match status of each partition."""

from alembic import op

revision = "0001"
down_revision = None

# `value_key` is the same for one report through either object (`page`, `ad_account`), whatever the
# entry's time; `left_over_at` marks a report that met no batch of ours yet.
WEBHOOK_EVENT = """
create table mm.webhook_event (
    id                 bigint generated always as identity primary key,
    dedupe_key         text not null unique,
    received_at        timestamptz not null default now(),
    object             text,
    field              text not null,
    page_id            text,
    custom_audience_id text,
    event_time         timestamptz,
    payload            jsonb not null,
    processed_at       timestamptz,
    processed_run_id   text,
    value_key          text,
    left_over_at       timestamptz
)
"""

# One for each way in which pending events are grouped: by audience and by Page.
WEBHOOK_EVENT_PENDING = """
create index webhook_event_pending on mm.webhook_event (field, custom_audience_id, id)
where processed_at is null
"""

WEBHOOK_EVENT_PENDING_PAGE = """
create index webhook_event_pending_page on mm.webhook_event (field, page_id, id)
where processed_at is null
"""

WEBHOOK_EVENT_LEFT_OVER = """
create index webhook_event_left_over on mm.webhook_event (custom_audience_id, id)
where left_over_at is not null
"""

WEBHOOK_EVENT_VALUE = """
create index webhook_event_value on mm.webhook_event (custom_audience_id, value_key)
where field = 'marketing_messages_subscriber_upload_status'
"""

# Retention looks for what was processed long ago.
WEBHOOK_EVENT_PROCESSED = """
create index webhook_event_processed on mm.webhook_event using brin (processed_at)
"""

# Meta's own answer about a Custom Audience, asked for when webhooks stay away.
UPLOAD_OBSERVATION = """
create table mm.upload_observation (
    id                    bigint generated always as identity primary key,
    audience              text not null,
    custom_audience_id    text not null,
    observed_at           timestamptz not null default now(),
    lower_bound           bigint,
    upper_bound           bigint,
    operation_status_code integer,
    delivery_status_code  integer
)
"""

UPLOAD_OBSERVATION_AUDIENCE = """
create index upload_observation_audience on mm.upload_observation (custom_audience_id, id)
"""

SESSION_OBSERVATION = """
create table mm.session_observation (
    observation_id      bigint not null references mm.upload_observation (id) on delete cascade,
    session_id          bigint not null,
    finished            boolean not null,
    stage               text,
    progress            text,
    num_received        bigint,
    num_invalid_entries bigint,
    num_matched         bigint,
    end_time            timestamptz,
    primary key (session_id, observation_id)
)
"""

MATCH_STATUS = """
create table mm.match_status (
    audience             text not null,
    day                  date not null,
    custom_audience_id   text,
    rows_uploaded        bigint not null,
    rows_processed       bigint not null,
    rows_failed          bigint not null,
    lower_bound          bigint,
    upper_bound          bigint,
    match_rate_lower     double precision,
    match_rate_upper     double precision,
    status               text not null
        check (status in ('waiting', 'processing', 'complete', 'failed', 'overdue')),
    last_event_at        timestamptz,
    as_of                timestamptz not null,
    source               text check (source in ('webhook', 'poll')),
    batches_delivered    integer not null default 0,
    batches_reported     integer not null default 0,
    people_acknowledged  bigint not null default 0,
    seconds_to_processed double precision,
    deadline_at          timestamptz,
    primary key (audience, day)
)
"""

# Partitions whose batches were reported while another day's status was computed: the sensor asks
# for them next, and their own run takes the row away in its transaction.
MATCH_STATUS_DUE = """
create table mm.match_status_due (
    audience  text not null,
    day       date not null,
    due_since timestamptz not null default now(),
    primary key (audience, day)
)
"""


def upgrade() -> None:
    op.execute(WEBHOOK_EVENT)
    op.execute(WEBHOOK_EVENT_PENDING)
    op.execute(WEBHOOK_EVENT_PENDING_PAGE)
    op.execute(WEBHOOK_EVENT_LEFT_OVER)
    op.execute(WEBHOOK_EVENT_VALUE)
    op.execute(WEBHOOK_EVENT_PROCESSED)
    op.execute(UPLOAD_OBSERVATION)
    op.execute(UPLOAD_OBSERVATION_AUDIENCE)
    op.execute(SESSION_OBSERVATION)
    op.execute(MATCH_STATUS)
    op.execute(MATCH_STATUS_DUE)
