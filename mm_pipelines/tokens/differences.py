"""Compares a listing with the stored tokens of its Page: temporary tables and the rules.

The tables belong to one session and end with it. ``subscription_token`` fills and reads them.
"""

_LISTED = """
create temporary table listed_token (
    token               text collate "C" not null,
    recipient_id        text collate "C",
    topic_title         text,
    reoptin             text,
    user_token_status   text,
    timezone            text,
    created_at          timestamptz,
    expires_at          timestamptz,
    next_eligible_at    timestamptz,
    custom_audience_ids text[]
)
"""

# What the listing's filters add to a token's fields.
_FILTERED = """
create temporary table filtered_token (
    token              text collate "C" not null,
    custom_audience_id text,
    source             text
)
"""

_DIFFERENCE = """
create temporary table token_difference (
    token               text collate "C" not null,
    fate                text not null,
    recipient_id        text collate "C",
    topic_title         text,
    reoptin             text,
    user_token_status   text,
    timezone            text,
    created_at          timestamptz,
    expires_at          timestamptz,
    next_eligible_at    timestamptz,
    custom_audience_ids text[],
    source              text,
    old_status          text,
    old_reoptin         text,
    old_expires_at      timestamptz
) on commit delete rows
"""

# The listed tokens of erased people.
_EXCLUDED = """
create temporary table excluded_token (token text collate "C" not null) on commit delete rows
"""

TABLES = (_LISTED, _FILTERED, _DIFFERENCE, _EXCLUDED)

# Selects what is to be written: $1 page_id, $2 pull_id, $3 whether the listing was whole.
#
# A token listed twice counts once, by an order over all its values, so that the order of the pages
# does not matter. A value missing from a listing never erases a known one, with one exception: a
# listing with the recipient has every time, so a missing expiry means that the token does not
# expire. The source comes from Meta's filters, else from the first listing that had the token.
DIFFERENCES = """
with listed as (
    select distinct on (token) *
    from listed_token
    order by token, recipient_id, created_at desc nulls last, expires_at desc,
        next_eligible_at desc nulls last, user_token_status, reoptin, topic_title, timezone,
        custom_audience_ids desc nulls last
),
known as (
    select * from mm.subscription_token
    where page_id = $1 and ($3 or token in (select token from listed_token))
),
filtered as (
    select token, array_agg(distinct custom_audience_id) as custom_audience_ids,
        min(source) as source
    from filtered_token
    group by token
)
select
    token, fate, merged.recipient_id, merged.topic_title, merged.reoptin,
    merged.user_token_status, merged.timezone, merged.created_at, merged.expires_at,
    merged.next_eligible_at, merged.custom_audience_ids, merged.source,
    known.user_token_status as old_status, known.reoptin as old_reoptin,
    known.expires_at as old_expires_at
from listed
full join known using (token)
left join filtered using (token)
cross join lateral (
    select
        case
            when known.page_id is null then 'appeared'
            when listed.token is null then 'vanished'
            when known.gone_at is not null then 'returned'
            else 'changed'
        end as fate,
        coalesce(listed.recipient_id, known.recipient_id) as recipient_id,
        coalesce(listed.topic_title, known.topic_title) as topic_title,
        coalesce(listed.reoptin, known.reoptin) as reoptin,
        coalesce(listed.user_token_status, known.user_token_status) as user_token_status,
        coalesce(listed.timezone, known.timezone) as timezone,
        coalesce(listed.created_at, known.created_at) as created_at,
        case when listed.recipient_id is null
            then coalesce(listed.expires_at, known.expires_at)
            else listed.expires_at
        end as expires_at,
        case when listed.recipient_id is null
            then coalesce(listed.next_eligible_at, known.next_eligible_at)
            else listed.next_eligible_at
        end as next_eligible_at,
        case when filtered.custom_audience_ids is null
            then coalesce(listed.custom_audience_ids, known.custom_audience_ids, '{}')
            else array(
                select distinct id
                from unnest(
                    coalesce(listed.custom_audience_ids, known.custom_audience_ids, '{}')
                    || filtered.custom_audience_ids
                ) as id
                where id is not null
                order by id
            )
        end as custom_audience_ids,
        coalesce(
            filtered.source,
            known.source,
            case when listed.recipient_id is null or listed.custom_audience_ids is not null
                then 'custom_audience' else 'opt_in' end
        ) as source
) as merged
where case fate
    when 'vanished' then
        -- A webhook may have stored it after its place in the listing was read.
        known.gone_at is null
        and known.last_seen_at < (select started_at from mm.token_pull where pull_id = $2)
    when 'changed' then
        (merged.recipient_id, merged.topic_title, merged.reoptin, merged.user_token_status,
            merged.timezone, merged.created_at, merged.expires_at, merged.next_eligible_at,
            merged.custom_audience_ids, merged.source)
        is distinct from
        (known.recipient_id, known.topic_title, known.reoptin, known.user_token_status,
            known.timezone, known.created_at, known.expires_at, known.next_eligible_at,
            known.custom_audience_ids, known.source)
    else true
end
"""
