"""Opt-outs find their audiences by kept digests."""

from alembic import op

revision = "0019"
down_revision = "0018"

# The order in which values were added: `suppression_list.add` serializes additions, so that a
# search that has read up to an id has missed none below it.
SUPPRESSION_ID = "alter table mm.suppression add column id bigint generated always as identity"
SUPPRESSION_BY_ID = "create unique index suppression_by_id on mm.suppression (id)"

# The newest file of each Custom Audience (mm_pipelines.consent.member_digests): every upload up to
# `through_delta_id` is in it, under the keys with these fingerprints.
MEMBER_DIGEST_FILE = """
create table mm.member_digest_file (
    custom_audience_id text primary key,
    path               text not null,
    entries            bigint not null,
    through_delta_id   bigint not null,
    fingerprints       text[] not null,
    written_at         timestamptz not null default now()
)
"""

# How far the suppression list was searched for in all audiences, and how long the last search took.
SUPPRESSION_SEARCH = """
create table mm.suppression_search (
    only_one   boolean primary key default true check (only_one),
    through_id bigint not null,
    took       interval not null,
    ended_at   timestamptz not null default clock_timestamp()
)
"""

# Per Custom Audience: the uploads up to `through_delta_id` were searched for everyone on the list.
# `found_at` is when a search found opted-out people; null once they are removed.
DROP_SUPPRESSED = "alter table mm.suppression_sweep drop column suppressed"
FOUND_AT = "alter table mm.suppression_sweep add column found_at timestamptz"
REMOVED = "alter table mm.suppression_sweep alter column removed set default 0"
SWEPT_AT = "alter table mm.suppression_sweep alter column swept_at drop not null"

UPLOAD_DELTA_BY_AUDIENCE = """
create index upload_delta_by_audience on mm.upload_delta (custom_audience_id, id)
"""


def upgrade() -> None:
    op.execute(SUPPRESSION_ID)
    op.execute(SUPPRESSION_BY_ID)
    op.execute(MEMBER_DIGEST_FILE)
    op.execute(SUPPRESSION_SEARCH)
    op.execute(DROP_SUPPRESSED)
    op.execute(FOUND_AT)
    op.execute(REMOVED)
    op.execute(SWEPT_AT)
    op.execute(UPLOAD_DELTA_BY_AUDIENCE)
