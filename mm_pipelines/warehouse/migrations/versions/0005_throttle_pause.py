"""A pause of a throttle is known by itself, so that who waits for a turn sees that one began."""

from alembic import op

revision = "0005"
down_revision = "0004"

PAUSED_UNTIL = """
alter table mm.throttle add column paused_until timestamptz not null default '-infinity'
"""


def upgrade() -> None:
    op.execute(PAUSED_UNTIL)
