"""The subscription tokens of every Page."""

from alembic import op

revision = "0003"
down_revision = "0002"

SUBSCRIPTION_TOKEN = """
create table mm.subscription_token (
    page_id             text not null,
    token               text not null,
    recipient_id        text,
    topic_title         text,
    reoptin             text,
    user_token_status   text,
    timezone            text,
    created_at          timestamptz,
    expires_at          timestamptz,
    next_eligible_at    timestamptz,
    custom_audience_ids text[] not null default '{}',
    source              text not null,
    first_seen_at       timestamptz not null,
    last_seen_at        timestamptz not null,
    gone_at             timestamptz,
    primary key (page_id, token)
)
"""


def upgrade() -> None:
    op.execute(SUBSCRIPTION_TOKEN)
