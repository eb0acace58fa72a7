"""Validated lists, and the outcome of the check of each payload, outlive the runs."""

from alembic import op

revision = "0010"
down_revision = "0009"

# The day's list as `customer_list` validated it. `phone_convention` is how its bare phone numbers
# are written, by region; `files` says at which row each file begins.
CUSTOMER_LIST = """
create table mm.customer_list (
    audience         text not null,
    day              date not null,
    fingerprint      text not null,
    rows             bigint not null,
    files            jsonb not null,
    columns          jsonb not null,
    phone_convention jsonb not null,
    validated_at     timestamptz not null default now(),
    primary key (audience, day)
)
"""

# Payloads of earlier versions passed the check or were shown as failed; they stay deliverable.
NO_ROW_LOST = "alter table mm.hashed_payload add column no_row_lost boolean not null default true"


def upgrade() -> None:
    op.execute(CUSTOMER_LIST)
    op.execute(NO_ROW_LOST)
