"""A delta can end without being delivered whole: refused by Meta, abandoned, or continued."""

from alembic import op

revision = "0008"
down_revision = "0007"

# `continued_by` is the delta that took over the people who were not delivered.
DELTA_OUTCOME = """
alter table mm.upload_delta
    add column closed_at timestamptz,
    add column outcome text check (outcome in ('refused', 'abandoned', 'continued')),
    add column close_reason text,
    add column last_failure text,
    add column continued_by bigint references mm.upload_delta (id),
    add column left_out bigint not null default 0
"""

# A removal does not wait for an unfinished upload of the same audience.
DROP_OPEN = "drop index mm.upload_delta_open"
OPEN_PER_OPERATION = """
create unique index upload_delta_open on mm.upload_delta (custom_audience_id, operation)
where completed_at is null and closed_at is null
"""

# Refused batches overlap those that were sent in their place.
DROP_UPLOAD_SLICE = "drop index mm.upload_batch_slice"
UPLOAD_SLICE = """
create unique index upload_batch_slice on mm.upload_batch (delta_id, first_row)
where status in ('sent', 'acknowledged')
"""
DROP_REMOVAL_SLICE = "drop index mm.removal_batch_slice"
REMOVAL_SLICE = """
create unique index removal_batch_slice on mm.removal_batch (delta_id, first_row)
where status in ('sent', 'acknowledged')
"""

# What counts as people; null where every row is one. `row_count` stays the rows on the wire.
NEW_PEOPLE = "alter table mm.upload_batch add column new_people integer"
REMOVED_PEOPLE = "alter table mm.removal_batch add column removed_people integer"


def upgrade() -> None:
    op.execute(DELTA_OUTCOME)
    op.execute(DROP_OPEN)
    op.execute(OPEN_PER_OPERATION)
    op.execute(DROP_UPLOAD_SLICE)
    op.execute(UPLOAD_SLICE)
    op.execute(DROP_REMOVAL_SLICE)
    op.execute(REMOVAL_SLICE)
    op.execute(NEW_PEOPLE)
    op.execute(REMOVED_PEOPLE)
