"""An opt-out reaches the other Pages whose audiences contain the person."""

from alembic import op

revision = "0027"
down_revision = "0026"

DROP_SOURCES = """
alter table mm.unsubscribe_request drop constraint unsubscribe_request_source_check
"""
SOURCES = """
alter table mm.unsubscribe_request add constraint unsubscribe_request_source_check
check (source in ('list', 'table', 'command', 'stop', 'erasure', 'audience'))
"""


def upgrade() -> None:
    op.execute(DROP_SOURCES)
    op.execute(SOURCES)
