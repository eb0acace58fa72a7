"""Count the throttling refusals in a row of each quota, so that each wait is longer."""

from alembic import op

revision = "0012"
down_revision = "0011"

REFUSALS = """
alter table mm.throttle
    add column refusals integer not null default 0,
    add column wait_seconds double precision not null default 0
"""


def upgrade() -> None:
    op.execute(REFUSALS)
