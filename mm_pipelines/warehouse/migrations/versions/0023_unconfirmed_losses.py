"""A Page with few tokens loses them only if two pulls find the same."""

from alembic import op

revision = "0023"
down_revision = "0022"

# Live tokens that the listing lacked when the pull ended without a merge.
UNCONFIRMED_LOSSES = "alter table mm.token_pull add column unconfirmed_losses bigint"


def upgrade() -> None:
    op.execute(UNCONFIRMED_LOSSES)
