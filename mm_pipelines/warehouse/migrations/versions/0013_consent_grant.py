"""A suppression can be lifted on purpose."""

from alembic import op

revision = "0013"
down_revision = "0012"

# `lifted` counts suppressed values for email and phone, and contacts for psid and token. The row
# contains no identifier: it records that and why a suppression was lifted.
CONSENT_GRANT = """
create table mm.consent_grant (
    id         bigint generated always as identity primary key,
    page_id    text collate "C",
    named_by   text not null check (named_by in ('email', 'phone', 'psid', 'token')),
    reason     text not null check (btrim(reason) <> ''),
    lifted     bigint not null,
    granted_at timestamptz not null default now()
)
"""


def upgrade() -> None:
    op.execute(CONSENT_GRANT)
