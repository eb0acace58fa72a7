"""Removals are carried out during uploads, and uploads can be paused."""

from alembic import op

revision = "0022"
down_revision = "0021"

# The removal lists; `paths` are their payload files. Uploads that are older leave their people out.
REMOVAL_LIST = """
create table mm.removal_list (
    audience      text not null,
    day           date not null,
    source_sha256 text not null,
    paths         text[] not null,
    requested_at  timestamptz not null default now(),
    done_at       timestamptz,
    primary key (audience, day)
)
"""

# The audience is `*` where the uploads of all audiences are paused.
UPLOAD_PAUSE = """
create table mm.upload_pause (
    audience  text primary key,
    paused_at timestamptz not null default now()
)
"""


def upgrade() -> None:
    op.execute(REMOVAL_LIST)
    op.execute(UPLOAD_PAUSE)
