"""The payload of opt-in requests stays beside the request, its token and the day's report."""

from alembic import op

revision = "0021"
down_revision = "0020"

# What the request was sent with, and what the webhook of the answer returned.
REQUEST = "alter table mm.optin_request add column payload text"
TOKEN = "alter table mm.subscription_token add column payload text"

# By payload: how many people were asked on the day and how many of them opted in.
REPORT = """
alter table mm.growth_report add column opt_ins_by_payload jsonb not null default '{}'
"""


def upgrade() -> None:
    op.execute(REQUEST)
    op.execute(TOKEN)
    op.execute(REPORT)
