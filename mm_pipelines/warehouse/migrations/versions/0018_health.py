"""A view of everything that should not wait, for monitoring."""

from alembic import op

revision = "0018"
down_revision = "0017"

# How old the newest list of an audience and the newest pull of a Page may become. The freshness
# sensor writes it from mm.yaml, because the receiver that exposes the view does not read mm.yaml.
FRESHNESS = """
create table mm.freshness (
    kind          text not null check (kind in ('audience', 'page')),
    key           text not null,
    page_id       text collate "C" not null,
    fresh_within  interval not null,
    configured_at timestamptz not null default now(),
    primary key (kind, key)
)
"""

# What Meta said about each access token of mm.yaml, by the name of its variable.
ACCESS_TOKEN = """
create table mm.access_token (
    variable            text primary key,
    is_valid            boolean not null,
    error               text,
    expires_at          timestamptz,
    missing_permissions text[] not null,
    checked_at          timestamptz not null default now()
)
"""

# One row for each kind and audience. A day counts when its match status followed its validation.
AUDIENCE_FRESHNESS = """
create view mm.audience_freshness as
select expected.key as audience, expected.fresh_within,
       coalesce(max(list.validated_at), expected.configured_at) as fresh_at,
       coalesce(max(list.validated_at), expected.configured_at) + expected.fresh_within as stale_at
from mm.freshness as expected
left join (
    select list.audience, list.validated_at
    from mm.customer_list as list
    join mm.match_status as status using (audience, day)
    where status.as_of >= list.validated_at
) as list on list.audience = expected.key
where expected.kind = 'audience'
group by expected.key, expected.fresh_within, expected.configured_at
"""

PAGE_FRESHNESS = """
create view mm.page_freshness as
select expected.key as page, expected.page_id, expected.fresh_within,
       coalesce(newest.started_at, expected.configured_at) as fresh_at,
       coalesce(newest.started_at, expected.configured_at) + expected.fresh_within as stale_at
from mm.freshness as expected
left join lateral (
    select pull.started_at from mm.token_pull as pull
    where pull.page_id = expected.page_id and pull.complete and pull.finished_at is not null
    order by pull.started_at desc limit 1
) as newest on true
where expected.kind = 'page'
"""

# `since` is when the oldest of them began to wait; it is in the future for work that is not due.
# Messages to the Page are acknowledged in batches and are no reason to hurry.
HEALTH = """
create view mm.health as
select item, subject, waiting, since,
       greatest(0, extract(epoch from now() - since))::double precision as age_seconds
from (
    select 'unreported_batch', batch.audience, count(*), min(batch.acknowledged_at)
    from mm.upload_batch as batch
    left join mm.match_status as status using (audience, day)
    where batch.status = 'acknowledged' and batch.reported_event_id is null
      and status.status is distinct from 'complete'
    group by batch.audience
    union all
    select 'pending_event', event.field, count(*), min(event.received_at)
    from mm.webhook_event as event
    where event.processed_at is null and event.left_over_at is null
      and event.field in ('marketing_messages_subscriber_upload_status', 'messaging_optins',
                          'messaging_optouts')
      and (event.page_id is null
           or event.page_id in (select page_id from mm.freshness where kind = 'page'))
    group by event.field
    union all
    select 'token_pull', page, 1, fresh_at from mm.page_freshness
    union all
    select 'open_opt_out', request.page_id, count(*), min(request.received_at)
    from mm.unsubscribe_request as request
    where request.state in ('received', 'sent')
    group by request.page_id
    union all
    select 'unfinished_upload', delta.audience, count(*), min(delta.created_at)
    from mm.upload_delta as delta
    where delta.completed_at is null and delta.closed_at is null and delta.parked_at is null
    group by delta.audience
    union all
    select 'deferred_work', deferred.asset, count(*), min(deferred.due_at)
    from mm.deferred_work as deferred
    group by deferred.asset
    union all
    -- A later answer that was observed means that another token is in use.
    select 'refused_token', throttle.account, 1, throttle.refused_at
    from mm.throttle as throttle
    where throttle.refused_at >= throttle.observed_at
    union all
    select 'invalid_token', variable, 1, checked_at from mm.access_token where not is_valid
    union all
    select 'expiring_token', variable, 1, expires_at - interval '14 days' from mm.access_token
    where is_valid and expires_at < now() + interval '14 days'
    union all
    select 'missing_permission', variable, cardinality(missing_permissions), checked_at
    from mm.access_token where is_valid and missing_permissions <> '{}'
    union all
    select 'stale_audience', audience, 1, stale_at from mm.audience_freshness where stale_at < now()
    union all
    select 'stale_page', page, 1, stale_at from mm.page_freshness where stale_at < now()
) as waiting (item, subject, waiting, since)
"""


def upgrade() -> None:
    op.execute(FRESHNESS)
    op.execute(ACCESS_TOKEN)
    op.execute(AUDIENCE_FRESHNESS)
    op.execute(PAGE_FRESHNESS)
    op.execute(HEALTH)
