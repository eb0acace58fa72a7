"""Whether an opt-out named an e-mail or phone is kept when its identifiers are erased."""

from alembic import op

revision = "0015"
down_revision = "0014"

# Set when Meta accepts the request: its audience token is known by a pull only.
NAMED_CONTACT = "alter table mm.unsubscribe_request add column named_contact boolean"

NAMED_CONTACT_SETTLED = """
create index unsubscribe_request_named_contact on mm.unsubscribe_request (page_id, settled_at)
where named_contact
"""


def upgrade() -> None:
    op.execute(NAMED_CONTACT)
    op.execute(NAMED_CONTACT_SETTLED)
