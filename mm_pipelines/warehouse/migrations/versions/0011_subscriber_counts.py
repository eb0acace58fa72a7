"""Keep Meta's subscriber counts, and mark removals that wait for a larger audience."""

from alembic import op

revision = "0011"
down_revision = "0010"

# Like num_received, both count the whole session.
SUBSCRIBER_COUNTS = """
alter table mm.upload_batch
    add column num_subscribers_received bigint,
    add column num_subscribers_invalid_entries bigint
"""

PARKED_REMOVALS = "alter table mm.upload_delta add column parked_at timestamptz"


def upgrade() -> None:
    op.execute(SUBSCRIBER_COUNTS)
    op.execute(PARKED_REMOVALS)
