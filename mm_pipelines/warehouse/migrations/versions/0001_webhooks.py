"""What Meta told us, and what became of each partition."""

from alembic import op

revision = "0001"
down_revision = None

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
    processed_run_id   text
)
"""

WEBHOOK_EVENT_PENDING = """
create index webhook_event_pending on mm.webhook_event (field, custom_audience_id, page_id, id)
where processed_at is null
"""

MATCH_STATUS = """
create table mm.match_status (
    audience           text not null,
    day                date not null,
    custom_audience_id text,
    rows_uploaded      bigint not null,
    rows_processed     bigint not null,
    rows_failed        bigint not null,
    lower_bound        bigint,
    upper_bound        bigint,
    match_rate_lower   double precision,
    match_rate_upper   double precision,
    status             text not null
        check (status in ('waiting', 'processing', 'complete', 'failed', 'overdue')),
    last_event_at      timestamptz,
    as_of              timestamptz not null,
    primary key (audience, day)
)
"""


def upgrade() -> None:
    op.execute(WEBHOOK_EVENT)
    op.execute(WEBHOOK_EVENT_PENDING)
    op.execute(MATCH_STATUS)
