"""Small uploads are topped up with members, and rows of small sessions are sent again."""

from alembic import op

revision = "0017"
down_revision = "0016"

# Rows of `row_count` whose people were members already.
TOPPED_UP = "alter table mm.upload_delta add column topped_up bigint not null default 0"

# The delta that sends the rows of a session again that had fewer than minimum_upload.
REPEATED_BY = """
alter table mm.upload_session add column repeated_by bigint references mm.upload_delta (id)
"""


def upgrade() -> None:
    op.execute(TOPPED_UP)
    op.execute(REPEATED_BY)
