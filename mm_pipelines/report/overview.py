"""What is known, at a glance: partitions, audiences, Pages and rejected rows."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from sqlalchemy import Connection, TextClause, text

_PARTITIONS = text("""
with delivered as (
    select audience, day, sum(row_count) as uploaded
    from mm.upload_batch where status = 'acknowledged' group by audience, day
), rejected as (
    select audience, day,
           count(*) filter (where stage = 'hashed_payload') as rejected_here,
           count(*) filter (where stage = 'audience_upload') as rejected_at_meta
    from mm.rejected_row group by audience, day
)
select
    day::text as day, audience, state.status, payload.rows as people,
    coalesce(delivered.uploaded, 0)::bigint as uploaded,
    coalesce(state.rows_processed, 0) as processed,
    state.match_rate_lower, state.match_rate_upper,
    coalesce(rejected.rejected_here, 0) as rejected_here,
    coalesce(rejected.rejected_at_meta, 0) as rejected_at_meta,
    state.lower_bound, state.upper_bound, state.last_event_at, state.as_of
from mm.hashed_payload as payload
full join mm.match_status as state using (audience, day)
left join delivered using (audience, day)
left join rejected using (audience, day)
where (cast(:audiences as text[]) is null or audience = any (:audiences))
  and (cast(:since as date) is null or day >= :since)
order by day desc, audience
""")

_AUDIENCES = text("""
select
    known.audience, known.custom_audience_id,
    coalesce((
        select sum(coalesce(new_people, row_count)) from mm.upload_batch as batch
        where batch.audience = known.audience and batch.status = 'acknowledged'
    ), 0)::bigint as uploaded,
    newest.lower_bound, newest.upper_bound, newest.status, newest.last_event_at,
    known.page_id, known.name, known.ad_account_id, known.created_at
from mm.custom_audience as known
left join lateral (
    select lower_bound, upper_bound, status, last_event_at from mm.match_status as state
    where state.audience = known.audience
    order by last_event_at desc nulls last, day desc limit 1
) as newest on true
order by known.audience
""")

_PAGES = text("""
with live as (
    select page_id, count(*) as tokens from mm.subscription_token
    where gone_at is null group by page_id
), deduplicated as (
    select page_id, count(*) as tokens from mm.deduplicated_token group by page_id
), sendable as (
    select page_id, count(*) as tokens from mm.sendable_token group by page_id
)
select
    page_id, coalesce(live.tokens, 0) as tokens,
    coalesce(live.tokens, 0) - coalesce(deduplicated.tokens, 0) as duplicates,
    coalesce(deduplicated.tokens, 0) as deduplicated,
    coalesce(sendable.tokens, 0) as sendable, pulled.began_at as pull_began_at
from (
    select page_id, max(started_at) as began_at from mm.token_pull
    where complete and finished_at is not null group by page_id
) as pulled
left join live using (page_id)
left join deduplicated using (page_id)
left join sendable using (page_id)
order by page_id
""")

# Returns the work that is postponed, the one that is due first at the top.
_DEFERRALS = text("""
select asset, partition_key as partition, due_at, waits_for_lock, attempts, reason
from mm.deferred_work
order by due_at, asset, partition_key
""")

_REJECTIONS = text("""
select stage, reason, count(*) as rows
from mm.rejected_row, unnest(reasons) as reason
where (cast(:audiences as text[]) is null or audience = any (:audiences))
  and (cast(:since as date) is null or day >= :since)
  and (cast(:until as date) is null or day <= :until)
group by stage, reason order by stage, rows desc, reason
""")


def partitions(
    connection: Connection, audiences: Sequence[str] | None = None, since: date | None = None
) -> list[dict[str, Any]]:
    """One row for each audience and day: people, rejected, uploaded, processed, matched.

    Args:
        connection: In the caller's transaction.
        audiences: Only these; None means all.
        since: Only this day and later ones.

    Returns:
        The newest day first.
    """
    chosen = None if audiences is None else list(audiences)
    return _rows(connection, _PARTITIONS, audiences=chosen, since=since)


def audiences(connection: Connection) -> list[dict[str, Any]]:
    """One row for each Custom Audience, with its newest bounds."""
    return _rows(connection, _AUDIENCES)


def pages(connection: Connection) -> list[dict[str, Any]]:
    """One row for each Page whose tokens were pulled."""
    return _rows(connection, _PAGES)


def deferrals(connection: Connection) -> list[dict[str, Any]]:
    """One row for each partition whose work is deferred: until when, for which lock, and why."""
    return _rows(connection, _DEFERRALS)


def rejections(
    connection: Connection,
    audiences: Sequence[str] | None = None,
    since: date | None = None,
    until: date | None = None,
) -> list[dict[str, Any]]:
    """How many rows were rejected, by stage and reason; a row can have several reasons.

    Args:
        connection: In the caller's transaction.
        audiences: Only these; None means all.
        since: Only this day and later ones.
        until: Only this day and earlier ones.
    """
    chosen = None if audiences is None else list(audiences)
    return _rows(connection, _REJECTIONS, audiences=chosen, since=since, until=until)


def _rows(connection: Connection, statement: TextClause, **values: object) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(statement, values).mappings()]
