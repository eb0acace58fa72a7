"""The subscription tokens of every Page: their present, their past, and who may be messaged."""

from alembic import op

revision = "0003"
down_revision = "0002"

# Ids are opaque, so they are ordered byte by byte, on every server alike. Half of each block is
# left free: a pull that changes nothing still renews every last_seen_at, and with free space in
# the same block the update touches no index (HOT) and costs an eighth. That holds as long as no
# index contains last_seen_at.
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

# Both serve the views by the index alone. The first holds each recipient's tokens from the best to
# the worst, in the very order that the views ask for, so that nothing is sorted; they find it only
# while they name the same expressions.
SUBSCRIPTION_TOKEN_BY_RECIPIENT = """
create index subscription_token_by_recipient on mm.subscription_token (
    page_id, recipient_id, ((reoptin = 'ENABLED') is not true), expires_at desc nulls first,
    created_at desc nulls last, token
) include (reoptin, next_eligible_at, stopped_at)
where gone_at is null and recipient_id is not null
"""

SUBSCRIPTION_TOKEN_WITHOUT_RECIPIENT = """
create index subscription_token_without_recipient on mm.subscription_token (page_id)
include (recipient_id, expires_at, next_eligible_at, stopped_at, token)
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

# No foreign key to the pull: it would be checked a million times in a large merge.
TOKEN_CHANGE = """
create table mm.token_change (
    page_id     text not null,
    token       text not null,
    event       text not null check (event in (
        'vanished', 'returned', 'stopped', 'resumed',
        'status_changed', 'reoptin_changed', 'expiry_changed'
    )),
    happened_at timestamptz not null,
    pull_id     bigint,
    old_value   text,
    new_value   text
)
"""

# Changes are only ever appended, so time follows the blocks, and a summary of each range is enough.
TOKEN_CHANGE_BY_TIME = """
create index token_change_by_time on mm.token_change using brin (happened_at)
"""

# The history of each token. When it appeared is a column of its own row, because a first pull adds
# millions at once and would write each of them twice.
TOKEN_EVENT = """
create view mm.token_event as
select
    page_id, token, 'appeared' as event, first_seen_at as happened_at, null::bigint as pull_id,
    null as old_value, null as new_value
from mm.subscription_token
union all
select page_id, token, event, happened_at, pull_id, old_value, new_value
from mm.token_change
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

_COLUMNS = """
    page_id, token, recipient_id, topic_title, reoptin, user_token_status, timezone, created_at,
    expires_at, next_eligible_at, custom_audience_ids, source, first_seen_at, last_seen_at,
    gone_at, stopped_at
"""

# Re-opt-in enabled, latest expiry (null is never), latest created, and then the token itself, so
# that the choice is stable. The index by recipient has this order.
_BEST_FIRST = """
    page_id, recipient_id, (reoptin = 'ENABLED') is not true, expires_at desc nulls first,
    created_at desc nulls last, token
"""

# Neither gone, stopped nor expired; of each recipient's tokens the best.
USABLE_TOKEN = f"""
create view mm.usable_token as
select {_COLUMNS}
from mm.subscription_token
where gone_at is null and recipient_id is null
    and stopped_at is null and (expires_at is null or expires_at > now())
union all
(
    select distinct on (page_id, recipient_id) {_COLUMNS}
    from mm.subscription_token
    where gone_at is null and recipient_id is not null
        and stopped_at is null and (expires_at is null or expires_at > now())
    order by {_BEST_FIRST}
)
"""

# Every token whose recipient Meta does not tell, and each recipient's best: a usable one, and only
# where there is none one that is stopped or expired.
DEDUPLICATED_TOKEN = f"""
create view mm.deduplicated_token as
select {_COLUMNS}
from mm.subscription_token
where gone_at is null and recipient_id is null
union all
select {_COLUMNS}
from mm.usable_token
where recipient_id is not null
union all
(
    select distinct on (page_id, recipient_id) {_COLUMNS}
    from mm.subscription_token as spent
    where gone_at is null and recipient_id is not null
        and (stopped_at is not null or expires_at <= now())
        and not exists (
            select from mm.subscription_token as other
            where other.page_id = spent.page_id and other.recipient_id = spent.recipient_id
                and other.gone_at is null and other.stopped_at is null
                and (other.expires_at is null or other.expires_at > now())
        )
    order by {_BEST_FIRST}
)
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
            from mm.token_change
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
    op.execute(TOKEN_CHANGE)
    op.execute(TOKEN_CHANGE_BY_TIME)
    op.execute(TOKEN_EVENT)
    op.execute(TOKEN_SNAPSHOT)
    op.execute(USABLE_TOKEN)
    op.execute(DEDUPLICATED_TOKEN)
    op.execute(TOKEN_AT)
