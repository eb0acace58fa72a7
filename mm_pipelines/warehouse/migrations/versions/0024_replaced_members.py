"""Members whose phone has another hash under newer rules are removed by deltas of their own."""

from alembic import op

revision = "0024"
down_revision = "0023"

DROP_ORIGINS = "alter table mm.upload_delta drop constraint upload_delta_origin_check"
ORIGINS = """
alter table mm.upload_delta add constraint upload_delta_origin_check
check (origin in ('payload', 'mirror', 'replaced', 'removals', 'leavers'))
"""


def upgrade() -> None:
    op.execute(DROP_ORIGINS)
    op.execute(ORIGINS)
