"""What a listing means for the known tokens of its Page: the staging tables and the comparison.

The tables belong to one session and end with it. `subscription_token` fills and reads them.
"""

from typing import Final

_TYPES: Final = {
    "recipient_id": 'text collate "C"',
    "topic_title": "text",
    "reoptin": "text",
    "user_token_status": "text",
    "timezone": "text",
    "created_at": "timestamptz",
    "expires_at": "timestamptz",
    "next_eligible_at": "timestamptz",
    "custom_audience_ids": "text[]",
}

VALUES: Final = (*_TYPES, "source")
"""The columns of a token that a listing can change."""

# A listing that does not contain these values does not erase them.
_KEPT: Final = (
    "recipient_id",
    "topic_title",
    "reoptin",
    "user_token_status",
    "timezone",
    "created_at",
)


def columns(of: str = "", names: tuple[str, ...] = VALUES) -> str:
    """Return the columns, each of the table ``of``, with commas between."""
    return ", ".join(f"{of}.{name}" if of else name for name in names)


_DEFINITIONS = ",\n    ".join(f"{name} {type_}" for name, type_ in _TYPES.items())

_LISTED = f"""
create temporary table listed_token (
    token text collate "C" not null,
    {_DEFINITIONS}
)
"""

# What the listing's filters say about a token beyond its fields.
_FILTERED = """
create temporary table filtered_token (
    token              text collate "C" not null,
    custom_audience_id text,
    source             text
)
"""

# Listed tokens of erased people, which are not merged.
_EXCLUDED = """
create temporary table excluded_token (token text collate "C" not null) on commit delete rows
"""

_DIFFERENCE = f"""
create temporary table token_difference (
    token text collate "C" not null,
    fate text not null,
    {_DEFINITIONS},
    source text,
    old_status text,
    old_reoptin text,
    old_expires_at timestamptz
) on commit delete rows
"""

TABLES: Final = (_LISTED, _FILTERED, _EXCLUDED, _DIFFERENCE)

_KEPT_VALUES = ",\n        ".join(
    f"coalesce(listed.{name}, known.{name}) as {name}" for name in _KEPT
)

# Returns what is to be written: $1 page_id, $2 pull_id, $3 whether the listing was whole.
#
# A token listed twice counts once, by an order over all its values, so that the order of the pages
# does not matter. What a listing does not contain never erases what is known from elsewhere, with
# one exception: if Meta gives the recipient, it gives every time that exists, so a missing expiry
# means that the token does not expire. The source comes from Meta's filters, else from the first
# listing that contained it.
DIFFERENCES: Final = f"""
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
    token, fate, {columns("merged")},
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
        {_KEPT_VALUES},
        case when listed.recipient_id is null
            then coalesce(listed.expires_at, known.expires_at)
            else listed.expires_at
        end as expires_at,
        case when listed.recipient_id is null
            then coalesce(listed.next_eligible_at, known.next_eligible_at)
            else listed.next_eligible_at
        end as next_eligible_at,
        case when filtered.custom_audience_ids is null
            then coalesce(listed.custom_audience_ids, known.custom_audience_ids, '{{}}')
            else array(
                select distinct id
                from unnest(
                    coalesce(listed.custom_audience_ids, known.custom_audience_ids, '{{}}')
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
        -- A webhook may have added it after its place in the listing was read.
        known.gone_at is null
        and known.last_seen_at < (select started_at from mm.token_pull where pull_id = $2)
    when 'changed' then
        ({columns("merged")}) is distinct from ({columns("known")})
    else true
end
"""
