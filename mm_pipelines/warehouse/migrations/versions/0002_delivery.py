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
    primary key (session_id, batch_seq)
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


def upgrade() -> None:
    op.execute(CUSTOM_AUDIENCE)
    op.execute(UPLOAD_BATCH)
    op.execute(REJECTED_ROW)
