"""Work that had to wait is postponed to a stated time instead of holding a run's slot."""

from alembic import op

revision = "0006"
down_revision = "0005"

DEFERRED_WORK = """
create table mm.deferred_work (
    asset         text not null,
    partition_key text not null,
    due_at        timestamptz not null,
    reason        text not null,
    attempts      integer not null check (attempts > 0),
    deferred_at   timestamptz not null default now(),
    run_id        text not null,
    primary key (asset, partition_key)
)
"""


def upgrade() -> None:
    op.execute(DEFERRED_WORK)
