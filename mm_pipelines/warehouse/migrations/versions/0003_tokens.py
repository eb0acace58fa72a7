"""The subscription tokens of every Page: their present, their past, and who may be messaged."""

from alembic import op

revision = "0003"
down_revision = "0002"

# Ids are opaque, so they are ordered byte by byte, on every server alike. Half of each block is
# left free: a pull that changes nothing still renews every last_seen_at, and with room beside the
# old version that touches no index (HOT) and costs an eighth. It stays so as long as no index
# holds last_seen_at.
SUBSCRIPTION_TOKEN = """
create table mm.subscription_token (
    page_id             text collate "C" not null,
    token               text collate "C" not null,
    recipient_id        text collate "C",
    topic_title         text,
    reoptin             text,
    user_token_status   text,
    timezone            text,
    created_at          timestamptz,
    expires_at          timestamptz,
    next_eligible_at    timestamptz,
    custom_audience_ids text[] not null default '{}',
    source              text not null
        check (source in ('custom_audience', 'opt_in', 'click_to_messenger', 'automation')),
    first_seen_at       timestamptz not null,
    last_seen_at        timestamptz not null,
    gone_at             timestamptz,
    stopped_at          timestamptz,
    details_asked_at    timestamptz,
    primary key (page_id, token)
) with (fillfactor = 50)
"""

# Both serve the views by the index alone: one leaf per recipient, and one per token whose
# recipient Meta does not tell.
SUBSCRIPTION_TOKEN_BY_RECIPIENT = """
create index subscription_token_by_recipient on mm.subscription_token (page_id, recipient_id)
include (reoptin, expires_at, next_eligible_at, stopped_at, created_at, token)
where gone_at is null and recipient_id is not null
"""

SUBSCRIPTION_TOKEN_WITHOUT_RECIPIENT = """
create index subscription_token_without_recipient on mm.subscription_token (page_id)
include (expires_at, next_eligible_at, stopped_at, token)
where gone_at is null and recipient_id is null
"""

TOKEN_PULL = """
create table mm.token_pull (
    pull_id       bigint generated always as identity primary key,
    page_id       text not null,
    method        text not null check (method in ('listing', 'deduplicated_at_meta')),
    complete      boolean not null default false,
    started_at    timestamptz not null default clock_timestamp(),
    finished_at   timestamptz,
    tokens_listed bigint,
    appeared      bigint,
    changed       bigint,
    returned      bigint,
    vanished      bigint
)
"""

TOKEN_PULL_NEWEST = """
create index token_pull_newest on mm.token_pull (page_id, started_at desc)
"""

# No foreign key to the pull: it would be checked a million times in a first pull's merge.
TOKEN_EVENT = """
create table mm.token_event (
    page_id     text not null,
    token       text not null,
    event       text not null check (event in (
        'appeared', 'vanished', 'returned', 'stopped', 'resumed',
        'status_changed', 'reoptin_changed', 'expiry_changed'
    )),
    happened_at timestamptz not null,
    pull_id     bigint,
    old_value   text,
    new_value   text
)
"""

# Events are only ever appended, so time follows the blocks, and a summary of each range is enough.
TOKEN_EVENT_BY_TIME = """
create index token_event_by_time on mm.token_event using brin (happened_at)
"""

TOKEN_SNAPSHOT = """
create table mm.token_snapshot (
    page_id            text not null,
    day                date not null,
    as_of              timestamptz not null,
    live               bigint not null,
    deduplicated       bigint not null,
    sendable           bigint,
    custom_audience    bigint not null,
    opt_in             bigint not null,
    click_to_messenger bigint not null,
    automation         bigint not null,
    appeared           bigint not null,
    returned           bigint not null,
    vanished           bigint not null,
    primary key (page_id, day)
)
"""

# Of a recipient's tokens the best: neither stopped nor expired, re-opt-in enabled, latest expiry
# (null is never), latest created, and then the token itself, so that the choice is stable.
DEDUPLICATED_TOKEN = """
create view mm.deduplicated_token as
select
    page_id, token, recipient_id, topic_title, reoptin, user_token_status, timezone, created_at,
    expires_at, next_eligible_at, custom_audience_ids, source, first_seen_at, last_seen_at,
    gone_at, stopped_at
from mm.subscription_token
where gone_at is null and recipient_id is null
union all
(
    select distinct on (page_id, recipient_id)
        page_id, token, recipient_id, topic_title, reoptin, user_token_status, timezone,
        created_at, expires_at, next_eligible_at, custom_audience_ids, source, first_seen_at,
        last_seen_at, gone_at, stopped_at
    from mm.subscription_token
    where gone_at is null and recipient_id is not null
    order by
        page_id,
        recipient_id,
        (stopped_at is not null or coalesce(expires_at <= now(), false)),
        (reoptin = 'ENABLED') is not true,
        expires_at desc nulls first,
        created_at desc nulls last,
        token
)
"""

SENDABLE_TOKEN = """
create view mm.sendable_token as
select * from mm.deduplicated_token
where stopped_at is null
    and coalesce(expires_at > now(), true)
    and coalesce(next_eligible_at <= now(), true)
"""

# A token's state at a moment is what it is now, unless something happened to it since: then it is
# what it was before the first thing that did.
TOKEN_AT = """
create function mm.token_at(page text, moment timestamptz)
returns table (
    token text, recipient_id text, source text, live boolean,
    user_token_status text, reoptin text, expires_at timestamptz
)
language sql stable as $$
    with happened as (
        select distinct on (token, what) token, what, event, old_value
        from (
            select *, case when event in ('vanished', 'returned') then 'presence' else event end
                as what
            from mm.token_event
            where page_id = page and happened_at > moment
        ) as later
        order by token, what, happened_at
    )
    select
        known.token, known.recipient_id, known.source,
        coalesce(presence.event = 'vanished', known.gone_at is null),
        case when status.token is null then known.user_token_status else status.old_value end,
        case when reoptin.token is null then known.reoptin else reoptin.old_value end,
        case when expiry.token is null then known.expires_at
            else expiry.old_value::timestamptz end
    from mm.subscription_token as known
    left join happened as presence
        on presence.token = known.token and presence.what = 'presence'
    left join happened as status
        on status.token = known.token and status.what = 'status_changed'
    left join happened as reoptin
        on reoptin.token = known.token and reoptin.what = 'reoptin_changed'
    left join happened as expiry
        on expiry.token = known.token and expiry.what = 'expiry_changed'
    where known.page_id = page and known.first_seen_at <= moment
$$
"""


def upgrade() -> None:
    op.execute(SUBSCRIPTION_TOKEN)
    op.execute(SUBSCRIPTION_TOKEN_BY_RECIPIENT)
    op.execute(SUBSCRIPTION_TOKEN_WITHOUT_RECIPIENT)
    op.execute(TOKEN_PULL)
    op.execute(TOKEN_PULL_NEWEST)
    op.execute(TOKEN_EVENT)
    op.execute(TOKEN_EVENT_BY_TIME)
    op.execute(TOKEN_SNAPSHOT)
    op.execute(DEDUPLICATED_TOKEN)
    op.execute(SENDABLE_TOKEN)
    op.execute(TOKEN_AT)
