"""How far the pruning of Dagster's runs came."""

from alembic import op

revision = "0026"
down_revision = "0025"

RUN_PRUNING = """
create table mm.run_pruning (
    only_one   boolean primary key default true check (only_one),
    through    timestamptz,
    changed_at timestamptz not null default now()
)
"""


def upgrade() -> None:
    op.execute(RUN_PRUNING)
