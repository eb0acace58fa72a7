"""The suppression key can be changed: entries keep the fingerprint of their key."""

from alembic import op

revision = "0025"
down_revision = "0024"

# One row per key that was ever used. The current one makes new entries.
DROP_ONLY_ONE = "alter table mm.suppression_key drop column only_one"
KEY = "alter table mm.suppression_key add primary key (fingerprint)"
IS_CURRENT = """
alter table mm.suppression_key add column is_current boolean not null default true
"""
CURRENT = """
create unique index suppression_key_current on mm.suppression_key (is_current) where is_current
"""

FINGERPRINT = """
alter table mm.{table} add column fingerprint text references mm.suppression_key
"""
EXISTING = "update mm.{table} set fingerprint = (select fingerprint from mm.suppression_key)"
REQUIRED = "alter table mm.{table} alter column fingerprint set not null"
BY_FINGERPRINT = "create index {table}_by_key on mm.{table} (fingerprint)"


def upgrade() -> None:
    op.execute(DROP_ONLY_ONE)
    op.execute(KEY)
    op.execute(IS_CURRENT)
    op.execute(CURRENT)
    for table in ("suppression", "erased_contact"):
        for statement in (FINGERPRINT, EXISTING, REQUIRED, BY_FINGERPRINT):
            op.execute(statement.format(table=table))
