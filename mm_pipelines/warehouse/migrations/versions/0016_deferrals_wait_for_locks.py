"""A deferral can wait until another run releases a lock."""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.execute("alter table mm.deferred_work add column waits_for_lock text")
