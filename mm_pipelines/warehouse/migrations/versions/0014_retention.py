"""Rejected rows have a time, so that retention can remove them."""

from alembic import op

revision = "0014"
down_revision = "0013"

RECORDED_AT = """
alter table mm.rejected_row add column recorded_at timestamptz not null default now()
"""


def upgrade() -> None:
    op.execute(RECORDED_AT)
